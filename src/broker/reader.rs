//! Reads ranges of topics, record by record: only committed records, and each record complete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::metadata::{Metadata, MetadataPartition};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::admin::{QuietContext, refused_settings, unreachable};
use super::call::Question;
use super::{client_config, raw};
use crate::config::KafkaConfig;
use crate::error::{Code, Error, Result};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const METADATA: Question = Question::new("metadata", ANSWER_TIMEOUT);
const WATERMARKS: Question = Question::new("watermarks", ANSWER_TIMEOUT);
pub(super) const OFFSETS: Question = Question::new("offsets_for_times", ANSWER_TIMEOUT);
/// Maximum wait for the next record before a reader gives up: a broker that went away in the middle. Longer than the
/// broker needs to abort a transaction that a dead relay left open: its timeout of 30 s, and 10 s between two looks.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a reader without records asks whether those that it waits for are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Records of one partition: from `from` on, up to but without `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// A record as it lies in its topic.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: raw::Headers,
}

impl std::fmt::Debug for Found {
    /// The place alone: keys and values are not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found({}/{}/{})", self.topic, self.partition, self.offset)
    }
}

/// All that lies in these topics now, by partition; a topic that does not exist has nothing. Partitions without records
/// are there too, with equal ends. Blocks.
pub fn ranges(settings: &KafkaConfig, topics: &[String]) -> Result<Vec<Range>> {
    let consumer = consumer(settings, "read_uncommitted")?;
    let mut ranges = Vec::new();
    for topic in topics.iter().filter(|topic| super::is_topic_name(topic)) {
        for partition in METADATA.metadata_here(&consumer, topic, partitions)? {
            let (from, to) = watermarks(&consumer, topic, partition)?;
            ranges.push(Range { topic: topic.clone(), partition, from, to });
        }
    }
    Ok(ranges)
}

/// Shows the committed records of the ranges to `each`, those of a partition in their order, until it says false. Waits
/// for transactions that are open there. Returns the number of records read. Blocks; joins no group that others use.
pub fn read(settings: &KafkaConfig, ranges: &[Range], mut each: impl FnMut(Found) -> bool) -> Result<u64> {
    let consumer = consumer(settings, "read_committed")?;
    let (mut assignment, mut ends) = (TopicPartitionList::new(), HashMap::new());
    for range in ranges.iter().filter(|range| range.from < range.to) {
        ends.insert((range.topic.clone(), range.partition), range.to);
        assignment
            .add_partition_offset(&range.topic, range.partition, Offset::Offset(range.from))
            .map_err(unreachable)?;
    }
    let bounds = ends.clone();
    let inside = |message: &BorrowedMessage<'_>| {
        bounds.get(&(message.topic().to_owned(), message.partition())).is_some_and(|to| message.offset() < *to)
    };
    follow(&consumer, &assignment, ends, |message| !inside(message) || each(found(message)))
}

/// Reads from the starts of `assignment` until every partition of `ends` has passed its end, or `each` says false.
/// Records that are deleted meanwhile are not waited for.
pub(super) fn follow(
    consumer: &Arc<BaseConsumer<QuietContext>>,
    assignment: &TopicPartitionList,
    mut ends: HashMap<(String, i32), i64>,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> bool,
) -> Result<u64> {
    if ends.is_empty() {
        return Ok(0);
    }
    consumer.assign(assignment).map_err(unreachable)?;
    let (mut read, mut heard) = (0, crate::clock::monotonic());
    let mut looked = heard;
    while !ends.is_empty() {
        let now = crate::clock::monotonic();
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.map_err(unreachable)?;
            heard = crate::clock::monotonic();
            read += 1;
            if !each(&message) {
                break;
            }
        } else if now.saturating_sub(heard.max(looked)) > LOOK_AGAIN {
            looked = now;
            forget_deleted(consumer, &mut ends);
        }
        if now.saturating_sub(heard) > SILENCE {
            return Err(Error::new(Code::KafkaUnreachable, "received no record for a minute during the scan")
                .hint("run it again; nothing was changed"));
        }
        // The position also passes the markers of transactions, which are no records.
        for element in consumer.position().map_err(unreachable)?.elements() {
            let place = (element.topic().to_owned(), element.partition());
            if let Offset::Offset(next) = element.offset()
                && ends.get(&place).is_some_and(|end| next >= *end)
            {
                ends.remove(&place);
            }
        }
    }
    Ok(read)
}

/// Takes out the partitions whose records up to the end were deleted, by retention or by a purge, or went with their
/// topic: the client goes on at the first record that is left, and says so only when there is one.
fn forget_deleted(consumer: &Arc<BaseConsumer<QuietContext>>, ends: &mut HashMap<(String, i32), i64>) {
    ends.retain(|(topic, partition), end| match watermarks(consumer, topic, *partition) {
        Ok((low, high)) => low < *end && high >= *end,
        // Whoever reads goes on waiting for the broker, within its limit.
        Err(_) => true,
    });
}

/// A consumer that joins no group.
pub(super) fn consumer(settings: &KafkaConfig, isolation: &str) -> Result<Arc<BaseConsumer<QuietContext>>> {
    let mut config = client_config::common(settings, "outbox-relay-scan");
    config
        .set("group.id", format!("outbox-relay-scan-{}", Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", isolation);
    config.create_with_context(QuietContext).map(Arc::new).map_err(refused_settings)
}

/// The partitions of the one topic that was asked about; none if it does not exist.
pub(super) fn partitions(metadata: &Metadata) -> Vec<i32> {
    let found = metadata.topics().first().map_or(&[][..], |found| found.partitions());
    found.iter().map(MetadataPartition::id).collect()
}

pub(super) fn watermarks(
    consumer: &Arc<BaseConsumer<QuietContext>>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64)> {
    WATERMARKS.watermarks_here(consumer, topic, partition)
}

fn found(message: &BorrowedMessage<'_>) -> Found {
    Found {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: raw::headers(message),
    }
}
