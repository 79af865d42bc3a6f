//! A member of a consumer group that is none of ours.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Polls until [`Member::leave`].
pub struct Member {
    leave: CancellationToken,
    joined: CancellationToken,
    polling: JoinHandle<()>,
}

impl Member {
    /// A consumer with these settings, which name the group, subscribed to the topic.
    pub fn join(config: &ClientConfig, topic: &str) -> Self {
        let consumer: BaseConsumer = config.create().expect("a consumer");
        consumer.subscribe(&[topic]).expect("subscribed");
        let (leave, joined) = (CancellationToken::new(), CancellationToken::new());
        let (left, is_member) = (leave.clone(), joined.clone());
        let polling = tokio::task::spawn_blocking(move || {
            while !left.is_cancelled() {
                drop(consumer.poll(Duration::from_millis(100)));
                if consumer.assignment().is_ok_and(|list| list.count() > 0) {
                    is_member.cancel();
                }
            }
        });
        Self { leave, joined, polling }
    }

    /// Until it has a partition.
    pub async fn joined(&self, limit: Duration) {
        tokio::time::timeout(limit, self.joined.cancelled()).await.expect("the other member has its partition");
    }

    pub async fn leave(mut self) {
        self.leave.cancel();
        (&mut self.polling).await.expect("no panic");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave.cancel();
    }
}
