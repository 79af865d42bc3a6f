//! The schema: embedded migrations, applied once however many instances start together.
//!
//! refinery has no lock of its own, so everything here runs under an advisory lock. Each migration is one transaction.

mod conversion;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::db::{Client, Database, DbError, Printable, Role, is_outage};
use crate::error::{Code, Error, Result};
pub use conversion::{Facts, Tell};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Key of the advisory lock: the bytes of "outbox" as a number. Any other program that takes the same lock would only wait.
const LOCK_KEY: i64 = 0x6f75_7462_6f78;

/// Longest wait for another instance that migrates. Migrations of a large table take long; a lock that is never released
/// must not hang a start for ever. A guess.
const LOCK_WAIT: Duration = Duration::from_secs(300);

const LOCK: &str = include_str!("migrations/sql/lock.sql");
const SET_SHARDS: &str = include_str!("migrations/sql/set_shards.sql");
const SHARDS: &str = include_str!("migrations/sql/shards.sql");
const EVENTS_EXIST: &str = include_str!("migrations/sql/events_exist.sql");
const HISTORY: &str = include_str!("migrations/sql/history.sql");
const RECORD: &str = include_str!("migrations/sql/record.sql");

/// One migration and whether the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    pub version: i32,
    pub name: String,
    /// RFC 3339; `None` if it is still to be applied.
    pub applied_on: Option<String>,
}

/// Applies what is missing. Returns those that this call applied: none when another instance was faster.
/// `shards` counts only while the outbox is empty; afterwards [`outbox::resharding`](crate::outbox::resharding) changes their number.
///
/// Errors: [`Code::MigrationFailed`] when an applied migration differs from ours, or a statement fails; what was applied
/// before it stays.
pub async fn up(database: &Database, shards: NonZeroU16) -> Result<Vec<MigrationStatus>> {
    let mut client = locked(database).await?;
    let runner = embedded::migrations::runner();
    let report = client.lend(|client| runner.run_async(client)).await?.map_err(failed)?;
    set_shards(&client, i32::from(shards.get())).await?;
    // The lock is of the session, and the session ends here.
    Ok(report.applied_migrations().iter().map(describe).collect())
}

/// Makes the outbox a partitioned table while it is used, with `rows` ids to a partition. False when it is one already.
///
/// Errors: [`Code::MigrationFailed`] when something that depends on the table could not be carried over; everything is as before then.
pub async fn partition(database: &Database, rows: NonZeroU32, tell: Tell<'_>) -> Result<bool> {
    let mut client = locked(database).await?;
    let facts = conversion::look(&client).await?;
    if !facts.partitioned {
        conversion::run(&mut client, &facts, rows, tell).await?;
    }
    Ok(!facts.partitioned)
}

/// What [`partition`] would begin with. Errors: as there.
pub async fn partition_facts(database: &Database) -> Result<Facts> {
    let client = database.connect(Role::Admin).await?;
    let facts = conversion::look(&client).await?;
    if !facts.partitioned {
        conversion::refuse(&client).await?;
    }
    Ok(facts)
}

/// What `up` would do.
pub async fn status(database: &Database) -> Result<Vec<MigrationStatus>> {
    let mut client = database.connect(Role::Admin).await?;
    let runner = embedded::migrations::runner();
    let applied = match client.lend(|client| runner.get_applied_migrations_async(client)).await? {
        Ok(applied) => applied,
        // No history table yet: nothing was applied.
        Err(error) if sqlstate(&error) == Some(SqlState::UNDEFINED_TABLE) => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    Ok(runner
        .get_migrations()
        .iter()
        .map(|known| {
            let done = applied.iter().find(|done| done.version() == known.version());
            let mut described = describe(known);
            described.applied_on = done.and_then(|done| describe(done).applied_on);
            described
        })
        .collect())
}

/// All migrations as one SQL script, for people who apply schemas with tools of their own. It records what it applies, so
/// that `status` and a later `up` go on from there.
pub fn sql() -> String {
    let mut script = format!("begin;\n{HISTORY}\n");
    for migration in embedded::migrations::runner().get_migrations() {
        let record = RECORD
            .replace("{version}", &migration.version().to_string())
            .replace("{name}", migration.name())
            .replace("{checksum}", &migration.checksum().to_string());
        script.push_str(&format!("-- {migration}\n{}\n{record}\n", migration.sql().unwrap_or_default()));
    }
    script.push_str("commit;\n");
    script
}

/// A session that holds the lock, and so is alone.
async fn locked(database: &Database) -> Result<Client> {
    let mut client = database.connect(Role::Admin).await?;
    client.without_statement_limit().await?;
    let setup =
        format!("set statement_timeout = {}; set idle_in_transaction_session_timeout = 0", LOCK_WAIT.as_millis());
    client.batch_execute(&setup).await?;
    client.query_one(LOCK, &[&LOCK_KEY]).await.map_err(|error| match error.sqlstate() {
        Some(&SqlState::QUERY_CANCELED) => {
            Error::new(Code::MigrationFailed, format!("another instance has been migrating for {LOCK_WAIT:?}"))
                .hint("look for the session in pg_stat_activity; end it if it is stuck, and start again")
        }
        _ => error.into(),
    })?;
    // From here on a statement may take as long as it needs.
    client.batch_execute("set statement_timeout = 0").await?;
    Ok(client)
}

async fn set_shards(client: &Client, wanted: i32) -> Result<()> {
    let current: i32 = client.query_one(SHARDS, &[]).await?.get(0);
    if current == wanted {
        return Ok(());
    }
    let in_use: bool = client.query_one(EVENTS_EXIST, &[]).await?.get(0);
    if in_use {
        tracing::warn!(
            setting = wanted,
            shards = current,
            "outbox.shards counts for a new outbox only, and this one is in use: outbox-relay shards set changes its number"
        );
        return Ok(());
    }
    client.batch_execute(&SET_SHARDS.replace("{shards}", &wanted.to_string())).await?;
    tracing::info!(shards = wanted, "the outbox is empty: number of shards set");
    Ok(())
}

fn describe(migration: &refinery::Migration) -> MigrationStatus {
    MigrationStatus {
        version: migration.version(),
        name: migration.name().to_owned(),
        applied_on: migration.applied_on().map(|at| {
            let (hour, minute, second) = at.time().as_hms();
            format!("{}T{hour:02}:{minute:02}:{second:02}Z", at.date())
        }),
    }
}

fn sqlstate(error: &refinery::Error) -> Option<SqlState> {
    postgres_cause(error)?.code().cloned()
}

fn postgres_cause(error: &refinery::Error) -> Option<&tokio_postgres::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(postgres) = inner.downcast_ref::<tokio_postgres::Error>() {
            return Some(postgres);
        }
        cause = inner.source();
    }
    None
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds are told by their own text")]
fn failed(error: refinery::Error) -> Error {
    // A server that goes away in the middle is waited for like one that was never there.
    if postgres_cause(&error).is_some_and(is_outage) {
        return DbError::Unavailable(Printable::of(&error).into()).into();
    }
    let (message, hint) = match error.kind() {
        refinery::error::Kind::DivergentVersion(applied, _) => (
            format!("migration {applied} was applied with other contents"),
            "this database was migrated by a changed copy; compare with: outbox-relay migrate sql",
        ),
        refinery::error::Kind::MissingVersion(missing) => (
            format!("the database has migration {missing}, which this version does not know"),
            "a newer version has migrated it; run that version",
        ),
        _ => (
            "a migration failed".to_owned(),
            "nothing of it was applied; see the cause, put it right, and run: outbox-relay migrate up",
        ),
    };
    Error::new(Code::MigrationFailed, message).caused_by(Printable::of(&error)).hint(hint)
}
