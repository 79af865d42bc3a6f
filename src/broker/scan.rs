//! Reads topics from a point in time on and reports which outbox rows are in them.

use std::collections::HashMap;

use jiff::Timestamp;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::admin::unreachable;
use super::{raw, reader};
use crate::config::KafkaConfig;
use crate::error::{Code, Error, Result};

/// A record that came from an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub outbox_id: i64,
    /// The record is a dead letter: `outbox_id` is the row that failed, not the one that was published.
    pub dead_letter: bool,
    pub event_id: Uuid,
    pub partition: i32,
    pub offset: i64,
}

/// Reads the committed records of some topics from `since` to their ends at the time of the call, waiting for
/// transactions that are still open there, and shows every one that carries the headers of a relay to `each`. Returns
/// the number of records read. Blocks; joins no group that others use.
///
/// Errors: a topic that does not exist, or a broker that does not answer.
pub fn scan(
    settings: &KafkaConfig,
    topics: &[String],
    since: Timestamp,
    mut each: impl FnMut(Sighting),
) -> Result<u64> {
    let consumer = reader::consumer(settings, "read_committed")?;
    // The end that a `read_committed` client is told is that of the last decided transaction. A relay that died may
    // have left one open, and what others committed behind it has to be read too.
    let everything = reader::consumer(settings, "read_uncommitted")?;
    let (mut wanted, mut ends) = (TopicPartitionList::new(), HashMap::new());
    // A row that names something else cannot be in Kafka.
    for topic in topics.iter().filter(|topic| super::is_topic_name(topic)) {
        let partitions = reader::METADATA.metadata_here(&consumer, topic, reader::partitions)?;
        if partitions.is_empty() {
            return Err(Error::new(Code::NotFound, format!("the topic {topic} does not exist"))
                .hint("use --topic to name the topics that the rows were published to"));
        }
        for partition in partitions {
            let (low, end) = reader::watermarks(&everything, topic, partition)?;
            if low < end {
                ends.insert((topic.clone(), partition), end);
                let start = Offset::Offset(since.as_millisecond().max(0));
                wanted.add_partition_offset(topic, partition, start).map_err(unreachable)?;
            }
        }
    }
    if ends.is_empty() {
        return Ok(0);
    }
    let starts = reader::OFFSETS.offsets_for_times_here(&consumer, wanted)?;
    for element in starts.elements() {
        // No record is that young: nothing to read here.
        if element.offset() == Offset::End {
            ends.remove(&(element.topic().to_owned(), element.partition()));
        }
    }
    reader::follow(&consumer, &starts, ends, |message| {
        if let Some(sighting) = sighting(message) {
            each(sighting);
        }
        true
    })
}

fn sighting(message: &BorrowedMessage<'_>) -> Option<Sighting> {
    let (mut id, mut event_id, mut dead_letter) = (None, None, false);
    for (name, value) in raw::headers(message) {
        let text = || value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        match name.as_slice() {
            b"outbox-id" => id = text().and_then(|text| text.parse().ok()),
            b"outbox-event-id" => event_id = text().and_then(|text| Uuid::parse_str(text).ok()),
            b"original_topic" => dead_letter = true,
            _ => {}
        }
    }
    Some(Sighting {
        outbox_id: id?,
        dead_letter,
        event_id: event_id?,
        partition: message.partition(),
        offset: message.offset(),
    })
}
