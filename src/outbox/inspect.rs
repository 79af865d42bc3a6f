//! The outbox as people look at it: events by filter, the backlog by topic, consumer progress, and the server's own
//! statistics.
//!
//! Read-only, and not on the path of any event. The lanes' view is in the parent module.

pub(crate) mod events;
pub(crate) mod live;
pub mod server;
pub(crate) mod shards;
pub(crate) mod trace;
pub(crate) mod waits;

use tokio_postgres::error::SqlState;

use crate::db::{DbError, Pool, stored_text};

const BACKLOG_BY_TOPIC: &str = include_str!("inspect/sql/backlog_by_topic.sql");
const PENDING_TOPICS: &str = include_str!("inspect/sql/pending_topics.sql");
const RECENT_TOPICS: &str = include_str!("inspect/sql/recent_topics.sql");

/// Rows read to learn which topics the backlog names. A guess: enough to meet every topic, and read in milliseconds.
const PENDING_TOPICS_ROWS: i64 = 50_000;
const RECENT_TOPICS_ROWS: i64 = 10_000;

/// Whether a statement was cancelled because it took longer than `database.statement_timeout`. For a lane that is
/// equivalent to an outage; an operator who asked for too much must be told.
pub fn is_timeout(error: &DbError) -> bool {
    error.sqlstate() == Some(&SqlState::QUERY_CANCELED)
}

/// Rows of one topic that are not finished.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicBacklog {
    /// `None`: the rows name no topic, routing decides.
    pub topic: Option<String>,
    pub pending: i64,
    pub failed: i64,
    pub held: i64,
    /// Of the oldest PENDING row; `None` when there is none.
    pub oldest_pending_seconds: Option<f64>,
}

/// The backlog by topic, the largest first. Reads every unfinished row, so a large backlog takes its time.
pub async fn backlog_by_topic(pool: &Pool) -> Result<Vec<TopicBacklog>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(BACKLOG_BY_TOPIC, &[]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(TopicBacklog {
                topic: stored_text(row, "topic")?,
                pending: row.try_get("pending")?,
                failed: row.try_get("failed")?,
                held: row.try_get("held")?,
                oldest_pending_seconds: row.try_get("oldest_age")?,
            })
        })
        .collect()
}

/// Topics that waiting rows name (`None`: routing decides), with the number of rows seen. Looks at the first
/// 50,000 rows, so a rare topic behind them is missed.
pub async fn pending_topics(pool: &Pool) -> Result<Vec<(Option<String>, i64)>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(PENDING_TOPICS, &[&PENDING_TOPICS_ROWS]).await?;
    connection.done();
    rows.iter().map(|row| Ok((stored_text(row, "topic")?, row.try_get("events")?))).collect()
}

/// Topics that the newest 10,000 rows name, whatever has become of them, without those of dead letters.
pub async fn recent_topics(pool: &Pool) -> Result<Vec<String>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(RECENT_TOPICS, &[&RECENT_TOPICS_ROWS]).await?;
    connection.done();
    rows.iter().map(|row| Ok(stored_text(row, "topic")?.unwrap_or_default())).collect()
}
