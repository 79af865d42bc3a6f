//! What changes from one snapshot to the next, for `top`: instances, held keys by reason, table activity, consumer
//! progress.
//!
//! Reads no finished rows except the newest few, and never a key or a payload.

use crate::db::{DbError, Pool};

const INSTANCES: &str = include_str!("sql/list_instances.sql");
const HELD: &str = include_str!("sql/held_by_reason.sql");
const ACTIVITY: &str = include_str!("sql/table_activity.sql");
const PROGRESS: &str = include_str!("sql/consumer_progress.sql");

/// Rows read to learn how far topics have been written. With more than these waiting nothing is known of the end.
const NEWEST_ROWS: i64 = 2_000;

/// An instance that was seen lately. Ages are in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub name: String,
    pub version: String,
    pub up: f64,
    /// Since its last heartbeat.
    pub silent: f64,
    pub shards: i64,
}

/// Keys that wait for the same thing.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldKeys {
    /// `failed`, `retry`, `delayed`, `paused`, `no-topic` or `denied`.
    pub reason: String,
    /// The topic that they wait for, if they wait for one.
    pub topic: Option<String>,
    pub keys: i64,
    /// Seconds since the oldest hold.
    pub oldest: f64,
}

/// Counters of PostgreSQL's statistics. Estimates that start over after a crash of the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activity {
    /// Seconds, by the clock of the database.
    pub at: f64,
    /// Rows in the table, finished ones included.
    pub rows: i64,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

/// The next offset of a group in a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    /// Seconds since it moved.
    pub idle: f64,
    /// Behind the last record that this outbox is known to have published there.
    pub next_known: Option<i64>,
}

pub async fn instances(pool: &Pool) -> Result<Vec<Instance>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(INSTANCES, &[]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Instance {
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                up: row.try_get("up")?,
                silent: row.try_get("silent")?,
                shards: row.try_get("shards")?,
            })
        })
        .collect()
}

/// Held keys by reason, the most first. Reads an entry for each held key.
pub async fn held_keys(pool: &Pool) -> Result<Vec<HeldKeys>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(HELD, &[]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(HeldKeys {
                reason: row.try_get("reason")?,
                topic: row.try_get("topic")?,
                keys: row.try_get("keys")?,
                oldest: row.try_get("oldest")?,
            })
        })
        .collect()
}

pub async fn activity(pool: &Pool) -> Result<Activity, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(ACTIVITY, &[]).await?;
    connection.done();
    Ok(Activity {
        at: row.try_get("at")?,
        rows: row.try_get("rows")?,
        inserted: row.try_get("inserted")?,
        updated: row.try_get("updated")?,
        deleted: row.try_get("deleted")?,
    })
}

/// Every group and partition that has a position in this database.
pub async fn consumers(pool: &Pool) -> Result<Vec<Progress>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(PROGRESS, &[&NEWEST_ROWS]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Progress {
                group: row.try_get("consumer_group")?,
                topic: row.try_get("topic")?,
                partition: row.try_get("partition")?,
                next_offset: row.try_get("next_offset")?,
                idle: row.try_get("idle")?,
                next_known: row.try_get("next_known")?,
            })
        })
        .collect()
}
