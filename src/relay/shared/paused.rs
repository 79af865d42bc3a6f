//! What is paused, as the lanes know it.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::outbox::pauses::{EVERYTHING, Pause};

/// What is paused at a moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::relay) struct Paused {
    pub(in crate::relay) everything: bool,
    pub(in crate::relay) topics: HashSet<String>,
}

impl Paused {
    pub(in crate::relay) fn new(pauses: Vec<Pause>) -> Self {
        let mut topics: HashSet<String> = pauses.into_iter().map(|pause| pause.topic).collect();
        Self { everything: topics.remove(EVERYTHING), topics }
    }

    pub(in crate::relay) fn topic(&self, topic: &str) -> bool {
        !self.topics.is_empty() && self.topics.contains(topic)
    }
}

/// Shared by all lanes of an instance.
#[derive(Debug, Default)]
pub(in crate::relay) struct Pauses {
    current: RwLock<Arc<Paused>>,
}

impl Pauses {
    pub(in crate::relay) fn now(&self) -> Arc<Paused> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(in crate::relay) fn everything(&self) -> bool {
        self.now().everything
    }

    /// Returns what is paused from now on, if that is something else than before.
    pub(in crate::relay) fn set(&self, paused: Paused) -> Option<Arc<Paused>> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if **current == paused {
            return None;
        }
        *current = Arc::new(paused);
        Some(Arc::clone(&current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_pauses_everything_and_is_no_topic() {
        let pause = |topic: &str| Pause {
            topic: topic.to_owned(),
            paused_at: jiff::Timestamp::UNIX_EPOCH.into(),
            actor: String::new(),
            reason: None,
        };
        let paused = Paused::new(vec![pause("*"), pause("orders")]);
        assert!(paused.everything && paused.topic("orders") && !paused.topic("*"));
        assert!(!Paused::new(vec![pause("orders")]).everything);
    }
}
