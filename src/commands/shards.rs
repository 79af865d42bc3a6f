//! `shards`: who works on what, and among how many shards keys are spread.

mod set;

use serde::Serialize;

use super::{Context, Result, admin_pool};
use crate::cli::ShardsCommand;
use crate::config::Needs;
use crate::db::{DbError, Pool};
use crate::outbox::inspect::shards::{self, ShardLine};
use crate::output::{self, Align, Cell, Table, Tone};

/// A shard, for `shards ls` and `top`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) shard: i16,
    /// `null`: nobody.
    pub(super) owner: Option<String>,
    pub(super) epoch: i64,
    /// Negative when the lease is over.
    pub(super) lease_left_seconds: Option<f64>,
    pub(super) batch: i64,
    pub(super) in_flight: i32,
    pub(super) low_id: i64,
    pub(super) held_keys: i64,
    pub(super) oldest_pending_seconds: Option<f64>,
}

impl Line {
    /// Whether somebody works on it.
    pub(super) fn is_owned(&self) -> bool {
        self.owner.is_some() && !self.is_lease_over()
    }

    pub(super) fn is_lease_over(&self) -> bool {
        self.lease_left_seconds.is_some_and(|left| left < 0.0)
    }
}

/// All shards, by number.
pub(super) async fn lines(pool: &Pool) -> Result<Vec<Line>, DbError> {
    Ok(shards::list(pool).await?.into_iter().map(Line::from).collect())
}

pub(super) async fn run(context: &Context, command: &ShardsCommand) -> Result<()> {
    match command {
        ShardsCommand::Set(args) => return set::run(context, args).await,
        ShardsCommand::Ls => {
            let lines = lines(&admin_pool(&context.settings(Needs::DATABASE)?)?).await?;
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
