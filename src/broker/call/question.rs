//! Questions to the cluster that block the calling thread. Each has a name, a timeout for librdkafka, and a slightly
//! longer limit of our own, after which the thread is abandoned.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{blocking_within, late, silent};
use crate::broker::admin::{QuietContext, unreachable};
use crate::broker::raw::{self, Group};
use crate::error::Result;

/// How much later than librdkafka we give up.
const GRACE: Duration = Duration::from_secs(5);

/// One question: what it is called in messages, and how long librdkafka may wait for each answer of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Question {
    name: &'static str,
    timeout: Duration,
    /// How many answers it may wait for.
    answers: u32,
}

impl Question {
    pub(in crate::broker) const fn new(name: &'static str, timeout: Duration) -> Self {
        Self { name, timeout, answers: 1 }
    }

    /// The same for several answers, one after the other.
    pub(in crate::broker) const fn of(self, answers: u32) -> Self {
        Self { answers, ..self }
    }

    fn limit(self) -> Duration {
        self.timeout.saturating_mul(self.answers).saturating_add(GRACE)
    }

    /// Metadata of one topic or of all, read by `read`.
    pub(in crate::broker) async fn metadata<T: Send + 'static>(
        self,
        client: Arc<AdminClient<QuietContext>>,
        topic: Option<String>,
        read: impl FnOnce(&Metadata) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let timeout = self.timeout;
        self.ask(move || read(&client.inner().fetch_metadata(topic.as_deref(), timeout).map_err(unreachable)?)).await
    }

    /// Low and end offset of these partitions of a topic.
    pub(in crate::broker) async fn watermarks(
        self,
        client: Arc<AdminClient<QuietContext>>,
        topic: String,
        partitions: Vec<i32>,
    ) -> Result<Vec<(i32, i64, i64)>> {
        let timeout = self.timeout;
        let answers = u32::try_from(partitions.len()).unwrap_or(u32::MAX).max(1);
        self.of(answers)
            .ask(move || {
                let each = partitions.into_iter().map(|partition| {
                    let (low, end) = client.inner().fetch_watermarks(&topic, partition, timeout)?;
                    Ok((partition, low, end))
                });
                each.collect::<KafkaResult<_>>().map_err(unreachable)
            })
            .await
    }

    /// What the group of a consumer has committed. The consumer is made on the thread that asks.
    pub(in crate::broker) async fn committed_by<C, T>(
        self,
        make: impl FnOnce() -> Result<BaseConsumer<C>> + Send + 'static,
        list: TopicPartitionList,
        read: impl FnOnce(&TopicPartitionList) -> T + Send + 'static,
    ) -> Result<T>
    where
        C: ConsumerContext + 'static,
        T: Send + 'static,
    {
        let timeout = self.timeout;
        self.ask(move || Ok(read(&make()?.committed_offsets(list, timeout).map_err(unreachable)?))).await
    }

    /// Who is in a consumer group.
    pub(in crate::broker) async fn group(self, client: Arc<AdminClient<QuietContext>>, name: String) -> Result<Group> {
        let timeout = self.timeout;
        self.ask(move || raw::group(client.inner(), &name, timeout)).await
    }

    async fn ask<T: Send + 'static>(self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        blocking_within(self.name, self.limit(), work).await
    }

    /// Metadata of a topic, for who may block.
    pub(in crate::broker) fn metadata_here<C: ConsumerContext + 'static, T: Send + 'static>(
        self,
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        read: impl FnOnce(&Metadata) -> T + Send + 'static,
    ) -> Result<T> {
        let (consumer, topic, timeout) = (Arc::clone(consumer), topic.to_owned(), self.timeout);
        self.ask_here(move || Ok(read(&consumer.fetch_metadata(Some(&topic), timeout)?)))
    }

    pub(in crate::broker) fn watermarks_here<C: ConsumerContext + 'static>(
        self,
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        partition: i32,
    ) -> Result<(i64, i64)> {
        let (consumer, topic, timeout) = (Arc::clone(consumer), topic.to_owned(), self.timeout);
        self.ask_here(move || consumer.fetch_watermarks(&topic, partition, timeout))
    }

    /// The first offsets at or after the times in a list.
    pub(in crate::broker) fn offsets_for_times_here<C: ConsumerContext + 'static>(
        self,
        consumer: &Arc<BaseConsumer<C>>,
        times: TopicPartitionList,
    ) -> Result<TopicPartitionList> {
        let (consumer, timeout) = (Arc::clone(consumer), self.timeout);
        self.ask_here(move || consumer.offsets_for_times(times, timeout))
    }

    /// Whether there are brokers, as another client sees it, which is made for the question.
    pub(in crate::broker) fn any_brokers(
        self,
        make: impl FnOnce() -> KafkaResult<AdminClient<QuietContext>> + Send + 'static,
        topic: &'static str,
    ) -> bool {
        let timeout = self.timeout;
        let found =
            self.ask_here(move || Ok(!make()?.inner().fetch_metadata(Some(topic), timeout)?.brokers().is_empty()));
        found.unwrap_or(false)
    }

    /// On a thread of its own, so that it can be given up. Blocks.
    fn ask_here<T: Send + 'static>(self, work: impl FnOnce() -> KafkaResult<T> + Send + 'static) -> Result<T> {
        here_within(self.name, self.limit(), work)
    }
}

fn here_within<T: Send + 'static>(
    name: &'static str,
    limit: Duration,
    work: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T> {
    let (answer, answered) = channel();
    let asking = move || answer.send(work()).unwrap_or_default();
    drop(std::thread::Builder::new().name(format!("kafka-{name}")).spawn(asking));
    match answered.recv_timeout(limit) {
        Ok(answer) => answer.map_err(unreachable),
        Err(RecvTimeoutError::Timeout) => Err(late(name, limit)),
        Err(RecvTimeoutError::Disconnected) => Err(silent(format!("could not ask Kafka for {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_question_of_a_command_that_is_not_answered_is_given_up_by_name() {
        let (release, held) = channel::<()>();
        let error = here_within("metadata", Duration::from_millis(20), move || {
            held.recv().unwrap_or_default();
            Ok(())
        });
        let error = error.expect_err("nobody answers");
        assert_eq!(error.code(), Code::KafkaUnreachable);
        assert!(error.chain().contains("metadata"), "{}", error.chain());
        drop(release);
        assert_eq!(here_within("metadata", Duration::from_secs(60), || Ok(7)).expect("an answer"), 7);
    }
}
