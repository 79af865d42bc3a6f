//! Records of a dead-letter topic that nobody would write: each is listed and shown, and none keeps another from going
//! back.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::cli::{Call, outbox_relay};
use crate::support::kafka::client_config;
use crate::support::{TestDatabase, Topic, parts::parts};

/// Header, and what it says.
pub const ODD: &[(&str, &[u8])] = &[
    ("failed_at", b"a\0b"),
    ("failed_at", b"\0"),
    ("failed_at", b"\xff\xfe"),
    ("failed_at", b""),
    ("failed_at", b"-9999999-01-01T00:00:00Z"),
    ("failed_at", b"+294276-12-31T23:59:59Z"),
    ("failed_at", "\u{fffd}\u{1f600}".as_bytes()),
    ("exception_class", b"\0\x1b[31m"),
    ("exception_message", b"\r\n\0\x1b[31m"),
    ("retry_count", b"99999999999999999999999"),
    ("retry_count", b"-1"),
    ("outbox-id", b"99999999999999999999999"),
    ("outbox-id", b"-9223372036854775808"),
    ("outbox-id", b"9223372036854775807"),
    ("outbox-id", b"x"),
    ("outbox-event-id", b"x"),
    ("ce_id", b"\0"),
    ("consumer_group", b"\0"),
    ("ce_type", b"\0"),
    ("ce_subject", b"\0"),
    ("ce_source", b"a\0b"),
    ("ce_aggregatetype", b"\0"),
    ("ce_eventversion", b"99999999999"),
    ("correlation-id", b"\0"),
    ("traceparent", b"\0"),
    ("original_topic", b""),
    ("original_topic", b"\0"),
    ("original_topic", b"__consumer_offsets"),
    ("original_topic", b"no such topic"),
    ("tenant", b"a\0b"),
    ("tenant", b"\xff"),
];

#[tokio::test]
async fn every_dead_letter_is_listed_and_shown_and_the_good_ones_go_back() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("odd-letters"), Topic::create("odd-letters", 1));
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let producer: BaseProducer = client_config(&letters.bootstrap).create().expect("producer");
    let long = "x".repeat(200_000);
    let mut odd: Vec<(&str, &[u8])> = ODD.to_vec();
    odd.extend(["failed_at", "exception_message", "ce_type", "tenant"].map(|name| (name, long.as_bytes())));
    for (place, (name, value)) in odd.iter().enumerate() {
        for (name, value) in [(*name, *value), ("tenant", b"good".as_slice())] {
            let mut headers = OwnedHeaders::new();
            for (ours, text) in
                [("original_topic", topic.name.as_str()), ("exception_class", "Poison"), ("consumer_group", "g")]
            {
                if ours != name {
                    headers = headers.insert(Header { key: ours, value: Some(text) });
                }
            }
            let headers = headers.insert(Header { key: name, value: Some(value) });
            let key = format!("k{place}");
            let record = BaseRecord::to(&letters.name).key(&key).payload(r#"{"card": "s3cret"}"#).headers(headers);
            producer.send(record).expect("queued");
        }
    }
    for timestamp in [0, 1, 1_000] {
        let headers = OwnedHeaders::new().insert(Header { key: "original_topic", value: Some(&topic.name) });
        let record = BaseRecord::to(&letters.name).key("t").payload("{}").headers(headers).timestamp(timestamp);
        producer.send(record).expect("queued");
    }
    producer.send(BaseRecord::<[u8], [u8]>::to(&letters.name).key(b"\xff\0")).expect("queued");
    producer.flush(Duration::from_secs(60)).expect("acknowledged");
    let all = letters.records().await;
    assert_eq!(all.len(), odd.len() * 2 + 4);

    let dlq = |args: &[&str]| -> Call {
        let args = [&["dlq"], args, &["--dlq", &letters.name]].concat();
        let call = outbox_relay(&args).env("DATABASE_URL", &database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    };
    for format in ["table", "json", "ndjson"] {
        let list = dlq(&["ls", "--limit", "1000", "-o", format]).run().await.expect_code(0);
        assert!(!list.stdout.contains("s3cret") && !list.stdout.contains('\0'), "{format}");
        if format == "json" {
            assert_eq!(list.json().as_array().expect("a list").len(), all.len());
        }
        for part in all.chunks(40) {
            let places = part.iter().map(|one| format!("{}/{}/{}", letters.name, one.partition, one.offset));
            let places: Vec<String> = places.collect();
            let args: Vec<&str> =
                ["dlq", "show", "-o", format].into_iter().chain(places.iter().map(String::as_str)).collect();
            let call = outbox_relay(&args).env("DATABASE_URL", &database.url);
            call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.expect_code(0);
        }
    }
    dlq(&["redrive", "--dry-run"]).run().await.expect_code(0);
    let sent = dlq(&["redrive", "--yes", "-o", "json"]).run().await.expect_code(5).json();
    let outcomes = sent["letters"].as_array().expect("a list");
    let good = outcomes.iter().skip(1).step_by(2).take(odd.len());
    assert!(good.clone().all(|letter| letter["outcome"] == "appended"), "{sent}");
    let again = dlq(&["redrive", "--yes", "-o", "json"]).run().await;
    assert_eq!(again.json()["appended"], 0, "each goes back once");
    let client = database.connect().await;
    let rows: i64 = client.query_one("select count(*) from outbox_events", &[]).await.expect("rows").get(0);
    assert_eq!(sent["appended"], rows);
}
