//! Where groups read: showing it, and letting a group go on elsewhere.

use std::collections::BTreeMap;

use serde::Serialize;

use super::decider;
use crate::broker::admin::{Admin, PartitionOffsets};
use crate::config::Config;
use crate::db::{Pool, StoredTime};
use crate::error::{Code, Error};
use crate::operations::{Author, Result};
use crate::projection::decisions::positions::{self, Change, Line, Refused};
use crate::projection::position::Log;

/// The position of a group in a partition.
#[derive(Debug, Serialize)]
pub struct PositionLine {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// `null`: all of the group.
    pub projection: Option<String>,
    pub next_offset: i64,
    /// `ok`, or why it is stopped.
    pub state: String,
    pub detail: Option<String>,
    pub stopped_at: Option<StoredTime>,
    pub updated_at: StoredTime,
    pub last_offset: Option<i64>,
    pub cluster_id: Option<String>,
    pub topic_id: Option<String>,
    #[serde(skip)]
    pub is_stopped: bool,
}

impl From<Line> for PositionLine {
    fn from(line: Line) -> Self {
        Self {
            group: line.group,
            topic: line.topic,
            partition: line.partition,
            projection: line.projection,
            next_offset: line.next_offset,
            is_stopped: line.stopped.is_some(),
            state: line.stopped.unwrap_or_else(|| "ok".to_owned()),
            detail: line.detail,
            stopped_at: line.stopped_at,
            updated_at: line.updated_at,
            last_offset: line.last_offset,
            cluster_id: line.cluster_id,
            topic_id: line.topic_id.map(|id| id.to_string()),
        }
    }
}

/// The positions of one group or all, in one topic or all.
pub async fn list(pool: &Pool, group: Option<&str>, topic: Option<&str>) -> Result<Vec<PositionLine>> {
    Ok(positions::list(pool, group, topic).await?.into_iter().map(PositionLine::from).collect())
}

/// Where a group is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedOffset {
    At(i64),
    Earliest,
    Latest,
}

/// Positions that are to be set.
#[derive(Debug)]
pub struct Plan {
    group: String,
    changes: Vec<Change>,
    /// As `outbox_audit` names it.
    action: &'static str,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    pub group: String,
    pub dry_run: bool,
    /// Positions that were set.
    pub changed: u64,
    pub positions: Vec<Planned>,
}

#[derive(Debug, Serialize)]
pub struct Planned {
    pub topic: String,
    pub partition: i32,
    /// `null`: the group has not read it.
    pub from: Option<i64>,
    pub to: i64,
    pub was: Option<String>,
}

/// Lets a group go on at one offset of a partition, which the log must have.
pub async fn plan_set(
    settings: &Config,
    pool: &Pool,
    group: &str,
    topic: &str,
    partition: i32,
    offset: WantedOffset,
) -> Result<Plan> {
    let log = logs(settings, topic).await?.remove(&(topic.to_owned(), partition));
    let Some(log) = log else { return Err(no_such_partition(topic, Some(partition)).into()) };
    let to = match offset {
        WantedOffset::Earliest => log.start,
        WantedOffset::Latest => log.end,
        WantedOffset::At(at) => at,
    };
    if !(log.start..=log.end).contains(&to) {
        let message = format!("the log of {topic}/{partition} does not hold offset {to}");
        return Err(Error::new(Code::Usage, message)
            .hint(format!("its first offset is {}, and {} is the offset after its last record", log.start, log.end))
            .into());
    }
    let known = positions::list(pool, Some(group), Some(topic)).await?;
    let from =
        known.iter().find(|line| line.partition == partition && line.projection.is_none()).map(|line| line.next_offset);
    let change = Change { topic: topic.to_owned(), partition, projection: None, from, to, while_stopped: None };
    Ok(Plan { group: group.to_owned(), changes: vec![change], action: "consumer positions set" })
}

/// Lets a group go on where its stopped partitions can be read again. `partition`: that one alone.
pub async fn plan_accept(
    settings: &Config,
    pool: &Pool,
    group: &str,
    topic: &str,
    partition: Option<i32>,
) -> Result<Plan> {
    let mut lines = positions::list(pool, Some(group), Some(topic)).await?;
    lines.retain(|line| line.stopped.is_some() && partition.is_none_or(|partition| line.partition == partition));
    if lines.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no partition of {topic} is stopped in group {group}"))
            .hint("to list stopped partitions run: outbox-relay consumer positions ls")
            .into());
    }
    let logs = logs(settings, topic).await?;
    let changes = positions::acceptance(&lines, &logs)
        .map_err(|missing| Error::new(Code::NotFound, missing).hint("create the topic first; nothing was changed"))?;
    Ok(Plan { group: group.to_owned(), changes, action: "consumer positions accept" })
}

/// First and last offsets of the partitions of a topic, now.
async fn logs(settings: &Config, topic: &str) -> Result<BTreeMap<(String, i32), Log>> {
    let offsets = Admin::new(&settings.kafka)?.offsets(topic).await?;
    if offsets.is_empty() {
        return Err(no_such_partition(topic, None).into());
    }
    let log = |offsets: PartitionOffsets| {
        ((topic.to_owned(), offsets.partition), Log { start: offsets.low, end: offsets.end })
    };
    Ok(offsets.into_iter().map(log).collect())
}

fn no_such_partition(topic: &str, partition: Option<i32>) -> Error {
    let name = partition.map_or_else(|| topic.to_owned(), |partition| format!("{topic}/{partition}"));
    Error::new(Code::NotFound, format!("{name} does not exist in Kafka"))
        .hint("outbox-relay consumer positions ls lists what was read")
}

impl Plan {
    /// The places and where they go on, in words.
    pub fn describe(&self) -> String {
        let planned = |change: &Change| format!("{}/{} at {}", change.topic, change.partition, change.to);
        self.changes.iter().map(planned).collect::<Vec<_>>().join(", ")
    }

    /// What a run would do.
    pub fn preview(&self) -> Report {
        self.report(true, 0)
    }

    pub async fn run(&self, pool: &Pool, author: &Author) -> Result<Report> {
        let changed = positions::set(pool, &self.group, &self.changes, self.action, &decider(author)).await?;
        Ok(self.report(false, changed))
    }

    fn report(&self, dry_run: bool, changed: u64) -> Report {
        let planned = |change: &Change| Planned {
            topic: change.topic.clone(),
            partition: change.partition,
            from: change.from,
            to: change.to,
            was: change.while_stopped.clone(),
        };
        Report { group: self.group.clone(), dry_run, changed, positions: self.changes.iter().map(planned).collect() }
    }
}

impl Report {
    /// Errors: [`Code::PartlyDone`] when positions were left as they are.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.dry_run || self.changed >= self.positions.len() as u64 {
            return Ok(());
        }
        Err(Error::new(Code::PartlyDone, "some partitions were no longer stopped and stay as they are")
            .hint("outbox-relay consumer positions ls shows where they are"))
    }
}

/// Everything that one group has, for another one.
#[derive(Debug)]
pub struct TakeOver {
    from: String,
    to: String,
    partitions: u64,
}

/// What one group has of another now.
#[derive(Debug, Serialize)]
pub struct TakenOver {
    pub from: String,
    pub to: String,
    pub dry_run: bool,
    pub partitions: u64,
    pub handled: u64,
    pub parked: u64,
}

/// Gives positions, handled events and parked events of one group to another, which has read nothing itself.
pub async fn plan_take_over(pool: &Pool, from: &str, to: &str) -> Result<TakeOver> {
    if from == to {
        return Err(Error::new(Code::Usage, format!("{from} is the group itself"))
            .hint("--from-group names the group as it was called before, --group or consumer.group as it is called now")
            .into());
    }
    let partitions = match positions::may_move(pool, from, to).await? {
        Ok(partitions) => partitions,
        Err(Refused::Nothing) => {
            return Err(Error::new(Code::NotFound, format!("group {from} has no positions"))
                .hint("outbox-relay consumer positions ls lists the groups")
                .into());
        }
        Err(Refused::HasItsOwn(topic)) => {
            return Err(Error::new(Code::Usage, format!("group {to} has read {topic} itself"))
                .hint("two groups that have both folded events cannot be merged; nothing was changed")
                .into());
        }
    };
    Ok(TakeOver { from: from.to_owned(), to: to.to_owned(), partitions })
}

impl TakeOver {
    /// What a run would do.
    pub fn preview(&self) -> TakenOver {
        let Self { from, to, partitions } = self;
        let (from, to) = (from.clone(), to.clone());
        TakenOver { from, to, dry_run: true, partitions: *partitions, handled: 0, parked: 0 }
    }

    pub async fn run(&self, pool: &Pool, author: &Author) -> Result<TakenOver> {
        let author = decider(author);
        let moved = positions::move_group(pool, &self.from, &self.to, &author, |handled| {
            tracing::debug!(handled, "copied handled events to the other group");
        });
        let moved = moved.await?;
        Ok(TakenOver {
            dry_run: false,
            partitions: moved.partitions,
            handled: moved.handled,
            parked: moved.parked,
            ..self.preview()
        })
    }
}
