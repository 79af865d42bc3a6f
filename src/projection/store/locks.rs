//! Folds that wait for a lock: since when, for whom, and how few connections they may have.
//!
//! Invariant: a fold that has waited for a lock in vain tries again only in its turn, and there are fewer turns than
//! connections. Partitions that need no lock of somebody else always find a connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{FOLDS_AT_ONCE, Store};
use crate::db::{Connection, DbError, Role};
use crate::retry::Backoff;

const LOCK_HOLDERS: &str = include_str!("sql/lock_holders.sql");
const OWN_PID: &str = include_str!("sql/own_pid.sql");

/// Connections for folds that are known to wait for a lock.
const TURNS: usize = FOLDS_AT_ONCE / 2;

/// Between two attempts at a lock. The attempt itself waits at the server for `lock_timeout`.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Who may wait for a lock now, in the order in which they asked.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }
}

impl Turns {
    /// Waits for a turn, if it takes one. It ends when what is returned is dropped.
    pub(super) async fn take(&self, wait: &LockWait) -> Option<OwnedSemaphorePermit> {
        let pause = wait.pause()?;
        tokio::time::sleep(pause).await;
        // It is never closed.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

#[derive(Debug)]
struct Waiting {
    since: Timestamp,
    /// The process of PostgreSQL that waits for it now, if it has its turn.
    pid: Option<i32>,
    pauses: Backoff,
}

/// Whether a fold waits for a lock. Shared between the fold and whoever reports it.
#[derive(Debug, Default)]
pub struct LockWait(Mutex<Option<Waiting>>);

impl LockWait {
    /// A lock was waited for in vain.
    pub fn goes_on(&self) {
        let mut state = self.state();
        let waiting = state.get_or_insert_with(|| Waiting {
            since: Timestamp::now(),
            pid: None,
            pauses: Backoff::new(PAUSE.0, PAUSE.1),
        });
        // The session goes to another fold now.
        waiting.pid = None;
    }

    pub fn is_over(&self) {
        *self.state() = None;
    }

    /// Since when it waits, and by which process of PostgreSQL. `None`: it does not wait.
    pub fn now(&self) -> Option<(Timestamp, Option<i32>)> {
        self.state().as_ref().map(|waiting| (waiting.since, waiting.pid))
    }

    fn pause(&self) -> Option<Duration> {
        self.state().as_mut().map(|waiting| waiting.pauses.next_wait())
    }

    /// The next attempt is made by this session. Asks it for its process if the fold waits.
    pub(super) async fn is_in(&self, connection: &Connection) -> Result<(), DbError> {
        if self.now().is_none() {
            return Ok(());
        }
        let pid = connection.query_one(OWN_PID, &[]).await?.try_get(0)?;
        if let Some(waiting) = self.state().as_mut() {
            waiting.pid = Some(pid);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session of somebody else that has a lock which a fold waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// `None`: a row, or the end of a transaction.
    pub relation: Option<String>,
    pub pid: i32,
    /// Since when its transaction is open, where this role may see that.
    pub since: Option<Timestamp>,
    /// The process of the fold.
    pub waits: i32,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = self.relation.as_deref().unwrap_or("a row");
        write!(f, "waits for a lock on {relation} held by PostgreSQL process {}", self.pid)?;
        match self.since {
            Some(since) => write!(f, " (its transaction has been open since {since})"),
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
        let holders = rows.iter().map(|row| {
            Ok(LockHolder {
                relation: row.try_get(0)?,
                pid: row.try_get(1)?,
                since: row.try_get(2)?,
                waits: row.try_get(3)?,
            })
        });
        let holders = holders.collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        connection.done();
        Ok(holders)
    }
}
