//! What the relay reports in `/readyz` and in its component gauges.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::db::DbError;
use crate::event::ShardId;
use crate::health::{Check, Notes, Waits};
use crate::metrics::Metrics;
use crate::signals::Board;

/// Steps of a shard that fail one after the other before the instance is not ready.
const STUCK_STEPS: u32 = 3;

/// The relay's lines in `/readyz` and its component gauges.
pub struct RelayHealth {
    postgres: Check,
    kafka: Check,
    /// That ids are drawn in turn.
    pub(super) ids: Check,
    /// What is paused.
    pub(super) pauses: Notes,
    /// That no shard can be had for now.
    pub(super) resharding: Notes,
    /// Shards whose steps fail one after the other, how many, and why.
    failing: Mutex<BTreeMap<ShardId, (u32, String)>>,
    /// Partitions that take no records.
    pub(super) partitions: Notes,
    /// What lanes wait for.
    pub(super) waits: Waits,
    /// What the survey finds that events wait for.
    pub(super) board: Board,
    metrics: Metrics,
}

impl RelayHealth {
    pub fn new(checks: [Check; 4], notes: [Notes; 4], waits: Waits, metrics: Metrics) -> Self {
        let [postgres, kafka, ids, outbox] = checks;
        let [pauses, resharding, partitions, others] = notes;
        let board = Board::new("relay", metrics.clone());
        board.report_to(Some(outbox), others);
        let failing = Mutex::default();
        Self { postgres, kafka, ids, pauses, resharding, partitions, failing, waits, board, metrics }
    }

    pub(super) fn postgres_works(&self) {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = failing.iter().find(|(_, (steps, _))| *steps >= STUCK_STEPS);
        if let Some((shard, (steps, reason))) = stuck {
            // Somebody else's success is none of this shard's.
            self.postgres
                .failing(format!("shard {shard} makes no progress: {steps} steps failed, the last one with {reason}"));
        } else {
            self.postgres.ok();
        }
        self.metrics.set_component("postgres", stuck.is_none());
    }

    /// A step of the shard has failed.
    pub(super) fn step_failed(&self, shard: ShardId, error: &DbError) {
        let sqlstate = error.sqlstate().map_or("none", |code| code.code());
        // Not what the server says: it may quote a row.
        let reason = format!("{error}, SQLSTATE {sqlstate}");
        self.postgres_failed(error);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = failing.get(&shard).map_or(0, |(steps, _)| *steps);
        failing.insert(shard, (steps.saturating_add(1), reason));
    }

    pub(super) fn step_worked(&self, shard: ShardId) {
        self.lane_ended(shard);
        self.postgres_works();
    }

    /// The shard is someone else's affair from now on.
    pub(super) fn lane_ended(&self, shard: ShardId) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    pub(super) fn postgres_failed(&self, error: &DbError) {
        self.postgres.failing(error.to_string());
        self.metrics.set_component("postgres", false);
    }

    pub(super) fn kafka_works(&self) {
        self.kafka.ok();
        self.metrics.set_component("kafka", true);
    }

    pub(super) fn kafka_failed(&self, reason: &str) {
        self.kafka.failing(reason);
        self.metrics.set_component("kafka", false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    #[test]
    fn a_shard_without_progress_is_not_hidden_by_the_success_of_others() {
        let all = Health::default();
        let health = RelayHealth::new(
            [all.check("postgres"), all.check("kafka"), all.check("ids"), all.check("outbox")],
            [all.notes(), all.notes(), all.notes(), all.notes()],
            all.waits("waits"),
            Metrics::new(),
        );
        health.kafka_works();
        health.ids.ok();
        let error = || DbError::of_a_test("gone".to_owned());
        for _ in 1..STUCK_STEPS {
            health.step_failed(3, &error());
            health.step_worked(4);
            assert!(all.readiness().is_ok(), "a failed step is repeated");
        }
        health.step_failed(3, &error());
        health.step_worked(4);
        health.postgres_works();
        assert!(all.readiness().to_string().contains("shard 3 makes no progress"), "{}", all.readiness());
        health.step_worked(3);
        assert!(all.readiness().is_ok());
    }
}
