//! `lag`: what waits in the outbox, and how far a consumer group is behind, per partition.
//!
//! The position of our own consumer is in PostgreSQL (`consumer_partitions`), where it moves with the fold; what Kafka
//! has as committed is used for groups and partitions that are not there.

mod threshold;
mod view;

use serde::Serialize;

use super::pause::{self, PauseLine};
use super::{Context, Failure, Result, admin_pool};
use crate::broker::admin::Admin;
use crate::cli::LagArgs;
use crate::config::{Config, Needs};
use crate::db::{DbError, Pool};
use crate::error::{Code, Error};
use crate::event::ShardId;
use crate::measure::group::{self, GroupLag};
use crate::measure::outbox;
use crate::outbox::inspect::{self, TopicBacklog};
use crate::signals::{Situation, Wait};

/// What waits in the outbox, for `lag` and `top`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OutboxLag {
    pub(super) pending: i64,
    pub(super) failed: i64,
    pub(super) held: i64,
    pub(super) oldest_pending_seconds: Option<f64>,
    pub(super) topics: Vec<TopicLag>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TopicLag {
    /// `null`: the rows name no topic, routing decides.
    pub(super) topic: Option<String>,
    pub(super) pending: i64,
    pub(super) failed: i64,
    pub(super) held: i64,
    pub(super) oldest_pending_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    outbox: OutboxLag,
    /// Shards of which the figures of the outbox say nothing: their bounds are above the last id, since the sequence
    /// was set back.
    unmeasured_shards: Vec<ShardId>,
    /// What keeps events from being published and folded.
    waits: Vec<Wait>,
    /// Pauses in force: they explain a backlog.
    pauses: Vec<PauseLine>,
    /// `null` when Kafka could not be asked, or there is no consumer here and no `--group`.
    consumer: Option<GroupLag>,
}

pub(super) async fn run(context: &Context, args: &LagArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let own_group = settings.consumer.enabled.then(|| settings.consumer.group.clone());
    let group = args.group.clone().or(own_group);
    let settings = if group.is_some() { context.settings(Needs::BOTH)? } else { settings };
    let pool = admin_pool(&settings)?;
    let outbox = match inspect::backlog_by_topic(&pool).await {
        Ok(topics) => OutboxLag::from(topics),
        Err(error) => return Err(not_counted(&pool, error).await),
    };
    let mut waits = outbox::waits(&pool, settings.relay.lease).await?;
    let beyond = waits.iter().filter(|wait| wait.situation == Situation::BoundTooHigh);
    let unmeasured_shards = beyond.filter_map(|wait| wait.shard).collect();
    let pauses = pause::in_force(&pool).await?;
    // Without Kafka the half that is known is still worth printing.
    let (consumer, failed) = match group {
        None => (None, None),
        Some(group) => match group_lag(&settings, &pool, group).await {
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
    let report = Report { outbox, unmeasured_shards, waits, pauses, consumer };
    view::print(context.format(), &report)?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    threshold::check(&report, args)?;
    Ok(())
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
