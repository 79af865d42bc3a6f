//! This process's own time. Times that instances compare come from the database, never from here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// Monotonic time since the process started: it goes on while the process is stopped and never jumps.
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The wall clock of this host, for metrics and for people. May jump, and differs between hosts.
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// The right to go on sending: until a moment that its owner moves, or until it is ended.
/// By the monotonic clock, so that a process that was stopped finds its permit over when it goes on.
#[derive(Debug, Clone)]
pub struct Permit {
    until_ms: Arc<AtomicU64>,
    ended: CancellationToken,
}

impl Permit {
    /// Holds until `until`, a [`monotonic`] time.
    pub fn new(until: Duration) -> Self {
        let permit = Self { until_ms: Arc::new(AtomicU64::new(0)), ended: CancellationToken::new() };
        permit.extend(until);
        permit
    }

    /// Moves the end. Never backwards: an answer that comes late does not shorten what a later one gave.
    pub fn extend(&self, until: Duration) {
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.fetch_max(until_ms, Ordering::AcqRel);
    }

    /// Ends it now, for good.
    pub fn end(&self) {
        self.ended.cancel();
    }

    pub fn holds(&self) -> bool {
        !self.ended.is_cancelled() && !self.remaining().is_zero()
    }

    /// How long it still holds if nobody moves it.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.until_ms.load(Ordering::Acquire)).saturating_sub(monotonic())
    }

    /// Whether somebody ended it, rather than time.
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_permit_ends_where_its_latest_extension_says(ends_ms in proptest::collection::vec(0_u64..10_000_000, 1..20)) {
            let permit = Permit::new(Duration::ZERO);
            let clone = permit.clone();
            for (n, end_ms) in ends_ms.iter().enumerate() {
                clone.extend(Duration::from_millis(*end_ms));
                let latest = Duration::from_millis(*ends_ms[..=n].iter().max().unwrap());
                let (before, remaining, after) = (monotonic(), permit.remaining(), monotonic());
                prop_assert!(remaining <= latest.saturating_sub(before) && remaining >= latest.saturating_sub(after));
            }
            permit.end();
            clone.extend(Duration::MAX);
            prop_assert!(!clone.holds() && clone.is_ended());
        }
    }

    #[test]
    fn a_permit_holds_until_its_moment_and_never_moves_back() {
        let permit = Permit::new(monotonic() + Duration::from_secs(60));
        permit.extend(monotonic());
        assert!(permit.holds());
        permit.end();
        assert!(!permit.holds());
        assert!(!Permit::new(Duration::ZERO).holds());
    }
}
