//! Who keeps the consumer's sessions waiting.

use std::fmt;

use jiff::Timestamp;

use super::Store;
use crate::db::{DbError, Role};

const LOCK_HOLDERS: &str = include_str!("../sql/lock_holders.sql");

/// A session of somebody else that has a lock which folds wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// `None`: a row, or the end of a transaction.
    pub relation: Option<String>,
    pub pid: i32,
    /// Since when its transaction is open, where this role may see that.
    pub since: Option<Timestamp>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = self.relation.as_deref().unwrap_or("a row");
        write!(f, "waits for a lock on {relation} that process {} of PostgreSQL holds", self.pid)?;
        match self.since {
            Some(since) => write!(f, " (its transaction is open since {since})"),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Those who keep folds of this role waiting now. Uses a connection of its own: those of the folds wait.
    pub async fn lock_holders(&self) -> Result<Vec<LockHolder>, DbError> {
        let connection = self.watch.get().await?;
        let statement = connection.prepare_cached(LOCK_HOLDERS).await?;
        let rows = connection.query(&statement, &[&Role::Consumer.application_name()]).await?;
        let holders = rows
            .iter()
            .map(|row| Ok(LockHolder { relation: row.try_get(0)?, pid: row.try_get(1)?, since: row.try_get(2)? }));
        let holders = holders.collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        connection.done();
        Ok(holders)
    }
}
