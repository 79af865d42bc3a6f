//! Records of producers that care for no convention: names, values, keys and times are bytes and numbers of any kind.
//! They are folded, skipped or parked whole, one by one, and nobody else notices.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use outbox_relay::broker::{raw, scan};
use outbox_relay::config::KafkaConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::outbox::wait_until_published;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, http, outbox_relay, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// A record of somebody else.
#[derive(Debug, Clone, Default)]
pub struct Foreign {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub timestamp: Option<i64>,
}

impl Foreign {
    pub fn like(partition: i32) -> Self {
        let value = Some(br#"{"productId": 1}"#.to_vec());
        Self { partition, value, ..Self::default() }.header(b"ce_type", b"LikeAddedEvent")
    }

    #[must_use]
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.push((name.to_vec(), Some(value.to_vec())));
        self
    }
}

/// Writes them in this order, each with whatever bytes its header names are.
pub async fn produce(topic: &Topic, records: Vec<Foreign>) {
    let topic = topic.clone();
    let write = move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.bootstrap).set("linger.ms", "20").set("message.max.bytes", "8000000");
        let producer: BaseProducer = config.create().expect("a producer");
        for record in &records {
            send(&producer, &topic, record);
        }
        producer.flush(PATIENCE).expect("all are acknowledged");
    };
    tokio::task::spawn_blocking(write).await.expect("produce");
}

/// Queues a record.
pub fn send(producer: &BaseProducer, topic: &Topic, record: &Foreign) {
    let mut headers = OwnedHeaders::new();
    for (name, value) in &record.headers {
        #[expect(unsafe_code, reason = "rdkafka takes names as text, and only reads their bytes and length")]
        // SAFETY: the text goes to `OwnedHeaders::insert` alone, which hands its bytes and its length to librdkafka.
        let key = unsafe { std::str::from_utf8_unchecked(name) };
        headers = headers.insert(Header { key, value: value.as_deref() });
    }
    let mut message = BaseRecord::to(&topic.name).partition(record.partition).headers(headers);
    message.key = record.key.as_ref();
    message.payload = record.value.as_ref();
    message.timestamp = record.timestamp;
    while let Err((error, back)) = producer.send(message) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(10));
        message = back;
    }
    producer.poll(Duration::ZERO);
}

pub struct Bench {
    pub database: TestDatabase,
    pub client: Client,
    pub topic: Topic,
    pub other: Topic,
}

impl Bench {
    pub async fn open(name: &str) -> Self {
        let (database, topic, other) = tokio::join!(
            TestDatabase::migrated(name),
            Topic::planned(name).created_with(
                2,
                &[
                    ("max.message.bytes", "8000000"),
                    ("message.timestamp.after.max.ms", "9223372036854775807"),
                    ("message.timestamp.before.max.ms", "9223372036854775807"),
                    // Records with odd times must not be deleted for their age.
                    ("retention.ms", "-1"),
                ]
            ),
            Topic::create(name, 1)
        );
        let client = database.connect().await;
        Self { database, client, topic, other }
    }

    pub fn settings(&self) -> RelaySettings {
        let file = format!(
            "[consumer]\ngroup = \"{}\"\ntopics = [\"{}\"]\n[kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n\
             \"max.poll.interval.ms\" = \"10000\"\n",
            unique("foreign"),
            self.topic.name
        );
        RelaySettings::new(&self.database, &parts().kafka).file(&file).only("relay,consumer,admin")
    }

    /// For a consumer that nobody has to replace: the group does not miss it on a machine that stalls.
    fn patient(&self) -> RelaySettings {
        self.settings()
            .steady()
            .env("OUTBOX_RELAY_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "45000")
            .env("OUTBOX_RELAY_KAFKA__PROPERTIES__MAX_POLL_INTERVAL_MS", "300000")
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    pub async fn wait_until_read(&self, records: i64) {
        wait_until(&format!("{records} records are read"), PATIENCE, async || {
            let read = self.number("select coalesce(sum(next_offset), 0)::bigint from consumer_partitions").await;
            if read == records { Ok(()) } else { Err(format!("{read}")) }
        })
        .await;
    }

    pub async fn likes(&self) -> i64 {
        self.number("select coalesce(sum(like_count), 0)::bigint from product_metrics").await
    }
}

/// Promise: records.
#[tokio::test]
async fn a_header_name_that_is_no_text_ends_nothing() {
    let bench = Bench::open("no-text").await;
    let records = vec![
        Foreign::like(0),
        Foreign { value: Some(b"x".to_vec()), ..Foreign::default() }.header(b"\xff", b"1"),
        Foreign::like(0).header(b"\xff\xfe", b"\xff"),
        Foreign { value: Some(b"no JSON".to_vec()), ..Foreign::like(0) }.header(b"caf\xe9\0", b"\xff"),
        Foreign::like(0),
        Foreign::like(1),
    ];
    produce(&bench.topic, records).await;
    NewRow::new(&bench.other.name, "k", "{}").insert(&bench.client).await;
    let mut relay = bench.patient().start_ready().await;
    bench.wait_until_read(6).await;
    wait_until_published(&bench.database, PATIENCE).await;
    assert_eq!(bench.likes().await, 4);
    let parked = bench.client.query_one("select headers::text, error from consumer_parked", &[]).await.expect("one");
    let (headers, error): (&str, &str) = (parked.get(0), parked.get(1));
    assert_eq!(headers, r#"[["ce_type", "LikeAddedEvent"], [{"hex": "636166e900"}, {"hex": "ff"}]]"#);
    assert!(error.contains("not JSON"), "{error}");
    relay.terminate().await;
    relay.expect_no_error_lines();
}

#[tokio::test]
async fn dead_letters_with_names_that_are_no_text_are_listed_shown_refused_and_purged() {
    let bench = Bench::open("no-text-dlq").await;
    let letters = Topic { name: format!("{}-dlq", bench.other.name), bootstrap: bench.other.bootstrap.clone() };
    let letters = letters.created(1).await;
    let letter = |key: &[u8]| {
        Foreign { key: Some(key.to_vec()), value: Some(b"{}".to_vec()), ..Foreign::default() }
            .header(b"original_topic", bench.other.name.as_bytes())
            .header(b"consumer_group", b"g")
            .header(b"failed_at", b"2026-05-01T00:00:00Z")
    };
    produce(&letters, vec![letter(b"a").header(b"\xff", b"1"), letter(b"b"), letter(b"c").header(b"x\0y", b"\0")])
        .await;
    let dlq = |args: &[&str]| {
        let call = outbox_relay(&[&["dlq"], args, &["-o", "json"]].concat()).env("DATABASE_URL", &bench.database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    };
    let name = letters.name.as_str();
    let listed = dlq(&["ls", "--dlq", name]).run().await.expect_code(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    let shown = dlq(&["show", &format!("{name}/0/0")]).run().await.expect_code(0).json();
    assert_eq!(shown[0]["headers"][3], serde_json::json!([{"hex": "ff"}, "1"]), "{shown}");
    let redriven = dlq(&["redrive", "--dlq", name, "--yes"]).run().await.expect_code(5).json();
    assert_eq!((&redriven["appended"], &redriven["refused"]), (&Value::from(1), &Value::from(2)), "{redriven}");
    dlq(&["purge", "--topic", &bench.other.name, "--force", "--yes"]).run().await.expect_code(0);
}

#[tokio::test]
async fn a_scan_passes_over_records_with_names_that_are_no_text() {
    let topic = Topic::create("no-text-scan", 1).await;
    let id = Uuid::new_v4();
    let known = Foreign::default()
        .header(b"\xff", b"1")
        .header(b"outbox-id", b"7")
        .header(b"outbox-event-id", id.to_string().as_bytes());
    produce(&topic, vec![Foreign::default().header(b"\xff", b"1"), known]).await;
    let settings = KafkaConfig { bootstrap_servers: topic.bootstrap.clone(), ..KafkaConfig::default() };
    let topics = [topic.name.clone()];
    let mut seen = Vec::new();
    let scanned = tokio::task::spawn_blocking(move || {
        let read = scan::scan(&settings, &topics, Timestamp::UNIX_EPOCH, |sighting| seen.push(sighting));
        (read, seen)
    });
    let (read, seen) = scanned.await.expect("no panic");
    assert_eq!((read.expect("a scan"), seen.len(), seen[0].outbox_id, seen[0].event_id), (2, 1, 7, id));
}

#[tokio::test]
async fn a_topic_that_is_made_anew_has_another_id() {
    let topic = Topic::create("ids", 1).await;
    let ids = async |topic: &Topic| -> BTreeMap<String, Uuid> {
        let topic = topic.clone();
        let ask = move || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &topic.bootstrap);
            let client: AdminClient<DefaultClientContext> = config.create().expect("a client");
            raw::topic_ids(client.inner(), &[&topic.name, "no-such-topic"], PATIENCE).expect("an answer")
        };
        tokio::task::spawn_blocking(ask).await.expect("no panic")
    };
    let first = ids(&topic).await;
    assert_eq!(first.keys().collect::<Vec<_>>(), [&topic.name]);
    assert_eq!(ids(&topic).await, first);
    topic.delete().await;
    let again = topic.created(1).await;
    let second = ids(&again).await;
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
}

/// A projection's table that is missing keeps the consumer alone from working, and it works once the table is there.
///
/// Promise: parts.
#[tokio::test]
async fn a_projection_without_its_table_keeps_the_relay_from_nothing() {
    let bench = Bench::open("no-table").await;
    bench.client.batch_execute("alter table product_metrics rename to mislaid").await.expect("rename");
    produce(&bench.topic, vec![Foreign::like(0), Foreign::like(1)]).await;
    NewRow::new(&bench.other.name, "k", "{}").insert(&bench.client).await;
    let mut relay = bench.patient().start();
    wait_until_published(&bench.database, PATIENCE).await;
    wait_until("readiness names the consumer and its reason", PATIENCE, async || {
        let address = relay.try_admin().ok_or("no address yet")?;
        let (status, body) = http::get(address, "/readyz?verbose").await?;
        let named = body.contains("[-]part consumer failed: failing since") && body.contains("product_metrics");
        if status == 503 && named { Ok(()) } else { Err(format!("{status} {body}")) }
    })
    .await;
    let (status, _) = http::get(relay.admin(), "/livez").await.expect("it answers");
    assert!(status == 200 && relay.is_running());
    bench.client.batch_execute("alter table mislaid rename to product_metrics").await.expect("rename");
    bench.wait_until_read(2).await;
    assert_eq!(bench.likes().await, 2);
    wait_until("it is ready", PATIENCE, async || match http::get(relay.admin(), "/readyz?verbose").await? {
        (200, body) if !body.contains("part consumer") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
    relay.terminate().await;
}

/// Bytes of any kind from a seed, so that a failure can be repeated.
struct Seeded(fastrand::Rng);

impl Seeded {
    fn bytes(&mut self, name: bool) -> Vec<u8> {
        let length = match self.0.u8(..20) {
            0 => 0,
            1 if !name => 300_000,
            2 => 5_000,
            _ => self.0.usize(1..20),
        };
        match self.0.u8(..4) {
            0 => (0..length).map(|_| self.0.u8(..)).collect(),
            1 => vec![0; length],
            2 => "é€𝄞\0".repeat(length / 4 + 1).into_bytes(),
            _ => (0..length).map(|_| self.0.alphanumeric() as u8).collect(),
        }
    }

    /// Headers, some under names that mean something, some twice.
    fn headers(&mut self, headers: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        const KNOWN: [&[u8]; 6] =
            [b"ce_subject", b"ce_time", b"ce_eventversion", b"correlation-id", b"ce_aggregatetype", b"id"];
        for _ in 0..self.0.usize(..6) {
            let name = if self.0.bool() { KNOWN[self.0.usize(..KNOWN.len())].to_vec() } else { self.bytes(true) };
            let value = (self.0.u8(..8) > 0).then(|| self.bytes(false));
            // librdkafka does not tell how a name goes on behind a NUL when there is no value.
            let name = if value.is_none() { name.into_iter().filter(|byte| *byte != 0).collect() } else { name };
            if self.0.u8(..4) == 0 {
                headers.push((name.clone(), value.clone()));
            }
            headers.push((name, value));
        }
    }

    fn record(&mut self, partition: i32) -> (Foreign, bool) {
        let mut record = Foreign::like(partition);
        self.headers(&mut record.headers);
        record.key = self.0.bool().then(|| self.bytes(false));
        record.timestamp = [None, Some(0), Some(1), Some(i64::MAX), Some(-1)][self.0.usize(..5)];
        let good = self.0.bool();
        if !good {
            record.value = (self.0.u8(..4) > 0).then(|| self.bytes(false));
        }
        (record, good)
    }
}

/// What `consumer_parked.headers` says, as bytes again.
pub fn unparked(headers: &str) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let bytes = |value: &Value| match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(hex) => {
            let hex = hex["hex"].as_str().expect("hex");
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            Some((0..hex.len()).step_by(2).map(byte).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    };
    let list: Vec<(Value, Value)> = serde_json::from_str(headers).expect("a list of pairs");
    list.iter().map(|(name, value)| (bytes(name).expect("a name"), bytes(value))).collect()
}

/// Promise: records.
#[tokio::test]
async fn records_of_any_bytes_are_folded_or_parked_whole_and_stop_nobody() {
    let seed = 20_261_129;
    let mut seeded = Seeded(fastrand::Rng::with_seed(seed));
    let bench = Bench::open("any-bytes").await;
    let made: Vec<(Foreign, bool)> = (0..300).map(|n| seeded.record(n % 2)).collect();
    produce(&bench.topic, made.iter().map(|(record, _)| record.clone()).collect()).await;
    let mut relay = bench.patient().start_ready().await;
    bench.wait_until_read(300).await;
    // A value that happens to be JSON is none that a like has; none of a tombstone either.
    let good = made.iter().filter(|(_, good)| *good).count();
    assert_eq!(bench.likes().await, i64::try_from(good).expect("few"), "seed {seed}");
    let parked = bench
        .client
        .query("select partition, \"offset\", key, value, headers::text, error from consumer_parked", &[])
        .await
        .expect("parked events");
    assert_eq!(parked.len(), 300 - good, "seed {seed}");
    for row in parked {
        let (partition, offset): (i32, i64) = (row.get(0), row.get(1));
        let index = usize::try_from(offset * 2 + i64::from(partition)).expect("an index");
        let (record, good) = &made[index];
        assert!(!good, "seed {seed}: record {index}");
        assert_eq!(row.get::<_, Option<Vec<u8>>>(2), record.key, "seed {seed}: key of {index}");
        assert_eq!(row.get::<_, Option<Vec<u8>>>(3), record.value, "seed {seed}: value of {index}");
        assert_eq!(unparked(row.get(4)), record.headers, "seed {seed}: headers of {index}");
        assert!(!row.get::<_, &str>(5).is_empty());
    }
    relay.terminate().await;
    relay.expect_no_error_lines();
}
