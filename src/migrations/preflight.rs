//! What would make a migration fail, checked before the first change and reported with a way out.

use super::Known;
use super::history::{MigrationStatus, State};
use super::objects::Objects;
use crate::db::{Client, DbError};
use crate::error::{Code, Error, Result};

const PLACE: &str = include_str!("preflight/sql/place.sql");
const TAKEN: &str = include_str!("preflight/sql/taken.sql");
const OWNERS: &str = include_str!("preflight/sql/owners.sql");

/// Oldest server that our statements run on.
const OLDEST_SERVER: i32 = 150_000;

/// Maximum number of names in one message.
const NAMES_MAX: usize = 10;

/// The server and the schema.
#[derive(Debug)]
pub(super) struct Place {
    version_num: i32,
    version: String,
    is_standby: bool,
    is_read_only: bool,
    encoding: String,
    role: String,
    database: String,
    /// The name of the schema, quoted for a statement.
    pub quoted: String,
    pub exists: bool,
    may_use: bool,
    may_create: bool,
    may_create_schemas: bool,
}

/// Asks the server. Errors: those of the database.
pub(super) async fn place(client: &Client, schema: &str) -> Result<Place, DbError> {
    let row = client.query_one(PLACE, &[&schema]).await?;
    Ok(Place {
        version_num: row.try_get("version_num")?,
        version: row.try_get("version")?,
        is_standby: row.try_get("is_standby")?,
        is_read_only: row.try_get("is_read_only")?,
        encoding: row.try_get("encoding")?,
        role: row.try_get("role")?,
        database: row.try_get("database")?,
        quoted: row.try_get("quoted")?,
        exists: row.try_get("exists")?,
        may_use: row.try_get("may_use")?,
        may_create: row.try_get("may_create")?,
        may_create_schemas: row.try_get("may_create_schemas")?,
    })
}

impl Place {
    /// Errors: [`Code::PostgresStatement`] for a schema that is there and that the role may not use. PostgreSQL itself
    /// would only say that there is no such table.
    pub(super) fn readable(&self) -> Result<()> {
        if self.exists && !self.may_use {
            let message = format!("the role {} may not use the schema {}", self.role, self.quoted);
            let fix = format!(
                "as the owner of the schema: grant usage on schema {} to the role of database.url",
                self.quoted
            );
            return Err(Error::new(Code::PostgresStatement, message).hint(fix));
        }
        Ok(())
    }

    /// Whether migrations can be applied here. Errors: [`Code::MigrationFailed`] with the first reason why not, and
    /// [`Code::PostgresUnreachable`] for a server that may be written to later.
    pub(super) fn writable(&self, is_new: bool) -> Result<()> {
        let Self { version, encoding, role, quoted, database, .. } = self;
        if self.is_standby || self.is_read_only {
            let what = if self.is_standby { "a standby" } else { "read-only for this role" };
            return Err(Error::new(
                Code::PostgresUnreachable,
                format!("the server is {what}, so migrations cannot be applied"),
            )
            .hint("connect to the primary, and see default_transaction_read_only of the role and the database"));
        }
        if self.version_num < OLDEST_SERVER {
            return refused(format!("PostgreSQL {version} is too old"), "version 15 or later is needed");
        }
        // A database that already has an outbox keeps what it has; `check` has the details.
        if is_new && encoding != "UTF8" {
            return refused(
                format!("the encoding of the database {database} is {encoding}, and events are UTF-8"),
                "use a database made with: create database … encoding 'UTF8' template template0",
            );
        }
        if !self.exists && !self.may_create_schemas {
            return refused(
                format!("the schema {quoted} does not exist, and the role {role} may not make one"),
                format!(
                    "as the owner of the database: create schema {quoted}; grant usage, create on schema {quoted} to the role"
                ),
            );
        }
        if self.exists && !(self.may_use && self.may_create) {
            return refused(
                format!("the role {role} may not create tables in the schema {quoted}"),
                format!(
                    "as the owner of the schema: grant usage, create on schema {quoted} to the role of database.url"
                ),
            );
        }
        Ok(())
    }
}

/// Looks for everything that the pending migrations would make and that is there already, and for tables of ours that
/// this role may not alter. Changes nothing. Errors: [`Code::MigrationFailed`] with all of it.
pub(super) async fn objects(client: &Client, schema: &str, known: &[Known], all: &[MigrationStatus]) -> Result<()> {
    let (mut done, mut to_make) = (Objects::default(), Objects::default());
    let mut some_done = false;
    for migration in known {
        match all.iter().find(|status| status.version == migration.version).map(|status| status.state) {
            Some(State::Applied | State::Changed) => {
                some_done = true;
                done.add(&migration.sql);
            }
            Some(State::Pending | State::Unknown) | None => to_make.add(&migration.sql),
        }
    }
    let wanted = to_make.without(&done);
    let (functions, arguments): (Vec<String>, Vec<i32>) = wanted.functions.iter().cloned().unzip();
    let (tables, columns): (Vec<String>, Vec<String>) = wanted.columns.iter().cloned().unzip();
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&schema, &wanted.relations, &functions, &arguments, &tables, &columns];
    let taken = client.query(TAKEN, &params).await?;
    if !taken.is_empty() {
        let list = listed(taken.iter().map(|row| row.get::<_, String>(0)));
        let hint = if some_done {
            "these objects do not belong to the outbox: rename them and try again; nothing was changed"
        } else {
            "rename them, or give the outbox its own schema with outbox.schema; nothing was changed"
        };
        return refused(
            format!("the schema {schema} already contains objects that are not the outbox's: {list}"),
            hint,
        );
    }
    if some_done {
        let foreign = client.query(OWNERS, &[&schema, &done.relations]).await?;
        if let Some(first) = foreign.first() {
            let owner: String = first.get("owner");
            let list = listed(foreign.iter().map(|row| row.get::<_, String>("relation")));
            return refused(
                format!("this role may not alter objects owned by {owner}: {list}"),
                format!("connect as {owner}, as a member of it, or as a superuser; nothing was changed"),
            );
        }
    }
    Ok(())
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let list = names.join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

fn refused(message: String, hint: impl Into<String>) -> Result<()> {
    Err(Error::new(Code::MigrationFailed, message).hint(hint))
}
