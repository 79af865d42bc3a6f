//! `shards`: who works on what, and among how many shards keys are spread.

pub(super) mod set;

use super::{Context, Result, admin_pool};
use crate::cli::ShardsCommand;
use crate::config::Needs;
use crate::operations::shards::{self, Line};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, command: &ShardsCommand) -> Result<()> {
    match command {
        ShardsCommand::Set(args) => return Box::pin(set::run(context, args)).await,
        ShardsCommand::Ls => {
            let lines = shards::lines(&admin_pool(&context.settings(Needs::DATABASE)?)?).await?;
            output::data(context.format(), &lines, &lines, || table(&lines))?;
        }
    }
    Ok(())
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::new(&[
        ("SHARD", Align::Right),
        ("OWNER", Align::Left),
        ("EPOCH", Align::Right),
        ("LEASE", Align::Right),
        ("BATCH", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("HELD KEYS", Align::Right),
        ("OLDEST PENDING", Align::Right),
    ]);
    for line in lines {
        let over = line.is_lease_over();
        let owner = match &line.owner {
            Some(name) if !over => Cell::new(output::printable(name)),
            Some(name) => Cell::new(format!("{} (lease over)", output::printable(name))).tone(Tone::Warning),
            None => Cell::new("nobody").tone(Tone::Warning),
        };
        table.row([
            Cell::new(line.shard),
            owner,
            Cell::new(line.epoch),
            Cell::optional(line.lease_left_seconds.map(output::age_of)),
            Cell::new(line.batch),
            Cell::new(line.in_flight),
            Cell::new(line.held_keys),
            Cell::optional(line.oldest_pending_seconds.map(output::age_of)),
        ]);
    }
    table.render()
}
