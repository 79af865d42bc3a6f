//! The outbox table as lanes use it: one transaction that settles a batch and claims the next one, under a fence.
//!
//! Leaves to others what a record looks like (`relay::encode`) and how it reaches Kafka (`broker`). Knows no Kafka.
//! Invariants: a statement that changes a shard's rows runs under [`Fence`], in the transaction that locked the shard's row;
//! events are settled by id list, never by a range, because a lower id may be committed later.

pub mod audit;
pub mod backlog;
pub mod barrier;
pub mod cleanup;
pub mod dead_letters;
pub mod failure;
pub mod inspect;
pub mod leases;
pub mod letters;
pub mod partitions;
pub mod pauses;
pub mod recovery;
pub mod redo;
pub mod replay;
pub mod resharding;
pub mod watermark;

mod claim;
mod locks;
mod rows;
mod settle;
mod sort;
mod statements;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::db::{DbError, Pool};
use crate::event::{OutboxEvent, ShardId};
use crate::failpoint::{self, Point};
use barrier::Reached;
use failure::FailurePolicy;
pub use settle::Settlement;
use sort::sort_out;
pub use sort::{TopicWait, Verdict};
use statements as sql;
use watermark::Watermark;

/// The right to change a shard's rows: this owner, in this epoch. A new owner raises the epoch, and every statement of the
/// former one then finds no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub shard: ShardId,
    pub owner: Uuid,
    pub epoch: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another instance owns the shard. Nothing was changed.
    #[error("shard {} belongs to another instance since epoch {} ended", .0.shard, .0.epoch)]
    Fenced(Fence),
    /// The shard's last batch is not the one that the caller knows of. Nothing was changed.
    #[error("the last batch of shard {shard} is {found:?}, and {expected:?} was expected")]
    Moved { shard: ShardId, expected: LastBatch, found: LastBatch },
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<tokio_postgres::Error> for OutboxError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Where the next batch comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The next events that wait.
    Waiting,
    /// The events of a batch that was in flight.
    Manifest(&'a [i64]),
    /// Nothing: only settle.
    Nothing,
}

/// The last batch of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastBatch {
    pub seq: i64,
    /// It has not been settled.
    pub in_flight: bool,
}

/// What a step has to claim, and how the batch is numbered.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub source: Source<'a>,
    pub limits: Limits,
    /// Release what is due of held keys. Not while the claim cannot go on anyway, or all of a key would be let out into the way of
    /// the others.
    pub release: bool,
    /// `low_id` and the watermark move up to it at most. It counts for nothing on another server than it was found on.
    pub horizon: Reached,
    /// Move `low_id`, which costs a statement where rows are marked.
    pub move_low_id: bool,
    /// Claim nothing above the horizon.
    pub strict: bool,
    /// The numbers of batches go to Kafka, in the transactions of their records.
    pub marked: bool,
    /// Kafka has not committed the batch in flight and never will: its rows may be claimed again, and the next batch takes over
    /// its number.
    pub forget: bool,
    /// The last batch as the caller knows it; `None` if that does not matter.
    pub expected: Option<LastBatch>,
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub rows: NonZeroU32,
    pub bytes: u64,
    pub record_bytes: u64,
    /// What rows take on average, 0 when nothing is known of it. Only a hint how many will fit.
    pub row_bytes: u64,
}

/// An event to publish.
#[derive(Debug)]
pub struct Claimed<R> {
    pub id: i64,
    pub record: R,
}

/// A claimed batch. Its ids stand in the manifest of the shard, so a successor sends the same events in the same order.
#[derive(Debug)]
pub struct Batch<R> {
    pub seq: i64,
    pub events: Vec<Claimed<R>>,
}

/// What one step found.
#[derive(Debug)]
pub struct Step<R> {
    pub batch: Option<Batch<R>>,
    /// Rows that changed state without being published (failed, held, released): there may be more to claim at once.
    pub moved: u64,
    /// Acknowledged events whose row was not PENDING any more: somebody changed or deleted it by hand.
    pub missing: u64,
    /// The claim came back with as many rows, or bytes, as it may have.
    pub full: bool,
    /// What the claimed rows take on average; `None` without any.
    pub row_bytes: Option<u64>,
    /// The last batch of the shard from now on.
    pub last: LastBatch,
    /// An inherited batch could not be taken up yet ([`Verdict::Stop`]): nothing was written, and the manifest stands.
    pub postponed: bool,
}

/// The state of a shard, as its owner reads it after an interruption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    pub batch_seq: i64,
    pub batch_ids: Option<Vec<i64>>,
    /// The number of the batch goes, or went, to Kafka in the transaction of its records.
    pub marked: bool,
}

/// Whose outbox this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Random, made with the schema.
    pub id: Uuid,
    pub shards: usize,
}

/// What becomes of the row of a published event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finish {
    /// It is marked PUBLISHED.
    #[default]
    Mark,
    /// It is deleted.
    Delete,
    /// Nothing: the shard keeps a [`Watermark`].
    Watermark,
}

/// The outbox in PostgreSQL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PgOutbox {
    pool: Pool,
    lease: Duration,
    policy: Arc<dyn FailurePolicy>,
    finish: Finish,
}

impl PgOutbox {
    /// `pool` is of [`Role::Lane`](crate::db::Role::Lane). `lease` is what each batch renews the shard's lease to.
    /// `policy` decides about events that fail. Rows of published events are marked.
    pub fn new(pool: Pool, lease: Duration, policy: Arc<dyn FailurePolicy>) -> Self {
        Self { pool, lease, policy, finish: Finish::Mark }
    }

    #[must_use]
    pub fn finishing(self, finish: Finish) -> Self {
        Self { finish, ..self }
    }

    /// One commit of a lane: checks the fence, settles the batch in hand, claims the next one, writes its manifest.
    ///
    /// `judge` sees the claimed events in id order.
    ///
    /// Errors: [`OutboxError::Fenced`], [`OutboxError::Moved`] and statement errors change nothing. After [`DbError::Unavailable`] the outcome of
    /// the commit is unknown: read [`PgOutbox::state`] and compare `batch_seq`.
    /// Not cancel safe in that sense either: when the future is dropped the commit may or may not have happened.
    pub async fn step<R>(
        &self,
        fence: Fence,
        settlement: &Settlement,
        claim: Claim<'_>,
        mut judge: impl FnMut(&OutboxEvent<'_>) -> Verdict<R>,
    ) -> Result<Step<R>, OutboxError> {
        let Claim { source, limits, .. } = claim;
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        let row =
            tx.query_opt(&tx.prepare_cached(sql::FENCE).await?, &[&fence.shard, &fence.owner, &fence.epoch]).await?;
        let Some(row) = row else { return Err(OutboxError::Fenced(fence)) };
        let horizon = if claim.horizon.server == row.get::<_, i64>("server") { claim.horizon.id } else { 0 };
        let ceiling = if claim.strict { horizon } else { i64::MAX };
        let (mut low_id, batch_seq): (i64, i64) = (row.get("low_id"), row.get("batch_seq"));
        let batch_rows: Option<i32> = row.get("batch_rows");
        let had_batch = batch_rows.is_some();
        let found = LastBatch { seq: batch_seq, in_flight: had_batch };
        if let Some(expected) = claim.expected.filter(|expected| *expected != found) {
            tx.rollback().await?;
            connection.done();
            return Err(OutboxError::Moved { shard: fence.shard, expected, found });
        }
        let (any_held, release_due): (bool, bool) = (row.get("any_held"), row.get("release_due"));

        let mut watermark = Watermark::new(row.get("done_id"), row.get("ahead_ids"));
        let mut any_again: bool = row.get("any_again");
        let before = watermark.clone();
        // Only what this instance does with rows is up to its settings: how far the shard is, is read from what others did, too.
        watermark.mark_surplus(&tx, self.finish != Finish::Watermark).await?;
        let missing = settle::settle(&tx, fence.shard, settlement, &*self.policy, self.finish, &mut watermark).await?;
        if any_again {
            // The watermark passed them long before, and would tell a wrong time.
            let again = watermark::leave_again(&tx, settlement.ids()).await?;
            settle::mark(&tx, settlement.published.iter().filter(|(id, _)| again.contains(id))).await?;
        }
        let mut moved = settlement.failed.len() as u64;
        // Rows of the batch in flight that are neither settled nor in flight any longer.
        let rows_left = |others: usize| batch_rows.is_some_and(|rows| (others as i64) < i64::from(rows));
        if !matches!(source, Source::Manifest(_)) && watermark.done_id() > 0 && rows_left(settlement.len()) {
            watermark::keep_waiting(&tx, fence, settlement.ids()).await?;
            any_again = true;
        }
        if release_due && claim.release && matches!(source, Source::Waiting) {
            // Half of the batch at most, so that released events and the others take turns.
            let portion = i64::from(limits.rows.get() / 2).max(1);
            let params: [&(dyn ToSql + Sync); 3] = [&fence.shard, &portion, &portion];
            let released = tx.query_one(&tx.prepare_cached(sql::RELEASE_DUE).await?, &params).await?;
            low_id = released.get("low_id");
            moved += u64::try_from(released.get::<_, i64>("released")).unwrap_or(0);
            any_again |= watermark.done_id() > 0;
        }

        let ahead = (self.finish == Finish::Watermark).then(|| watermark.ahead());
        let found_rows = claim::rows(&tx, fence.shard, (low_id, ceiling), claim, any_again, ahead).await?;
        let full = found_rows.full;
        let row_bytes = found_rows.bytes.checked_div(found_rows.rows.len() as u64);
        let any_held = any_held || !settlement.failed.is_empty();
        let sorted = sort_out(&tx, fence.shard, found_rows.rows, any_held, &mut judge).await?;
        if sorted.stopped && matches!(source, Source::Manifest(_)) {
            // To be sent again whole or not at all: a part of it would not be the repeat that is promised.
            tx.rollback().await?;
            connection.done();
            return Ok(Step {
                batch: None,
                moved: 0,
                missing: 0,
                full: false,
                row_bytes,
                last: found,
                postponed: true,
            });
        }
        moved += sorted.apply(&tx, fence.shard, &*self.policy).await?;
        if any_again {
            watermark::leave_again(&tx, sorted.moved_ids()).await?;
        }

        let mut new_low_id = low_id;
        if matches!(source, Source::Manifest(_)) && watermark.done_id() > 0 && rows_left(sorted.publish.len()) {
            watermark::keep_waiting(&tx, fence, sorted.publish.iter().map(|event| event.id)).await?;
        }
        if self.finish == Finish::Watermark {
            if let Some(covered) = found_rows.covered {
                watermark.advance(covered.min(sorted.left.map_or(i64::MAX, |left| left - 1)).min(horizon));
                new_low_id = low_id.max(watermark.done_id() + 1);
            }
            watermark.mark_surplus(&tx, false).await?;
        } else if claim.move_low_id {
            let lowest = tx.query_opt(&tx.prepare_cached(sql::LOWEST_PENDING).await?, &[&fence.shard, &low_id]).await?;
            let lowest = lowest.map_or(i64::MAX, |row| row.get(0));
            new_low_id = low_id.max(lowest.min(horizon.saturating_add(1)));
        }

        let last_seq = if claim.forget && had_batch { batch_seq - 1 } else { batch_seq };
        let batch = match source {
            Source::Manifest(_) if !sorted.publish.is_empty() => Some(Batch { seq: batch_seq, events: sorted.publish }),
            Source::Waiting if !sorted.publish.is_empty() => Some(Batch { seq: last_seq + 1, events: sorted.publish }),
            Source::Waiting | Source::Manifest(_) | Source::Nothing => None,
        };
        if batch.is_some() || had_batch || new_low_id != low_id || watermark != before {
            let ids: Option<Vec<i64>> = batch.as_ref().map(|batch| batch.events.iter().map(|event| event.id).collect());
            let seq = batch.as_ref().map_or(last_seq, |batch| batch.seq);
            // A batch that was sent without a marker stays one until it is settled.
            let marked = claim.marked && !matches!(source, Source::Manifest(_));
            let lease = self.lease.as_secs_f64();
            let (done_id, ahead_ids) = (watermark.done_id(), watermark.ahead());
            let params: [&(dyn ToSql + Sync); 10] = [
                &fence.shard,
                &fence.owner,
                &fence.epoch,
                &seq,
                &ids,
                &new_low_id,
                &lease,
                &marked,
                &done_id,
                &ahead_ids,
            ];
            if tx.execute(&tx.prepare_cached(sql::WRITE_MANIFEST).await?, &params).await? == 0 {
                return Err(OutboxError::Fenced(fence));
            }
        }
        failpoint::reach(Point::StepBeforeCommit).map_err(DbError::of_a_test)?;
        tx.commit().await?;
        connection.done();
        failpoint::reach(Point::StepAfterCommit).map_err(DbError::of_a_test)?;
        let last = LastBatch { seq: batch.as_ref().map_or(last_seq, |batch| batch.seq), in_flight: batch.is_some() };
        Ok(Step { batch, moved, missing, full, row_bytes, last, postponed: false })
    }

    /// The shard's manifest, to find out whether a commit whose answer was lost took effect.
    pub async fn state(&self, fence: Fence) -> Result<ShardState, OutboxError> {
        let connection = self.pool.get().await?;
        let row = connection.query_opt(sql::SHARD_STATE, &[&fence.shard, &fence.owner, &fence.epoch]).await?;
        let Some(row) = row else { return Err(OutboxError::Fenced(fence)) };
        let state =
            ShardState { batch_seq: row.get("batch_seq"), batch_ids: row.get("batch_ids"), marked: row.get("marked") };
        connection.done();
        Ok(state)
    }

    pub async fn installation(&self) -> Result<Installation, DbError> {
        let connection = self.pool.get().await?;
        let row = connection.query_one(sql::INSTALLATION, &[]).await?;
        let shards = usize::try_from(row.get::<_, i64>("shards")).unwrap_or(0);
        let installation = Installation { id: row.get("id"), shards };
        connection.done();
        Ok(installation)
    }

    /// Which of these idle shards have something to do: up to the id `ceiling`, or because no row can appear any more up to `horizon`.
    pub async fn due(&self, shards: &[ShardId], ceiling: i64, horizon: i64) -> Result<Vec<ShardId>, DbError> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(sql::SHARDS_DUE).await?;
        let rows = connection.query(&statement, &[&shards, &ceiling, &horizon]).await?;
        connection.done();
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Connections of the lanes: used, idle, allowed.
    pub fn pool_usage(&self) -> (usize, usize, usize) {
        self.pool.usage()
    }
}
