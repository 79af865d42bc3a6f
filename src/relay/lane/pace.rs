//! How much a lane claims at once when claims take too long: rows that are slow to print, or a slow way to PostgreSQL.
//!
//! A claim that ends in a timeout is repeated as it was, and would end in one again. So the next one is half as large,
//! down to one row.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::outbox::Limits;

/// A step that failed sooner was not too large.
const SLOW: Duration = Duration::from_secs(1);
/// A thousandth of a batch, which with default settings is one row.
const MOST_HALVINGS: u32 = 10;
/// Steps that must work before the next claim is twice as large again.
const GOOD_STEPS: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Pace {
    halvings: u32,
    good: u32,
}

impl Pace {
    pub(super) fn limits(&self, full: Limits) -> Limits {
        let rows = NonZeroU32::new(full.rows.get() >> self.halvings).unwrap_or(NonZeroU32::MIN);
        // One row always fits, however large.
        Limits { rows, bytes: (full.bytes >> self.halvings).max(1), ..full }
    }

    /// A step failed after `took`.
    pub(super) fn failed(&mut self, took: Duration) {
        if took >= SLOW {
            self.halvings = (self.halvings + 1).min(MOST_HALVINGS);
            self.good = 0;
        }
    }

    pub(super) fn worked(&mut self) {
        if self.halvings > 0 {
            self.good += 1;
            if self.good == GOOD_STEPS {
                (self.halvings, self.good) = (self.halvings - 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pace: &Pace) -> u32 {
        let rows = NonZeroU32::new(1_000).unwrap();
        pace.limits(Limits { rows, bytes: 2_097_152, record_bytes: 1_000_000, row_bytes: 0 }).rows.get()
    }

    #[test]
    fn claims_shrink_to_one_row_and_grow_again_slowly() {
        let mut pace = Pace::default();
        pace.failed(Duration::from_millis(10));
        assert_eq!(rows(&pace), 1_000, "an outage is no matter of size");
        pace.failed(Duration::from_secs(5));
        assert_eq!(rows(&pace), 500);
        for _ in 0..20 {
            pace.failed(Duration::from_secs(5));
        }
        assert_eq!(rows(&pace), 1);
        for _ in 0..GOOD_STEPS - 1 {
            pace.worked();
        }
        assert_eq!(rows(&pace), 1);
        pace.worked();
        pace.failed(Duration::from_millis(10));
        for _ in 0..GOOD_STEPS * MOST_HALVINGS {
            pace.worked();
        }
        assert_eq!(rows(&pace), 1_000);
    }
}
