//! Where partitions end for a reader of committed records, and what keeps it from reading further.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{Admin, QuietContext, unreachable};
use super::call::blocking_within;
use super::reader::{consumer, watermarks};
use crate::config::KafkaConfig;
use crate::error::Result;

/// Why a partition without a leader does not say where it ends.
pub const NO_LEADER: &str = "the partition has no leader";

/// Partitions that are asked about at the same time.
const AT_ONCE: usize = 8;
/// Maximum wait for the first record of an open transaction.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Maximum wait for all of one partition.
const LIMIT: Duration = Duration::from_secs(40);

/// The log of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnds {
    /// The first offset that is still there.
    pub low: i64,
    /// The last stable offset: consumers of committed records get nothing from here on.
    pub stable: i64,
    /// The high watermark: the offset of the next record. Behind the stable one there are records of open transactions.
    pub high: i64,
    /// When the first record of the open transaction was made, by the clock of who made it, in milliseconds since 1970.
    /// `None`: there is no open transaction, or the record says nothing.
    pub open_since_ms: Option<i64>,
}

/// What Kafka tells about one partition: its ends, or why it does not say.
pub type Told = (String, i32, Result<LogEnds, String>);

/// The ends of every partition of these topics, and the topics that do not exist. A partition without a leader is not
/// waited for.
///
/// Errors: as of [`Admin::topic`], when nothing at all is known of a topic.
pub async fn ends(admin: &Admin, settings: &KafkaConfig, topics: Vec<String>) -> Result<(Vec<Told>, Vec<String>)> {
    let (mut partitions, mut missing) = (Vec::new(), Vec::new());
    for topic in topics {
        let Some(facts) = admin.topic(&topic).await? else {
            missing.push(topic);
            continue;
        };
        let places = facts.places.into_iter().enumerate();
        partitions.extend(places.map(|(n, place)| (topic.clone(), i32::try_from(n).unwrap_or(i32::MAX), place)));
    }
    let (all, committed) = (consumer(settings, "read_uncommitted")?, consumer(settings, "read_committed")?);
    let told = stream::iter(partitions).map(|(topic, partition, place)| {
        let (all, committed, settings) = (Arc::clone(&all), Arc::clone(&committed), settings.clone());
        async move {
            if !place.has_leader {
                return (topic, partition, Err(NO_LEADER.to_owned()));
            }
            let name = topic.clone();
            let asked =
                blocking_within("ends", LIMIT, move || ask(&all, &committed, &settings, &name, partition)).await;
            (topic, partition, asked.map_err(|error| error.chain().to_string()))
        }
    });
    Ok((told.buffered(AT_ONCE).collect().await, missing))
}

fn ask(
    all: &Arc<BaseConsumer<QuietContext>>,
    committed: &Arc<BaseConsumer<QuietContext>>,
    settings: &KafkaConfig,
    topic: &str,
    partition: i32,
) -> Result<LogEnds> {
    // In this order the stable offset is not older than the other: what was open then and is not any more counts as not
    // open.
    let (low, high) = watermarks(all, topic, partition)?;
    let (_, stable) = watermarks(committed, topic, partition)?;
    let open_since_ms = if stable < high { made_at(settings, topic, partition, stable)? } else { None };
    Ok(LogEnds { low, stable: stable.min(high), high, open_since_ms })
}

/// The time of the first record from `offset` on, committed or not.
fn made_at(settings: &KafkaConfig, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
    let consumer = consumer(settings, "read_uncommitted")?;
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(unreachable)?;
    consumer.assign(&place).map_err(unreachable)?;
    match consumer.poll(RECORD_WAIT) {
        Some(Ok(record)) => Ok(record.timestamp().to_millis()),
        Some(Err(error)) => Err(unreachable(error)),
        // The transaction may just have ended, and left nothing but its marker there.
        None => Ok(None),
    }
}
