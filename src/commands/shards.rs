//! `shards`: who works on what, and among how many shards keys are spread.

mod set;

use std::time::Duration;

use serde::Serialize;

use super::{Context, Result, admin_pool};
use crate::cli::ShardsCommand;
use crate::config::Needs;
use crate::outbox::inspect::shards::{self, ShardLine};
use crate::output::{self, Align, Cell, Table, Tone};

#[derive(Debug, Serialize)]
struct Line {
    shard: i16,
    owner: Option<String>,
    epoch: i64,
    lease_left_seconds: Option<f64>,
    batch: i64,
    in_flight: i32,
    low_id: i64,
    held_keys: i64,
    oldest_pending_seconds: Option<f64>,
}

pub(super) async fn run(context: &Context, command: &ShardsCommand) -> Result<()> {
    match command {
        ShardsCommand::Set(args) => return set::run(context, args).await,
        ShardsCommand::Ls => {
            let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
            let lines: Vec<Line> = shards::list(&pool).await?.into_iter().map(Line::from).collect();
            output::data(context.format(), &lines, &lines, || table(&lines))?;
        }
    }
    Ok(())
}

impl From<ShardLine> for Line {
    fn from(line: ShardLine) -> Self {
        Self {
            shard: line.shard,
            owner: line.owner,
            epoch: line.epoch,
            lease_left_seconds: line.lease_left,
            batch: line.batch_seq,
            in_flight: line.in_flight,
            low_id: line.low_id,
            held_keys: line.held_keys,
            oldest_pending_seconds: line.oldest_pending,
        }
    }
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
    let age = |seconds: f64| output::age(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default());
    for line in lines {
        let over = line.lease_left_seconds.is_some_and(|left| left < 0.0);
        let owner = match &line.owner {
            Some(name) if !over => Cell::new(output::printable(name)),
            Some(name) => Cell::new(format!("{} (lease over)", output::printable(name))).tone(Tone::Warning),
            None => Cell::new("nobody").tone(Tone::Warning),
        };
        table.row([
            Cell::new(line.shard),
            owner,
            Cell::new(line.epoch),
            Cell::optional(line.lease_left_seconds.map(age)),
            Cell::new(line.batch),
            Cell::new(line.in_flight),
            Cell::new(line.held_keys),
            Cell::optional(line.oldest_pending_seconds.map(age)),
        ]);
    }
    table.render()
}
