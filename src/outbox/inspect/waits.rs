//! What keeps events from being published, as far as PostgreSQL knows.

use jiff::Timestamp;

use crate::db::{DbError, Pool, stored_text};
use crate::event::ShardId;

const WAITS: &str = include_str!("sql/waits.sql");
const ROW_SECURITY: &str = include_str!("sql/row_security.sql");

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its code, or `clock`: the time of the server.
    pub situation: String,
    pub topic: Option<String>,
    pub shard: Option<ShardId>,
    pub since: Option<Timestamp>,
    pub keys: i64,
}

/// Everything that is waited for. A relay that has been silent for this many seconds counts as not running.
pub async fn list(pool: &Pool, silence: f64) -> Result<Vec<Row>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(WAITS, &[&silence]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Row {
                situation: row.try_get("situation")?,
                topic: stored_text(row, "topic")?,
                shard: row.try_get("shard")?,
                since: row.try_get("since")?,
                keys: row.try_get("keys")?,
            })
        })
        .collect()
}

/// Tables of the outbox whose row-level security applies to this role: it cannot count what it may not see.
pub async fn hidden_tables(pool: &Pool) -> Result<Vec<String>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(ROW_SECURITY, &[]).await?;
    connection.done();
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
