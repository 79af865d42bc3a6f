//! The database server's own statistics and settings, for `check`. Facts only: `check` decides what they mean.

use std::fmt;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::db::{Client, Database, DbError, Role};

const SERVER: &str = include_str!("sql/server.sql");
const BACKEND_PID: &str = include_str!("sql/backend_pid.sql");
const GRANTS: &str = include_str!("sql/grants.sql");
const CLAIM_INDEX: &str = include_str!("sql/claim_index.sql");
const PARTITIONS: &str = include_str!("sql/partitions.sql");
const TRANSACTIONS: &str = include_str!("sql/transactions.sql");

/// The server and the session.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFacts {
    /// As in `server_version_num`: 150018 is 15.18.
    pub version_num: i32,
    pub version: String,
    pub username: String,
    pub database: String,
    pub is_superuser: bool,
    pub is_standby: bool,
    pub is_read_only: bool,
    pub fsync: bool,
    pub full_page_writes: bool,
    pub synchronous_commit: String,
    /// We ask for UTC when we connect; something else means that a pooler dropped our settings.
    pub session_timezone: String,
    /// For roles that are not superuser, in all databases together.
    pub connections_allowed: i32,
    pub connections_used: i64,
    /// Limit of the role itself, if it has one.
    pub role_connections_allowed: Option<i32>,
    pub tls_version: Option<String>,
    /// Whether this role sees the transactions of other roles.
    pub sees_all_sessions: bool,
    /// Seconds since the Unix epoch, by the server.
    pub clock: f64,
    /// How long the server process has served connections. Longer than our own connection: it is a pooler's.
    pub session_age: Option<f64>,
}

/// A privilege to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A relation, a function with its argument types, or an empty text for the schema or the database.
    pub object: &'static str,
    /// As in GRANT.
    pub privilege: &'static str,
    /// `None`: all columns.
    pub column: Option<&'static str>,
}

/// Whether the current role has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub wanted: Wanted,
    /// `None` when the object does not exist.
    pub granted: Option<bool>,
}

/// What looking after partitions needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFacts {
    pub partitioned: bool,
    /// The current one.
    pub role: String,
    /// Of `outbox_events`.
    pub owner: String,
    pub schema: String,
    /// The table and the partitions that the current role does not own.
    pub foreign_tables: Vec<String>,
    pub may_create: bool,
    /// A conversion was interrupted before its end.
    pub begun: bool,
}

/// A transaction that has been open for long.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTransaction {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    pub application: String,
    pub username: String,
    pub state: String,
    pub age_seconds: f64,
}

/// Whether a connection failed because a pooler does not know the session settings that we ask for. PgBouncer answers
/// with a protocol violation, unless it is told to ignore them.
pub fn is_refused_by_pooler(error: &DbError) -> bool {
    error.sqlstate() == Some(&SqlState::PROTOCOL_VIOLATION)
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{} ({column}) on {}", self.privilege, self.object),
            None => write!(f, "{} on {}", self.privilege, self.object),
        }
    }
}

/// Whether the current role has these privileges, in their order.
pub(in crate::outbox) async fn ask(client: &Client, wanted: &[Wanted]) -> Result<Vec<Grant>, DbError> {
    let objects: Vec<&str> = wanted.iter().map(|wanted| wanted.object).collect();
    let privileges: Vec<&str> = wanted.iter().map(|wanted| wanted.privilege).collect();
    let columns: Vec<Option<&str>> = wanted.iter().map(|wanted| wanted.column).collect();
    let rows = client.query(GRANTS, &[&objects, &privileges, &columns]).await?;
    wanted
        .iter()
        .zip(&rows)
        .map(|(wanted, row)| Ok(Grant { wanted: *wanted, granted: row.try_get("granted")? }))
        .collect()
}

/// A session for questions to the server.
#[derive(Debug)]
pub struct Inspector {
    client: Client,
}

impl Inspector {
    pub async fn connect(database: &Database) -> Result<Self, DbError> {
        Ok(Self { client: database.connect(Role::Admin).await? })
    }

    pub async fn server(&self) -> Result<ServerFacts, DbError> {
        let row = self.client.query_one(SERVER, &[]).await?;
        Ok(ServerFacts {
            version_num: row.try_get("version_num")?,
            version: row.try_get("version")?,
            username: row.try_get("username")?,
            database: row.try_get("database")?,
            is_superuser: row.try_get("is_superuser")?,
            is_standby: row.try_get("is_standby")?,
            is_read_only: row.try_get("is_read_only")?,
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            session_timezone: row.try_get("session_timezone")?,
            connections_allowed: row.try_get("connections_allowed")?,
            connections_used: row.try_get("connections_used")?,
            role_connections_allowed: row.try_get("role_connections_allowed")?,
            tls_version: row.try_get("tls_version")?,
            sees_all_sessions: row.try_get("sees_all_sessions")?,
            clock: row.try_get("clock")?,
            session_age: row.try_get("session_age")?,
        })
    }

    /// Whether the current role has these privileges.
    pub async fn grants(&self, wanted: &[Wanted]) -> Result<Vec<Grant>, DbError> {
        ask(&self.client, wanted).await
    }

    /// Indexes that can serve the claim, by name, and whether each is usable.
    pub async fn claim_indexes(&self) -> Result<Vec<(String, bool)>, DbError> {
        let rows = self.client.query(CLAIM_INDEX, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("usable")?))).collect()
    }

    /// `None` when there is no `outbox_events`.
    pub async fn partitions(&self) -> Result<Option<PartitionFacts>, DbError> {
        let Some(row) = self.client.query_opt(PARTITIONS, &[]).await? else { return Ok(None) };
        Ok(Some(PartitionFacts {
            partitioned: row.try_get("partitioned")?,
            role: row.try_get("role")?,
            owner: row.try_get("owner")?,
            schema: row.try_get("schema")?,
            foreign_tables: row.try_get("foreign_tables")?,
            may_create: row.try_get("may_create")?,
            begun: row.try_get("begun")?,
        }))
    }

    /// Transactions of this database that have been open for longer than `age`, at most five, the oldest first.
    pub async fn open_transactions(&self, age: Duration) -> Result<Vec<OpenTransaction>, DbError> {
        let rows = self.client.query(TRANSACTIONS, &[&age.as_secs_f64()]).await?;
        rows.iter()
            .map(|row| {
                Ok(OpenTransaction {
                    pid: row.try_get("pid")?,
                    application: row.try_get("application")?,
                    username: row.try_get("username")?,
                    state: row.try_get("state")?,
                    age_seconds: row.try_get("age")?,
                })
            })
            .collect()
    }

    /// Whether a pooler moves this session from one server process to another between statements. A second session
    /// holds, in a transaction, the process that has just served this one: a pooler then has to take another.
    pub async fn is_transaction_pooled(&self, database: &Database) -> Result<bool, DbError> {
        let mut other = database.connect(Role::Admin).await?;
        let before: i32 = self.client.query_one(BACKEND_PID, &[]).await?.try_get(0)?;
        let held = other.transaction().await?;
        let other_pid: i32 = held.query_one(BACKEND_PID, &[]).await?.try_get(0)?;
        let after: i32 = self.client.query_one(BACKEND_PID, &[]).await?.try_get(0)?;
        held.rollback().await?;
        Ok(before != after || before == other_pid)
    }
}
