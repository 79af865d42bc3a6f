//! `migrate`: the schema.

use super::progress::Shown;
use super::{Context, Result};
use crate::cli::MigrateCommand;
use crate::config::Needs;
use crate::operations::migrate::{self, Line, Request};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, command: &MigrateCommand) -> Result<()> {
    match command {
        MigrateCommand::Sql { after } => {
            let settings = context.settings(Needs::NOTHING)?;
            Ok(output::raw(migrate::sql(settings.outbox.schema.as_deref(), *after).as_bytes())?)
        }
        MigrateCommand::Up { dry_run, partitioned } => {
            let settings = context.settings(Needs::DATABASE)?;
            let request = Request { dry_run: *dry_run, partitioned: *partitioned };
            print(context, &migrate::up(&settings, request, &Shown::default()).await?)
        }
        MigrateCommand::Status => {
            let status = migrate::status(&context.settings(Needs::DATABASE)?).await?;
            print(context, &status.lines)?;
            Ok(status.verdict()?)
        }
    }
}

fn print(context: &Context, lines: &[Line]) -> Result<()> {
    output::data(context.format(), lines, lines, || {
        if lines.is_empty() {
            return String::new();
        }
        let columns =
            [("VERSION", Align::Right), ("NAME", Align::Left), ("STATE", Align::Left), ("APPLIED", Align::Left)];
        let mut table = Table::new(&columns);
        for line in lines {
            let state = Cell::new(line.state);
            let state = if line.state == "applied" { state } else { state.tone(Tone::Warning) };
            table.row([
                Cell::new(line.version),
                Cell::new(&line.name),
                state,
                Cell::new(line.applied_on.as_deref().unwrap_or("no")),
            ]);
        }
        table.render()
    })?;
    Ok(())
}
