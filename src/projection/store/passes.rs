//! What passes, and what fails in several partitions: the evidence that a failure is that of one event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::projection::record::Place;
use crate::projection::suspicion::Ground;

/// How long a failure of another partition counts: longer than a partition that fails waits before it is tried again.
const RECENT: Duration = Duration::from_secs(60);

/// How often each projection has taken events, how often a fold came to its end, and where folds fail.
#[derive(Debug, Clone, Default)]
pub(super) struct Passes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    passes: BTreeMap<Option<String>, u64>,
    /// The last failure of each partition, with its time.
    failures: BTreeMap<Place, (Ground, Duration)>,
}

impl Passes {
    pub(super) fn count(&self, projection: Option<&str>) {
        *self.state().passes.entry(projection.map(str::to_owned)).or_default() += 1;
    }

    pub(super) fn of(&self, ground: &Ground) -> u64 {
        self.state().passes.get(&ground.projection).copied().unwrap_or(0)
    }

    pub(super) fn fails(&self, place: &Place, ground: &Ground, now: Duration) {
        self.state().failures.insert(place.clone(), (ground.clone(), now));
    }

    pub(super) fn fails_elsewhere(&self, place: &Place, ground: &Ground, now: Duration) -> bool {
        self.state()
            .failures
            .iter()
            .any(|(other, (failed, at))| other != place && failed == ground && now.saturating_sub(*at) < RECENT)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_elsewhere_counts_for_a_while_if_it_is_the_same() {
        let (passes, seconds) = (Passes::default(), Duration::from_secs);
        let place = |partition| Place { topic: "t".to_owned(), partition };
        let ground = |code: &str| Ground { projection: None, sqlstate: Some(code.to_owned()) };
        passes.fails(&place(1), &ground("40001"), seconds(10));
        assert!(!passes.fails_elsewhere(&place(1), &ground("40001"), seconds(11)), "that is itself");
        assert!(passes.fails_elsewhere(&place(2), &ground("40001"), seconds(69)));
        assert!(!passes.fails_elsewhere(&place(2), &ground("53100"), seconds(11)));
        assert!(!passes.fails_elsewhere(&place(2), &ground("40001"), seconds(70)));
    }
}
