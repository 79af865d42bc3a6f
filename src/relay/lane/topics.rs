//! Topics that a lane has to know more about before it can go on with some of its events.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::Duration;

use crate::broker::topics::TopicCatalog;
use crate::clock::monotonic;

#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Topics that the last claim left events aside for, and since when the cluster is asked about them.
    asked: HashMap<String, Duration>,
    /// The last claim stopped before an event whose topic does not exist yet.
    awaited: bool,
}

impl Topics {
    pub(super) fn asked(&self) -> HashMap<String, Duration> {
        self.asked.clone()
    }

    pub(super) fn awaited(&self) -> bool {
        self.awaited
    }

    /// No event waits for an answer of the cluster.
    pub(super) fn is_known(&self) -> bool {
        self.asked.is_empty() && !self.awaited
    }

    /// The cluster is asked about these topics after a claim. The time of a question that was open already stays.
    pub(super) fn ask(&mut self, catalog: &TopicCatalog, unknown: HashSet<String>, awaited: bool) {
        let now = monotonic();
        let mut asked = mem::take(&mut self.asked);
        for topic in unknown {
            let since = asked.remove(&topic).unwrap_or(now);
            self.asked.insert(topic, since);
        }
        if !self.asked.is_empty() {
            catalog.ask(self.asked.keys());
        }
        self.awaited = awaited;
    }

    /// Waits for the answers, `limit` at most. `None`: nothing was asked. Otherwise whether they came in time.
    pub(super) async fn answered(&self, catalog: &TopicCatalog, limit: Duration) -> Option<bool> {
        if self.asked.is_empty() {
            return None;
        }
        Some(tokio::time::timeout(limit, catalog.answered(&self.asked)).await.is_ok())
    }
}
