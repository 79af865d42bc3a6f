//! Steps of a shard that fail again and again with an error by which PostgreSQL blames itself.
//!
//! A trigger can raise any SQLSTATE, including those of a deadlock, a full disk or a lost connection, and it can do so
//! for one row forever. Pure. Invariant: the search for a row starts only after the same error has come back for some
//! time without a successful step in between. By then a real outage is over, or it also affects the statements that
//! write outcomes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::event::ShardId;
use crate::retry::Recurring;

/// Steps that have to fail in the same way, and for how long. Guesses: longer than a deadlock or a failover takes to
/// be over, and short enough that the other keys of the shard do not wait for minutes.
const FAILURES: u32 = 4;
const LASTS: Duration = Duration::from_secs(15);

/// The SQLSTATE of the failures; `None` where there is none.
type Doubt = Recurring<Option<SqlState>>;

fn is_grown(doubt: &Doubt, now: Duration) -> bool {
    doubt.persists(FAILURES, LASTS, now)
}

/// Of all shards. Times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<HashMap<ShardId, Doubt>>);

impl Doubts {
    /// A step has failed in such a way. True when that has gone on long enough to look for a row.
    pub(super) fn failed(&self, shard: ShardId, sqlstate: Option<&SqlState>, now: Duration) -> bool {
        let mut shards = self.lock();
        let again = |doubt: &mut Doubt| doubt.failed(sqlstate.cloned(), now);
        let doubt = shards.entry(shard).and_modify(again).or_insert_with(|| Doubt::first(sqlstate.cloned(), now));
        is_grown(doubt, now)
    }

    /// Whether the next step may look for a row.
    pub(super) fn is_grown(&self, shard: ShardId, now: Duration) -> bool {
        self.lock().get(&shard).is_some_and(|doubt| is_grown(doubt, now))
    }

    /// A step has worked, or has failed in another way.
    pub(super) fn settle(&self, shard: ShardId) {
        self.lock().remove(&shard);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShardId, Doubt>> {
        // Counters alone: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_takes_several_failures_over_some_time() {
        let (doubts, code) = (Doubts::default(), SqlState::T_R_SERIALIZATION_FAILURE);
        for second in [0, 1, 2, 3, 14] {
            assert!(!doubts.failed(1, Some(&code), at(second)), "{second}");
        }
        assert!(doubts.failed(1, Some(&code), at(15)));
        assert!(doubts.is_grown(1, at(16)) && !doubts.is_grown(2, at(16)));
        doubts.settle(1);
        assert!(!doubts.failed(1, Some(&code), at(20)), "a step that worked begins it anew");
    }

    #[test]
    fn a_long_pause_between_two_failures_is_no_proof() {
        let doubts = Doubts::default();
        assert!(!doubts.failed(1, Some(&SqlState::DISK_FULL), at(0)));
        assert!(!doubts.failed(1, Some(&SqlState::DISK_FULL), at(100)));
    }

    #[test]
    fn another_error_begins_anew() {
        let doubts = Doubts::default();
        for second in [0, 10, 20] {
            assert!(!doubts.failed(1, Some(&SqlState::DISK_FULL), at(second)));
        }
        assert!(!doubts.failed(1, Some(&SqlState::T_R_DEADLOCK_DETECTED), at(30)));
        assert!(!doubts.is_grown(1, at(31)));
    }
}
