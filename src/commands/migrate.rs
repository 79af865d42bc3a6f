//! `migrate`: the schema.

use std::num::NonZeroU32;

use serde::Serialize;

use super::{Context, Result};
use crate::cli::MigrateCommand;
use crate::config::Needs;
use crate::db::Database;
use crate::error::{Code, Error};
use crate::migrations::{self, Facts, MigrationStatus, State};
use crate::output::{self, Align, Cell, Table, Tone};

#[derive(Debug, Serialize)]
struct Line<'a> {
    version: i32,
    name: &'a str,
    /// `null`: still to be applied.
    applied_on: Option<&'a str>,
    /// `applied`, `pending`, `changed` or `unknown`.
    state: &'static str,
}

pub(super) async fn run(context: &Context, command: &MigrateCommand) -> Result<()> {
    match command {
        MigrateCommand::Sql { after } => {
            let settings = context.settings(Needs::NOTHING)?;
            Ok(output::raw(migrations::sql(settings.outbox.schema.as_deref(), *after).as_bytes())?)
        }
        MigrateCommand::Up { dry_run, partitioned } => up(context, *dry_run, *partitioned).await,
        MigrateCommand::Status => status(context).await,
    }
}

async fn up(context: &Context, dry_run: bool, partitioned: bool) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let database = Database::of(&settings)?;
    let mut missing = migrations::status(&database).await?;
    let is_empty = missing.iter().all(|known| known.state == State::Pending);
    missing.retain(|migration| migration.state == State::Pending);
    if partitioned && missing.is_empty() {
        // Refuses what cannot be done before anything else is.
        migrations::partition_facts(&database).await?;
    }
    let (done, remark) = if dry_run {
        migrations::rehearse(&database).await?;
        (missing, "would apply")
    } else {
        (migrations::up(&database, settings.outbox.shards).await?, "applied")
    };
    if done.is_empty() {
        output::note(&format!("{}: the schema is up to date", database.describe()));
    } else {
        output::note(&format!("{}: {remark} {} migration(s)", database.describe(), done.len()));
    }
    if partitioned {
        let rows = settings.outbox.partition_rows;
        // Before the first migration there is nothing to look at.
        if dry_run && is_empty {
            output::note("would make outbox_events a partitioned table");
        } else if dry_run {
            output::note(&would(&migrations::partition_facts(&database).await?, rows));
        } else {
            let made = migrations::partition(&database, rows, &mut |line| output::note(line)).await?;
            output::note(if made {
                "outbox_events is partitioned now"
            } else {
                "outbox_events is partitioned already"
            });
        }
    }
    print(context, &done)
}

/// What a conversion would do.
fn would(facts: &Facts, rows: NonZeroU32) -> String {
    if facts.partitioned {
        return "outbox_events is partitioned already".to_owned();
    }
    let about = facts.rows.map_or_else(|| "an unknown number of".to_owned(), |rows| format!("about {rows}"));
    let begun = if facts.begun.is_some() { ", going on where an interrupted call was" } else { "" };
    format!(
        "would make outbox_events, with {about} rows, the first partition of a new table{begun}: ids below {} or, once more are \
         drawn, below the next; further partitions have {rows} ids each. No row is moved",
        facts.first_upper(rows)
    )
}

async fn status(context: &Context) -> Result<()> {
    let database = Database::of(&context.settings(Needs::DATABASE)?)?;
    let all = migrations::status(&database).await?;
    print(context, &all)?;
    if let Some(error) = migrations::trouble(&all) {
        return Err(error.into());
    }
    let missing = all.iter().filter(|migration| migration.state == State::Pending).count();
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
        .map(|known| Line {
            version: known.version,
            name: &known.name,
            applied_on: known.applied_on.as_deref(),
            state: match known.state {
                State::Applied => "applied",
                State::Pending => "pending",
                State::Changed => "changed",
                State::Unknown => "unknown",
            },
        })
        .collect();
    output::data(context.format(), &lines, &lines, || {
        if lines.is_empty() {
            return String::new();
        }
        let columns =
            [("VERSION", Align::Right), ("NAME", Align::Left), ("STATE", Align::Left), ("APPLIED", Align::Left)];
        let mut table = Table::new(&columns);
        for line in &lines {
            let state = Cell::new(line.state);
            let state = if line.state == "applied" { state } else { state.tone(Tone::Warning) };
            table.row([
                Cell::new(line.version),
                Cell::new(line.name),
                state,
                Cell::new(line.applied_on.unwrap_or("no")),
            ]);
        }
        table.render()
    })?;
    Ok(())
}
