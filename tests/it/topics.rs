//! Topics and partitions that do not take records: what goes to them waits or fails, everything else flows.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use tokio_postgres::Client;

use crate::support::outbox::{counts, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, PrivateKafka, StopMode, TestDatabase, Topic, http, outbox_relay, parts::parts, side_by_side, unique,
    wait_until,
};

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

/// Longer ahead than the broker allows, and so little that the relay leaves the decision to the broker, whose clock
/// counts.
const A_LITTLE_LATE: &str = "now() + '1 hour'::interval + '50 seconds'::interval";

async fn topic_of_an_hour(name: &str, partitions: i32) -> Topic {
    Topic::planned(name).created_with(partitions, &[("message.timestamp.after.max.ms", "3600000")]).await
}

/// The smallest batch with more than one refused record: the broker names two of three, and the third is as good as
/// any.
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
        assert_eq!(topic.records().await.len(), 1, "{mode}");
    }
}

/// Half of all records are refused by the broker, in any partition: a few rounds are enough to find them all.
#[tokio::test]
async fn many_refused_records_are_found_in_a_few_rounds() {
    for mode in MODES {
        let (database, topic) =
            tokio::join!(TestDatabase::migrated("many-refused"), topic_of_an_hour("many-refused", 4));
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
        assert_eq!(topic.records().await.len(), 2_000, "{mode}");
        let text = relay.log_text();
        let replaced = text.matches("replacing the producer").count();
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

/// Refused records among good ones of the same keys: each key's records keep their order, and nothing later goes past a
/// refused one.
#[tokio::test]
async fn nothing_of_a_key_goes_past_its_refused_record() {
    for mode in MODES {
        let (database, topic) =
            tokio::join!(TestDatabase::migrated("refused-order"), topic_of_an_hour("refused-order", 3));
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

/// 101 rows are for a partition that nobody leads. (The cluster in this process keeps no markers, so there is no
/// exactly-once here; see `a_topic_below_its_replicas_holds_its_own_keys_alone`.)
#[tokio::test]
async fn a_partition_without_a_leader_holds_its_own_keys_alone_and_lets_them_go_when_it_is_back() {
    let mode = MODES[0];
    let cluster = MockCluster::new(1).expect("a cluster in this process");
    cluster.create_topic("offline", 1, 1).expect("a topic");
    cluster.create_topic("online", 3, 1).expect("a topic");
    cluster.partition_leader("offline", 0, None).expect("no leader");
    let database = TestDatabase::migrated("offline").await;
    let client = database.connect().await;
    let of = |prefix: &str, topic: &str| {
        format!("select 'E', '{{}}', '{prefix}' || n, '{topic}' from generate_series(1, 100) n")
    };
    let first = NewRow::new("offline", "off1", "{}").insert(&client).await;
    insert(&client, "aggregate_id, topic", &of("off", "offline")).await;
    insert(&client, "aggregate_id, topic", &of("on", "online")).await;
    let relay = relay(&database, &cluster.bootstrap_servers(), mode).start_ready().await;
    wait_for_counts(&client, mode, &[("PUBLISHED", 100), ("HELD", 101)]).await;
    // What comes later flows at once, and costs nothing.
    insert(&client, "aggregate_id, topic", &of("later", "online")).await;
    wait_for_counts(&client, mode, &[("PUBLISHED", 200), ("HELD", 101)]).await;

    let held = outbox_relay(&["events", "show", &first.to_string()]).env("DATABASE_URL", &database.url).run().await;
    assert!(held.stdout.contains("partition 0 of offline has no leader"), "{mode}: {}", held.stdout);
    relay.wait_for_readiness(200, "partition 0 of offline has no leader").await;
    relay.wait_for_metric("outbox_relay_partitions_unavailable", |partitions| partitions >= 1.0).await;
    let said = "the partition does not accept records";
    relay.wait_for_log(said).await;
    let warnings = relay.log_text().lines().filter(|line| line.contains(said)).count();
    assert_eq!(warnings, 1, "{mode}: it is said once");

    cluster.partition_leader("offline", 0, Some(1)).expect("a leader");
    wait_for_counts(&client, mode, &[("PUBLISHED", 301)]).await;
    assert_eq!(row(&client, first).await.retry_count, 0, "{mode}: a partition is no event's fault");
}

/// Topics that do not exist, each in one row, before the good ones: nobody waits for the cluster to be asked a thousand
/// times.
#[tokio::test]
async fn a_thousand_missing_topics_keep_nobody_waiting() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("missing"), Topic::create("missing", 3));
    let client = database.connect().await;
    let name = unique("not-there");
    insert(
        &client,
        "aggregate_id, topic",
        &format!("select 'E', '{{}}', 'bad' || n, '{name}-' || n from generate_series(1, 3000) n"),
    )
    .await;
    insert(
        &client,
        "aggregate_id, topic",
        &format!("select 'E', '{{}}', 'good' || n, '{}' from generate_series(1, 100) n", topic.name),
    )
    .await;
    let relay = relay(&database, &parts().kafka, MODES[0]).set("relay.unknown_topic_grace", "600s").start_ready().await;
    wait_for_counts(&client, "the good ones", &[("PUBLISHED", 100), ("HELD", 3_000)]).await;
    // One of them is made: its events go out soon, however many others are missing.
    let made = Topic { name: format!("{name}-7"), bootstrap: parts().kafka.clone() }.created(1).await;
    wait_for_counts(&client, "the topic that was made", &[("PUBLISHED", 101), ("HELD", 2_999)]).await;
    assert_eq!(made.len().await, 1);
    let (_, metrics) = http::get(relay.admin(), "/metrics").await.expect("metrics");
    assert!(metrics.lines().count() < 2_000, "{} lines", metrics.lines().count());
}

/// What a topic refuses for its time is known before it is sent: no request is refused, and no producer is lost.
#[tokio::test]
async fn events_from_the_future_fail_before_they_are_sent() {
    for mode in MODES {
        let (database, topic) = tokio::join!(TestDatabase::migrated("future"), topic_of_an_hour("future", 3));
        let client = database.connect().await;
        let of = |prefix: &str, at: &str, count: i32| {
            format!("select 'E', '{{}}', '{prefix}' || n, '{}', {at} from generate_series(1, {count}) n", topic.name)
        };
        insert(&client, "aggregate_id, topic, created_at", &of("future", "now() + '2 days'::interval", 400)).await;
        insert(&client, "aggregate_id, topic, created_at", &of("good", "now()", 100)).await;
        let relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 100), ("FAILED", 400)]).await;
        let first = client.query_one("select min(id) from outbox_events", &[]).await.expect("a row").get(0);
        let error = row(&client, first).await.last_error.expect("a reason");
        assert!(error.starts_with("invalid-timestamp: created_at is "), "{mode}: {error}");
        assert!(!relay.log_text().contains("Kafka rejected records"), "{mode}: {}", relay.log_text());
    }
}

/// The answer that fails an event is younger than the event's attempt.
#[tokio::test]
async fn a_limit_that_was_raised_counts_for_a_retry_at_once() {
    let database = TestDatabase::migrated("raised").await;
    let topic = Topic::planned("raised").created_with(1, &[("max.message.bytes", "20000")]).await;
    let client = database.connect().await;
    let _relay = relay(&database, &parts().kafka, MODES[0]).start_ready().await;
    let noise = "to_jsonb((select string_agg(md5(random()::text), '') from generate_series(1, 1000)))";
    let id = NewRow::new(&topic.name, "k", "{}").sql("payload", noise).insert(&client).await;
    wait_for_status(&client, id, "FAILED").await;
    topic.set("max.message.bytes", "200000").await;
    wait_until("it is published", PATIENCE, async || {
        let retry = outbox_relay(&["events", "retry", &id.to_string()]).env("DATABASE_URL", &database.url).run().await;
        assert_eq!(retry.code, Some(0), "{}", retry.stderr);
        let tried = wait_until("it was tried", PATIENCE, async || {
            let found = row(&client, id).await;
            let done = found.status == "PUBLISHED" || (found.status == "FAILED" && found.retry_count > 0);
            if done { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await;
        if tried.status == "PUBLISHED" {
            return Ok(());
        }
        // The broker itself may take a moment to follow; the relay must not refuse by what it remembers.
        let error = tried.last_error.expect("a reason");
        assert!(error.starts_with("too-large: refused by Kafka"), "{error}");
        Err(error)
    })
    .await;
}

/// Topic A asks for three replicas in sync and one of three brokers is gone; B asks for two.
#[tokio::test]
async fn a_topic_below_its_replicas_holds_its_own_keys_alone() {
    let cluster = PrivateKafka::cluster([None; 3]).await;
    let bootstrap = cluster.iter().map(|broker| broker.bootstrap.as_str()).collect::<Vec<_>>().join(",");
    let topic = |name: &str| Topic { name: unique(name), bootstrap: bootstrap.clone() };
    let below = topic("below").created_with(1, &[("min.insync.replicas", "3")]).await;
    let above = topic("above").created_with(3, &[("min.insync.replicas", "2")]).await;
    cluster[2].stop(StopMode::Crash).await;
    side_by_side(MODES, async |mode| {
        let database = TestDatabase::migrated("below").await;
        let client = database.connect().await;
        let id = NewRow::new(&below.name, "below", "{}").insert(&client).await;
        insert(
            &client,
            "aggregate_id, topic",
            &format!("select 'E', '{{}}', 'k' || n, '{}' from generate_series(1, 50) n", above.name),
        )
        .await;
        let relay = relay(&database, &bootstrap, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 50), ("HELD", 1)]).await;
        let shown = outbox_relay(&["events", "show", &id.to_string()]).env("DATABASE_URL", &database.url).run().await;
        assert!(shown.stdout.contains(&format!("partition 0 of {}", below.name)), "{mode}: {}", shown.stdout);
        relay.wait_for_readiness(200, "").await;
        relay.wait_for_log("the partition does not accept records").await;
    })
    .await;
}

/// What a process knew of a topic is gone with it; the keys that it held are in the database.
#[tokio::test]
async fn keys_that_a_former_process_held_for_a_topic_go_on_once_it_exists() {
    side_by_side(MODES, async |mode| {
        let (database, topic) = (TestDatabase::migrated("held-before").await, Topic::planned("held-before"));
        let client = database.connect().await;
        let settings =
            relay(&database, &parts().kafka, mode).set("relay.unknown_topic_grace", "10m").set("relay.lease", "10s");
        let mut former = settings.start_ready().await;
        insert(
            &client,
            "aggregate_id, topic",
            &format!("select 'E', '{{}}', 'k' || g % 5, '{}' from generate_series(1, 20) g", topic.name),
        )
        .await;
        wait_for_counts(&client, &format!("all of them wait ({mode})"), &[("HELD", 20)]).await;
        former.kill().await;
        let topic = topic.created(2).await;
        let _relay = settings.start_ready().await;
        wait_for_counts(&client, &format!("all of them are published ({mode})"), &[("PUBLISHED", 20)]).await;
        assert_eq!(topic.records().await.len(), 20);
    })
    .await;
}
