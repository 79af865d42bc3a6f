//! Events that cannot be delivered, and what operators do about them: retries, dead letters, held keys, retry and
//! discard by hand, pauses. Each in both delivery modes, where the mode could make a difference.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::support::cli::Finished;
use crate::support::kafka::sent_ids;
use crate::support::outbox::{
    committed_ids, counts, insert_many, most_attempts, row, try_counts, wait_for_status, wait_until_published,
};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, Record, TestDatabase, Topic, holds_for, http, order, outbox_relay, parts::parts, side_by_side, unique,
    wait_until,
};

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

/// Promise: dead-letters.
#[tokio::test]
async fn a_dead_letter_keeps_the_record_and_says_why_and_its_key_goes_on() {
    side_by_side(MODES, async |mode| {
        let database = TestDatabase::migrated("dead-letter").await;
        let topic = small_topic("dead-letter").await;
        let dead = Topic { name: format!("{}-dlq", topic.name), ..topic.clone() }.created(1).await;
        let client = database.connect().await;
        let _relay = relay(&database, mode).set("retry.on_exhausted", "dead-letter").start_ready().await;
        let before = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
        let bad = large(&topic, "k")
            .text("headers", r#"{"tenant": "acme", "retry_count": "4", "original_topic": "elsewhere"}"#)
            .text("correlation_id", "c-1")
            .insert(&client)
            .await;
        let after = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
        wait_for_status(&client, after, "PUBLISHED").await;
        let failed = wait_for_status(&client, bad, "FAILED").await;
        assert_eq!(failed.retry_count, 1);
        assert_eq!(ids_of(&topic, "k").await, [before, after], "{mode}");
        let letters = dead.wait_for_records(1).await;
        let letter = &letters[0];
        assert_eq!((letter.key_text(), letter.outbox_id()), (Some("k"), bad));
        let payload: String = client
            .query_one("select payload::text from outbox_events where id = $1", &[&bad])
            .await
            .expect("it")
            .get(0);
        assert_eq!(letter.value_text(), Some(payload.as_str()));
        let expected = [
            ("tenant", "acme"),
            ("correlation-id", "c-1"),
            ("original_topic", topic.name.as_str()),
            ("exception_class", "too-large"),
            ("retry_count", "5"),
        ];
        for (name, value) in expected {
            assert_eq!(letter.header(name), Some(value), "{mode}: {name}");
        }
        assert!(letter.header("exception_message").is_some_and(|text| text.contains("max.message.bytes = 20000")));
        let failed_at: jiff::Timestamp = letter.header("failed_at").expect("a time").parse().expect("ISO 8601");
        assert!(failed_at > "2026-01-01T00:00:00Z".parse().expect("a time"));
        let created: jiff::Timestamp =
            client.query_one("select created_at from outbox_events where id = $1", &[&bad]).await.expect("it").get(0);
        assert_eq!(letter.timestamp_ms, Some(created.as_millisecond()), "{mode}: the time of the event");
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// The dead letter of an event is refused too: nothing goes round in circles, nothing is lost, nobody waits.
///
/// Promise: dead-letters.
#[tokio::test]
async fn a_dead_letter_that_is_refused_fails_and_holds_nobody() {
    let database = TestDatabase::migrated("dead-dead").await;
    let topic = small_topic("dead-dead").await;
    let dead = Topic { name: format!("{}-dlq", topic.name), ..topic.clone() };
    let dead = dead.created_with(1, &[("max.message.bytes", "20000")]).await;
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).set("retry.on_exhausted", "dead-letter").start_ready().await;
    let bad = large(&topic, "k").insert(&client).await;
    let copy: i64 = wait_until("the copy has failed", PATIENCE, async || {
        let copy = "select id from outbox_current where dead_letter_of = $1 and status = 'FAILED'";
        let found = client.query_opt(copy, &[&bad]).await.map_err(|error| error.to_string())?;
        found.map(|row| row.get(0)).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let after = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_for_status(&client, after, "PUBLISHED").await;
    assert_eq!(counts(&client).await, [("FAILED".to_owned(), 2), ("PUBLISHED".to_owned(), 1)].into());
    wait_until_no_key_is_held(&client).await;
    assert_eq!(dead.len().await, 0);
    let due = "select count(*) from outbox_events where dead_letter_to is not null or dead_letter_of = $1";
    assert_eq!(
        client.query_one(due, &[&copy]).await.expect("count").get::<_, i64>(0),
        0,
        "no dead letter of a dead letter"
    );
    // It can be tried again like any other, once there is room.
    dead.set("max.message.bytes", "2000000").await;
    wait_until("the relay has heard of it, and the dead letter is there", Duration::from_secs(120), async || {
        cli(&database, &["events", "retry", &copy.to_string()]).await;
        if dead.len().await == 1 { Ok(()) } else { Err(format!("{:?}", row(&client, copy).await)) }
    })
    .await;
}

#[tokio::test]
async fn a_rule_skips_what_others_hold() {
    let database = TestDatabase::migrated("skip").await;
    let topic = small_topic("skip").await;
    let client = database.connect().await;
    let file = "[[retry.rule]]\nevent_type = \"Minor*\"\non_exhausted = \"skip\"\n";
    let _relay = relay(&database, MODES[0]).file(file).start_ready().await;
    let minor = large(&topic, "minor").text("event_type", "MinorEvent").insert(&client).await;
    let after_minor = NewRow::new(&topic.name, "minor", "{}").insert(&client).await;
    let major = large(&topic, "major").insert(&client).await;
    let after_major = NewRow::new(&topic.name, "major", "{}").insert(&client).await;
    wait_for_status(&client, minor, "FAILED").await;
    wait_for_status(&client, after_minor, "PUBLISHED").await;
    wait_for_status(&client, major, "FAILED").await;
    wait_for_status(&client, after_major, "HELD").await;
    assert_eq!(topic.len().await, 1);
}

/// A thousand events behind a failed one come back in order, while other keys are served in between and a restart
/// comes in the middle.
///
/// Promise: retry-order.
#[tokio::test]
async fn what_waited_behind_a_failed_event_is_released_in_order() {
    side_by_side(MODES, async |mode| {
        let database = TestDatabase::migrated("release").await;
        let topic = small_topic("release").await;
        let client = database.connect().await;
        // In at-least-once delivery the third one waits for the lease of the second.
        let settings = relay(&database, mode).set("relay.lease", "3s").set("relay.batch_rows", "100");
        let mut first = settings.start_ready().await;
        let bad = large(&topic, "k0").insert(&client).await;
        wait_for_status(&client, bad, "FAILED").await;
        insert_many(&client, &topic.name, 1, 1_200).await;
        wait_until("all of them wait", PATIENCE, async || {
            let counts = counts(&client).await;
            if counts.get("HELD") == Some(&1_200) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        topic.set("max.message.bytes", "2000000").await;
        // The limit of the topic is looked up once a minute, and when a relay starts.
        first.terminate().await;
        let mut second = settings.start_ready().await;
        // It knows the topic, so the release begins with the first step.
        let known = NewRow::new(&topic.name, "known", "{}").insert(&client).await;
        wait_for_status(&client, known, "PUBLISHED").await;
        cli(&database, &["events", "retry", "--key", "k0", "--yes"]).await.expect_code(0);
        wait_until("the release has begun", PATIENCE, async || {
            let counts = try_counts(&client).await.map_err(|error| error.to_string())?;
            if counts.get("PUBLISHED") >= Some(&200) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        let other = NewRow::new(&topic.name, "other", "{}").insert(&client).await;
        let newest = NewRow::new(&topic.name, "k0", "{}").insert(&client).await;
        second.kill().await;
        let _third = settings.start_ready().await;
        wait_until_published(&database, PATIENCE).await;
        let sent = ids_of(&topic, "k0").await;
        match mode {
            "exactly-once" => assert_eq!(sent.len(), 1_202, "no repeat"),
            _ => assert!(sent.len() >= 1_202),
        }
        let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
        report.expect_kept();
        assert_eq!((sent.first(), sent.last()), (Some(&bad), Some(&newest)), "{mode}");
        assert_eq!(ids_of(&topic, "other").await.first(), Some(&other));
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// Promise: retry-order.
#[tokio::test]
async fn a_discarded_event_is_never_sent_and_what_waited_goes_on() {
    let database = TestDatabase::migrated("discard").await;
    let topic = small_topic("discard").await;
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).start_ready().await;
    let bad = large(&topic, "k").insert(&client).await;
    let behind: Vec<i64> = [
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
    ]
    .into();
    for id in &behind {
        wait_for_status(&client, *id, "HELD").await;
    }
    // One of those that wait is given up; the key stays held, because the first one holds it.
    cli(&database, &["events", "discard", &behind[1].to_string()]).await.expect_code(0);
    assert_eq!(row(&client, behind[0]).await.status, "HELD");
    let dry = cli(&database, &["events", "discard", "--class", "too-large", "--dry-run", "-o", "json"]).await;
    assert_eq!(dry.expect_code(0).json()["matched"], 1);
    assert_eq!(row(&client, bad).await.status, "FAILED", "a dry run changes nothing");
    cli(&database, &["events", "discard", "--class", "too-large", "--yes"]).await.expect_code(0);
    wait_for_status(&client, behind[2], "PUBLISHED").await;
    assert_eq!(row(&client, bad).await.status, "DISCARDED");
    assert_eq!(row(&client, behind[1]).await.status, "DISCARDED");
    assert_eq!(ids_of(&topic, "k").await, [behind[0], behind[2]]);
}

/// An event that was skipped is tried again while its key is held by a later one: that one may not be left behind.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_retry_takes_the_failed_event_that_holds_the_key_along() {
    let database = TestDatabase::migrated("along").await;
    let topic = small_topic("along").await;
    let client = database.connect().await;
    let file = "[[retry.rule]]\nevent_type = \"Minor*\"\non_exhausted = \"skip\"\n";
    let settings = relay(&database, MODES[0]).file(file);
    let mut first = settings.start_ready().await;
    let minor = large(&topic, "k").text("event_type", "MinorEvent").insert(&client).await;
    wait_for_status(&client, minor, "FAILED").await;
    let major = large(&topic, "k").insert(&client).await;
    let last = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_for_status(&client, last, "HELD").await;
    topic.set("max.message.bytes", "2000000").await;
    first.terminate().await;
    let _second = settings.start_ready().await;
    cli(&database, &["events", "retry", &minor.to_string()]).await.expect_code(0);
    wait_until_published(&database, PATIENCE).await;
    assert_eq!(ids_of(&topic, "k").await, [minor, major, last]);
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

/// Promise: pauses.
#[tokio::test]
async fn a_paused_topic_waits_in_order_while_others_flow_and_a_restart_does_not_wake_it() {
    side_by_side(MODES, async |mode| {
        let (database, quiet, busy) =
            tokio::join!(TestDatabase::migrated("pause"), Topic::create("quiet", 3), Topic::create("busy", 3));
        let client = database.connect().await;
        let settings = relay(&database, mode);
        let mut first = settings.start_ready().await;
        let pause = ["pause", "--topic", &quiet.name, "--reason", "upgrade", "-o", "json"];
        let paused = cli(&database, &pause).await.expect_code(0).json();
        assert_eq!((&paused[0]["topic"], &paused[0]["reason"]), (&quiet.name.as_str().into(), &"upgrade".into()));
        first.wait_for_metric("outbox_relay_paused", |topics| topics == 1.0).await;
        first.wait_for_readiness(200, &format!("\n[i]topic {} has been paused since 20", quiet.name)).await;
        insert_many(&client, &quiet.name, 10, 200).await;
        let other = NewRow::new(&busy.name, "other", "{}").insert(&client).await;
        // Behind an event of the paused topic its key waits, wherever it goes.
        let behind = NewRow::new(&busy.name, "k0", "{}").insert(&client).await;
        wait_for_status(&client, other, "PUBLISHED").await;
        wait_for_status(&client, behind, "HELD").await;
        first.terminate().await;
        let _second = settings.start_ready().await;
        let newer = NewRow::new(&busy.name, "newer", "{}").insert(&client).await;
        insert_many(&client, &quiet.name, 10, 100).await;
        wait_for_status(&client, newer, "PUBLISHED").await;
        assert_eq!(quiet.len().await, 0, "{mode}: it is paused");
        cli(&database, &["resume", "--topic", &quiet.name]).await.expect_code(0);
        wait_until_published(&database, PATIENCE).await;
        expect_order(&client, &quiet).await;
        assert_eq!(most_attempts(&client).await, 0);
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// Promise: pauses.
#[tokio::test]
async fn a_pause_of_everything_stops_every_instance_and_loses_nothing() {
    side_by_side(MODES, async |mode| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("pause-all"), Topic::create("pause-all", 3));
        let client = database.connect().await;
        let settings = relay(&database, mode);
        let first = settings.clone().instance("one").start_ready().await;
        let second = settings.instance("two").start_ready().await;
        insert_many(&client, &topic.name, 50, 6_000).await;
        cli(&database, &["pause", "--reason", "broker upgrade"]).await.expect_code(0);
        wait_until("both know, and nothing is in flight", PATIENCE, async || {
            let paused = first.metric("outbox_relay_paused").await + second.metric("outbox_relay_paused").await;
            // With the rows of all shards locked, no step is under way that has not heard of the pause.
            let flying =
                "select count(*) from (select batch_ids from outbox_shards for update) s where batch_ids is not null";
            let flying: i64 = client.query_one(flying, &[]).await.map_err(|error| error.to_string())?.get(0);
            if paused == 2.0 && flying == 0 { Ok(()) } else { Err(format!("{paused} know, {flying} batches")) }
        })
        .await;
        let late = NewRow::new(&topic.name, "late", "{}").insert(&client).await;
        let stopped = counts(&client).await;
        assert!(!stopped.contains_key("HELD"), "{mode}: {stopped:?}");
        for relay in [&first, &second] {
            // As information: it is ready all the same.
            let body = relay.wait_for_readiness(200, "\n[i]everything has been paused since 20").await;
            assert!(!body.contains("broker upgrade"), "what an operator typed is not for everybody: {body}");
        }
        holds_for("nothing moves", Duration::from_secs(2), async || {
            let now = counts(&client).await;
            if now == stopped { Ok(()) } else { Err(format!("{stopped:?}, then {now:?}")) }
        })
        .await;
        cli(&database, &["pause", "--dry-run"]).await.expect_code(0);
        assert_eq!(row(&client, late).await.status, "PENDING");
        cli(&database, &["resume"]).await.expect_code(0);
        wait_until_published(&database, PATIENCE).await;
        expect_order(&client, &topic).await;
        for relay in [&first, &second] {
            wait_until("it says that nothing is paused", PATIENCE, async || {
                match http::get(relay.admin(), "/readyz?verbose").await? {
                    (_, body) if body.contains("[i]") => Err(body),
                    _ => Ok(()),
                }
            })
            .await;
        }
        cli(&database, &["resume"]).await.expect_code(6);
        cli(&database, &["pause", "--topic", "no such topic"]).await.expect_code(2);
    })
    .await;
}
