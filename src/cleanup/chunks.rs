//! When to check which pages of `event_handled` again, so that a pass does not read the whole table. Pure.
//!
//! The table has no index on the time of its entries, and an entry never changes. Reading some pages therefore tells
//! when they will next contain something to delete: when the oldest remaining entry is old enough. Entries written
//! there later are younger. A wrong guess (a time set by hand) only delays a deletion, because each statement checks
//! the time itself.

use std::ops::Range;
use std::time::Duration;

use crate::outbox::cleanup::Extent;

/// Pages of one look: a MiB, some eight thousand entries, read in about a millisecond. 90 GB of entries then take 1.4
/// MB here.
const PAGES: u64 = 128;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunks {
    file: i64,
    /// When each chunk has to be looked at, in monotonic time.
    due: Vec<Duration>,
}

impl Chunks {
    /// The table is as large as this now. In another file every entry has another place, and nothing is known.
    pub(super) fn fit(&mut self, extent: Extent) {
        if extent.file != self.file {
            self.due.clear();
            self.file = extent.file;
        }
        let chunks = usize::try_from(extent.pages.div_ceil(PAGES)).unwrap_or(usize::MAX);
        self.due.resize(chunks, Duration::ZERO);
    }

    /// The next chunk from `from` on that has to be looked at.
    pub(super) fn next(&self, from: usize, now: Duration) -> Option<usize> {
        (from..self.due.len()).find(|chunk| self.due[*chunk] <= now)
    }

    pub(super) fn pages(chunk: usize) -> Range<u64> {
        let first = chunk as u64 * PAGES;
        first..first + PAGES
    }

    /// Nothing is left to delete in the chunk until `due`.
    pub(super) fn looked(&mut self, chunk: usize, due: Duration) {
        if let Some(entry) = self.due.get_mut(chunk) {
            *entry = due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_chunk_is_looked_at_when_its_oldest_entry_is_due_and_not_before() {
        let mut chunks = Chunks::default();
        chunks.fit(Extent { pages: 3 * PAGES, file: 1 });
        assert_eq!((chunks.next(0, SECOND), chunks.next(2, SECOND), chunks.next(3, SECOND)), (Some(0), Some(2), None));
        for (chunk, due) in [(0, 9), (1, 5), (2, 7)] {
            chunks.looked(chunk, due * SECOND);
        }
        assert_eq!(
            (chunks.next(0, 4 * SECOND), chunks.next(0, 5 * SECOND), chunks.next(2, 5 * SECOND)),
            (None, Some(1), None)
        );
    }

    #[test]
    fn pages_that_were_added_are_looked_at_and_another_file_is_read_anew() {
        let mut chunks = Chunks::default();
        chunks.fit(Extent { pages: PAGES, file: 1 });
        chunks.looked(0, 60 * SECOND);
        chunks.fit(Extent { pages: PAGES + 1, file: 1 });
        assert_eq!(chunks.next(0, SECOND), Some(1), "the first is not due, the second is new");
        assert_eq!(Chunks::pages(1), PAGES..2 * PAGES);
        chunks.fit(Extent { pages: PAGES, file: 2 });
        assert_eq!(chunks.next(0, SECOND), Some(0), "after VACUUM FULL everything is somewhere else");
    }
}
