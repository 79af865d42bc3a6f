//! Positions: listing them, setting them, accepting a log as it is now, and giving those of one group to another.

use std::collections::BTreeMap;

use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Author, audit};
use crate::db::{DbError, Pool, StoredTime, Transaction};
use crate::projection::position::{Log, reason};

const LIST: &str = include_str!("sql/positions.sql");
const SET: &str = include_str!("sql/set_position.sql");
const GROUP_POSITIONS: &str = include_str!("sql/group_positions.sql");
const MOVE_HANDLED: &str = include_str!("sql/move_handled.sql");
const MOVE_PARKED: &str = include_str!("sql/move_parked.sql");
const MOVE_POSITIONS: &str = include_str!("sql/move_positions.sql");
const FORGET_POSITIONS: &str = include_str!("sql/forget_positions.sql");

/// Entries of `event_handled` that one transaction gives to another group.
const PORTION: i64 = 10_000;

/// Where a group reads a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// `None`: all of the group.
    pub projection: Option<String>,
    pub next_offset: i64,
    /// Why it is stopped, in one word.
    pub stopped: Option<String>,
    pub detail: Option<String>,
    pub stopped_at: Option<StoredTime>,
    pub updated_at: StoredTime,
    pub last_offset: Option<i64>,
    pub cluster_id: Option<String>,
    pub topic_id: Option<Uuid>,
}

/// A partition that is read on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub topic: String,
    pub partition: i32,
    /// `None`: that of all projections of the group.
    pub projection: Option<String>,
    /// `None`: the group has not read it.
    pub from: Option<i64>,
    pub to: i64,
    /// Only while it is stopped for this reason.
    pub while_stopped: Option<String>,
}

/// The positions of a group, or of all, on a topic, or on all.
pub async fn list(pool: &Pool, group: Option<&str>, topic: Option<&str>) -> Result<Vec<Line>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(LIST, &[&group, &topic]).await?;
    connection.done();
    let line = |row: &Row| {
        Ok(Line {
            group: row.try_get(0)?,
            topic: row.try_get(1)?,
            partition: row.try_get(2)?,
            projection: row.try_get(3)?,
            next_offset: row.try_get(4)?,
            stopped: row.try_get(5)?,
            detail: row.try_get(6)?,
            stopped_at: row.try_get(7)?,
            updated_at: row.try_get(8)?,
            last_offset: row.try_get(9)?,
            cluster_id: row.try_get(10)?,
            topic_id: row.try_get(11)?,
        })
    };
    rows.iter().map(line).collect()
}

/// Where stopped partitions go on when the log is accepted as it is. `Err`: one whose log is not there.
pub fn acceptance(lines: &[Line], logs: &BTreeMap<(String, i32), Log>) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    for line in lines {
        let Some(stopped) = &line.stopped else { continue };
        let name = || format!("{}/{}", line.topic, line.partition);
        let Some(log) = logs.get(&(line.topic.clone(), line.partition)) else {
            return Err(format!("{} does not exist in Kafka", name()));
        };
        let to = match stopped.as_str() {
            // What was done by hand is accepted as it was done, as far as the log has it.
            reason::MOVED => line.next_offset.clamp(log.start, log.end),
            // Another log is read from its beginning; events that are known change nothing.
            _ => log.start,
        };
        let (topic, partition, projection) = (line.topic.clone(), line.partition, line.projection.clone());
        changes.push(Change {
            topic,
            partition,
            projection,
            from: Some(line.next_offset),
            to,
            while_stopped: Some(stopped.clone()),
        });
    }
    Ok(changes)
}

/// Sets positions. Returns how many were set: one that was to be stopped and is not any more stays as it is.
pub async fn set(pool: &Pool, group: &str, changes: &[Change], action: &str, author: &Author) -> Result<u64, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let mut set = 0;
    for change in changes {
        let Change { topic, partition, projection, to, while_stopped, .. } = change;
        set += tx.execute(SET, &[&group, topic, partition, to, while_stopped, projection]).await?;
    }
    let positions: Vec<_> = changes
        .iter()
        .map(|change| {
            json!({ "topic": change.topic, "partition": change.partition, "projection": change.projection, "from": change.from, "to": change.to,
                "was": change.while_stopped })
        })
        .collect();
    audit(&tx, author, action, &json!({ "group": group, "set": set, "positions": positions })).await?;
    tx.commit().await?;
    connection.done();
    Ok(set)
}

/// What one group has of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub partitions: u64,
    /// Entries of `event_handled`.
    pub handled: u64,
    pub parked: u64,
}

/// Why the positions of a group cannot be given to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The old group has none.
    Nothing,
    /// The new group has read this topic itself.
    HasItsOwn(String),
}

/// Whether everything of `from` could be given to `to`.
pub async fn may_move(pool: &Pool, from: &str, to: &str) -> Result<Result<u64, Refused>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(GROUP_POSITIONS, &[&from, &to]).await?;
    connection.done();
    let mut partitions = 0;
    for row in &rows {
        if let Some(own) = row.try_get::<_, Option<String>>(1)? {
            return Ok(Err(Refused::HasItsOwn(own)));
        }
        partitions += 1;
    }
    Ok(if partitions == 0 { Err(Refused::Nothing) } else { Ok(partitions) })
}

/// Gives positions, known events and parked events of `from` to `to`, so that `to` goes on where `from` was. `told`
/// hears how many known events have gone over. Interrupted, it goes on when it is called again: the positions come
/// last.
pub async fn move_group(
    pool: &Pool,
    from: &str,
    to: &str,
    author: &Author,
    mut told: impl FnMut(u64),
) -> Result<Moved, DbError> {
    let mut moved = Moved::default();
    let mut connection = pool.get().await?;
    loop {
        let portion = connection.execute(MOVE_HANDLED, &[&from, &to, &PORTION]).await?;
        moved.handled += portion;
        told(moved.handled);
        if portion == 0 {
            break;
        }
    }
    let tx = connection.transaction().await?;
    // From here on the old group folds nothing, should it still run.
    moved.partitions = tx.execute(MOVE_POSITIONS, &[&from, &to]).await?;
    moved.handled += rest(&tx, from, to).await?;
    moved.parked = tx.execute(MOVE_PARKED, &[&from, &to]).await?;
    tx.execute(FORGET_POSITIONS, &[&from]).await?;
    let details = json!({ "from": from, "to": to, "partitions": moved.partitions, "handled": moved.handled,
        "parked": moved.parked });
    audit(&tx, author, "consumer positions set --from-group", &details).await?;
    tx.commit().await?;
    connection.done();
    Ok(moved)
}

async fn rest(tx: &Transaction<'_>, from: &str, to: &str) -> Result<u64, DbError> {
    let mut moved = 0;
    loop {
        match tx.execute(MOVE_HANDLED, &[&from, &to, &PORTION]).await? {
            0 => return Ok(moved),
            portion => moved += portion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(partition: i32, next_offset: i64, stopped: Option<&str>) -> Line {
        Line {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition,
            projection: None,
            next_offset,
            stopped: stopped.map(str::to_owned),
            detail: None,
            stopped_at: None,
            updated_at: StoredTime::from(jiff::Timestamp::UNIX_EPOCH),
            last_offset: None,
            cluster_id: None,
            topic_id: None,
        }
    }

    #[test]
    fn another_log_is_read_from_its_beginning_and_a_hand_is_taken_at_its_word() {
        let logs = (0..3).map(|partition| (("t".to_owned(), partition), Log { start: 5, end: 90 })).collect();
        let lines = [line(0, 40, None), line(1, 40, Some("topic-recreated")), line(2, 60, Some("moved-by-hand"))];
        let to: Vec<_> =
            acceptance(&lines, &logs).unwrap().iter().map(|change| (change.partition, change.to)).collect();
        assert_eq!(to, [(1, 5), (2, 60)]);
        assert!(acceptance(&[line(9, 0, Some("records-lost"))], &logs).is_err(), "there is no such partition");
    }
}
