//! How long a call to PostgreSQL may take on our side.
//!
//! `statement_timeout` only helps while the server works and its answer arrives. A socket that went silent, a frozen
//! server and a COMMIT that waits for a standby never end on their own, so every call also has a limit here. When it
//! expires, the connection is closed, because a late answer could no longer be matched to its question.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::DbError;
use super::patience::Patience;

/// Time for an answer to arrive after PostgreSQL should have cancelled the statement.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest statement of a lease session. They touch a handful of rows, and leases expire while one of them hangs.
const LEASE_STATEMENT: Duration = Duration::from_secs(5);
/// Longest COMMIT or ROLLBACK. PostgreSQL sets no limit to a COMMIT: it ends `statement_timeout` before.
const COMMIT: Duration = Duration::from_secs(10);

/// The limits of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// For each host: name resolution, TCP, TLS and authentication together.
    pub(super) connect: Duration,
    pub(super) statement: Duration,
    pub(super) commit: Duration,
}

impl Limits {
    pub(super) fn new(connect: Duration, statement_timeout: Duration) -> Self {
        Self { connect, statement: statement_timeout.saturating_add(MARGIN), commit: COMMIT }
    }

    pub(super) fn for_leases(self) -> Self {
        Self { statement: self.statement.min(LEASE_STATEMENT), commit: self.commit.min(LEASE_STATEMENT), ..self }
    }

    /// Maximum wait for a pooled connection to become free: one statement and one COMMIT of its user.
    pub(super) fn pool(self) -> Duration {
        self.statement.saturating_add(self.commit)
    }
}

/// A call that was abandoned.
#[derive(Debug, thiserror::Error)]
pub(super) struct NoAnswer {
    call: Call,
    limit: Duration,
}

impl NoAnswer {
    pub(super) fn new(call: Call, limit: Duration) -> Self {
        Self { call, limit }
    }
}

impl From<NoAnswer> for DbError {
    fn from(error: NoAnswer) -> Self {
        Self::Unavailable(error.into())
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.limit.as_secs_f64();
        match self.call {
            Call::Resolve => write!(f, "the name of the PostgreSQL host was not resolved within {seconds} s"),
            Call::Connect => write!(f, "PostgreSQL did not complete a connection within {seconds} s"),
            Call::Statement => write!(f, "PostgreSQL did not answer a statement within {seconds} s"),
            Call::Commit => write!(
                f,
                "PostgreSQL did not confirm COMMIT within {seconds} s; it may be waiting for a standby \
                 (synchronous_standby_names)"
            ),
            Call::Rollback => write!(f, "PostgreSQL did not confirm ROLLBACK within {seconds} s"),
            Call::Pool => write!(f, "no connection to PostgreSQL became free within {seconds} s"),
            Call::Long => write!(f, "PostgreSQL stopped answering during a long statement"),
        }
    }
}

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// The address of a host.
    Resolve,
    Connect,
    Statement,
    Commit,
    Rollback,
    /// A free connection of a pool.
    Pool,
    /// A statement without a limit, while the server was asked whether it still works on it.
    Long,
}

/// Counts abandoned calls, for all connections to one database. Idle connections older than the last one are not
/// reused, because what silenced one connection usually silenced all.
#[derive(Debug, Clone, Default)]
pub(super) struct Silences(Arc<AtomicU64>);

impl Silences {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// The limits of a connection, and the means to end it when one passes.
#[derive(Debug)]
pub(super) struct Guard {
    limits: Limits,
    patience: Patience,
    silences: Silences,
    /// Of the task that drives the socket.
    task: AbortHandle,
}

impl Guard {
    pub(super) fn new(limits: Limits, silences: Silences, task: AbortHandle) -> Self {
        Self { limits, patience: Patience::Limited, silences, task }
    }

    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    pub(super) async fn statement<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        match &self.patience {
            Patience::Limited => self.within(Call::Statement, self.limits.statement, call).await,
            Patience::WhileItWorks(watch) => {
                tokio::select! {
                    answer = call => Ok(answer?),
                    () = watch.until_silent() => Err(self.give_up(NoAnswer::new(Call::Long, Duration::ZERO))),
                }
            }
        }
    }

    pub(super) async fn commit(
        &self,
        call: impl Future<Output = Result<(), tokio_postgres::Error>>,
    ) -> Result<(), DbError> {
        match &self.patience {
            Patience::Limited => self.within(Call::Commit, self.limits.commit, call).await,
            // What took long to write may take long to flush.
            Patience::WhileItWorks(_) => self.statement(call).await,
        }
    }

    pub(super) async fn rollback(
        &self,
        call: impl Future<Output = Result<(), tokio_postgres::Error>>,
    ) -> Result<(), DbError> {
        self.within(Call::Rollback, self.limits.commit, call).await
    }

    async fn within<T>(
        &self,
        what: Call,
        limit: Duration,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        match timeout(limit, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.give_up(NoAnswer::new(what, limit))),
        }
    }

    /// How long one row of a stream may take.
    pub(super) fn row_limit(&self) -> Duration {
        self.limits.statement
    }

    pub(super) fn give_up(&self, error: NoAnswer) -> DbError {
        self.silences.note();
        self.task.abort();
        error.into()
    }
}

impl Drop for Guard {
    /// Closes the socket. Left to itself the task would wait for answers that nobody takes.
    fn drop(&mut self) {
        self.task.abort();
    }
}
