//! Connections to PostgreSQL: pools, TLS, session settings, and what an SQLSTATE means.
//!
//! Invariant: every call has a limit on our side (`deadline.rs`). The client of the driver, which has none, stays in
//! `client.rs`.

mod client;
mod connector;
mod deadline;
pub mod fragments;
mod patience;
mod pool;
mod schema;
mod server_error;
mod session;
mod text;
mod time;
mod tls;
#[cfg(test)]
mod url_tests;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

pub use client::{Client, Rows, Transaction};
use deadline::{Guard, Limits, Silences};
pub use pool::{Connection, Pool};

use crate::config::{Config, DatabaseConfig};
use crate::error::{Code, Error};
use connector::Connector;
pub use server_error::{Printable, ServerError};
pub use text::{StoredText, stored_text};
pub use time::StoredTime;

/// Who uses a connection. It is the beginning of `application_name`, by which the lock barrier tells the lanes' own
/// table locks from those of writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Updates events, never inserts: the only role that the lock barrier may ignore.
    Lane,
    /// Leases, heartbeats and the barrier probe.
    Lease,
    Consumer,
    /// Deletes finished rows.
    Cleanup,
    /// Commands, health and gauges.
    Admin,
}

impl Role {
    pub fn application_name(self) -> &'static str {
        match self {
            Self::Lane => "outbox-relay lane",
            Self::Lease => "outbox-relay lease",
            Self::Consumer => "outbox-relay consumer",
            Self::Cleanup => "outbox-relay cleanup",
            Self::Admin => "outbox-relay admin",
        }
    }
}

/// Most connections of a relay besides those of its lanes (`database.pool_size`): the one place of these figures, for
/// the pools and for `check`. Of the leases one stays with the heartbeat.
pub const LEASE_CONNECTIONS: usize = 3;
/// Gauges, pauses and upkeep.
pub const UPKEEP_CONNECTIONS: usize = 2;
pub const CLEANER_CONNECTIONS: usize = 1;
/// The session that leads, and the barrier.
pub const PARTITION_CONNECTIONS: usize = 2;

/// A failure of the database, told apart by what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection, or it broke, or the server is starting, stopping, full or read-only: wait and try again. Whether
    /// a COMMIT in flight took effect is unknown.
    #[error("PostgreSQL is not reachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused the user, the password, the database or the certificate: an operator must act.
    #[error("PostgreSQL refused the connection")]
    Denied(#[source] ServerError),
    /// The statement failed: missing table, missing grant, bad data, or a bug.
    #[error("statement failed")]
    Statement(#[source] ServerError),
}

impl DbError {
    /// An error that a test asked for: like a connection that breaks, it says nothing of the outcome.
    pub fn of_a_test(reason: String) -> Self {
        Self::Unavailable(reason.into())
    }

    /// The same outage, for each of those whom it met.
    pub fn shared(error: &Arc<Self>) -> Self {
        Self::Unavailable(Box::new(Shared(Arc::clone(error))))
    }

    /// Whether waiting can help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether a lock was waited for in vain (`lock_timeout`).
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether the role lacks a grant.
    pub fn is_denied(&self) -> bool {
        self.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// The message with every cause, for one line of a log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }

    /// The SQLSTATE, if the server sent one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.reported().and_then(ServerError::code)
    }

    /// Whether the server answered one statement with an error and keeps the session. A server that stops, starts or
    /// ends a session reports FATAL instead, so this one may be about the data, whatever its SQLSTATE says.
    pub fn keeps_session(&self) -> bool {
        self.reported().is_some_and(ServerError::keeps_session)
    }

    /// Whether a function in a procedural language raised it, and not PostgreSQL itself.
    pub fn is_raised_by_a_function(&self) -> bool {
        self.reported().is_some_and(ServerError::is_raised_by_a_function)
    }

    fn reported(&self) -> Option<&ServerError> {
        match self {
            Self::Unavailable(source) => {
                let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
                while let Some(inner) = cause {
                    if let Some(error) = inner.downcast_ref::<ServerError>() {
                        return Some(error);
                    }
                    cause = inner.source();
                }
                None
            }
            Self::Denied(error) | Self::Statement(error) => Some(error),
        }
    }
}

/// An error that several met.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<DbError>);

/// Where a connection was wanted.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {place}")]
struct NoConnection {
    place: Arc<str>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DbError {
    /// Says where, if there is no connection.
    fn at(self, place: &Arc<str>) -> Self {
        match self {
            Self::Unavailable(source) => Self::Unavailable(Box::new(NoConnection { place: Arc::clone(place), source })),
            Self::Denied(_) | Self::Statement(_) => self,
        }
    }
}

impl From<tokio_postgres::Error> for DbError {
    fn from(error: tokio_postgres::Error) -> Self {
        ServerError::from(error).into()
    }
}

impl From<ServerError> for DbError {
    fn from(error: ServerError) -> Self {
        if is_outage(error.inner()) {
            return Self::Unavailable(error.into());
        }
        match error.code().map(|code| &code.code()[..2]) {
            Some("28" | "3D") => Self::Denied(error),
            _ => Self::Statement(error),
        }
    }
}

/// Whether waiting can help: the connection broke, or the server is starting, stopping, full or read-only.
pub fn is_outage(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // No SQLSTATE: the connection broke, timed out or was never made. Errors of conversion on our side are bugs.
        return error.is_closed() || has_io_cause(error);
    };
    // Classes of SQLSTATE: 08 connection, 53 resources, 57 operator intervention, 58 system, 40 rollback
    // (serialization, deadlock), 55 object state (lock timeout). PostgreSQL documentation, appendix A.
    match &code.code()[..2] {
        "08" | "40" | "53" | "55" | "57" | "58" => true,
        // 25006: the server is read-only, as a standby during a failover is.
        // 25P03: we were stopped in the middle of a transaction, and the server did not wait for us.
        "25" => {
            matches!(*code, SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT)
        }
        _ => false,
    }
}

fn has_io_cause(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// For a role that lacks a grant, whatever it wanted.
const DENIED_HINT: &str = "docs/roles.sql has what each role needs; outbox-relay check names the grants this one lacks";

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) => Self::new(Code::PostgresUnreachable, "cannot reach PostgreSQL")
                .caused_by(error_source(error))
                .hint("check database.url, and that the server runs and accepts connections; for details run: outbox-relay check"),
            DbError::Denied(_) => Self::new(Code::PostgresDenied, "PostgreSQL refused the connection")
                .caused_by(error_source(error))
                .hint("check the user, password and database in database.url, and pg_hba.conf"),
            DbError::Statement(ref inner) => {
                let outdated = matches!(
                    inner.code(),
                    Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN | &SqlState::UNDEFINED_FUNCTION)
                );
                if outdated {
                    Self::new(Code::SchemaOutdated, "the database schema is missing or older than this program")
                        .caused_by(error_source(error))
                        .hint("run: outbox-relay migrate up")
                } else {
                    let denied = error.is_denied();
                    let failed = Self::new(Code::PostgresStatement, "a statement failed").caused_by(error_source(error));
                    match denied {
                        true => failed.hint(DENIED_HINT),
                        false => failed,
                    }
                }
            }
        }
    }
}

fn error_source(error: DbError) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        DbError::Unavailable(source) => source,
        DbError::Denied(source) | DbError::Statement(source) => source.into(),
    }
}

/// Where and how to connect. Cheap to clone; opens nothing by itself.
#[derive(Debug, Clone)]
pub struct Database {
    connector: Connector,
    statement_timeout: Duration,
    schema: schema::Schema,
    limits: Limits,
    silences: Silences,
}

impl Database {
    /// The database and the schema of the outbox that these settings are about. Errors: as [`Database::new`].
    pub fn of(settings: &Config) -> Result<Self, Error> {
        Ok(Self::new(&settings.database)?.in_schema(settings.outbox.schema.as_deref()))
    }

    /// The tables of ours are in this schema; `None`: where the `search_path` of the connection leads.
    #[must_use]
    pub fn in_schema(self, name: Option<&str>) -> Self {
        Self { schema: schema::Schema::new(name), ..self }
    }

    /// The schema of the outbox. Without a setting for it, `None` until there was a connection, or where its
    /// `search_path` names no schema that exists.
    pub fn schema(&self) -> Option<&str> {
        self.schema.name()
    }

    /// Errors: [`Code::ConfigInvalid`] for a URL or a certificate file that cannot be used.
    pub fn new(settings: &DatabaseConfig) -> Result<Self, Error> {
        let limits = Limits::new(settings.connect_timeout, settings.statement_timeout);
        let connector = Connector::new(settings)?;
        Ok(Self {
            connector,
            statement_timeout: settings.statement_timeout,
            schema: schema::Schema::default(),
            limits,
            silences: Silences::default(),
        })
    }

    /// The same with a `statement_timeout` of at most this.
    #[must_use]
    pub fn patient_for(self, most: Duration) -> Self {
        let statement_timeout = match self.statement_timeout {
            Duration::ZERO => most,
            set => set.min(most),
        };
        Self { statement_timeout, ..self }
    }

    /// A pool of `size` connections for one role. Connects on first use.
    pub fn pool(&self, role: Role, size: usize) -> Pool {
        self.pool_with_setup(role, size, "")
    }

    /// As [`Database::pool`], and runs `setup` (statements separated by `;`) on each new connection.
    pub fn pool_with_setup(&self, role: Role, size: usize, setup: &'static str) -> Pool {
        Pool::new(self, role, size, setup)
    }

    /// A connection outside any pool, for session state: advisory locks, COPY, migrations.
    pub async fn connect(&self, role: Role) -> Result<Client, DbError> {
        let limits = self.limits(role);
        let silences = self.silences.count();
        let session = self.session_config(role);
        // Boxed: it is large, and inside of everything that needs a connection.
        let opening = Box::pin(self.connector.open(&session, limits.connect));
        let (client, driver) = opening.await.map_err(|error| error.at(&self.describe().into()))?;
        let task = crate::supervisor::detach_with_handle("postgres connection", async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = %ServerError::from(error), "a PostgreSQL connection closed");
            }
        });
        let client = Client::new(client, Guard::new(limits, self.silences.clone(), task), self.clone(), silences);
        // Boxed for the same reason.
        let ready = Box::pin(async {
            session::prepare(&client, role).await?;
            self.schema.choose(&client).await
        });
        ready.await.map_err(|error| error.at(&self.describe().into()))?;
        Ok(client)
    }

    fn limits(&self, role: Role) -> Limits {
        if role == Role::Lease { self.limits.for_leases() } else { self.limits }
    }

    /// Calls that were given up so far.
    fn silences(&self) -> u64 {
        self.silences.count()
    }

    /// Hosts and database, for messages. Never the password.
    pub fn describe(&self) -> String {
        self.connector.describe()
    }

    fn session_config(&self, role: Role) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.application_name(role.application_name()).options(session::options(role, self.statement_timeout));
        config
    }
}
