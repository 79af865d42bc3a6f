//! `lag`: what waits in the outbox, and how far a consumer group is behind, per partition.
//!
//! The position of our own consumer is in PostgreSQL (`consumer_partitions`), where it moves with the fold; what Kafka has as
//! committed is used for groups and partitions that are not there.

mod threshold;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::pause::{self, PauseLine};
use super::{Context, Result, admin_pool};
use crate::broker::admin::Admin;
use crate::broker::ends::{self, Told};
use crate::cli::LagArgs;
use crate::config::{Config, Needs};
use crate::db::Pool;
use crate::error::Error;
use crate::event::ShardId;
use crate::outbox::inspect::{self, Position, TopicBacklog};
use crate::retry::Backoff;

/// With growing waits, about three seconds: what a single broker took to make its first coordinator.
const COMMITTED_RETRIES: u32 = 4;

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

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Postgres,
    Kafka,
    /// The group has not read this partition.
    None,
}

/// What the position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    NotStarted,
    /// Kafka has deleted records that the group has not read.
    RecordsLost,
    /// The position is after the end: the topic was deleted and made again.
    AheadOfLog,
    /// Records of a transaction that is still open end what consumers of committed records get.
    OpenTransaction,
    /// Kafka does not say where the partition ends.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PartitionLag {
    group: String,
    topic: String,
    partition: i32,
    /// Where the group goes on; `null` if it has not begun.
    next_offset: Option<i64>,
    /// The offset of the next record, whether those before it are committed or not; `null` if Kafka does not say.
    end_offset: Option<i64>,
    /// Consumers of committed records get nothing from here on: where the first open transaction begins, or the end.
    stable_offset: Option<i64>,
    /// `null`: unknown, which is not zero.
    lag: Option<i64>,
    source: Source,
    state: State,
    /// More about the state: since when the transaction is open, or why the end is unknown.
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct GroupLag {
    group: String,
    /// Of the partitions whose lag is known.
    total: i64,
    partitions: Vec<PartitionLag>,
    /// Topics of the group that do not exist in Kafka.
    missing_topics: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    outbox: OutboxLag,
    /// Shards of which the figures of the outbox say nothing: their bounds are above the last id, since the sequence was set back.
    unmeasured_shards: Vec<ShardId>,
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
    let outbox = OutboxLag::from(inspect::backlog_by_topic(&pool).await?);
    let unmeasured_shards = inspect::shards_beyond(&pool).await?;
    let pauses = pause::in_force(&pool).await?;
    // Without Kafka the half that is known is still worth printing.
    let (consumer, failed) = match group {
        None => (None, None),
        Some(group) => match group_lag(&settings, &pool, group).await {
            Ok(consumer) => (Some(consumer), None),
            Err(error) => (None, Some(error)),
        },
    };
    let report = Report { outbox, unmeasured_shards, pauses, consumer };
    view::print(context.format(), &report)?;
    if let Some(error) = failed {
        return Err(error);
    }
    threshold::check(&report, args)?;
    Ok(())
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

async fn group_lag(settings: &Config, pool: &Pool, group: String) -> Result<GroupLag> {
    let positions = inspect::consumer_positions(pool, &group).await?;
    let mut topics: BTreeSet<String> = settings.consumer.topics.iter().cloned().collect();
    topics.extend(positions.iter().map(|position| position.topic.clone()));

    let admin = Admin::new(&settings.kafka)?;
    let (ends, missing_topics) = ends::ends(&admin, &settings.kafka, topics.into_iter().collect()).await?;
    let known = known_positions(&positions);
    let unknown: Vec<(String, i32)> = ends
        .iter()
        .map(|(topic, partition, _)| (topic.clone(), *partition))
        .filter(|(topic, partition)| !known.contains_key(&(topic.as_str(), *partition)))
        .collect();
    let committed = committed(&admin, &group, &unknown).await?;
    let partitions = partition_lags(&group, &ends, &known, &committed);
    Ok(GroupLag {
        total: partitions.iter().filter_map(|partition| partition.lag).sum(),
        group,
        partitions,
        missing_topics,
    })
}

/// What Kafka has as committed. A cluster that has just started has no coordinator yet, so it is asked a few times.
async fn committed(admin: &Admin, group: &str, partitions: &[(String, i32)]) -> Result<Committed, Error> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
    for _ in 0..COMMITTED_RETRIES {
        if let Ok(committed) = admin.committed(group, partitions).await {
            return Ok(committed);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    admin.committed(group, partitions).await
}

type Committed = Vec<(String, i32, Option<i64>)>;
type Known<'a> = HashMap<(&'a str, i32), i64>;

fn known_positions(positions: &[Position]) -> Known<'_> {
    positions.iter().map(|at| ((at.topic.as_str(), at.partition), at.next_offset)).collect()
}

fn partition_lags(
    group: &str,
    ends: &[Told],
    known: &Known<'_>,
    committed: &[(String, i32, Option<i64>)],
) -> Vec<PartitionLag> {
    let committed: Known<'_> = committed
        .iter()
        .filter_map(|(topic, partition, offset)| offset.map(|offset| ((topic.as_str(), *partition), offset)))
        .collect();
    ends.iter()
        .map(|(topic, partition, told)| {
            let at = (topic.as_str(), *partition);
            let (next_offset, source) = match (known.get(&at), committed.get(&at)) {
                (Some(next), _) => (Some(*next), Source::Postgres),
                (None, Some(next)) => (Some(*next), Source::Kafka),
                (None, None) => (None, Source::None),
            };
            let nothing = PartitionLag {
                group: group.to_owned(),
                topic: topic.clone(),
                partition: *partition,
                next_offset,
                end_offset: None,
                stable_offset: None,
                lag: None,
                source,
                state: State::Unknown,
                detail: None,
            };
            let ends = match told {
                Ok(ends) => ends,
                Err(reason) => return PartitionLag { detail: Some(reason.clone()), ..nothing },
            };
            let (state, detail) = match next_offset {
                Some(next) if next < ends.low => (State::RecordsLost, None),
                Some(next) if next > ends.high => (State::AheadOfLog, None),
                _ if ends.stable < ends.high => (State::OpenTransaction, Some(open_since(ends.open_since_ms))),
                None => (State::NotStarted, None),
                Some(_) => (State::Ok, None),
            };
            // Records that are gone are not behind but lost; the state says so.
            let from = next_offset.unwrap_or(ends.low).max(ends.low);
            PartitionLag {
                end_offset: Some(ends.high),
                stable_offset: Some(ends.stable),
                lag: Some((ends.high - from).max(0)),
                state,
                detail,
                ..nothing
            }
        })
        .collect()
}

fn open_since(ms: Option<i64>) -> String {
    match ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(at) => format!("a transaction is open since {}", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
        None => "a transaction is open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ends::LogEnds;

    fn ends(low: i64, stable: i64, high: i64) -> Vec<Told> {
        vec![("orders".to_owned(), 0, Ok(LogEnds { low, stable, high, open_since_ms: Some(0) }))]
    }

    fn lag(next: Option<i64>, committed: Option<i64>, ends: &[Told]) -> (Option<i64>, Source, State) {
        let known: Known<'_> = next.map(|next| (("orders", 0), next)).into_iter().collect();
        let lags = partition_lags("g", ends, &known, &[("orders".to_owned(), 0, committed)]);
        (lags[0].lag, lags[0].source, lags[0].state)
    }

    #[test]
    fn our_own_position_counts_before_kafkas() {
        assert_eq!(lag(Some(90), Some(10), &ends(0, 100, 100)), (Some(10), Source::Postgres, State::Ok));
        assert_eq!(lag(None, Some(10), &ends(0, 100, 100)), (Some(90), Source::Kafka, State::Ok));
    }

    #[test]
    fn a_partition_that_was_never_read_is_behind_by_all_there_is() {
        assert_eq!(lag(None, None, &ends(40, 100, 100)), (Some(60), Source::None, State::NotStarted));
    }

    #[test]
    fn lost_records_and_a_new_log_are_told_apart_from_lag() {
        let of = |next, low| lag(Some(next), None, &ends(low, 100, 100));
        assert_eq!(of(40, 40), (Some(60), Source::Postgres, State::Ok));
        assert_eq!(of(100, 40), (Some(0), Source::Postgres, State::Ok));
        assert_eq!(of(10, 40), (Some(60), Source::Postgres, State::RecordsLost));
        assert_eq!(of(500, 0), (Some(0), Source::Postgres, State::AheadOfLog));
    }

    #[test]
    fn what_lies_behind_an_open_transaction_is_lag() {
        let open = ends(0, 100, 600);
        assert_eq!(lag(Some(100), None, &open), (Some(500), Source::Postgres, State::OpenTransaction));
        let lags = partition_lags("g", &open, &Known::new(), &[]);
        assert_eq!(lags[0].detail.as_deref(), Some("a transaction is open since 1970-01-01T00:00:00Z"));
    }

    #[test]
    fn an_end_that_is_not_known_is_no_zero() {
        let told = [("orders".to_owned(), 0, Err("the partition has no leader".to_owned()))];
        assert_eq!(lag(Some(100), None, &told), (None, Source::Postgres, State::Unknown));
    }

    #[test]
    fn totals_are_over_all_topics() {
        let topic =
            |pending, age| TopicBacklog { topic: None, pending, failed: 1, held: 2, oldest_pending_seconds: age };
        let total = OutboxLag::from(vec![topic(3, Some(1.5)), topic(4, Some(9.0)), topic(0, None)]);
        assert_eq!((total.pending, total.failed, total.held), (7, 3, 6));
        assert_eq!(total.oldest_pending_seconds, Some(9.0));
    }
}
