//! How many events are waiting, for the gauges and `lag`.

use crate::db::{DbError, Pool};

const BACKLOG: &str = include_str!("backlog/sql/backlog.sql");

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backlog {
    pub pending: i64,
    pub failed: i64,
    pub held: i64,
    /// Seconds; `None` when nothing waits.
    pub oldest_age_seconds: Option<f64>,
}

/// Counts the rows that are not finished. Of those that wait at most `most` in each shard, by reading an index entry
/// for each; beyond, `pending` is an estimate from how close their ids are.
pub async fn count(pool: &Pool, most: u32) -> Result<Backlog, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(BACKLOG, &[&i64::from(most)]).await?;
    connection.done();
    Ok(Backlog {
        pending: row.get("pending"),
        failed: row.get("failed"),
        held: row.get("held"),
        oldest_age_seconds: row.get("oldest_age"),
    })
}
