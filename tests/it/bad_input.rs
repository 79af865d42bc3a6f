//! Rows that can never be sent: they end FAILED with a reason, hold back their key and nothing else.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::{Row, counts, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Record, Relay, TestDatabase, Topic, holds_for, parts::parts};

/// One bad row: its key, the row, and what `last_error` must say, its class among it.
struct Bad {
    key: &'static str,
    row: NewRow,
    says: &'static [&'static str],
}

async fn start(name: &str, file: &str) -> (TestDatabase, Client, Topic, Relay) {
    let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
    let settings = RelaySettings::new(&database, &parts().kafka).steady().file(&file.replace("TOPIC", &topic.name));
    let relay = settings.start_ready().await;
    let client = database.connect().await;
    (database, client, topic, relay)
}

/// Inserts for each bad row: a good one of its key before, the bad one, a good one after, and good ones of other keys.
/// Then: before and others are published, the bad one FAILED, the one after HELD.
async fn check(client: &Client, topic: &Topic, relay: &mut Relay, bad: Vec<Bad>) {
    let good = |key: &str| NewRow::new(&topic.name, key, r#"{"good": true}"#);
    let mut cases = Vec::new();
    for case in bad {
        let before = good(case.key).insert(client).await;
        let id = case.row.insert(client).await;
        let after = good(case.key).insert(client).await;
        cases.push((case, before, id, after));
    }
    let mut others = Vec::new();
    for n in 0..50 {
        others.push(good(&format!("other-{n}")).insert(client).await);
    }
    for id in others {
        wait_for_status(client, id, "PUBLISHED").await;
    }
    for (case, before, id, after) in cases {
        let (key, says) = (&case.key[..case.key.len().min(40)], case.says);
        wait_for_status(client, before, "PUBLISHED").await;
        let failed: Row = wait_for_status(client, id, "FAILED").await;
        let error = failed.last_error.expect("a FAILED row says why");
        for part in says {
            assert!(
                error.to_lowercase().contains(&part.to_lowercase()),
                "key {key}: last_error does not say {part:?}: {error}"
            );
        }
        assert_eq!(failed.published_partition, None, "key {key}");
        let held = wait_for_status(client, after, "HELD").await;
        assert_eq!(held.retry_count, 0, "key {key}: waiting is not an attempt");
    }
    // It stays so: what is held is not sent later.
    let sent = topic.len().await;
    holds_for("nothing more is sent", Duration::from_secs(2), async || {
        let found = topic.len().await;
        if found == sent { Ok(()) } else { Err(format!("{found} records, {sent} before")) }
    })
    .await;
    assert!(relay.is_running(), "the relay goes on");
}

/// Promise: no-loss.
#[tokio::test]
async fn a_row_that_cannot_be_a_record_fails_and_holds_its_key_alone() {
    let (_database, client, topic, mut relay) = start("bad-record", "").await;
    let row = |key: &str| NewRow::new(&topic.name, key, "{}");
    let long_key: &'static str = Box::leak("k".repeat(100_000).into_boxed_str());
    let mut bad = vec![
        Bad {
            key: "payload",
            row: row("payload").sql("payload", "jsonb_build_object('pad', repeat('x', 1200000))"),
            says: &["too-large", "1000000", "bytes"],
        },
        Bad {
            key: "raw",
            row: row("raw").without("payload").sql("payload_raw", "convert_to(repeat('x', 3000000), 'UTF8')"),
            says: &["too-large", "1000000", "bytes"],
        },
        Bad { key: "topic", row: row("topic").text("topic", "order events"), says: &["invalid-topic", "249"] },
        Bad { key: "no-topic", row: row("no-topic").without("topic"), says: &["no-topic", "routing"] },
        Bad { key: "empty-topic", row: row("empty-topic").text("topic", ""), says: &["invalid-topic"] },
        Bad {
            key: "own-headers",
            row: row("own-headers").sql("headers", "jsonb_build_object('h', repeat('x', 1200000))"),
            says: &["too-large", "1000000", "bytes"],
        },
    ];
    for (key, headers) in [
        ("headers-array", r#"["a"]"#),
        ("headers-text", r#""a""#),
        ("headers-number", r#"{"a": 1}"#),
        ("headers-nested", r#"{"a": {"b": "c"}}"#),
        ("headers-list", r#"{"a": ["b"]}"#),
    ] {
        bad.push(Bad { key, row: row(key).text("headers", headers), says: &["invalid-headers", "headers"] });
    }
    check(&client, &topic, &mut relay, bad).await;

    // A key of 100 kB: the row before it cannot be sent either, so it has no place in the table above.
    let first = row(long_key).insert(&client).await;
    let second = row(long_key).insert(&client).await;
    let failed = wait_for_status(&client, first, "FAILED").await;
    let error = failed.last_error.expect("a FAILED row says why");
    assert!(error.starts_with("key-too-long: ") && error.contains("100000") && error.len() < 1_000, "{error}");
    wait_for_status(&client, second, "HELD").await;
    assert!(!relay.log_text().contains(&"k".repeat(1_000)), "keys never reach the log");
    let after = row("after").insert(&client).await;
    wait_for_status(&client, after, "PUBLISHED").await;
}

#[tokio::test]
async fn a_route_to_an_illegal_or_forbidden_topic_fails_the_row() {
    let file = r#"
        [routing]
        allowed_topics = ["TOPIC", "order-*"]
        [[routing.rule]]
        event_type = "Illegal"
        topic = "events.{aggregate_type}"
        [[routing.rule]]
        event_type = "TooLong(.*)"
        topic = "order-$1"
    "#;
    let (_database, client, topic, mut relay) = start("bad-route", file).await;
    let row = |key: &str| NewRow::new(&topic.name, key, "{}");
    let long = format!("TooLong{}", "x".repeat(250));
    let bad = vec![
        Bad {
            key: "illegal",
            row: row("illegal").without("topic").text("event_type", "Illegal").text("aggregate_type", "Order Line"),
            says: &["invalid-topic", "249"],
        },
        Bad {
            key: "long",
            row: row("long").without("topic").text("event_type", &long),
            says: &["invalid-topic", "249"],
        },
        Bad { key: "unrouted", row: row("unrouted").without("topic"), says: &["no-topic", "routing"] },
        Bad {
            key: "forbidden",
            row: row("forbidden").text("topic", "payments"),
            says: &["topic-not-allowed", "allowed_topics"],
        },
    ];
    check(&client, &topic, &mut relay, bad).await;
}

/// The topic takes less than the relay's own limit: the relay knows before it sends, so nothing of the key overtakes.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_row_over_the_limit_of_its_topic_fails_and_holds_its_key_alone() {
    let database = TestDatabase::migrated("small-topic").await;
    let topic = Topic::planned("small").created_with(3, &[("max.message.bytes", "20000")]).await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    let client = database.connect().await;
    let row = NewRow::new(&topic.name, "large", "{}");
    let large =
        row.sql("payload", "to_jsonb((select string_agg(md5(n::text), '') from generate_series(1, 1000) as n))");
    check(&client, &topic, &mut relay, vec![Bad { key: "large", row: large, says: &["too-large", "20000", "bytes"] }])
        .await;
}

/// Kafka refuses timestamps more than an hour ahead of its clock (`message.timestamp.after.max.ms`), and its topics say
/// so beforehand.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_row_from_the_future_fails_and_holds_its_key_alone() {
    let (_database, client, topic, mut relay) = start("future", "").await;
    let row = NewRow::new(&topic.name, "future", "{}").sql("created_at", "now() + interval '3 days'");
    check(
        &client,
        &topic,
        &mut relay,
        vec![Bad { key: "future", row, says: &["invalid-timestamp", "message.timestamp.after.max.ms"] }],
    )
    .await;
}

/// With a request per record: when the broker refuses one, the next of its key must not be on the way already, nor come
/// with the next batch.
///
/// Promise: bad-events.
#[tokio::test]
async fn nothing_of_a_key_is_sent_in_the_requests_behind_a_refused_one() {
    let file = "[relay]\nbatch_rows = 20\n[kafka.properties]\nbatch.num.messages = 1\n";
    let (_database, client, topic, _relay) = start("requests", file).await;
    // All visible at once, so that the batches are full.
    let rows = client
        .query(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, created_at) \
             select 'k', 'E', $1, '{}', case when n = 10 then now() + interval '3 days' else now() end \
             from generate_series(1, 100) as n returning id",
            &[&topic.name],
        )
        .await
        .expect("insert");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    wait_for_status(&client, ids[9], "FAILED").await;
    wait_for_status(&client, ids[99], "HELD").await;
    let sent: Vec<i64> = topic.records().await.iter().map(Record::outbox_id).collect();
    assert_eq!(sent, ids[..9], "what was sent");
    let counts = counts(&client).await;
    assert_eq!((counts.get("PUBLISHED"), counts.get("HELD")), (Some(&9), Some(&90)), "{counts:?}");
}

/// A topic that never appears is an operator's problem for 30 s, and the row's afterwards.
#[tokio::test]
async fn a_topic_that_never_appears_fails_the_row_after_the_grace() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("no-topic"), Topic::create("there", 1));
    let mut relay =
        RelaySettings::new(&database, &parts().kafka).set("relay.unknown_topic_grace", "3s").start_ready().await;
    let client = database.connect().await;
    let missing = Topic::planned("missing");
    let lost = NewRow::new(&missing.name, "a", "{}").insert(&client).await;
    let other = NewRow::new(&topic.name, "b", "{}").insert(&client).await;
    let failed = wait_for_status(&client, lost, "FAILED").await;
    assert!(failed.last_error.expect("a reason").contains(&missing.name));
    wait_for_status(&client, other, "PUBLISHED").await;
    assert!(relay.is_running());
    assert_eq!(row(&client, other).await.retry_count, 0);
}

/// Whatever happens to a row, and at the chattiest level: what is in it stays in it.
#[tokio::test]
async fn payloads_keys_and_header_values_never_reach_logs_errors_or_metrics() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("canary"), Topic::create("canary", 1));
    let settings = RelaySettings::new(&database, &parts().kafka).set("telemetry.log_filter", "trace");
    let mut relay = settings.start_ready().await;
    let client = database.connect().await;
    let row = NewRow::new(&topic.name, "SECRET-key", r#"{"a": "SECRET-payload"}"#)
        .text("headers", r#"{"authorization": "SECRET-header"}"#)
        .text("correlation_id", "SECRET-correlation");
    let sent = row.insert(&client).await;
    let refused = row.clone().text("headers", r#"{"authorization": ["SECRET-header"]}"#).insert(&client).await;
    let behind = row.insert(&client).await;
    let large = row.clone().text("aggregate_id", "SECRET-other");
    let large =
        large.sql("payload", "jsonb_build_object('SECRET', repeat('SECRET-payload', 100000))").insert(&client).await;
    let future = row.clone().text("aggregate_id", "SECRET-future").sql("created_at", "now() + interval '3 days'");
    let future = future.insert(&client).await;
    wait_for_status(&client, sent, "PUBLISHED").await;
    wait_for_status(&client, behind, "HELD").await;
    for id in [refused, large, future] {
        let error = wait_for_status(&client, id, "FAILED").await.last_error.expect("a reason");
        assert!(!error.contains("SECRET"), "last_error: {error}");
    }
    let (_, metrics) = crate::support::http::get(relay.admin(), "/metrics").await.expect("an answer");
    assert!(!metrics.contains("SECRET"), "metrics:\n{metrics}");
    relay.terminate().await;
    let log = relay.log_text();
    let line = log.lines().find(|line| line.contains("SECRET"));
    assert_eq!(line, None, "the log of {} lines", log.lines().count());
}
