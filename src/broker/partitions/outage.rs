//! What is known of a topic: the number of its partitions, and those among them that are in trouble.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::murmur2::murmur2;
use super::Trouble;

/// Time until a partition in trouble that metadata does not explain is tried with an event; doubled each time.
const PROBE: Duration = Duration::from_secs(10);
const PROBE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) count: i32,
    /// When the cluster last answered.
    pub(super) asked: Duration,
    /// Since when it has answered without a gap.
    pub(super) steady_since: Duration,
    /// `min.insync.replicas`.
    pub(super) min_in_sync: Option<u32>,
    pub(super) entries: BTreeMap<i32, Outage>,
}

impl Known {
    pub(super) fn place(&self, key: Option<&str>) -> Option<i32> {
        (self.count > 0).then_some(())?;
        // As `murmur2_random` of librdkafka and the default of the Java client.
        key.map(|key| (murmur2(key.as_bytes()) & 0x7fff_ffff).cast_signed() % self.count)
    }
}

/// A partition in trouble, or suspected to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    pub(super) trouble: Trouble,
    pub(super) since: Duration,
    /// Metadata says so, and will tell when it is over.
    pub(super) seen: bool,
    /// Keys are held for it. Until then it may be an election, or a failure that the next attempt does not meet.
    pub(super) confirmed: bool,
    pub(super) strikes: u32,
    /// When it may be tried with an event, unless metadata tells.
    pub(super) probe_at: Duration,
    pub(super) probes: u32,
}

impl Outage {
    pub(super) fn new(trouble: Trouble, now: Duration) -> Self {
        Self { trouble, since: now, seen: false, confirmed: false, strikes: 0, probe_at: now, probes: 0 }
    }

    pub(super) fn confirm(&mut self, topic: &str, partition: i32) {
        if !self.confirmed {
            self.confirmed = true;
            tracing::warn!(topic, partition, reason = %self.trouble, "the partition does not accept records; its keys wait");
        }
    }

    pub(super) fn postpone(&mut self, now: Duration) {
        self.probe_at = now + (PROBE * 2_u32.saturating_pow(self.probes)).min(PROBE_MAX);
        self.probes = (self.probes + 1).min(8);
    }
}
