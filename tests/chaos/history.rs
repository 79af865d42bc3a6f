//! Reads what happened: the rows that were committed, and the records that a `read_committed` consumer gets.
//!
//! A row is kept as a digest of what its record must be, so that a million of them takes a few dozen megabytes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use futures_util::TryStreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use crate::it::support::Topic;
use crate::it::support::kafka::client_config;

const PATIENCE: Duration = Duration::from_secs(30);

/// A committed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: u32,
    pub shard: i16,
    /// Of topic, key, event id, type and payload.
    pub digest: u64,
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Published,
    Pending,
    /// FAILED, HELD or DISCARDED, and nothing that the writers write gives a reason for it.
    Other,
}

/// Everything that was committed.
#[derive(Debug, Default)]
pub struct Committed {
    pub rows: HashMap<i64, Row>,
    /// Names of keys, by their numbers.
    pub keys: Vec<String>,
    /// Highest number of attempts that any row counts.
    pub attempts: i32,
}

/// A record of Kafka, as little of it as the checker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Of all partitions of all topics.
    pub partition: u32,
    /// None: a record without a readable `outbox-id`.
    pub id: Option<i64>,
    pub digest: u64,
}

/// What makes a record the record of its row.
pub fn digest(topic: &str, key: &str, event_id: &str, event_type: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, key, event_id, event_type, payload).hash(&mut hasher);
    hasher.finish()
}

pub async fn committed(client: &Client) -> Committed {
    let statement = "select id, partition_key, shard, status, retry_count, topic, event_id::text, event_type, payload::text \
         from chaos_committed order by id";
    let nothing: [&str; 0] = [];
    let rows = client.query_raw(statement, nothing).await.expect("the rows");
    let mut rows = std::pin::pin!(rows);
    let (mut committed, mut numbers) = (Committed::default(), HashMap::new());
    while let Some(row) = rows.try_next().await.expect("the rows") {
        let key: &str = row.get(1);
        let number = *numbers.entry(key.to_owned()).or_insert_with(|| {
            committed.keys.push(key.to_owned());
            u32::try_from(committed.keys.len() - 1).expect("few keys")
        });
        let status = match row.get(3) {
            "PUBLISHED" => Status::Published,
            "PENDING" => Status::Pending,
            _ => Status::Other,
        };
        let payload: &str = row.get(8);
        let digest = digest(row.get(5), key, row.get(6), row.get(7), payload.as_bytes());
        committed.attempts = committed.attempts.max(row.get(4));
        committed.rows.insert(row.get(0), Row { key: number, shard: row.get(2), digest, status });
    }
    committed
}

/// Gives every record to `see`, each partition in its order, up to the end at the time of the call. Blocking.
pub fn read_topics(topics: &[Topic], mut see: impl FnMut(Sent)) {
    let mut first = 0;
    for topic in topics {
        first += read(topic, |message, partition| see(sent(message, first + partition)));
    }
}

/// The same for one topic, with the number of the partition. Returns how many partitions there are.
pub fn read(topic: &Topic, mut see: impl FnMut(&BorrowedMessage<'_>, u32)) -> u32 {
    let mut config = client_config(&topic.bootstrap);
    config.set("group.id", "chaos-checker").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = config.create().expect("consumer");
    // The end that a `read_committed` client is told is that of the last decided transaction: what was committed a
    // moment ago could lie behind it.
    let everything: BaseConsumer = config.set("isolation.level", "read_uncommitted").create().expect("consumer");
    read_topic(topic, &consumer, &everything, &mut see)
}

/// Returns how many partitions the topic has.
fn read_topic(
    topic: &Topic,
    consumer: &BaseConsumer,
    everything: &BaseConsumer,
    see: &mut impl FnMut(&BorrowedMessage<'_>, u32),
) -> u32 {
    let metadata = consumer.fetch_metadata(Some(&topic.name), PATIENCE).expect("metadata");
    let partitions = metadata.topics().first().expect("the topic that was asked for").partitions();
    let (mut left, mut assignment) = (HashMap::new(), TopicPartitionList::new());
    for partition in partitions {
        let (low, high) = everything.fetch_watermarks(&topic.name, partition.id(), PATIENCE).expect("watermarks");
        assert_eq!(low, 0, "nothing was deleted");
        if low < high {
            assignment.add_partition_offset(&topic.name, partition.id(), Offset::Offset(low)).expect("an offset");
            left.insert(partition.id(), high);
        }
    }
    consumer.assign(&assignment).expect("assign");
    let mut progress = std::time::Instant::now();
    while !left.is_empty() {
        assert!(progress.elapsed() < PATIENCE, "{}: no record for {PATIENCE:?}, left: {left:?}", topic.name);
        if let Some(message) = consumer.poll(Duration::from_millis(50)) {
            let message = message.expect("a record");
            progress = std::time::Instant::now();
            let Some(&high) = left.get(&message.partition()) else { continue };
            if message.offset() < high {
                see(&message, u32::try_from(message.partition()).expect("not negative"));
            }
            if message.offset() + 1 < high {
                continue;
            }
        }
        // The position also passes the markers of transactions, which are not records.
        for place in consumer.position().expect("position").elements() {
            if let Offset::Offset(next) = place.offset()
                && left.get(&place.partition()).is_some_and(|&high| next >= high)
            {
                left.remove(&place.partition());
            }
        }
    }
    u32::try_from(partitions.len()).expect("few partitions")
}

fn sent(message: &BorrowedMessage<'_>, partition: u32) -> Sent {
    let header = |name: &str| {
        let headers = message.headers()?;
        let value = headers.iter().find(|header| header.key == name)?.value?;
        std::str::from_utf8(value).ok()
    };
    let key = std::str::from_utf8(message.key().unwrap_or_default()).unwrap_or_default();
    let (event_id, event_type) = (header("outbox-event-id").unwrap_or(""), header("ce_type").unwrap_or(""));
    Sent {
        partition,
        id: header("outbox-id").and_then(|id| id.parse().ok()),
        digest: digest(message.topic(), key, event_id, event_type, message.payload().unwrap_or_default()),
    }
}
