//! The progress of a shard whose published rows are not marked: every row up to `done_id` is published, and so are
//! those in `ahead`.
//!
//! Rows that are in flight, failed, held or waiting again are tracked elsewhere (the manifest, their status,
//! `outbox_again`), so `done_id` passes them, and a claim need not read them twice. Invariants: `done_id` never falls,
//! and never passes an id that may still appear; `ahead` is sorted and above it.

use std::collections::HashSet;

use super::care::Care;
use super::settle::mark;
use super::statements as sql;
use super::{Fence, OutboxError, Published};
use crate::db::{DbError, Pool, Transaction};

const NOTE_PROGRESS: &str = include_str!("watermark/sql/note_progress.sql");
const TAKE_OFF: &str = include_str!("watermark/sql/take_off.sql");

/// Records the progress of the shards, if the last record is a minute old. Any instance may do it for all.
pub async fn note_progress(pool: &Pool) -> Result<(), DbError> {
    let connection = pool.get().await?;
    connection.execute(NOTE_PROGRESS, &[]).await?;
    connection.done();
    Ok(())
}

/// Published rows that may be ahead of `done_id` at once. They are read and written with every batch, so when a
/// transaction that stays open keeps `done_id` back for long, they are marked one by one instead.
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

    /// These rows are published. Those that `done_id` has already passed, and that were waiting again, need no entry.
    pub fn publish(&mut self, ids: impl Iterator<Item = i64>) {
        let done_id = self.done_id;
        self.ahead.extend(ids.filter(|id| *id > done_id));
        self.ahead.sort_unstable();
        self.ahead.dedup();
    }

    /// Advances `done_id` to `covered`. Every row of the shard up to there is not waiting, or is in flight, or is
    /// listed in `outbox_again`; and no row can appear there any more.
    pub fn advance(&mut self, covered: i64) {
        self.done_id = self.done_id.max(covered);
        let passed = self.ahead.partition_point(|id| *id <= self.done_id);
        self.ahead.drain(..passed);
    }

    /// The rows to mark one by one because there are too many of them, or `all`.
    fn surplus(&mut self, all: bool) -> Vec<i64> {
        if all || self.ahead.len() > AHEAD_MAX { std::mem::take(&mut self.ahead) } else { Vec::new() }
    }

    /// Marks rows ahead of `done_id` that are too many, or `all` of them.
    pub(super) async fn mark_surplus(
        &mut self,
        tx: &Transaction<'_>,
        care: Care,
        all: bool,
    ) -> Result<(), OutboxError> {
        let published: Vec<_> = self.surplus(all).into_iter().map(Published::somewhere).collect();
        mark(tx, care, published.iter()).await?;
        Ok(())
    }
}

/// Takes events off the list of those that wait again: they are published, have failed or are held. Returns those that
/// were on it.
pub(super) async fn take_off(
    tx: &Transaction<'_>,
    ids: impl Iterator<Item = i64>,
) -> Result<HashSet<i64>, OutboxError> {
    let ids: Vec<i64> = ids.collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = tx.query(&tx.prepare_cached(TAKE_OFF).await?, &[&ids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Before the manifest of a shard is replaced: its events wait again, except for those in `settled`, which are
/// published, have failed or stay in flight.
pub(super) async fn requeue(
    tx: &Transaction<'_>,
    fence: Fence,
    settled: impl Iterator<Item = i64>,
) -> Result<(), OutboxError> {
    let statement = tx.prepare_cached(sql::SHARD_STATE).await?;
    let state = tx.query_one(&statement, &[&fence.shard, &fence.owner, &fence.epoch]).await?;
    let settled: HashSet<i64> = settled.collect();
    let mut ids: Vec<i64> = state.get::<_, Option<Vec<i64>>>("batch_ids").unwrap_or_default();
    ids.retain(|id| !settled.contains(id));
    tx.execute(&tx.prepare_cached(sql::REQUEUE).await?, &[&ids]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_never_falls_and_forgets_what_it_has_passed() {
        let mut watermark = Watermark::default();
        watermark.publish([3, 5, 9].into_iter());
        watermark.advance(6);
        assert_eq!(watermark, Watermark::new(6, vec![9]));
        watermark.advance(4);
        assert_eq!(watermark, Watermark::new(6, vec![9]));
        watermark.publish([4].into_iter());
        assert_eq!(watermark, Watermark::new(6, vec![9]), "what it has passed needs no note");
        watermark.advance(20);
        assert_eq!(watermark, Watermark::new(20, vec![]));
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
        /// Rows become visible in any order, in any number between two steps. What is published or in flight, and
        /// nothing else, lies at or below `done_id` or in `ahead`.
        #[test]
        fn it_knows_what_is_published(
            commits in proptest::collection::vec(1_i64..60, 1..60),
            each in 1_usize..4,
            batch in 1_usize..5,
            lag in 0_i64..20,
        ) {
            let (mut visible, mut taken) = (BTreeSet::new(), BTreeSet::new());
            let (mut watermark, mut in_flight) = (Watermark::default(), Vec::new());
            for (index, ids) in commits.chunks(each).enumerate() {
                visible.extend(ids.iter().copied());
                // Every id below the lowest that is yet to come can appear no more.
                let later = commits.iter().skip((index + 1) * each);
                let coming = later.filter(|id| !visible.contains(id)).min().copied().unwrap_or(60);
                let horizon = coming - 1 - lag;
                watermark.publish(in_flight.drain(..));
                let waiting: Vec<i64> = visible
                    .iter()
                    .copied()
                    .filter(|id| *id > watermark.done_id() && watermark.ahead().binary_search(id).is_err())
                    .collect();
                prop_assert!(waiting.iter().all(|id| !taken.contains(id)), "published twice");
                prop_assert_eq!(waiting.len() + taken.len(), visible.len(), "lost");
                in_flight = waiting.iter().copied().take(batch).collect();
                taken.extend(in_flight.iter().copied());
                let read_up_to = if waiting.len() >= batch { in_flight.last().copied().unwrap_or(0) } else { i64::MAX };
                watermark.advance(read_up_to.min(horizon));
            }
        }
    }
}
