//! Backoff for waiting on PostgreSQL and Kafka, and failures that come back. Pure.

use std::time::Duration;

/// Growing waits with jitter: each at most twice the one before, never above the cap.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(initial: Duration, cap: Duration) -> Self {
        Self { initial, cap, failures: 0 }
    }

    /// For a connection that is down: 50 ms, doubling, to 2 s.
    pub fn for_connection() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// The next wait: between half and all of `min(initial * 2^failures, cap)`. The jitter keeps instances that failed
    /// together from coming back together.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.initial.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It worked: the next failure begins with the initial wait again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A failure that comes back. Times are monotonic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recurring<T> {
    /// What the failures have in common.
    pub reason: T,
    since: Duration,
    failures: u32,
}

impl<T: PartialEq> Recurring<T> {
    pub fn first(reason: T, now: Duration) -> Self {
        Self { reason, since: now, failures: 1 }
    }

    /// It failed once more. Another reason begins anew.
    pub fn failed(&mut self, reason: T, now: Duration) {
        if self.reason == reason {
            self.failures = self.failures.saturating_add(1);
        } else {
            *self = Self::first(reason, now);
        }
    }

    /// Whether it failed at least `times` in the same way, the first time at least `lasting` ago.
    pub fn persists(&self, times: u32, lasting: Duration, now: Duration) -> bool {
        self.failures >= times && now.saturating_sub(self.since) >= lasting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_between_half_and_all_of_the_bound(initial_ms in 1_u64..1_000, cap_ms in 1_u64..100_000, failures in 0_usize..80) {
            let (initial, cap) = (Duration::from_millis(initial_ms), Duration::from_millis(cap_ms));
            let mut backoff = Backoff::new(initial, cap);
            for n in 0..failures {
                let full = initial.saturating_mul(2_u32.saturating_pow(u32::try_from(n).unwrap())).min(cap);
                let wait = backoff.next_wait();
                prop_assert!(wait <= full && wait >= full.mul_f64(0.499), "failure {n}: {wait:?} of {full:?}");
            }
        }
    }
}
