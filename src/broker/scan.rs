//! Reads topics from a moment on and says which outbox rows are in them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::admin::{QuietContext, refused_settings, unreachable};
use super::client_config;
use crate::config::KafkaConfig;
use crate::error::{Code, Error, Result};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the next record before the scan gives up: a broker that went away in the middle. Longer than the broker
/// needs to abort a transaction that a dead relay left open: its timeout of 30 s, and 10 s between two looks.
const SILENCE: Duration = Duration::from_secs(60);

/// A record that came from an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub outbox_id: i64,
    pub event_id: Uuid,
    pub partition: i32,
    pub offset: i64,
}

/// Reads the committed records of some topics from `since` to their ends at the time of the call, waiting for transactions that
/// are still open there, and shows every one that
/// carries the headers of a relay to `each`. Returns the number of records read. Blocks; joins no group that others use.
///
/// Errors: a topic that does not exist, or a broker that does not answer.
pub fn scan(
    settings: &KafkaConfig,
    topics: &[String],
    since: Timestamp,
    mut each: impl FnMut(Sighting),
) -> Result<u64> {
    let mut config = client_config::common(settings, "outbox-relay-scan");
    config
        .set("group.id", format!("outbox-relay-scan-{}", Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let consumer: BaseConsumer<QuietContext> = config.create_with_context(QuietContext).map_err(refused_settings)?;
    // The end that a `read_committed` client is told is that of the last decided transaction. A relay that died may have left
    // one open, and what others committed behind it has to be read too.
    let everything: BaseConsumer<QuietContext> = config
        .clone()
        .set("isolation.level", "read_uncommitted")
        .create_with_context(QuietContext)
        .map_err(refused_settings)?;
    let (mut wanted, mut ends) = (TopicPartitionList::new(), HashMap::new());
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT).map_err(unreachable)?;
        let partitions = metadata.topics().first().map_or(&[][..], |found| found.partitions());
        if partitions.is_empty() {
            return Err(Error::new(Code::NotFound, format!("the topic {topic} does not exist"))
                .hint("name the topics that the rows went to with --topic"));
        }
        for partition in partitions {
            let (low, end) = everything.fetch_watermarks(topic, partition.id(), ANSWER_TIMEOUT).map_err(unreachable)?;
            if low < end {
                ends.insert((topic.clone(), partition.id()), end);
                let start = Offset::Offset(since.as_millisecond().max(0));
                wanted.add_partition_offset(topic, partition.id(), start).map_err(unreachable)?;
            }
        }
    }
    if ends.is_empty() {
        return Ok(0);
    }
    let starts = consumer.offsets_for_times(wanted, ANSWER_TIMEOUT).map_err(unreachable)?;
    for element in starts.elements() {
        // No record is that young: nothing to read here.
        if element.offset() == Offset::End {
            ends.remove(&(element.topic().to_owned(), element.partition()));
        }
    }
    consumer.assign(&starts).map_err(unreachable)?;
    let (mut read, mut heard) = (0, crate::clock::monotonic());
    while !ends.is_empty() {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.map_err(unreachable)?;
            heard = crate::clock::monotonic();
            read += 1;
            if let Some(sighting) = sighting(&message) {
                each(sighting);
            }
        } else if crate::clock::monotonic().saturating_sub(heard) > SILENCE {
            return Err(Error::new(Code::KafkaUnreachable, "no record came for a minute in the middle of the scan")
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

fn sighting(message: &BorrowedMessage<'_>) -> Option<Sighting> {
    let (mut id, mut event_id) = (None, None);
    for header in message.headers()?.iter() {
        let text = || header.value.and_then(|value| std::str::from_utf8(value).ok());
        match header.key {
            "outbox-id" => id = text().and_then(|text| text.parse().ok()),
            "outbox-event-id" => event_id = text().and_then(|text| Uuid::parse_str(text).ok()),
            _ => {}
        }
    }
    Some(Sighting { outbox_id: id?, event_id: event_id?, partition: message.partition(), offset: message.offset() })
}
