//! The Kafka client of the consumer: its settings, what it tells during a poll, and records copied out of it.
//!
//! Acts on nothing: the loop in [`super`] does. Invariant: nothing in here folds, commits or assigns. A callback runs
//! in the middle of a poll, and whatever it did there would happen between two records of one batch.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;

use crate::broker::raw;
use crate::projection::assignment::ASSIGNORS;
use crate::projection::record::{Place, Record};

/// What the promises rest on: not to be overridden by `[kafka.properties]`.
const FIXED: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "false"),
    // Records of aborted transactions are not events.
    ("isolation.level", "read_committed"),
    // Never a silent jump: an offset that the log does not hold is reported.
    ("auto.offset.reset", "error"),
    // Eager: every rebalance takes all partitions away and gives a full list, which is what the loop expects.
    ("group.protocol", "classic"),
    ("partition.assignment.strategy", ASSIGNORS),
    // For lag and for whether a broker is connected.
    ("statistics.interval.ms", "5000"),
    ("allow.auto.create.topics", "false"),
];

/// Defaults that `[kafka.properties]` may override.
const DEFAULTS: [(&str, &str); 5] = [
    // How soon a topic that is created later, and new partitions, are noticed.
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("session.timeout.ms", "30000"),
    // Polling goes on while something is folded. A member that hangs keeps the others from their partitions for as
    // long.
    ("max.poll.interval.ms", "120000"),
    // Prefetched over all partitions: bounds memory (records of 300 bytes take some ten times as much). librdkafka
    // lowers fetch.max.bytes to the same.
    ("queued.max.messages.kbytes", "4096"),
    // A full prefetch queue is looked at again after this; the default of a second would starve a fast fold.
    ("fetch.queue.backoff.ms", "10"),
];

/// The settings of the consumer: `config` has brokers, security and `[kafka.properties]`.
pub(super) fn client_settings(mut config: ClientConfig, group: &str) -> ClientConfig {
    for (name, value) in DEFAULTS {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    for (name, value) in FIXED {
        config.set(name, value);
    }
    config.set("group.id", group);
    config
}

/// What the group coordinator decided, in the order of its decisions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rebalance {
    Assign(Vec<Place>),
    Revoke,
}

/// Records what librdkafka tells during a poll; the loop acts on it afterwards.
#[derive(Default)]
pub(super) struct Context {
    rebalances: Mutex<Vec<Rebalance>>,
    statistics: Mutex<Option<Statistics>>,
    /// What is said once only. Bounded by the number of topics.
    told: Mutex<BTreeSet<String>>,
    /// The loop has ended: nobody else would answer.
    closing: AtomicBool,
}

impl Context {
    /// What was decided since the last call.
    pub(super) fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *self.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn has_rebalances(&self) -> bool {
        !self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The newest statistics, if there are new ones.
    pub(super) fn take_statistics(&self) -> Option<Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The loop has ended: from now on the callback answers a rebalance by itself.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code().is_some_and(is_missing_topic)
            && self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(reason.to_owned())
        {
            tracing::warn!(reason, "a topic does not exist yet; it will be read from its beginning once it is created");
            return;
        }
        tracing::debug!(error = %error, reason, "Kafka client error");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            drop(assign(consumer, None));
            return;
        }
        let rebalance = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let places = partitions.elements().into_iter();
            let place = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Place {
                topic: element.topic().to_owned(),
                partition: element.partition(),
            };
            Rebalance::Assign(places.map(place).collect())
        } else {
            Rebalance::Revoke
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(error = %error, "could not commit offsets to Kafka; this only affects external lag tools");
        }
    }
}

/// Hands partitions to the client in place of all others; `None` is none, as the answer to a revocation.
///
/// librdkafka up to 2.15 aborts the process when a partition is taken away a second time while its fetcher still stops
/// (librdkafka#5573). A stop takes two turns of the client's main thread, and each question for the assignment waits
/// for one, so that after this call everything has stopped. [`BaseConsumer::assign`] is called nowhere else.
pub(super) fn assign<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: Option<&TopicPartitionList>,
) -> Result<(), KafkaError> {
    match partitions {
        Some(partitions) => consumer.assign(partitions)?,
        None => consumer.unassign()?,
    }
    consumer.assignment()?;
    consumer.assignment()?;
    Ok(())
}

/// A topic that we subscribe to does not exist (yet).
pub(super) fn is_missing_topic(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
}

/// Errors that waiting does not cure.
pub(super) fn needs_operator(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            // Another member of the group assigns partitions in another way: this one can never join it.
            | RDKafkaErrorCode::InconsistentGroupProtocol
            | RDKafkaErrorCode::InvalidGroupId
    )
}

/// Errors of a member that its group does not take.
pub(super) fn keeps_out(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::InconsistentGroupProtocol
            | RDKafkaErrorCode::InvalidGroupId
    )
}

pub(super) fn to_record(message: &BorrowedMessage<'_>) -> Record {
    Record::new(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp().to_millis(),
        raw::headers(message),
        message.key().map(<[u8]>::to_vec),
        message.payload().map(<[u8]>::to_vec),
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::Offset;
    use rdkafka::config::FromClientConfigAndContext;
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn settings_that_a_promise_rests_on_cannot_be_overridden() {
        let mut config = ClientConfig::new();
        config.set("auto.offset.reset", "latest").set("enable.auto.commit", "true").set("session.timeout.ms", "6000");
        let config = client_settings(config, "shop");
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get("session.timeout.ms"), Some("6000"), "this one may be");
        assert_eq!(config.get("group.id"), Some("shop"));
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        let config = client_settings(ClientConfig::new(), "shop");
        let consumer: Result<BaseConsumer<Context>, _> =
            BaseConsumer::from_config_and_context(&config, Context::default());
        assert!(consumer.is_ok(), "{:?}", consumer.err());
    }

    /// Without the wait in [`assign`] librdkafka aborts the process here at once.
    #[test]
    fn assignments_may_follow_each_other_at_once() {
        let cluster = MockCluster::new(1).expect("a cluster in this process");
        cluster.create_topic("orders", 6, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let config = client_settings(config, "shop");
        let consumer: BaseConsumer<Context> =
            BaseConsumer::from_config_and_context(&config, Context::default()).expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..6 {
            partitions.add_partition_offset("orders", partition, Offset::Offset(0)).expect("a valid offset");
        }
        for _ in 0..500 {
            for list in [Some(&partitions), Some(&partitions), None, Some(&partitions)] {
                assign(&consumer, list).expect("assign");
            }
        }
        assert_eq!(consumer.assignment().expect("assignment").count(), 6);
    }
}
