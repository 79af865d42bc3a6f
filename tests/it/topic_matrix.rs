//! Topics that are not there or cannot be there, in both delivery modes: only the keys concerned wait or fail, with a
//! reason, and what waits goes on by itself. The others of their kind are in `topics.rs`, `leaderless.rs`,
//! `refusals.rs` and `outage.rs`.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, most_attempts};
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, order, parts::parts, side_by_side, unique, wait_until};

/// A busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const MODES: [&str; 2] = ["exactly-once", "at-least-once"];

fn relay(database: &TestDatabase, mode: &str) -> RelaySettings {
    RelaySettings::new(database, &parts().kafka)
        .set("relay.delivery", mode)
        .set("run.deployment", &unique("matrix"))
        .set("relay.lease", "60s")
        .set("relay.unknown_topic_grace", "600s")
}

/// Rows of the topics by turns, so that every batch has all of them; keys of a topic begin with its place in the list.
async fn insert(client: &Client, topics: &[&str], count: i64) {
    let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
        select t.place || '-' || n % 20, 'E', t.topic, '{}' \
        from generate_series(1, $2::bigint) n, unnest($1::text[]) with ordinality t (topic, place)";
    client.execute(statement, &[&topics, &count]).await.expect("rows are inserted");
}

async fn wait_for_counts(client: &Client, what: &str, wanted: &[(&str, i64)]) {
    wait_until(what, PATIENCE, async || {
        let counts = counts(client).await;
        let right = |(status, count): &(&str, i64)| counts.get(*status).copied().unwrap_or(0) == *count;
        if wanted.iter().all(right) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

async fn held_for(client: &Client, topic: &str) -> Vec<(String, i64)> {
    let query = "select reason, count(*) from outbox_held_keys where topic = $1 group by reason order by reason";
    let rows = client.query(query, &[&topic]).await.expect("the reasons");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Promise: bad-events.
#[tokio::test]
async fn a_topic_that_is_missing_holds_its_own_keys_alone_until_it_is_made() {
    side_by_side(MODES, async |mode| {
        let (database, good) = tokio::join!(TestDatabase::migrated("missing-one"), Topic::create("good", 3));
        let missing = Topic::planned("missing-one");
        let client = database.connect().await;
        let _relay = relay(&database, mode).start_ready().await;
        insert(&client, &[&missing.name, &good.name], 500).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 500), ("HELD", 500)]).await;
        assert_eq!(held_for(&client, &missing.name).await, [("no-topic".to_owned(), 20)], "{mode}");
        let missing = missing.created(2).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 1_000)]).await;
        let sent = sent_ids(&[missing.records().await, good.records().await].concat());
        order::check(&committed_ids(&client).await, &sent).expect_kept().expect_no_repeats();
        assert_eq!(most_attempts(&client).await, 0, "{mode}: a topic that is missing is no attempt");
    })
    .await;
}

/// The first of each key fails, for what it is, and the others of its key wait behind it.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_topic_with_a_name_that_cannot_be_fails_its_own_events_alone() {
    side_by_side(MODES, async |mode| {
        let (database, good) = tokio::join!(TestDatabase::migrated("no-name"), Topic::create("good", 3));
        let client = database.connect().await;
        let _relay = relay(&database, mode).start_ready().await;
        insert(&client, &["no such/topic", "..", &good.name], 100).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 100), ("FAILED", 40), ("HELD", 160)]).await;
        let query = "select distinct left(last_error, 13) from outbox_events where status = 'FAILED'";
        let errors: Vec<String> =
            client.query(query, &[]).await.expect("errors").iter().map(|row| row.get(0)).collect();
        assert_eq!(errors, ["invalid-topic"], "{mode}");
        assert_eq!(good.records().await.len(), 100, "{mode}");
    })
    .await;
}
