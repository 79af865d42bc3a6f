//! The size of the windows in which a replay walks the table. Pure.

/// Rows of the first window. Guesses all three: a portion of this size takes some 50 ms.
const WINDOW_ROWS: i64 = 5_000;
/// A window grows to this while nothing matches, since looking is cheap then.
const WINDOW_ROWS_MAX: i64 = 100_000;

/// How the table is walked: by windows of a size that follows from what was met.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub(super) rows: i64,
    /// Maximum number of copies in a portion.
    pub(super) copies: i64,
}

impl Pace {
    /// At most `copies` in one transaction.
    pub fn new(copies: u32) -> Self {
        Self { rows: WINDOW_ROWS, copies: i64::from(copies).clamp(1, WINDOW_ROWS) }
    }

    pub(super) fn met(&mut self, matching: i64) {
        self.rows = if matching == 0 { (self.rows * 2).min(WINDOW_ROWS_MAX) } else { self.rows.min(WINDOW_ROWS) };
    }

    /// A statement took longer than it may: the next one does less. False when it cannot do less.
    pub(super) fn slow(&mut self) -> bool {
        let could = self.rows > 1;
        self.rows = (self.rows / 8).max(1);
        self.copies = self.copies.min(self.rows);
        could
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_while_nothing_matches_and_shrink_when_a_statement_is_slow() {
        let mut pace = Pace::new(1_000_000);
        assert_eq!((pace.rows, pace.copies), (WINDOW_ROWS, WINDOW_ROWS));
        for _ in 0..10 {
            pace.met(0);
        }
        assert_eq!(pace.rows, WINDOW_ROWS_MAX);
        pace.met(1);
        assert_eq!(pace.rows, WINDOW_ROWS);
        while pace.slow() {}
        assert_eq!((pace.rows, pace.copies), (1, 1));
        pace.met(0);
        assert_eq!(pace.rows, 2);
    }
}
