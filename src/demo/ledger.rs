//! How long an event takes from the commit of its transaction to Kafka's acknowledgement.
//!
//! Measured in this process with one monotonic clock, not from columns: `created_at` is the start of the writer's
//! transaction and `published_at` the settle after the acknowledgement. A writer reports ids when its COMMIT has
//! returned, the relay when the acknowledgements are in, in either order: an event that was acknowledged before its
//! writer learned of its own commit counts as 0. Invariant: memory is bounded. Beyond [`OPEN_EVENTS_MAX`], open events
//! are counted but not timed, and the summary says so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Events that wait for their other half, at most: about 32 MB.
const OPEN_EVENTS_MAX: usize = 500_000;

/// Longer latencies count as this one.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: HashMap<i64, Half>,
    interval: Histogram<u64>,
    total: Histogram<u64>,
    committed: u64,
    acknowledged: u64,
    untimed: u64,
}

/// The half of an event's story that came first.
#[derive(Debug, Clone, Copy)]
enum Half {
    Committed(Instant),
    Acknowledged,
}

/// Latencies of a set of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// How many events the figures are about. With none, the figures are zero.
    pub events: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub committed: u64,
    pub acknowledged: u64,
    /// Events without a latency, because too many were open.
    pub untimed: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_micros()).expect("ten minutes fit");
        let histogram =
            || Histogram::new_with_bounds(1, longest, 3).expect("the bounds are in order and 3 digits are allowed");
        Self {
            inner: Mutex::new(Inner {
                open: HashMap::new(),
                interval: histogram(),
                total: histogram(),
                committed: 0,
                acknowledged: 0,
                untimed: 0,
            }),
        }
    }
}

impl Ledger {
    /// The COMMIT of these events has just returned.
    pub fn committed(&self, ids: &[i64], now: Instant) {
        self.with(|inner| {
            inner.committed += count(ids);
            for id in ids {
                match inner.open.remove(id) {
                    Some(Half::Acknowledged) => inner.record(Duration::ZERO),
                    Some(Half::Committed(_)) | None => inner.wait_for_other_half(*id, Half::Committed(now)),
                }
            }
        });
    }

    /// Kafka has just acknowledged these events.
    pub fn acknowledged(&self, ids: &[i64], now: Instant) {
        self.with(|inner| {
            inner.acknowledged += count(ids);
            for id in ids {
                match inner.open.remove(id) {
                    Some(Half::Committed(then)) => inner.record(now.saturating_duration_since(then)),
                    Some(Half::Acknowledged) | None => inner.wait_for_other_half(*id, Half::Acknowledged),
                }
            }
        });
    }

    pub fn counts(&self) -> Counts {
        self.with(|inner| Counts {
            committed: inner.committed,
            acknowledged: inner.acknowledged,
            untimed: inner.untimed,
        })
    }

    /// Latencies since the last call of this function.
    pub fn take_interval(&self) -> Latency {
        self.with(|inner| {
            let latency = Latency::of(&inner.interval);
            inner.interval.reset();
            latency
        })
    }

    /// Latencies since the start.
    pub fn total(&self) -> Latency {
        self.with(|inner| Latency::of(&inner.total))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic in between leaves figures that are at most one event off.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn wait_for_other_half(&mut self, id: i64, half: Half) {
        if self.open.len() < OPEN_EVENTS_MAX {
            self.open.insert(id, half);
        } else {
            self.untimed += 1;
        }
    }

    fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.interval.saturating_record(micros);
        self.total.saturating_record(micros);
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Self {
            events: histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

fn count(ids: &[i64]) -> u64 {
    u64::try_from(ids.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Duration, millis: u64) -> bool {
        found.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(1)
    }

    #[test]
    fn latency_runs_from_the_commit_to_the_acknowledgement() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.committed(&(1..=100).collect::<Vec<_>>(), start);
        for id in 1..=100 {
            ledger.acknowledged(&[id], start + Duration::from_millis(u64::try_from(id).unwrap()));
        }
        let total = ledger.total();
        assert_eq!(total.events, 100);
        assert!(close(total.p50, 50) && close(total.p99, 99) && close(total.max, 100), "{total:?}");
    }

    #[test]
    fn an_acknowledgement_before_the_writer_knows_counts_as_zero() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.acknowledged(&[9], start);
        ledger.committed(&[9], start + Duration::from_millis(3));
        assert_eq!((ledger.total().events, ledger.total().max), (1, Duration::ZERO));
    }

    #[test]
    fn an_interval_holds_only_what_came_since_the_last_one() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.committed(&[1, 2], start);
        ledger.acknowledged(&[1], start + Duration::from_millis(10));
        assert_eq!(ledger.take_interval().events, 1);
        assert_eq!(ledger.take_interval(), Latency::default());
        ledger.acknowledged(&[2], start + Duration::from_millis(20));
        assert!(close(ledger.take_interval().max, 20));
        assert_eq!(ledger.total().events, 2);
    }

    #[test]
    fn beyond_the_limit_events_are_counted_but_not_timed() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        let limit = i64::try_from(OPEN_EVENTS_MAX).unwrap();
        ledger.committed(&(0..limit + 5).collect::<Vec<_>>(), start);
        let counts = ledger.counts();
        assert_eq!((counts.committed, counts.untimed), (u64::try_from(limit).unwrap() + 5, 5));
    }
}
