//! What the cluster answers about itself and about topics.

use std::collections::HashMap;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;

use super::super::partitions::Place;
use crate::error::{Code, Error, Result};

/// What the cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Id and `host:port` of each broker.
    pub brokers: Vec<(i32, String)>,
}

/// What the cluster says of a topic. Settings are `None` where the broker does not tell (no DescribeConfigs, no grant).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    pub partitions: usize,
    pub replication: usize,
    pub max_message_bytes: Option<u64>,
    pub min_insync_replicas: Option<u32>,
    /// How much older and younger than the broker's clock a record may be.
    pub timestamps: Timestamps,
    /// `cleanup.policy` contains `compact`: records without a key are refused.
    pub compacted: bool,
    /// `retention.ms`: records whose own time is longer ago are deleted. `None` where they are not deleted by that.
    pub retention_ms: Option<i64>,
    /// In the order of the partitions.
    pub places: Vec<Place>,
}

/// What a topic allows of the time of a record, as differences to the clock of the broker, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamps {
    pub before_max: Option<i64>,
    pub after_max: Option<i64>,
}

impl TopicFacts {
    /// How old an event may be so that its record is accepted and not deleted at once.
    pub fn max_age_ms(&self) -> Option<i64> {
        [self.retention_ms, self.timestamps.before_max].into_iter().flatten().min()
    }
}

/// `retention.ms`, where records are deleted by the time that their producer gave them.
fn retention(settings: &HashMap<String, String>) -> Option<i64> {
    let deletes = settings.get("cleanup.policy").is_none_or(|all| all.split(',').any(|one| one.trim() == "delete"));
    let own_time = settings.get("message.timestamp.type").is_none_or(|kind| kind != "LogAppendTime");
    let limit = settings.get("retention.ms").and_then(|value| value.parse().ok());
    // -1 is no limit.
    limit.filter(|limit| deletes && own_time && (0..i64::MAX).contains(limit))
}

impl Timestamps {
    fn read(settings: &HashMap<String, String>) -> Self {
        // The broker puts its own time in.
        if settings.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
            return Self::default();
        }
        // What is not limited is set to the largest number.
        let limit = |key: &str| {
            let number = settings.get(key).and_then(|value| value.parse::<i64>().ok());
            number.filter(|limit| (0..i64::MAX).contains(limit))
        };
        // Before Kafka 3.6 there was one for both; until 4.0 it counts where the newer one is not set.
        let both = limit("message.timestamp.difference.max.ms");
        Self {
            before_max: limit("message.timestamp.before.max.ms").or(both),
            after_max: limit("message.timestamp.after.max.ms").or(both),
        }
    }
}

/// What metadata says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) replication: usize,
    pub(super) places: Vec<Place>,
}

impl Found {
    /// `None`: it does not exist.
    pub(super) fn read(topic: &MetadataTopic) -> Result<Option<Self>> {
        match topic.error() {
            // Those of its partitions tell more.
            None | Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => {}
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
            ) => return Ok(None),
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => return Err(denied(topic.name())),
            Some(error) => {
                let code = RDKafkaErrorCode::from(error);
                let name = topic.name();
                return Err(Error::new(
                    Code::KafkaTopic,
                    format!("could not fetch metadata of the topic {name}: {code}"),
                ));
            }
        }
        let mut partitions: Vec<_> = topic.partitions().iter().collect();
        partitions.sort_by_key(|partition| partition.id());
        let replication = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let places = partitions
            .iter()
            .map(|partition| Place { has_leader: partition.leader() >= 0, in_sync: partition.isr().len() })
            .collect();
        Ok((!partitions.is_empty()).then_some(Self { replication, places }))
    }

    pub(super) fn with(self, settings: &HashMap<String, String>) -> TopicFacts {
        let number = |key: &str| settings.get(key).and_then(|value| value.parse::<u64>().ok());
        TopicFacts {
            partitions: self.places.len(),
            replication: self.replication,
            max_message_bytes: number("max.message.bytes"),
            min_insync_replicas: number("min.insync.replicas").and_then(|value| u32::try_from(value).ok()),
            timestamps: Timestamps::read(settings),
            retention_ms: retention(settings),
            compacted: settings
                .get("cleanup.policy")
                .is_some_and(|policies| policies.split(',').any(|policy| policy.trim() == "compact")),
            places: self.places,
        }
    }
}

fn denied(topic: &str) -> Error {
    Error::new(Code::KafkaDenied, format!("Kafka denies this client access to the topic {topic}"))
        .hint(format!("grant the relay's user DESCRIBE and WRITE on {topic}"))
}

/// Low and end offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    pub partition: i32,
    pub low: i64,
    pub end: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_record_has_a_limit_where_its_own_time_counts() {
        let limit = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Found { replication: 1, places: Vec::new() }.with(&settings).max_age_ms()
        };
        assert_eq!(limit(&[("cleanup.policy", "delete"), ("retention.ms", "1000")]), Some(1_000));
        assert_eq!(limit(&[("cleanup.policy", "compact,delete"), ("retention.ms", "0")]), Some(0));
        assert_eq!(limit(&[("cleanup.policy", "compact"), ("retention.ms", "1000")]), None);
        assert_eq!(limit(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]), None);
        assert_eq!(limit(&[("retention.ms", "1000"), ("message.timestamp.type", "LogAppendTime")]), None);
        assert_eq!(limit(&[("retention.ms", "1000"), ("message.timestamp.before.max.ms", "10")]), Some(10));
        assert_eq!(limit(&[]), None);
    }
}
