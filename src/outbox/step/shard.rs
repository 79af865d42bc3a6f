//! The row of a shard: locked at the beginning of a step, and what is known of the shard until its end.

use tokio_postgres::Row;

use super::super::{Claim, Fence, LastBatch, OutboxError, PgOutbox, Source, Watermark};
use super::{Outcome, Part};
use crate::db::Transaction;

const FENCE: &str = include_str!("sql/fence.sql");
const FENCE_FREE: &str = concat!(include_str!("sql/fence.sql"), " skip locked");

/// How long a transaction of several shards waits for the lock of a row. Whoever holds it keeps all of them waiting;
/// alone, each waits for as long as it may.
const TOGETHER_LOCK_TIMEOUT: &str = "set local lock_timeout = '200ms'";

/// What becomes of a shard whose row another session has locked, or that another instance owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// The step waits for the lock; the shard of another instance is an error.
    Wait,
    /// The step leaves it out. Alone, the shard will wait, or find out that it is fenced.
    Skip,
}

/// The row of a shard, locked for this transaction.
pub(super) struct Locked {
    pub(super) server: i64,
    pub(super) low_id: i64,
    pub(super) batch_seq: i64,
    pub(super) batch_rows: Option<i32>,
    pub(super) watermark: Watermark,
    pub(super) has_requeued: bool,
    pub(super) any_outcomes: bool,
    pub(super) any_held: bool,
    pub(super) release_due: bool,
}

impl Locked {
    fn read(row: &Row) -> Self {
        Self {
            server: row.get("server"),
            low_id: row.get("low_id"),
            batch_seq: row.get("batch_seq"),
            batch_rows: row.get("batch_rows"),
            watermark: Watermark::new(row.get("done_id"), row.get("ahead_ids")),
            has_requeued: row.get("has_requeued"),
            any_outcomes: row.get("any_outcomes"),
            any_held: row.get("any_held"),
            release_due: row.get("release_due"),
        }
    }

    pub(super) fn last(&self) -> LastBatch {
        LastBatch { seq: self.batch_seq, in_flight: self.batch_rows.is_some() }
    }

    /// The caller knows the last batch, if it matters.
    fn check(self, fence: Fence, claim: &Claim<'_>) -> Outcome<Self> {
        let found = self.last();
        match claim.expected.filter(|expected| *expected != found) {
            Some(expected) => Outcome::Failed(OutboxError::Moved { shard: fence.shard, expected, found }),
            None => Outcome::Done(self),
        }
    }
}

impl PgOutbox {
    /// Locks the shards, all of one owner, in one statement.
    pub(super) async fn lock<J>(
        &self,
        tx: &Transaction<'_>,
        parts: &[Part<'_, J>],
        lock: Lock,
    ) -> Result<Vec<Outcome<Locked>>, OutboxError> {
        let Some(owner) = parts.first().map(|part| part.fence.owner) else { return Ok(Vec::new()) };
        let shards: Vec<_> = parts.iter().map(|part| part.fence.shard).collect();
        let epochs: Vec<_> = parts.iter().map(|part| part.fence.epoch).collect();
        let fence = async |sql| tx.query(&tx.prepare_cached(sql).await?, &[&owner, &shards, &epochs]).await;
        let rows = match lock {
            Lock::Wait => fence(FENCE).await?,
            // The fence waits for no lock then, so it does not matter which of the two comes first.
            Lock::Skip => tokio::try_join!(tx.batch_execute(TOGETHER_LOCK_TIMEOUT), fence(FENCE_FREE))?.1,
        };
        let locked = |part: &Part<'_, J>| {
            let row = rows.iter().find(|row| row.get::<_, i16>("shard") == part.fence.shard);
            match (row, lock) {
                (None, Lock::Wait) => Err(OutboxError::Fenced(part.fence)),
                (None, Lock::Skip) => Ok(Outcome::NotTried),
                (Some(_), Lock::Skip) if self.is_for_alone(part) => Ok(Outcome::NotTried),
                (Some(row), Lock::Wait | Lock::Skip) => Ok(Locked::read(row).check(part.fence, &part.claim)),
            }
        };
        parts.iter().map(locked).collect()
    }

    /// Rows that make a statement fail are looked for in steps of one shard, and so is a manifest resumed, which may
    /// have to be postponed.
    fn is_for_alone<J>(&self, part: &Part<'_, J>) -> bool {
        self.watch.is_on(part.fence.shard) || matches!(part.claim.source, Source::Manifest(_))
    }
}

/// A shard between what is written before the claim and after it.
pub(super) struct Open<'a> {
    pub(super) fence: Fence,
    pub(super) claim: Claim<'a>,
    pub(super) last: LastBatch,
    /// On this server.
    pub(super) horizon: i64,
    pub(super) low_id: i64,
    pub(super) batch_rows: Option<i32>,
    /// As it was found.
    pub(super) before: Watermark,
    pub(super) watermark: Watermark,
    pub(super) has_requeued: bool,
    pub(super) any_outcomes: bool,
    pub(super) any_held: bool,
    /// Rows that have changed state without being published.
    pub(super) moved: u64,
}

impl Open<'_> {
    /// Where the claim begins, and the highest id to claim.
    pub(super) fn range(&self) -> (i64, i64) {
        (self.low_id, if self.claim.strict { self.horizon } else { i64::MAX })
    }

    /// Nothing is claimed but what waits above `low_id`, and no row of that is to be left out.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.claim.source, Source::Waiting) && !self.has_requeued && !self.any_outcomes
    }

    /// Whether some rows of the previous batch are neither settled here nor part of the new batch: it has `others`.
    pub(super) fn leaves_rows(&self, others: usize) -> bool {
        self.batch_rows.is_some_and(|rows| (others as i64) < i64::from(rows))
    }

    pub(super) fn resends(&self) -> bool {
        matches!(self.claim.source, Source::Manifest(_))
    }
}
