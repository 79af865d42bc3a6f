//! Folds that do not end, as anybody sees them who may look at the server.

use jiff::Timestamp;

use crate::db::{DbError, Pool};

const WAITS: &str = include_str!("sql/session_waits.sql");

/// A session that keeps a fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it has locked; `None`: it is the fold itself that runs for long.
    pub relation: Option<String>,
    pub pid: i32,
    pub since: Option<Timestamp>,
}

/// What keeps sessions of this name waiting.
pub async fn waiting(pool: &Pool, application_name: &str) -> Result<Vec<Session>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(WAITS, &[&application_name]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Session { relation: row.try_get("relation")?, pid: row.try_get("pid")?, since: row.try_get("since")? })
        })
        .collect()
}
