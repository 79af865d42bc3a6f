//! The history of an event: its rows, including replay copies and dead letters, and what consumers did with it.

use uuid::Uuid;

use crate::db::{DbError, Pool, StoredTime, stored_text};

const TRACE: &str = include_str!("sql/trace_events.sql");

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub at: StoredTime,
    pub event_id: Uuid,
    pub what: String,
    /// Row of the outbox, if it is about one.
    pub row: Option<i64>,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub details: Option<String>,
}

/// The history of some events, oldest first. Finds rows by event_id, which no index serves: it reads the table.
pub async fn trace(pool: &Pool, event_ids: &[Uuid]) -> Result<Vec<Happening>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(TRACE, &[&event_ids]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Happening {
                at: row.try_get("at")?,
                event_id: row.try_get("event_id")?,
                what: row.try_get("what")?,
                row: row.try_get("row")?,
                topic: stored_text(row, "topic")?,
                partition: row.try_get("partition")?,
                offset: row.try_get("place")?,
                details: stored_text(row, "details")?,
            })
        })
        .collect()
}
