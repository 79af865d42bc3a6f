//! The schema: embedded migrations, applied once no matter how many instances start together, all or nothing.
//!
//! refinery reads the files and computes their checksums. Its runner is not used: it keeps its history under a name
//! that applications use, panics on rows that are not its own, takes no lock and has no lock timeout.

mod apply;
mod conversion;
mod history;
mod objects;
mod preflight;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::db::{Client, Database, DbError, Role};
use crate::error::{Code, Error, Result};
use apply::Step;
pub use conversion::{Facts, Tell};
use history::Place;
pub use history::{MigrationStatus, State};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Key of the advisory lock that version 0.1 takes: the bytes of "outbox" as a number. Any other program that takes the
/// same lock would only wait.
const LOCK_KEY: i64 = 0x6f75_7462_6f78;

/// Maximum wait for another instance that migrates. Migrations of a large table take long; a lock that is never
/// released must not hang a start forever. A guess.
const LOCK_WAIT: Duration = Duration::from_secs(300);

const LOCK: &str = include_str!("migrations/sql/lock.sql");
const LOCK_SCHEMA: &str = include_str!("migrations/sql/lock_schema.sql");
const SET_SHARDS: &str = include_str!("migrations/sql/set_shards.sql");
const SHARDS: &str = include_str!("migrations/sql/shards.sql");
const EVENTS_EXIST: &str = include_str!("migrations/sql/events_exist.sql");
const HISTORY: &str = include_str!("migrations/sql/history.sql");
const ADOPT: &str = include_str!("migrations/sql/history_adopt.sql");
const RECORD: &str = include_str!("migrations/sql/record.sql");
const CREATE_SCHEMA: &str = include_str!("migrations/sql/create_schema.sql");
const USE_SCHEMA: &str = include_str!("migrations/sql/use_schema.sql");
const OLDER_INSTANCES: &str = include_str!("migrations/sql/older_instances.sql");

/// A migration of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    version: i32,
    name: String,
    sql: String,
    checksum: String,
}

impl Known {
    fn record(&self) -> String {
        RECORD
            .replace("{version}", &self.version.to_string())
            .replace("{name}", &self.name)
            .replace("{checksum}", &self.checksum)
    }

    fn file(&self) -> String {
        format!("V{}__{}", self.version, self.name)
    }
}

/// In the order of their numbers.
fn known() -> Vec<Known> {
    let runner = embedded::migrations::runner();
    let mut known: Vec<Known> = runner
        .get_migrations()
        .iter()
        .map(|migration| Known {
            version: migration.version(),
            name: migration.name().to_owned(),
            sql: migration.sql().unwrap_or_default().to_owned(),
            checksum: migration.checksum().to_string(),
        })
        .collect();
    known.sort_by_key(|migration| migration.version);
    known
}

/// Applies what is missing, all of it or nothing. Returns those that this call applied: none when another instance was
/// faster. `shards` counts only while the outbox is empty; afterwards [`outbox::resharding`](crate::outbox::resharding)
/// changes their number.
///
/// Errors: [`Code::MigrationFailed`] when an applied migration differs from ours, something is in the way, or a
/// statement fails.
pub async fn up(database: &Database, shards: NonZeroU16) -> Result<Vec<MigrationStatus>> {
    let (mut client, schema) = locked(database).await?;
    let look = look(&client, &schema).await?;
    if let Some(error) = trouble(&look.all) {
        return Err(error);
    }
    let pending = look.pending();
    if !pending.is_empty() || look.history != Place::Ours {
        look.refuse(&client, &schema).await?;
        if !look.place.exists {
            let create = CREATE_SCHEMA.replace("{schema}", &look.place.quoted);
            client.batch_execute(&create).await?;
        }
        if !look.is_new() {
            tell_of_older_instances(&client).await?;
        }
        apply::run(&mut client, &look.steps()).await?;
    }
    set_shards(&mut client, i32::from(shards.get())).await?;
    // The lock is of the session, and the session ends here.
    let now = history::read(&client, &schema, &look.known).await?.1;
    let applied = history::compare(&look.known, &now);
    Ok(applied.into_iter().filter(|status| pending.contains(&status.version)).collect())
}

/// Makes the outbox a partitioned table while it is used, with `rows` ids to a partition. False when it is one already.
///
/// Errors: [`Code::MigrationFailed`] when something that depends on the table could not be carried over; everything is
/// as before then.
pub async fn partition(database: &Database, rows: NonZeroU32, tell: Tell<'_>) -> Result<bool> {
    let (mut client, _) = locked(database).await?;
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

/// Every migration that this program or the database has, by number. Errors: those of the database, and a schema that
/// the role may not use.
pub async fn status(database: &Database) -> Result<Vec<MigrationStatus>> {
    let client = database.connect(Role::Admin).await?;
    let Some(schema) = database.schema() else { return Ok(history::compare(&known(), &[])) };
    Ok(look(&client, schema).await?.all)
}

/// What keeps [`up`] from applying what is pending, without changing anything. Errors: as there.
pub async fn rehearse(database: &Database) -> Result<()> {
    let client = database.connect(Role::Admin).await?;
    let schema = schema_of(database)?;
    let look = look(&client, &schema).await?;
    match trouble(&look.all) {
        Some(error) => Err(error),
        None if look.pending().is_empty() => Ok(()),
        None => look.refuse(&client, &schema).await,
    }
}

/// Why migrations cannot go on from what the database has, if so: applied ones that differ, or that only a newer
/// version has.
pub fn trouble(all: &[MigrationStatus]) -> Option<Error> {
    let of = |state| {
        let names: Vec<String> = all.iter().filter(|status| status.state == state).map(MigrationStatus::file).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = of(State::Changed) {
        let message = format!("applied with other contents than this program has: {names}");
        return Some(
            Error::new(Code::MigrationFailed, message).hint(
                "a changed copy of this program has migrated the database; compare with: outbox-relay migrate sql",
            ),
        );
    }
    let names = of(State::Unknown)?;
    let message = format!("the database has migrations that this version does not know: {names}");
    Some(Error::new(Code::MigrationFailed, message).hint("a newer version has migrated it; run that version"))
}

/// Migrations as one SQL script, for people who apply schemas with tools of their own: all of them, or those after a
/// version. It records what it applies, so that `status` and a later `up` go on from there.
pub fn sql(schema: Option<&str>, after: Option<i32>) -> String {
    let known = known();
    let mut script = "begin;\n".to_owned();
    if let Some(schema) = schema {
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        if after.is_none() {
            script.push_str(&CREATE_SCHEMA.replace("{schema}", &quoted));
        }
        script.push_str(&USE_SCHEMA.replace("{schema}", &quoted));
    }
    script.push_str(&format!("{HISTORY}\n"));
    if after.is_some() {
        script.push_str(&format!("{}\n", adopt(&known)));
    }
    for migration in known.iter().filter(|migration| after.is_none_or(|after| migration.version > after)) {
        script.push_str(&format!("-- {}\n{}\n{}\n", migration.file(), migration.sql, migration.record()));
    }
    script.push_str("commit;\n");
    script
}

fn adopt(known: &[Known]) -> String {
    let row = |migration: &Known| format!("('{}', '{}', '{}')", migration.version, migration.name, migration.checksum);
    ADOPT.replace("{known}", &known.iter().map(row).collect::<Vec<_>>().join(", "))
}

/// What there is, before anything is done.
struct Look {
    known: Vec<Known>,
    all: Vec<MigrationStatus>,
    history: Place,
    place: preflight::Place,
}

async fn look(client: &Client, schema: &str) -> Result<Look> {
    let known = known();
    let place = preflight::place(client, schema).await?;
    place.readable()?;
    let (history, applied) = history::read(client, schema, &known).await?;
    Ok(Look { all: history::compare(&known, &applied), known, history, place })
}

impl Look {
    fn pending(&self) -> Vec<i32> {
        self.all.iter().filter(|status| status.state == State::Pending).map(|status| status.version).collect()
    }

    fn is_new(&self) -> bool {
        self.all.iter().all(|status| status.state == State::Pending)
    }

    /// Errors: whatever would make the migrations fail.
    async fn refuse(&self, client: &Client, schema: &str) -> Result<()> {
        self.place.writable(self.is_new())?;
        preflight::objects(client, schema, &self.known, &self.all).await
    }

    /// The whole transaction.
    fn steps(&self) -> Vec<Step> {
        let step = |what: &str, sql: &str| Step { what: what.to_owned(), sql: sql.to_owned() };
        let mut steps = vec![step("making the table of history", HISTORY)];
        if self.history == Place::Former {
            steps.push(step("taking over the history of version 0.1", &adopt(&self.known)));
        }
        let pending = self.pending();
        for migration in self.known.iter().filter(|migration| pending.contains(&migration.version)) {
            let name = format!("migration {}", migration.file());
            steps.push(step(&name, &migration.sql));
            steps.push(step(&name, &migration.record()));
        }
        steps
    }
}

/// The schema after the first connection. Errors: [`Code::MigrationFailed`] when the path of the connection leads
/// nowhere.
fn schema_of(database: &Database) -> Result<String> {
    database.schema().map(str::to_owned).ok_or_else(|| {
        Error::new(Code::MigrationFailed, "none of the schemas in the connection's search_path exists")
            .hint("set outbox.schema, or create the schema")
    })
}

/// A session that holds the lock of the schema, and so is alone there; and the name of the schema.
async fn locked(database: &Database) -> Result<(Client, String)> {
    let mut client = database.connect(Role::Admin).await?;
    client.without_statement_limit().await?;
    let schema = schema_of(database)?;
    let setup =
        format!("set statement_timeout = {}; set idle_in_transaction_session_timeout = 0", LOCK_WAIT.as_millis());
    client.batch_execute(&setup).await?;
    client.query_one(LOCK, &[&LOCK_KEY]).await.map_err(waited_too_long)?;
    client.query_one(LOCK_SCHEMA, &[&schema]).await.map_err(waited_too_long)?;
    // From here on a statement may take as long as it needs.
    client.batch_execute("set statement_timeout = 0").await?;
    Ok((client, schema))
}

fn waited_too_long(error: DbError) -> Error {
    match error.sqlstate() {
        Some(&SqlState::QUERY_CANCELED) => {
            Error::new(Code::MigrationFailed, format!("another session has held the migration lock for {LOCK_WAIT:?}"))
                .hint("find the session in pg_stat_activity, end it if it is stuck, and try again")
        }
        _ => error.into(),
    }
}

/// They may go on with what they have: migration V12 says how.
async fn tell_of_older_instances(client: &Client) -> Result<()> {
    let rows = client.query(OLDER_INSTANCES, &[]).await?;
    for row in rows {
        let (instance, version): (String, String) = (row.get(0), row.get(1));
        tracing::warn!(
            instance,
            version,
            "an instance is running during the schema upgrade; if it is an older version, it keeps its shards until it is stopped and takes no new ones"
        );
    }
    Ok(())
}

async fn set_shards(client: &mut Client, wanted: i32) -> Result<()> {
    let current: i32 = client.query_one(SHARDS, &[]).await?.get(0);
    if current == wanted {
        return Ok(());
    }
    let in_use: bool = client.query_one(EVENTS_EXIST, &[]).await?.get(0);
    if in_use {
        tracing::warn!(
            setting = wanted,
            shards = current,
            "outbox.shards applies only to a new outbox, and this one is in use; change the number with: outbox-relay shards set"
        );
        return Ok(());
    }
    let sql = SET_SHARDS.replace("{shards}", &wanted.to_string());
    apply::run(client, &[Step { what: "setting the number of shards".to_owned(), sql }]).await?;
    tracing::info!(shards = wanted, "the outbox is empty; set its number of shards");
    Ok(())
}
