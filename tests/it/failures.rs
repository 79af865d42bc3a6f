//! Events that cannot be delivered, and what operators do about them: retries, dead letters, held keys, retry and
//! discard by hand, pauses. Each in both delivery modes, where the mode could make a difference.

mod dead_letters;
mod held;
mod pauses;

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::support::cli::Finished;
use crate::support::kafka::sent_ids;
use crate::support::outbox::{counts, insert_many, most_attempts, wait_for_status, wait_until_published};
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Record, TestDatabase, Topic, order, outbox_relay, side_by_side, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const MODES: [&str; 2] = ["at-least-once", "exactly-once"];

fn relay(database: &TestDatabase, mode: &str) -> RelaySettings {
    RelaySettings::new(database, &parts().kafka)
        .steady()
        .set("relay.delivery", mode)
        .set("run.deployment", &unique("failures"))
}

/// A topic that takes only small records, so that a row can be refused and the reason can go away.
async fn small_topic(name: &str) -> Topic {
    Topic::planned(name).created_with(3, &[("max.message.bytes", "20000")]).await
}

/// Too large for [`small_topic`], compressed or not.
fn large(topic: &Topic, key: &str) -> NewRow {
    let noise = "to_jsonb((select string_agg(md5(random()::text), '') from generate_series(1, 1000)))";
    NewRow::new(&topic.name, key, "{}").sql("payload", noise)
}

async fn cli(database: &TestDatabase, args: &[&str]) -> Finished {
    outbox_relay(args).env("DATABASE_URL", &database.url).run().await
}

async fn ids_of(topic: &Topic, key: &str) -> Vec<i64> {
    topic.records().await.iter().filter(|record| record.key_text() == Some(key)).map(Record::outbox_id).collect()
}

/// A key is released a moment after its last event that waited was published.
async fn wait_until_no_key_is_held(client: &Client) {
    wait_until("no key is held", PATIENCE, async || {
        let held = client.query_one("select count(*) from outbox_held_keys", &[]).await;
        let held: i64 = held.map_err(|error| error.to_string())?.get(0);
        if held == 0 { Ok(()) } else { Err(format!("{held} keys")) }
    })
    .await;
}

/// Every row of the topic is there once, in the order of its key.
async fn expect_order(client: &Client, topic: &Topic) {
    let rows =
        client.query("select aggregate_id, id from outbox_events where topic = $1 order by id", &[&topic.name]).await;
    let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
    for row in rows.expect("the rows") {
        committed.entry(row.get(0)).or_default().push(row.get(1));
    }
    order::check(&committed, &sent_ids(&topic.records().await)).expect_kept().expect_no_repeats();
}

/// A topic that does not exist uses up the attempts of its events, and nobody else waits; once it is there, a retry by
/// hand sends everything in order.
#[tokio::test]
async fn attempts_are_counted_in_the_row_with_growing_waits_and_then_the_key_is_held() {
    side_by_side(MODES, async |mode| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("attempts"), Topic::create("attempts", 3));
        let _relay = relay(&database, mode)
            .set("relay.unknown_topic_grace", "1s")
            .set("retry.initial_backoff", "500ms")
            .set("retry.max_backoff", "800ms")
            .start_ready()
            .await;
        let client = database.connect().await;
        let missing = Topic::planned("missing");
        let first = NewRow::new(&missing.name, "a", "{}").insert(&client).await;
        let second = NewRow::new(&missing.name, "a", "{}").insert(&client).await;
        let other = NewRow::new(&topic.name, "b", "{}").insert(&client).await;
        wait_for_status(&client, other, "PUBLISHED").await;
        let failed = wait_for_status(&client, first, "FAILED").await;
        assert_eq!(failed.retry_count, 3, "{mode}: {failed:?}");
        let reason = failed.last_error.expect("a reason");
        assert!(reason.starts_with("unknown-topic: ") && reason.contains(&missing.name), "{reason}");
        assert_eq!(wait_for_status(&client, second, "HELD").await.retry_count, 0, "{mode}: waiting is no attempt");

        let created = missing.created(1).await;
        cli(&database, &["events", "retry", &first.to_string(), "--reason", "topic made"]).await.expect_code(0);
        wait_until_published(&database, PATIENCE).await;
        assert_eq!(ids_of(&created, "a").await, [first, second], "{mode}");
        wait_until_no_key_is_held(&client).await;
        let audit =
            "select count(*) from outbox_audit where action = 'retry' and reason = 'topic made' and actor <> ''";
        assert_eq!(client.query_one(audit, &[]).await.expect("audit").get::<_, i64>(0), 1);
    })
    .await;
}

/// A topic that is created within the grace costs no attempt, and the other topics of the shard do not wait for it.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_topic_that_comes_late_delays_its_own_keys_alone_and_costs_no_attempt() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("late-topic"), Topic::create("on-time", 3));
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).set("relay.unknown_topic_grace", "300s").start_ready().await;
    let late = Topic::planned("late");
    for n in 0..20 {
        NewRow::new(&late.name, &format!("late-{n}"), "{}").insert(&client).await;
    }
    insert_many(&client, &topic.name, 50, 1_000).await;
    wait_until("the other topic is published", PATIENCE, async || {
        let counts = counts(&client).await;
        if counts.get("PUBLISHED") == Some(&1_000) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let late = late.created(3).await;
    wait_until_published(&database, PATIENCE).await;
    assert_eq!(late.len().await, 20);
    assert_eq!(most_attempts(&client).await, 0);
    wait_until_no_key_is_held(&client).await;
}

#[tokio::test]
async fn a_wrong_retry_says_what_to_do_and_changes_nothing() {
    let database = TestDatabase::migrated("wrong-retry").await;
    let topic = small_topic("wrong-retry").await;
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).start_ready().await;
    let good = NewRow::new(&topic.name, "good", "{}").insert(&client).await;
    let bad = large(&topic, "bad").insert(&client).await;
    wait_for_status(&client, good, "PUBLISHED").await;
    wait_for_status(&client, bad, "FAILED").await;
    let (good, bad) = (good.to_string(), bad.to_string());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["events", "retry", "999999"], 6, "no event 999999"),
        (&["events", "retry", &bad, "999999"], 6, "nothing was changed"),
        (&["events", "retry", &good], 6, "is PUBLISHED"),
        (&["events", "discard", &good], 6, "is PUBLISHED"),
        (&["events", "retry", "order-17"], 2, "neither a number nor a UUID"),
        (&["events", "retry"], 2, "which events?"),
        (&["events", "retry", "--all", "--status", "published"], 2, "replay"),
        (&["events", "retry", "--all", "--class", "too-big"], 2, "possible values"),
        (&["events", "retry", "--all", "--since", "yesterday"], 2, "not a time"),
        (&["events", "retry", "--topic", "no-such-topic", "--yes"], 6, "no FAILED event matches"),
        // Nobody at a terminal can confirm.
        (&["events", "retry", "--all"], 2, "--yes"),
    ];
    for (args, code, says) in cases {
        let finished = cli(&database, args).await.expect_code(*code);
        assert!(finished.stderr.contains(says), "{args:?} does not say {says:?}: {}", finished.stderr);
    }
    let reader = crate::support::unique("reader").replace('-', "_");
    client
        .batch_execute(&format!("create role {reader} login; grant select on all tables in schema public to {reader}"))
        .await
        .expect("a role");
    let (_, address) = database.url.split_once('@').expect("a URL with a user");
    let url = format!("postgres://{reader}@{address}");
    let denied = outbox_relay(&["events", "retry", &bad]).env("DATABASE_URL", &url).run().await.expect_code(1);
    assert!(denied.stderr.contains("permission denied"), "{}", denied.stderr);
    assert_eq!(counts(&client).await, [("FAILED".to_owned(), 1), ("PUBLISHED".to_owned(), 1)].into());
    let audit = client.query_one("select count(*) from outbox_audit", &[]).await.expect("audit").get::<_, i64>(0);
    assert_eq!(audit, 0, "nothing was done");
}

/// On schedule, failed events are tried again by themselves; of two instances one does it.
#[tokio::test]
async fn failed_events_are_tried_again_on_schedule() {
    let database = TestDatabase::migrated("reprocess").await;
    let client = database.connect().await;
    let missing = Topic::planned("reprocess");
    let settings = relay(&database, MODES[0])
        .set("relay.unknown_topic_grace", "0s")
        .set("retry.max_attempts", "1")
        .set("reprocess.enabled", "true")
        .set("reprocess.interval", "1s")
        .set("reprocess.older_than", "2s");
    let _first = settings.clone().instance("one").start_ready().await;
    let _second = settings.instance("two").start_ready().await;
    for n in 0..10 {
        NewRow::new(&missing.name, &format!("k{n}"), "{}").insert(&client).await;
        NewRow::new(&missing.name, &format!("k{n}"), "{}").insert(&client).await;
    }
    wait_until("they have failed", PATIENCE, async || {
        let counts = counts(&client).await;
        if counts.get("FAILED") == Some(&10) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let topic = missing.created(3).await;
    wait_until_published(&database, Duration::from_secs(120)).await;
    expect_order(&client, &topic).await;
}
