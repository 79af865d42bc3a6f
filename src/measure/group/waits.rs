//! What a consumer group waits for, by the names of situations.

use jiff::{SignedDuration, Timestamp};

use super::{Known, PartitionLag, State};
use crate::broker::ends::{self, Told};
use crate::broker::raw::{Group, GroupState};
use crate::projection::assignment::ASSIGNORS;
use crate::projection::decisions::sessions::Session;
use crate::signals::{Situation, Wait};

/// A position that has not moved for so long while there are records is worth a line.
const STALLED_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// The same words, whichever way it is detected.
pub(in crate::measure) fn missing(topic: &str) -> Wait {
    Wait::new(Situation::MissingTopic).of_topic(topic).because(format!("the topic {topic} does not exist"))
}

/// What a partition waits for, as far as its state says.
pub(super) fn wait_of(lag: &PartitionLag, ends: &[Told]) -> Option<Wait> {
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
pub(super) fn stalled(lag: &PartitionLag, known: &Known<'_>, now: Timestamp) -> Option<Wait> {
    let line = known.get(&(lag.topic.as_str(), lag.partition))?;
    let to_fold = matches!(lag.state, State::Ok) && lag.lag.is_some_and(|lag| lag > 0);
    let moved = line.updated_at.timestamp()?;
    let stands = to_fold && now.duration_since(moved) > STALLED_AFTER;
    stands.then(|| Wait::new(Situation::Stalled).of_partition(&lag.topic, lag.partition).since(Some(moved)))
}

/// What the members of a group mean for it, and for our own consumer where it is `ours`.
pub(super) fn of_members(name: &str, group: &Group, ours: bool) -> Option<Wait> {
    // While it rebalances its members are not known yet.
    if group.members.is_empty() && matches!(group.state, GroupState::Empty | GroupState::Dead) {
        return Some(Wait::new(Situation::NoMember).because(format!("the group {name} has no members")));
    }
    let refused = group.refuses(ASSIGNORS).filter(|_| ours)?;
    Some(Wait::new(Situation::GroupRefused).because(format!("the group {name} does not accept this member: {refused}")))
}

pub(super) fn of_session(session: Session) -> Wait {
    let Session { relation, pid, since } = session;
    match relation {
        Some(relation) => Wait::new(Situation::Locked)
            .because(format!("a fold waits for a lock on {relation} held by PostgreSQL process {pid}")),
        None => Wait::new(Situation::SlowFold)
            .because(format!("a statement of PostgreSQL process {pid} has been running for long")),
    }
    .since(since)
}
