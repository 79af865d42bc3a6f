//! Lag: what waits in the outbox, and how far a consumer group is behind, per partition.
//!
//! The position of our own consumer is in PostgreSQL (`consumer_partitions`), where it moves with the fold; what Kafka
//! has as committed is used for groups and partitions that are not there.

mod threshold;

use serde::Serialize;

use super::pause::{self, PauseLine};
use super::{Failure, Result};
use crate::broker::admin::Admin;
use crate::config::Config;
use crate::db::{DbError, Pool};
use crate::error::{Code, Error};
use crate::event::ShardId;
use crate::measure::group;
use crate::measure::outbox;
use crate::outbox::inspect::{self, TopicBacklog};
use crate::signals::{Situation, Wait};

pub use crate::measure::group::{GroupLag, PartitionLag, Source, State};
pub use threshold::Thresholds;

/// What waits in the outbox, for `lag` and `top`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutboxLag {
    pub pending: i64,
    pub failed: i64,
    pub held: i64,
    pub oldest_pending_seconds: Option<f64>,
    pub topics: Vec<TopicLag>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicLag {
    /// `null`: the rows name no topic, routing decides.
    pub topic: Option<String>,
    pub pending: i64,
    pub failed: i64,
    pub held: i64,
    pub oldest_pending_seconds: Option<f64>,
}

/// What waits and what for.
#[derive(Debug, Serialize)]
pub struct Report {
    pub outbox: OutboxLag,
    /// Shards of which the figures of the outbox say nothing: their bounds are above the last id, since the sequence
    /// was set back.
    pub unmeasured_shards: Vec<ShardId>,
    /// What keeps events from being published and folded.
    pub waits: Vec<Wait>,
    /// Pauses in force: they explain a backlog.
    pub pauses: Vec<PauseLine>,
    /// `null` when Kafka could not be asked, or there is no consumer here and no `--group`.
    pub consumer: Option<GroupLag>,
}

/// What could be measured, and why the rest could not.
#[derive(Debug)]
pub struct Measured {
    pub report: Report,
    /// Kafka could not be asked. The half that is known is still worth telling.
    pub failed: Option<Error>,
}

/// `group`: the consumer group whose lag is asked for.
pub async fn measure(settings: &Config, pool: &Pool, group: Option<String>) -> Result<Measured> {
    let outbox = match inspect::backlog_by_topic(pool).await {
        Ok(topics) => OutboxLag::from(topics),
        Err(error) => return Err(not_counted(pool, error).await),
    };
    let mut waits = outbox::waits(pool, settings.relay.lease).await?;
    let beyond = waits.iter().filter(|wait| wait.situation == Situation::BoundTooHigh);
    let unmeasured_shards = beyond.filter_map(|wait| wait.shard).collect();
    let pauses = pause::in_force(pool).await?;
    let (consumer, failed) = match group {
        None => (None, None),
        Some(group) => match group_lag(settings, pool, group).await {
            Ok(consumer) => (Some(consumer), None),
            Err(error) => {
                if error.code() == Code::KafkaUnreachable {
                    waits.push(Wait::new(Situation::KafkaAway).because(error.to_string()));
                }
                (None, Some(error))
            }
        },
    };
    waits.extend(consumer.iter().flat_map(|consumer| consumer.waits.iter().cloned()));
    Ok(Measured { report: Report { outbox, unmeasured_shards, waits, pauses, consumer }, failed })
}

async fn group_lag(settings: &Config, pool: &Pool, group: String) -> Result<GroupLag, Error> {
    group::lag(settings, pool, &Admin::new(&settings.kafka)?, group).await
}

/// Why nothing can be counted. Where row-level security hides the rows, the error says so.
pub(super) async fn not_counted(pool: &Pool, error: DbError) -> Failure {
    if !error.is_denied() {
        return error.into();
    }
    match outbox::hidden(pool).await {
        Ok(Some(wait)) => Error::new(Code::PostgresDenied, wait.text())
            .caused_by(error)
            .hint("as the owner: alter table … disable row level security; or as a superuser: alter role … bypassrls")
            .into(),
        Ok(None) | Err(_) => error.into(),
    }
}

impl From<Vec<TopicBacklog>> for OutboxLag {
    fn from(topics: Vec<TopicBacklog>) -> Self {
        let sum = |part: fn(&TopicBacklog) -> i64| topics.iter().map(part).sum();
        Self {
            pending: sum(|topic| topic.pending),
            failed: sum(|topic| topic.failed),
            held: sum(|topic| topic.held),
            oldest_pending_seconds: topics.iter().filter_map(|topic| topic.oldest_pending_seconds).reduce(f64::max),
            topics: topics.into_iter().map(TopicLag::from).collect(),
        }
    }
}

impl From<TopicBacklog> for TopicLag {
    fn from(topic: TopicBacklog) -> Self {
        Self {
            topic: topic.topic,
            pending: topic.pending,
            failed: topic.failed,
            held: topic.held,
            oldest_pending_seconds: topic.oldest_pending_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_over_all_topics() {
        let topic =
            |pending, age| TopicBacklog { topic: None, pending, failed: 1, held: 2, oldest_pending_seconds: age };
        let total = OutboxLag::from(vec![topic(3, Some(1.5)), topic(4, Some(9.0)), topic(0, None)]);
        assert_eq!((total.pending, total.failed, total.held), (7, 3, 6));
        assert_eq!(total.oldest_pending_seconds, Some(9.0));
    }
}
