//! Rules of `[cleanup]`.

use std::time::Duration;

use super::{Rules, shown};
use crate::config::{CleanupConfig, Retention};

impl CleanupConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        if self.interval < Duration::from_secs(1) {
            rules.refuse(
                &["cleanup.interval"],
                "must be at least 1s",
                "one minute is precise enough for times measured in days",
            );
        }
        if self.batch_rows.get() > 100_000 {
            rules.refuse(
                &["cleanup.batch_rows"],
                "must be at most 100000",
                "a large batch delays replicas and the lock barrier; a thousand rows take about ten milliseconds",
            );
        }
        if self.max_replica_lag.as_u64() == 0 {
            rules.refuse(
                &["cleanup.max_replica_lag"],
                "must be more than 0",
                "a replica is always a few bytes behind; to never wait for replicas, set it to 1024GiB",
            );
        }
        // A row that is still there can be replayed, and its records may still be in the topic.
        if let (Retention::After(handled), Retention::After(published)) =
            (self.handled_older_than, self.published_older_than)
            && handled < published
        {
            let (handled, published) = (shown(&self.handled_older_than), shown(&self.published_older_than));
            let why = format!(
                "`cleanup.handled_older_than` ({handled}) must not be shorter than `cleanup.published_older_than` ({published})"
            );
            rules.refuse(
                &["cleanup.handled_older_than", "cleanup.published_older_than"],
                why,
                "projections would count an event twice if it is delivered again in between",
            );
        }
    }
}
