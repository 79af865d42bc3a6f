//! Client calls whose thread is watched by another: librdkafka does not always keep its timeouts
//! (`send_offsets_to_transaction` in 2.12 waits for as long as the broker is away that last coordinated the group; seen
//! with one of three brokers down). The waiting side checks how long the call has lasted, and abandons the thread.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::clock::monotonic;

/// The call that a thread is in, and since when, by the monotonic clock.
#[derive(Debug, Default)]
pub(in crate::broker) struct CallWatch {
    call: Mutex<Option<(&'static str, Duration)>>,
}

impl CallWatch {
    fn set(&self, call: Option<(&'static str, Duration)>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    fn during<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        self.set(Some((name, monotonic())));
        let ended = call();
        self.set(None);
        ended
    }

    /// The call that has lasted for longer than `limit`.
    pub(in crate::broker) fn outlasts(&self, limit: Duration) -> Option<&'static str> {
        let call = *self.call.lock().unwrap_or_else(PoisonError::into_inner);
        call.and_then(|(name, since)| (monotonic().saturating_sub(since) > limit).then_some(name))
    }

    pub(in crate::broker) fn init<C: ProducerContext>(
        &self,
        producer: &BaseProducer<C>,
        timeout: Duration,
    ) -> KafkaResult<()> {
        self.during("init_transactions", || producer.init_transactions(timeout))
    }

    pub(in crate::broker) fn send_offsets<C: ProducerContext>(
        &self,
        producer: &BaseProducer<C>,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        timeout: Duration,
    ) -> KafkaResult<()> {
        self.during("send_offsets_to_transaction", || producer.send_offsets_to_transaction(offsets, group, timeout))
    }

    pub(in crate::broker) fn commit<C: ProducerContext>(
        &self,
        producer: &BaseProducer<C>,
        timeout: Duration,
    ) -> KafkaResult<()> {
        self.during("commit_transaction", || producer.commit_transaction(timeout))
    }

    pub(in crate::broker) fn abort<C: ProducerContext>(
        &self,
        producer: &BaseProducer<C>,
        timeout: Duration,
    ) -> KafkaResult<()> {
        self.during("abort_transaction", || producer.abort_transaction(timeout))
    }

    /// What the group of the consumer has committed.
    pub(in crate::broker) fn committed_by<C: ClientContext + ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        list: TopicPartitionList,
        timeout: Duration,
    ) -> KafkaResult<TopicPartitionList> {
        self.during("committed_offsets", || consumer.committed_offsets(list, timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_lasts_too_long_is_named() {
        let watch = CallWatch::default();
        assert_eq!(watch.outlasts(Duration::ZERO), None);
        watch.during("commit_transaction", || {
            while watch.outlasts(Duration::from_millis(1)).is_none() {
                std::thread::yield_now();
            }
            assert_eq!(watch.outlasts(Duration::ZERO), Some("commit_transaction"));
            assert_eq!(watch.outlasts(Duration::from_secs(60)), None);
        });
        assert_eq!(watch.outlasts(Duration::ZERO), None);
    }
}
