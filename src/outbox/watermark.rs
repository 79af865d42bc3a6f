//! How far a shard is when published rows are not marked: every row up to `done_id` is published, and so are those in `ahead`.
//!
//! Rows that failed, are held or wait again are known by other means (their status, `outbox_again`), so `done_id` passes them.
//! Invariants: `done_id` never falls, and never passes an id that may still appear; `ahead` is in order and above it.

use super::OutboxError;
use super::statements as sql;
use crate::db::{DbError, Pool, Transaction};

const NOTE_PROGRESS: &str = include_str!("sql/note_progress.sql");

/// Notes how far the shards are, if the last note is a minute old. Any instance may do it for all.
pub async fn note_progress(pool: &Pool) -> Result<(), DbError> {
    let connection = pool.get().await?;
    connection.execute(NOTE_PROGRESS, &[]).await?;
    connection.done();
    Ok(())
}

/// Published rows that may be ahead of `done_id` at once. They are read and written with every batch, so when a transaction that stays open
/// keeps `done_id` back for long, they are marked one by one instead.
const AHEAD_MAX: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermark {
    done_id: i64,
    ahead: Vec<i64>,
}

impl Watermark {
    /// `ahead` is in order.
    pub fn new(done_id: i64, ahead: Vec<i64>) -> Self {
        Self { done_id, ahead }
    }

    pub fn done_id(&self) -> i64 {
        self.done_id
    }

    pub fn ahead(&self) -> &[i64] {
        &self.ahead
    }

    /// These rows are published. Those that `done_id` has passed before, and that waited again, need no note.
    pub fn publish(&mut self, ids: impl Iterator<Item = i64>) {
        let done_id = self.done_id;
        self.ahead.extend(ids.filter(|id| *id > done_id));
        self.ahead.sort_unstable();
        self.ahead.dedup();
    }

    /// Moves `done_id`. `first_waiting` is the lowest id of the shard above it that is visible, waits and is not among `ahead`
    /// (`i64::MAX` for none), read after `horizon` was reached: an id up to which no row can appear any more.
    pub fn advance(&mut self, first_waiting: i64, horizon: i64) {
        self.done_id = self.done_id.max(horizon.min(first_waiting.saturating_sub(1)));
        let passed = self.ahead.partition_point(|id| *id <= self.done_id);
        self.ahead.drain(..passed);
    }

    /// The rows to mark one by one because there are too many of them, or `all`.
    fn surplus(&mut self, all: bool) -> Vec<i64> {
        if all || self.ahead.len() > AHEAD_MAX { std::mem::take(&mut self.ahead) } else { Vec::new() }
    }

    /// Marks rows ahead of `done_id` that are too many, or `all` of them.
    pub(super) async fn mark_surplus(&mut self, tx: &Transaction<'_>, all: bool) -> Result<(), OutboxError> {
        let ids = self.surplus(all);
        if !ids.is_empty() {
            let (partitions, offsets) = (vec![None::<i32>; ids.len()], vec![None::<i64>; ids.len()]);
            tx.execute(&tx.prepare_cached(sql::SETTLE_PUBLISHED).await?, &[&ids, &partitions, &offsets]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_stops_before_what_waits_and_at_the_horizon() {
        let mut watermark = Watermark::default();
        watermark.publish([3, 5, 9].into_iter());
        watermark.advance(7, 100);
        assert_eq!(watermark, Watermark::new(6, vec![9]));
        watermark.advance(i64::MAX, 8);
        assert_eq!(watermark, Watermark::new(8, vec![9]));
        watermark.advance(i64::MAX, 20);
        assert_eq!(watermark, Watermark::new(20, vec![]));
        watermark.publish([4].into_iter());
        watermark.advance(10, 15);
        assert_eq!(watermark, Watermark::new(20, vec![]), "it never falls, and what it has passed needs no note");
    }

    #[test]
    fn too_many_rows_ahead_are_marked() {
        let mut watermark = Watermark::default();
        watermark.publish(1..=AHEAD_MAX as i64);
        assert!(watermark.surplus(false).is_empty());
        watermark.publish([1_000].into_iter());
        assert_eq!(watermark.surplus(false).len(), AHEAD_MAX + 1);
        watermark.publish([1_001].into_iter());
        assert_eq!(watermark.surplus(true), [1_001]);
    }

    proptest! {
        /// Rows become visible in any order. What is published, and nothing else, lies at or below `done_id` or in `ahead`.
        #[test]
        fn it_knows_what_is_published(commits in proptest::collection::vec(1_i64..60, 1..60), batch in 1_usize..5, lag in 0_usize..20) {
            let (mut visible, mut published) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            let mut watermark = Watermark::default();
            for (index, id) in commits.iter().enumerate() {
                visible.insert(*id);
                // Every id below the lowest that is yet to come can appear no more.
                let coming = commits[index + 1..].iter().filter(|id| !visible.contains(id)).min().copied().unwrap_or(60);
                let horizon = (coming - 1).saturating_sub(lag as i64);
                let waiting: Vec<i64> = visible
                    .iter()
                    .copied()
                    .filter(|id| *id > watermark.done_id() && watermark.ahead().binary_search(id).is_err())
                    .collect();
                prop_assert!(waiting.iter().all(|id| !published.contains(id)));
                prop_assert_eq!(waiting.len() + published.len(), visible.len());
                watermark.advance(waiting.first().copied().unwrap_or(i64::MAX), horizon);
                let sent: Vec<i64> = waiting.into_iter().take(batch).collect();
                published.extend(sent.iter().copied());
                watermark.publish(sent.into_iter());
            }
        }
    }
}
