//! The consumer's metrics: what became of the records, and how many wait.

use super::record::Place;
use super::store::Counts;
use crate::metrics::{ConsumerLabels, Metrics, PartitionLabels};

/// The metrics of one consumer group.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    metrics: Metrics,
    group: String,
}

impl Meters {
    pub(super) fn new(metrics: Metrics, group: String) -> Self {
        Self { metrics, group }
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
        self.metrics.consumer_lag_records.get_or_create(&self.labels(place)).set(records.max(0));
    }

    /// The partition is not ours any more: whoever has it reports its lag.
    pub(super) fn forget_lag(&self, place: &Place) {
        self.metrics.consumer_lag_records.remove(&self.labels(place));
    }

    fn labels(&self, place: &Place) -> PartitionLabels {
        PartitionLabels { group: self.group.clone(), topic: place.topic.clone(), partition: i64::from(place.partition) }
    }
}
