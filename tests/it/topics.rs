//! Topics and partitions that do not take records: what goes to them waits or fails, everything else flows.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::{counts, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, unique, wait_until};

/// A busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const MODES: [&str; 2] = ["at-least-once", "exactly-once"];

fn relay(database: &TestDatabase, bootstrap: &str, mode: &str) -> RelaySettings {
    RelaySettings::new(database, bootstrap)
        .set("relay.delivery", mode)
        .set("run.deployment", &unique("topics"))
        .set("relay.lease", "60s")
}

/// Inserts rows of one statement: `columns` and a select that gives them.
async fn insert(client: &Client, columns: &str, select: &str) {
    let statement = format!("insert into outbox_events (event_type, payload, {columns}) {select}");
    client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

/// Waits until as many rows have each of these states.
async fn wait_for_counts(client: &Client, what: &str, wanted: &[(&str, i64)]) {
    wait_until(what, PATIENCE, async || {
        let counts = counts(client).await;
        let right = |(status, count): &(&str, i64)| counts.get(*status).copied().unwrap_or(0) == *count;
        if wanted.iter().all(right) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// Longer ahead than the broker allows, and so little that the relay leaves the decision to the broker, whose clock counts.
const A_LITTLE_LATE: &str = "now() + '1 hour'::interval + '50 seconds'::interval";

async fn topic_of_an_hour(name: &str, partitions: i32) -> Topic {
    Topic::planned(name).created_with(partitions, &[("message.timestamp.after.max.ms", "3600000")]).await
}

/// The smallest batch with more than one refused record: the broker names two of three, and the third is as good as any.
#[tokio::test]
async fn an_innocent_neighbour_of_two_refused_records_is_published() {
    for mode in MODES {
        let (database, topic) = tokio::join!(TestDatabase::migrated("neighbour"), topic_of_an_hour("neighbour", 1));
        let client = database.connect().await;
        insert(
            &client,
            "aggregate_id, topic, created_at",
            &format!(
                "select 'E', '{{}}', k, '{}', case k when 'k1' then now() else {A_LITTLE_LATE} end \
                 from unnest(array['k1', 'k2', 'k3']) k",
                topic.name
            ),
        )
        .await;
        let _relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 1), ("FAILED", 2)]).await;
        assert_eq!(topic.len().await, 1, "{mode}");
    }
}

/// Half of all records are refused by the broker, in any partition: a few rounds are enough to find them all.
#[tokio::test]
async fn many_refused_records_are_found_in_a_few_rounds() {
    for mode in MODES {
        let (database, topic) = tokio::join!(TestDatabase::migrated("many-refused"), topic_of_an_hour("many-refused", 4));
        let client = database.connect().await;
        insert(
            &client,
            "aggregate_id, topic, created_at",
            &format!(
                "select 'E', '{{}}', 'k' || n, '{}', case when n % 2 = 0 then now() else {A_LITTLE_LATE} end \
                 from generate_series(1, 4000) n",
                topic.name
            ),
        )
        .await;
        let relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 2_000), ("FAILED", 2_000)]).await;
        assert_eq!(topic.len().await, 2_000, "{mode}");
        let text = relay.log_text();
        let replaced = text.matches("the producer is replaced").count();
        assert!(replaced < 5, "{mode}: {replaced} producers replaced");
    }
}

/// A broker that names nobody, or whose answer leaves it open: keyless records for a compacted topic are all refused.
#[tokio::test]
async fn a_batch_of_nothing_but_refused_records_holds_nobody_up() {
    for mode in MODES {
        let (database, topic) = tokio::join!(
            TestDatabase::migrated("compacted"),
            Topic::planned("compacted").created_with(2, &[("cleanup.policy", "compact")])
        );
        let client = database.connect().await;
        let of = |key: &str, count: i32| {
            format!("select 'E', '{{}}', {key}, '{}' from generate_series(1, {count}) n", topic.name)
        };
        insert(&client, "aggregate_id, topic", &of("null", 200)).await;
        insert(&client, "aggregate_id, topic", &of("'k' || n", 100)).await;
        let _relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 100), ("FAILED", 200)]).await;
    }
}

/// Refused records among good ones of the same keys: each key's records keep their order, and nothing later goes past a refused one.
#[tokio::test]
async fn nothing_of_a_key_goes_past_its_refused_record() {
    for mode in MODES {
        let (database, topic) = tokio::join!(TestDatabase::migrated("refused-order"), topic_of_an_hour("refused-order", 3));
        let client = database.connect().await;
        // Five records of each of 20 keys; the third of every second key is refused.
        insert(
            &client,
            "aggregate_id, topic, created_at",
            &format!(
                "select 'E', '{{}}', 'k' || n % 20, '{}', \
                 case when n / 20 = 2 and n % 2 = 0 then {A_LITTLE_LATE} else now() end from generate_series(0, 99) n",
                topic.name
            ),
        )
        .await;
        let _relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 70), ("FAILED", 10), ("HELD", 20)]).await;
        let mut sent: std::collections::HashMap<String, Vec<i64>> = std::collections::HashMap::new();
        for record in topic.records().await {
            sent.entry(record.key_text().expect("a key").to_owned()).or_default().push(record.outbox_id());
        }
        assert_eq!(sent.len(), 20, "{mode}");
        for (key, ids) in sent {
            assert!(ids.is_sorted(), "{mode}: {key}: {ids:?}");
            let even = key[1..].parse::<i32>().expect("a number") % 2 == 0;
            assert_eq!(ids.len(), if even { 2 } else { 5 }, "{mode}: {key}");
        }
    }
}

/// Kafka's own topic exists, may be described, and takes records from nobody.
#[tokio::test]
async fn a_row_for_an_internal_topic_fails_alone() {
    for mode in MODES {
        let (database, topic) = tokio::join!(TestDatabase::migrated("internal"), Topic::create("internal", 3));
        let client = database.connect().await;
        let internal = NewRow::new("__consumer_offsets", "internal", "{}").insert(&client).await;
        insert(
            &client,
            "aggregate_id, topic",
            &format!("select 'E', '{{}}', 'k' || n % 100, '{}' from generate_series(1, 2000) n", topic.name),
        )
        .await;
        let _relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 2_000), ("FAILED", 1)]).await;
        let failed = wait_for_status(&client, internal, "FAILED").await;
        let error = row(&client, internal).await.last_error.expect("a reason");
        assert!(error.starts_with("invalid-topic"), "{mode}: {error} {failed:?}");
    }
}
