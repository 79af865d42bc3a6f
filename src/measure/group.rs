//! How far a consumer group is behind, per partition, and what keeps it there.
//!
//! The position of our own consumer is in PostgreSQL (`consumer_partitions`), where it moves with the fold. For groups
//! and partitions that are not there, the offsets committed to Kafka are used.

mod state;
mod waits;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::broker::admin::Admin;
use crate::broker::ends::{self, Told};
use crate::clock;
use crate::config::Config;
use crate::db::{Pool, Role, StoredTime};
use crate::error::Error;
use crate::projection::decisions::positions::{self, Line};
use crate::projection::decisions::sessions;
use crate::retry::Backoff;
use crate::signals::{Situation, Wait};
pub use state::{Source, State};
pub(super) use waits::missing;
use waits::{of_members, of_session, stalled, wait_of};

/// With growing waits, about three seconds: what a single broker took to make its first coordinator.
const COMMITTED_RETRIES: u32 = 4;

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
        let subscribed = |topic: &String| ours && settings.consumer.topics.contains(topic);
        let exist = ends.iter().filter(|(topic, ..)| subscribed(topic));
        let exist = exist.map(|(topic, partition, _)| (topic.clone(), *partition)).collect();
        let unassigned = described.unassigned(exist).into_iter();
        waits.extend(
            unassigned.map(|(topic, partition)| Wait::new(Situation::Unassigned).of_partition(topic, partition)),
        );
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
    use crate::broker::raw::{Group, GroupState, Member, Protocol};
    use crate::projection::position::reason;

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
                places: Vec::new(),
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
