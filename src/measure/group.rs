//! How far a consumer group is behind, per partition, and what keeps it there.
//!
//! The position of our own consumer is in PostgreSQL (`consumer_partitions`), where it moves with the fold. For groups
//! and partitions that are not there, the offsets committed to Kafka are used.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::broker::admin::Admin;
use crate::broker::ends::{self, Told};
use crate::broker::raw::{Group, GroupState};
use crate::clock;
use crate::config::Config;
use crate::db::{Pool, Role, StoredTime};
use crate::error::Error;
use crate::projection::assignment::ASSIGNORS;
use crate::projection::decisions::positions::{self, Line};
use crate::projection::decisions::sessions::{self, Session};
use crate::projection::position::reason;
use crate::retry::Backoff;
use crate::signals::{Situation, Wait};

/// With growing waits, about three seconds: what a single broker took to make its first coordinator.
const COMMITTED_RETRIES: u32 = 4;
/// A position that has not moved for so long while there are records is worth a line.
const STALLED_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Postgres,
    Kafka,
    /// The group has not read this partition.
    None,
}

/// What the position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    NotStarted,
    /// Kafka has deleted records that the group has not read.
    RecordsLost,
    /// The position is after the end: the topic was deleted and made again.
    AheadOfLog,
    /// The record before the position is another one, or the topic has another id.
    TopicRecreated,
    OtherCluster,
    /// The position was changed by hand while the partition was read.
    MovedByHand,
    /// Other groups have read the topic, and this one asks first.
    OtherGroup,
    /// For a reason that this version does not know.
    Stopped,
    /// Records of a transaction that is still open end what consumers of committed records get.
    OpenTransaction,
    /// Kafka does not say where the partition ends.
    Unknown,
}

impl State {
    /// Of a partition that is stopped in PostgreSQL.
    fn of_stop(reason: &str) -> Self {
        match reason {
            reason::RECORDS_LOST => Self::RecordsLost,
            reason::AHEAD_OF_LOG => Self::AheadOfLog,
            reason::TOPIC_RECREATED => Self::TopicRecreated,
            reason::OTHER_CLUSTER => Self::OtherCluster,
            reason::MOVED => Self::MovedByHand,
            reason::OTHER_GROUP => Self::OtherGroup,
            _ => Self::Stopped,
        }
    }

    /// What an operator has to know of it; `None`: nothing is wrong.
    pub fn trouble(self) -> Option<&'static str> {
        match self {
            Self::Ok | Self::NotStarted | Self::OpenTransaction => None,
            Self::RecordsLost => Some("Kafka deleted records that the group had not read"),
            Self::AheadOfLog => Some("the position is past the end of the log: was the topic recreated?"),
            Self::TopicRecreated => Some("the topic was recreated"),
            Self::OtherCluster => Some("the topic is in a different cluster"),
            Self::MovedByHand => Some("the position was changed by hand"),
            Self::OtherGroup => Some("other groups have read this topic, and this group waits for a decision"),
            Self::Stopped => Some("it waits for a decision"),
            Self::Unknown => Some("Kafka does not report the end of the partition"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionLag {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// The group's next offset; `null` if it has not started.
    pub next_offset: Option<i64>,
    /// The offset of the next record, whether those before it are committed or not; `null` if Kafka does not say.
    pub end_offset: Option<i64>,
    /// Consumers of committed records get nothing from here on: where the first open transaction begins, or the end.
    pub stable_offset: Option<i64>,
    /// `null`: unknown, which is not zero.
    pub lag: Option<i64>,
    pub source: Source,
    pub state: State,
    /// More about the state: since when the transaction is open, why the partition is stopped, or why the end is
    /// unknown.
    pub detail: Option<String>,
    /// Since when it is stopped.
    pub stopped_at: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct GroupLag {
    pub group: String,
    /// Of the partitions whose lag is known.
    pub total: i64,
    pub partitions: Vec<PartitionLag>,
    /// Topics of the group that do not exist in Kafka.
    pub missing_topics: Vec<String>,
    /// What keeps the group from continuing.
    #[serde(skip)]
    pub waits: Vec<Wait>,
}

/// Asks PostgreSQL for the positions and Kafka for the ends, the topics and the members.
pub async fn lag(settings: &Config, pool: &Pool, admin: &Admin, group: String) -> Result<GroupLag, Error> {
    let positions = positions::list(pool, Some(&group), None).await?;
    let mut topics: BTreeSet<String> = settings.consumer.topics.iter().cloned().collect();
    topics.extend(positions.iter().map(|position| position.topic.clone()));

    let (ends, missing_topics) = ends::ends(admin, &settings.kafka, topics.into_iter().collect()).await?;
    let known = known_positions(&positions);
    let unknown: Vec<(String, i32)> = ends
        .iter()
        .map(|(topic, partition, _)| (topic.clone(), *partition))
        .filter(|(topic, partition)| !known.contains_key(&(topic.as_str(), *partition)))
        .collect();
    let committed = committed(admin, &group, &unknown).await?;
    let partitions = partition_lags(&group, &ends, &known, &committed);
    let mut waits: Vec<Wait> = missing_topics.iter().map(|topic| missing(topic)).collect();
    waits.extend(partitions.iter().filter_map(|lag| wait_of(lag, &ends)));
    waits.extend(partitions.iter().filter_map(|lag| stalled(lag, &known, clock::wall())));
    // Only our own members have a way of sharing that another one may not have.
    let ours = settings.consumer.enabled && group == settings.consumer.group;
    // Without the right to describe groups the rest is still worth knowing.
    if let Ok(described) = admin.group(&group).await {
        waits.extend(of_members(&group, &described, ours));
    }
    let sessions = sessions::waiting(pool, Role::Consumer.application_name()).await?;
    waits.extend(sessions.into_iter().map(of_session));
    Ok(GroupLag {
        total: partitions.iter().filter_map(|partition| partition.lag).sum(),
        group,
        partitions,
        missing_topics,
        waits,
    })
}

/// The same words, whichever way it is detected.
pub(super) fn missing(topic: &str) -> Wait {
    Wait::new(Situation::MissingTopic).of_topic(topic).because(format!("the topic {topic} does not exist"))
}

/// What a partition waits for, as far as its state says.
fn wait_of(lag: &PartitionLag, ends: &[Told]) -> Option<Wait> {
    let opened = || {
        let told = ends.iter().find(|(topic, partition, _)| *topic == lag.topic && *partition == lag.partition);
        let ms = told.and_then(|(_, _, ends)| ends.as_ref().ok()?.open_since_ms)?;
        Timestamp::from_millisecond(ms).ok()
    };
    let situation = match lag.state {
        State::Ok | State::NotStarted => return None,
        State::OpenTransaction => Situation::OpenTransaction,
        State::Unknown if lag.detail.as_deref() == Some(ends::NO_LEADER) => Situation::NoLeader,
        State::Unknown => Situation::Unmeasured,
        State::RecordsLost
        | State::AheadOfLog
        | State::TopicRecreated
        | State::OtherCluster
        | State::MovedByHand
        | State::OtherGroup
        | State::Stopped => Situation::Stopped,
    };
    let wait = Wait::new(situation).of_partition(&lag.topic, lag.partition);
    if situation == Situation::OpenTransaction {
        // The detail is the time alone.
        return Some(wait.since(opened()));
    }
    let detail = lag.detail.clone().or_else(|| lag.state.trouble().map(str::to_owned));
    let since = lag.stopped_at.as_deref().and_then(|at| at.parse().ok());
    Some(Wait { detail, ..wait.since(since) })
}

/// A partition with records to fold whose position does not move.
fn stalled(lag: &PartitionLag, known: &Known<'_>, now: Timestamp) -> Option<Wait> {
    let line = known.get(&(lag.topic.as_str(), lag.partition))?;
    let to_fold = matches!(lag.state, State::Ok) && lag.lag.is_some_and(|lag| lag > 0);
    let moved = line.updated_at.timestamp()?;
    let stands = to_fold && now.duration_since(moved) > STALLED_AFTER;
    stands.then(|| Wait::new(Situation::Stalled).of_partition(&lag.topic, lag.partition).since(Some(moved)))
}

/// What the members of a group mean for it, and for our own consumer where it is `ours`.
fn of_members(name: &str, group: &Group, ours: bool) -> Option<Wait> {
    // While it rebalances its members are not known yet.
    if group.members.is_empty() && matches!(group.state, GroupState::Empty | GroupState::Dead) {
        return Some(Wait::new(Situation::NoMember).because(format!("the group {name} has no members")));
    }
    let refused = group.refuses(ASSIGNORS).filter(|_| ours)?;
    Some(Wait::new(Situation::GroupRefused).because(format!("the group {name} does not accept this member: {refused}")))
}

fn of_session(session: Session) -> Wait {
    let Session { relation, pid, since } = session;
    match relation {
        Some(relation) => Wait::new(Situation::Locked)
            .because(format!("a fold waits for a lock on {relation} held by PostgreSQL process {pid}")),
        None => Wait::new(Situation::SlowFold)
            .because(format!("a statement of PostgreSQL process {pid} has been running for long")),
    }
    .since(since)
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
type Offsets<'a> = HashMap<(&'a str, i32), i64>;
type Known<'a> = HashMap<(&'a str, i32), &'a Line>;

fn known_positions(positions: &[Line]) -> Known<'_> {
    positions.iter().map(|at| ((at.topic.as_str(), at.partition), at)).collect()
}

fn partition_lags(
    group: &str,
    ends: &[Told],
    known: &Known<'_>,
    committed: &[(String, i32, Option<i64>)],
) -> Vec<PartitionLag> {
    let committed: Offsets<'_> = committed
        .iter()
        .filter_map(|(topic, partition, offset)| offset.map(|offset| ((topic.as_str(), *partition), offset)))
        .collect();
    ends.iter()
        .map(|(topic, partition, told)| {
            let at = (topic.as_str(), *partition);
            let line = known.get(&at);
            let (next_offset, source) = match (line, committed.get(&at)) {
                (Some(line), _) => (Some(line.next_offset), Source::Postgres),
                (None, Some(next)) => (Some(*next), Source::Kafka),
                (None, None) => (None, Source::None),
            };
            let stopped = line.and_then(|line| Some((State::of_stop(line.stopped.as_deref()?), line.detail.clone())));
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
                stopped_at: line.and_then(|line| line.stopped_at).map(StoredTime::to_seconds),
            };
            let ends = match told {
                Ok(ends) => ends,
                Err(reason) => {
                    let (state, detail) = stopped.unwrap_or((State::Unknown, Some(reason.clone())));
                    return PartitionLag { state, detail, ..nothing };
                }
            };
            let (state, detail) = match next_offset {
                Some(_) if let Some(stopped) = stopped => stopped,
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
        Some(at) => format!("a transaction has been open since {}", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
        None => "a transaction is open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ends::LogEnds;
    use crate::broker::raw::{Member, Protocol};

    fn ends(low: i64, stable: i64, high: i64) -> Vec<Told> {
        vec![("orders".to_owned(), 0, Ok(LogEnds { low, stable, high, open_since_ms: Some(0) }))]
    }

    fn line(next_offset: i64, stopped: Option<&str>) -> Line {
        let now = StoredTime::from(jiff::Timestamp::UNIX_EPOCH);
        Line {
            group: "g".to_owned(),
            topic: "orders".to_owned(),
            partition: 0,
            projection: None,
            next_offset,
            stopped: stopped.map(str::to_owned),
            detail: None,
            stopped_at: stopped.map(|_| now),
            updated_at: now,
            last_offset: None,
            cluster_id: None,
            topic_id: None,
        }
    }

    #[test]
    fn every_reason_for_a_stop_is_a_state_of_its_own() {
        for why in reason::ALL {
            let line = line(50, Some(why));
            let known: Known<'_> = [(("orders", 0), &line)].into();
            let lags = partition_lags("g", &ends(0, 100, 100), &known, &[]);
            assert_eq!(serde_json::to_value(lags[0].state).unwrap(), why);
            assert!(lags[0].stopped_at.is_some() && lags[0].state.trouble().is_some());
        }
        assert_eq!(State::of_stop("something new"), State::Stopped);
    }

    fn lag(next: Option<i64>, committed: Option<i64>, ends: &[Told]) -> (Option<i64>, Source, State) {
        let line = next.map(|next| line(next, None));
        let known: Known<'_> = line.iter().map(|line| (("orders", 0), line)).collect();
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
        assert_eq!(lags[0].detail.as_deref(), Some("a transaction has been open since 1970-01-01T00:00:00Z"));
    }

    #[test]
    fn an_end_that_is_not_known_is_no_zero() {
        let told = [("orders".to_owned(), 0, Err("the partition has no leader".to_owned()))];
        assert_eq!(lag(Some(100), None, &told), (None, Source::Postgres, State::Unknown));
    }

    #[test]
    fn what_a_partition_waits_for_has_the_name_of_its_state() {
        let of = |next: i64, stopped, ends: &[Told]| {
            let line = line(next, stopped);
            let known: Known<'_> = [(("orders", 0), &line)].into();
            let lags = partition_lags("g", ends, &known, &[]);
            wait_of(&lags[0], ends).map(|wait| (wait.situation, wait.since))
        };
        let epoch = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(of(40, None, &ends(0, 100, 100)), None);
        assert_eq!(of(40, None, &ends(0, 100, 600)), Some((Situation::OpenTransaction, epoch)));
        assert_eq!(of(40, Some("moved"), &ends(0, 100, 100)), Some((Situation::Stopped, epoch)));
        assert_eq!(of(10, None, &ends(40, 100, 100)), Some((Situation::Stopped, None)));
        let told = |why: &str| [("orders".to_owned(), 0, Err(why.to_owned()))];
        assert_eq!(of(10, None, &told(ends::NO_LEADER)), Some((Situation::NoLeader, None)));
        assert_eq!(of(10, None, &told("no answer")), Some((Situation::Unmeasured, None)));
    }

    #[test]
    fn a_position_that_does_not_move_is_named_while_there_are_records() {
        let line = line(50, None);
        let known: Known<'_> = [(("orders", 0), &line)].into();
        let of = |high, at: i64| {
            let lags = partition_lags("g", &ends(0, high, high), &known, &[]);
            stalled(&lags[0], &known, Timestamp::from_second(at).unwrap()).is_some()
        };
        assert_eq!((of(50, 600), of(60, 30), of(60, 600)), (false, false, true));
    }

    #[test]
    fn members_of_another_kind_keep_ours_out() {
        let group = |state, protocol, assignor: &str| {
            let member = Member {
                id: "m".to_owned(),
                client_id: "billing".to_owned(),
                host: "/10.0.0.1".to_owned(),
                instance_id: None,
                partitions: 1,
            };
            let members = if state == GroupState::Stable { vec![member] } else { Vec::new() };
            Group { protocol, state, assignor: assignor.to_owned(), members }
        };
        for (group, ours, expected) in [
            (group(GroupState::Empty, Protocol::Classic, ""), true, Some(Situation::NoMember)),
            (group(GroupState::Dead, Protocol::Unknown, ""), false, Some(Situation::NoMember)),
            (group(GroupState::Rebalancing, Protocol::Classic, ""), true, None),
            (group(GroupState::Stable, Protocol::Classic, "range"), true, None),
            (group(GroupState::Stable, Protocol::Classic, "cooperative-sticky"), true, Some(Situation::GroupRefused)),
            (group(GroupState::Stable, Protocol::Classic, "cooperative-sticky"), false, None),
            (group(GroupState::Stable, Protocol::Consumer, "uniform"), true, None),
        ] {
            let found = of_members("g", &group, ours).map(|wait| wait.situation);
            assert_eq!(found, expected, "{group:?}");
        }
    }
}
