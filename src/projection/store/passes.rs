//! What passes: the evidence that a failure is that of one event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::projection::suspicion::Ground;

/// How often each projection has taken events, and how often a fold came to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Passes(Arc<Mutex<BTreeMap<Option<String>, u64>>>);

impl Passes {
    pub(super) fn count(&self, projection: Option<&str>) {
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *passes.entry(projection.map(str::to_owned)).or_default() += 1;
    }

    pub(super) fn of(&self, ground: &Ground) -> u64 {
        let passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passes.get(&ground.projection).copied().unwrap_or(0)
    }
}
