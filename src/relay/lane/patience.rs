//! How long a lane may be kept waiting before this instance is not ready.

use std::time::Duration;

use super::Lane;

/// Longer than a lock is waited for.
const STEP: Duration = Duration::from_secs(10);
/// Until Kafka has acknowledged a batch, all of it.
const PUBLISH: Duration = Duration::from_secs(30);
/// Until the shard is open, which takes both.
const OPEN: Duration = Duration::from_secs(30);

impl Lane {
    /// Until a step succeeds; does nothing if it waits for one already.
    pub(super) fn waits_for_step(&mut self) {
        let (waits, shard) = (&self.shared.health.waits, Some(self.fence.shard));
        self.stepping.get_or_insert_with(|| waits.begin(shard, "has been waiting for PostgreSQL", STEP));
    }

    pub(super) fn waits_for_kafka(&mut self) {
        let (waits, shard) = (&self.shared.health.waits, Some(self.fence.shard));
        self.publishing.get_or_insert_with(|| waits.begin(shard, "has been waiting for acknowledgements", PUBLISH));
    }

    /// Until the first step after it.
    pub(super) fn waits_to_open(&mut self) {
        let (waits, shard) = (&self.shared.health.waits, Some(self.fence.shard));
        self.stepping.get_or_insert_with(|| waits.begin(shard, "has been opening", OPEN));
    }

    /// Until a transaction of a former owner is ended.
    pub(super) fn waits_for_former_owner(&mut self) {
        self.waits_to_open();
        if let Some(wait) = &self.stepping {
            wait.now("has a batch of a former owner in a transaction with a partition that has no leader, and has been opening");
        }
    }
}
