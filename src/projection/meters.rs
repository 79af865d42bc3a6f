//! The consumer's metrics: what became of the records, and how many wait.

use std::collections::BTreeMap;
use std::time::Duration;

use super::position::{Stopped, reason};
use super::record::Place;
use super::store::Counts;
use crate::metrics::{ConsumerLabels, Metrics, PartitionLabels, StopLabels};

/// A figure is renewed every five seconds, with the client's statistics.
const BELIEVED: Duration = Duration::from_secs(20);

/// The metrics of one consumer group.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    metrics: Metrics,
    group: String,
    /// The attempt of the consumer whose gauges these are.
    tenure: u64,
}

impl Meters {
    pub(super) fn new(metrics: Metrics, group: String) -> Self {
        let tenure = metrics.tenure("consumer");
        Self { metrics, group, tenure }
    }

    /// Whether no other attempt has taken the place of this one.
    fn is_current(&self) -> bool {
        self.metrics.tenure("consumer") == self.tenure
    }

    /// Adds to the outcomes of a topic. With zeros it makes them appear, so that `rate()` works from the first scrape.
    pub(super) fn count(&self, topic: &str, counts: Counts) {
        let outcomes = [
            ("applied", counts.applied),
            ("duplicate", counts.duplicate),
            ("skipped", counts.skipped),
            ("parked", counts.parked),
        ];
        for (outcome, events) in outcomes {
            let labels = ConsumerLabels { group: self.group.clone(), topic: topic.to_owned(), outcome };
            self.metrics.consumer_events.get_or_create(&labels).inc_by(events);
        }
    }

    pub(super) fn set_lag(&self, place: &Place, records: i64) {
        if self.is_current() {
            self.metrics.consumer_lag_records.get_or_create(&self.labels(place)).set_for(BELIEVED, records.max(0));
        }
    }

    /// The partition is not ours any more, and whoever has it reports its lag; or its position or end is not known now.
    pub(super) fn forget_lag(&self, place: &Place) {
        if self.is_current() {
            self.metrics.consumer_lag_records.remove(&self.labels(place));
        }
    }

    /// These partitions are stopped, and no others of ours.
    pub(super) fn set_stopped<'a>(&self, stopped: impl Iterator<Item = (&'a Place, &'a Stopped)>) {
        if !self.is_current() {
            return;
        }
        let mut counts: BTreeMap<&str, i64> = reason::ALL.iter().map(|reason| (*reason, 0)).collect();
        for (_, Stopped { reason, .. }) in stopped {
            // One that a newer version has added counts under its own name, and is absent when it is not renewed.
            *counts.entry(reason).or_default() += 1;
        }
        for (reason, partitions) in counts {
            let labels = StopLabels { group: self.group.clone(), reason: reason.to_owned() };
            self.metrics.consumer_partitions_stopped.get_or_create(&labels).set_for(BELIEVED, partitions);
        }
    }

    /// Nobody reads any more: not even a zero is known.
    pub(super) fn forget_stopped(&self) {
        if self.is_current() {
            self.metrics.consumer_partitions_stopped.clear();
        }
    }

    fn labels(&self, place: &Place) -> PartitionLabels {
        PartitionLabels { group: self.group.clone(), topic: place.topic.clone(), partition: i64::from(place.partition) }
    }
}
