//! `migrate`: the schema.

use serde::Serialize;

use super::{Context, Result};
use crate::cli::MigrateCommand;
use crate::config::Needs;
use crate::db::Database;
use crate::error::{Code, Error};
use crate::migrations::{self, MigrationStatus};
use crate::output::{self, Align, Cell, Table, Tone};

#[derive(Debug, Serialize)]
struct Line<'a> {
    version: i32,
    name: &'a str,
    /// `null`: still to be applied.
    applied_on: Option<&'a str>,
}

pub(super) async fn run(context: &Context, command: &MigrateCommand) -> Result<()> {
    match command {
        MigrateCommand::Sql => Ok(output::raw(migrations::sql().as_bytes())?),
        MigrateCommand::Up { dry_run, partitioned } => up(context, *dry_run, *partitioned).await,
        MigrateCommand::Status => status(context).await,
    }
}

async fn up(context: &Context, dry_run: bool, partitioned: bool) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let database = Database::new(&settings.database)?;
    let (done, remark) = if dry_run {
        let mut missing = migrations::status(&database).await?;
        missing.retain(|migration| migration.applied_on.is_none());
        (missing, "would apply")
    } else {
        (migrations::up(&database, settings.outbox.shards).await?, "applied")
    };
    if done.is_empty() {
        output::note(&format!("{}: the schema is up to date", database.describe()));
    } else {
        output::note(&format!("{}: {remark} {} migration(s)", database.describe(), done.len()));
    }
    if partitioned && dry_run {
        output::note("would make outbox_events a partitioned table, unless it is one or is in use");
    } else if partitioned {
        let made = migrations::partition(&database, settings.outbox.partition_rows).await?;
        output::note(if made { "outbox_events is partitioned now" } else { "outbox_events is partitioned already" });
    }
    print(context, &done)
}

async fn status(context: &Context) -> Result<()> {
    let database = Database::new(&context.settings(Needs::DATABASE)?.database)?;
    let all = migrations::status(&database).await?;
    print(context, &all)?;
    let missing = all.iter().filter(|migration| migration.applied_on.is_none()).count();
    if missing == 0 {
        return Ok(());
    }
    Err(Error::new(Code::SchemaOutdated, format!("{missing} migration(s) are not applied"))
        .hint("run: outbox-relay migrate up")
        .into())
}

fn print(context: &Context, migrations: &[MigrationStatus]) -> Result<()> {
    let lines: Vec<Line<'_>> = migrations
        .iter()
        .map(|known| Line { version: known.version, name: &known.name, applied_on: known.applied_on.as_deref() })
        .collect();
    output::data(context.format(), &lines, &lines, || {
        if lines.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[("VERSION", Align::Right), ("NAME", Align::Left), ("APPLIED", Align::Left)]);
        for line in &lines {
            let applied = line.applied_on.map_or_else(|| Cell::new("no").tone(Tone::Warning), Cell::new);
            table.row([Cell::new(line.version), Cell::new(line.name), applied]);
        }
        table.render()
    })?;
    Ok(())
}
