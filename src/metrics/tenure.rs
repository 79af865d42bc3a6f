//! Gauges belong to an attempt of a part of the process, and end with it.
//!
//! A part that fails, panics or hangs cannot take its gauges back itself, and its successor may never set the same ones
//! again: it owns other shards and reads other partitions. Invariant: a gauge that names something the part owns, reads
//! or waits for is shown only while an attempt of that part runs. An attempt that was abandoned and wakes up later
//! changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ComponentLabel, Metrics, StateLabel, TopicLabel, WaitLabels};
use crate::broker::partitions::Trouble;

/// The newest attempt of a part that has begun.
#[derive(Debug, Default)]
struct Newest {
    number: u64,
    /// The gauges of what the part may wait for.
    waits: Vec<WaitLabels>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Tenures(Arc<Mutex<BTreeMap<&'static str, Newest>>>);

impl Tenures {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Newest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, part: &'static str) -> u64 {
        let mut tenures = self.lock();
        let newest = tenures.entry(part).or_default();
        newest.number += 1;
        newest.number
    }
}

/// Held by an attempt for as long as it runs. Dropped, it takes the gauges of the part back.
#[derive(Debug)]
#[must_use]
pub struct Tenure {
    metrics: Metrics,
    part: &'static str,
    number: u64,
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if self.metrics.tenure(self.part) == self.number {
            self.metrics.take_back(self.part);
        }
    }
}

impl Metrics {
    /// An attempt of this part begins: `relay`, `consumer`, `cleanup` or `partitions`. What an earlier one left is
    /// taken back, and gauges of sets that are known beforehand start at 0.
    pub fn begin(&self, part: &'static str) -> Tenure {
        let number = self.tenures.next(part);
        self.take_back(part);
        if part == "relay" {
            for component in ["postgres", "kafka"] {
                self.component_up.get_or_create(&ComponentLabel { component }).set(0);
            }
            self.paused.get_or_create(&TopicLabel { topic: "*".to_owned() }).set(0);
            for state in Trouble::STATES {
                self.partitions_unavailable.get_or_create(&StateLabel { state }).set(0);
            }
        }
        Tenure { metrics: self.clone(), part, number }
    }

    /// Which attempt of the part may set its gauges.
    pub fn tenure(&self, part: &str) -> u64 {
        self.tenures.lock().get(part).map_or(0, |newest| newest.number)
    }

    /// The part sets these gauges.
    pub fn has_waits(&self, part: &'static str, waits: Vec<WaitLabels>) {
        self.tenures.lock().entry(part).or_default().waits = waits;
    }

    fn take_back(&self, part: &'static str) {
        match part {
            "relay" => {
                self.pending_events.unknown();
                self.failed_events.unknown();
                self.held_events.unknown();
                self.oldest_pending_age_seconds.unknown();
                self.component_up.clear();
                self.paused.clear();
                self.partitions_unavailable.clear();
                self.db_pool_connections.clear();
                self.lease_held.clear();
            }
            "consumer" => {
                self.consumer_lag_records.clear();
                self.consumer_partitions_stopped.clear();
            }
            "cleanup" => {
                self.cleanup_paused.set(0);
            }
            "partitions" => self.partition_ids_ahead.unknown(),
            _ => {}
        }
        for labels in self.tenures.lock().get(part).iter().flat_map(|newest| &newest.waits) {
            self.waits.remove(labels);
            self.waits_since.remove(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{PartitionLabels, ShardLabel};
    use crate::signals::{Board, Situation, Source, Wait};

    fn gauges(metrics: &Metrics, name: &str) -> Vec<String> {
        let text = metrics.encode();
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    #[test]
    fn gauges_end_with_the_attempt_that_set_them() {
        let metrics = Metrics::new();
        assert!(gauges(&metrics, "outbox_relay_component_up").is_empty(), "no relay runs in this process");
        let relay = metrics.begin("relay");
        assert_eq!(gauges(&metrics, "outbox_relay_component_up").len(), 2);
        metrics.lease_held.get_or_create(&ShardLabel { shard: 3 }).set(1);
        metrics.pending_events.set(7);
        let consumer = metrics.begin("consumer");
        let place = PartitionLabels { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 };
        metrics.consumer_lag_records.get_or_create(&place).set(9);
        drop(relay);
        for name in ["outbox_relay_lease_held{", "outbox_relay_pending_events ", "outbox_relay_component_up{"] {
            assert!(gauges(&metrics, name).is_empty(), "{name}");
        }
        assert_eq!(gauges(&metrics, "outbox_relay_consumer_lag_records{").len(), 1, "another part");
        drop(consumer);
        assert!(gauges(&metrics, "outbox_relay_consumer_lag_records{").is_empty());
    }

    #[test]
    fn an_abandoned_attempt_neither_sets_nor_clears_the_gauges_of_its_successor() {
        let metrics = Metrics::new();
        let stopped = || vec![Wait::new(Situation::Stopped).of_partition("t", 0)];
        let abandoned = metrics.begin("consumer");
        let late = Board::new("consumer", metrics.clone());
        late.report(Source::Work, stopped());
        let since = "outbox_relay_waits_since_timestamp_seconds{";
        assert_eq!(gauges(&metrics, since).len(), 1);

        let successor = metrics.begin("consumer");
        let board = Board::new("consumer", metrics.clone());
        board.report(Source::Work, Vec::new());
        assert!(gauges(&metrics, since).is_empty(), "of the attempt before");
        late.report(Source::Work, Vec::new());
        late.report(Source::Work, stopped());
        assert!(gauges(&metrics, since).is_empty(), "it is not its turn any more");
        board.report(Source::Work, stopped());
        drop(abandoned);
        assert_eq!(gauges(&metrics, since).len(), 1, "they are the successor's");
        drop(successor);
        assert!(gauges(&metrics, "outbox_relay_waits").is_empty());
    }
}
