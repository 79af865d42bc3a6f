//! `outbox-relay shards set`, which changes the number of shards step by step, as `operations/shards/set.rs` has it.
//! Its session holds a lock that no other one has at the same time; the next one continues where it stopped.

use crate::postgres::{Database, Tables};
use crate::rules::{Luck, Precaution, Rules};
use crate::shard::Number;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Announce,
    /// Waits for instances to give their shards up.
    Take,
    /// Waits for writers.
    Change,
    MarkAhead,
    Move {
        from: Number,
        shards: usize,
    },
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resharder {
    shards: usize,
    pub stage: Stage,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    GoesOn,
    Ended,
}

impl Resharder {
    /// `None`: there is nothing to do, or another change has to be finished first.
    pub fn begin(tables: &Tables, shards: usize) -> Option<Self> {
        let Tables { shard_count, resharding_to: wanted, .. } = *tables;
        let stage = match wanted {
            Some(wanted) if wanted == shard_count && wanted != shards => return None,
            Some(wanted) if wanted == shard_count => Stage::MarkAhead,
            None if shards == shard_count => return None,
            Some(_) | None => Stage::Announce,
        };
        Some(Self { shards, stage })
    }

    /// It gives up waiting, or is told to stop.
    pub fn may_abandon(&self, rules: Rules) -> bool {
        match self.stage {
            Stage::Take | Stage::Change => true,
            Stage::Announce => false,
            Stage::MarkAhead | Stage::Move { .. } | Stage::Finish => !rules.has(Precaution::AbandonedBefore),
        }
    }

    /// One transaction. When its answer does not come, the session is over.
    pub fn advance(&mut self, luck: Luck, db: &mut Database, rules: Rules) -> Command {
        if luck == Luck::LostBefore {
            return Command::Ended;
        }
        let next = match self.stage {
            Stage::Announce => {
                db.announce(Some(self.shards));
                Some(Stage::Take)
            }
            Stage::Take => db.take_shards(rules).then_some(Stage::Change),
            Stage::Change => db.change(self.shards, rules).then_some(Stage::MarkAhead),
            Stage::MarkAhead => {
                let first = Stage::Move { from: 0, shards: db.shards().len() };
                db.mark_ahead(rules).then_some(first)
            }
            Stage::Move { from, shards } => {
                let then = if from + 1 == shards { Stage::Finish } else { Stage::Move { from: from + 1, shards } };
                db.move_waiting(from, rules).then_some(then)
            }
            Stage::Finish => {
                if db.finish_resharding(rules) {
                    return Command::Ended;
                }
                None
            }
        };
        self.stage = next.unwrap_or(self.stage);
        if luck == Luck::Fine { Command::GoesOn } else { Command::Ended }
    }
}
