//! The outbox table as lanes use it: types, and queries about shards. The transaction of a batch is in `step/`.
//!
//! What a record looks like is up to `relay::encode`, and how it reaches Kafka is up to `broker`. Knows no Kafka.
//! Invariants: a statement that changes a shard's rows runs under [`Fence`], in the transaction that locked the shard's
//! row. Events are settled by id list, never by range, because a lower id may be committed later.

pub mod audit;
pub mod backlog;
pub mod barrier;
pub mod cleanup;
pub mod dead_letters;
pub mod failure;
pub mod grants;
pub mod home;
pub mod inspect;
pub mod isolate;
pub mod jobs;
pub mod leases;
pub mod outcomes;
pub mod partitions;
pub mod pauses;
pub mod preflight;
pub mod recovery;
pub mod replay;
pub mod resharding;
pub mod restart;
pub mod retry_discard;
pub mod watermark;

mod care;
mod claim;
mod doubt;
mod locks;
mod manifest;
mod release;
mod rows;
mod settle;
mod statements;
mod step;
mod tag;
mod triage;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::db::{DbError, Pool};
use crate::event::ShardId;
use barrier::Reached;
use care::Watch;
use failure::FailurePolicy;
pub use settle::{Published, Settlement};
use statements as sql;
pub use step::{Outcome, Part};
pub use tag::BatchTag;
pub use triage::{Screening, TopicWait};
use watermark::Watermark;

/// The right to change a shard's rows: this owner, in this epoch. A new owner raises the epoch, and every statement of
/// the former one then finds no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub shard: ShardId,
    pub owner: Uuid,
    pub epoch: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another instance owns the shard. Nothing was changed.
    #[error("shard {} was taken over by another instance after epoch {}", .0.shard, .0.epoch)]
    Fenced(Fence),
    /// The shard's last batch is not the one the caller knows of. Nothing was changed.
    #[error("the last batch of shard {shard} is {found:?}, and {expected:?} was expected")]
    Moved { shard: ShardId, expected: LastBatch, found: LastBatch },
    /// An update left some rows unchanged without raising an error: a foreign trigger. Nothing was changed.
    #[error("an update of outbox_events changed no rows; look for triggers that are not part of the relay")]
    Unchanged,
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
    /// The next pending events.
    Waiting,
    /// The events of a batch that was in flight.
    Manifest(&'a [i64]),
    /// Nothing: only settle.
    Nothing,
}

/// The last batch of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
    /// Release events of held keys that are due. Not while the claim cannot proceed anyway, or all events of a key
    /// would be released and get in the way of others.
    pub release: bool,
    /// Upper limit for `low_id` and the watermark. It is ignored on a server other than the one it was found on.
    pub horizon: Reached,
    /// Advance `low_id`, which costs a statement where rows are marked.
    pub move_low_id: bool,
    /// Claim nothing above the horizon.
    pub strict: bool,
    /// The numbers of batches go to Kafka, in the transactions of their records.
    pub numbered: bool,
    /// Whether the row of the shard says so from now on. A batch that was sent without a marker stays one until it is
    /// settled.
    pub marked: bool,
    /// Kafka has not committed the batch in flight and never will: its rows may be claimed again, and the next batch
    /// takes over its number.
    pub forget: bool,
    /// The last batch as the caller knows it; `None` if it does not matter.
    pub expected: Option<LastBatch>,
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub rows: NonZeroU32,
    pub bytes: u64,
    pub record_bytes: u64,
    /// Average size of rows, 0 if unknown. Only a hint at how many will fit.
    pub row_bytes: u64,
}

/// An event to publish.
#[derive(Debug)]
pub struct Claimed<R> {
    pub id: i64,
    pub record: R,
}

/// A claimed batch. Its ids are in the manifest of the shard, so a successor sends the same events in the same order.
#[derive(Debug)]
pub struct Batch<R> {
    pub seq: i64,
    /// Where numbers go to Kafka ([`Claim::numbered`]).
    pub tag: Option<BatchTag>,
    pub events: Vec<Claimed<R>>,
}

/// What one step found.
#[derive(Debug)]
pub struct Step<R> {
    pub batch: Option<Batch<R>>,
    /// Rows that changed state without being published (failed, held, released): there may be more to claim at once.
    pub moved: u64,
    /// Acknowledged events whose row was no longer PENDING: someone changed or deleted it by hand.
    pub missing: u64,
    /// The claim returned as many rows or bytes as it may.
    pub full: bool,
    /// Average size of the claimed rows; `None` if there are none.
    pub row_bytes: Option<u64>,
    /// The last batch of the shard from now on.
    pub last: LastBatch,
    /// An inherited batch could not be resumed yet ([`Screening::Stop`]): nothing was written, and the manifest is
    /// unchanged.
    pub postponed: bool,
    /// The lease was renewed, to its full length from this moment on the monotonic clock.
    pub leased_at: Option<Duration>,
}

/// The state of a shard, as its owner reads it after an interruption.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShardState {
    pub batch_seq: i64,
    pub batch_ids: Option<Vec<i64>>,
    /// The number of the batch goes, or went, to Kafka in the transaction of its records.
    pub marked: bool,
    /// `None`: an older version has claimed it, or at-least-once delivery.
    pub tag: Option<BatchTag>,
    /// Which `transactional.id` its producer has.
    pub producer: i32,
}

/// Whose outbox this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Random, made with the schema.
    pub id: Uuid,
    pub shards: usize,
}

/// What happens to the row of a published event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SettleMode {
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
    settle_mode: SettleMode,
    watch: Arc<Watch>,
}

impl PgOutbox {
    /// `pool` belongs to [`Role::Lane`](crate::db::Role::Lane). `lease` is the length to which each batch renews the
    /// shard's lease. `policy` decides about events that fail. Rows of published events are marked.
    pub fn new(pool: Pool, lease: Duration, policy: Arc<dyn FailurePolicy>) -> Self {
        Self { pool, lease, policy, settle_mode: SettleMode::Mark, watch: Arc::default() }
    }

    #[must_use]
    pub fn settling(self, settle_mode: SettleMode) -> Self {
        Self { settle_mode, ..self }
    }

    /// How long a step that renews the lease does so for.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The shard's manifest, to find out whether a commit whose answer was lost took effect.
    pub async fn state(&self, fence: Fence) -> Result<ShardState, OutboxError> {
        let connection = self.pool.get().await?;
        let row = connection.query_opt(sql::SHARD_STATE, &[&fence.shard, &fence.owner, &fence.epoch]).await?;
        let Some(row) = row else { return Err(OutboxError::Fenced(fence)) };
        let batch_seq = row.get("batch_seq");
        let state = ShardState {
            batch_seq,
            batch_ids: row.get("batch_ids"),
            marked: row.get("marked"),
            tag: BatchTag::of_batch(row.get("batch_tag"), batch_seq),
            producer: row.get("producer_generation"),
        };
        connection.done();
        Ok(state)
    }

    /// Switches a shard to the next `transactional.id`, after the one with this number. If the answer is lost,
    /// [`PgOutbox::state`] tells which one counts.
    pub async fn next_producer(&self, fence: Fence, from: i32) -> Result<i32, OutboxError> {
        let connection = self.pool.get().await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&fence.shard, &fence.owner, &fence.epoch, &from];
        let row = connection.query_opt(sql::NEXT_PRODUCER, &params).await?;
        let Some(row) = row else { return Err(OutboxError::Fenced(fence)) };
        let producer = row.get("producer_generation");
        connection.done();
        Ok(producer)
    }

    pub async fn installation(&self) -> Result<Installation, DbError> {
        let connection = self.pool.get().await?;
        let row = connection.query_one(sql::INSTALLATION, &[]).await?;
        let shards = usize::try_from(row.get::<_, i64>("shards")).unwrap_or(0);
        let installation = Installation { id: row.get("id"), shards };
        connection.done();
        Ok(installation)
    }

    /// Which of these idle shards have work: up to the id `ceiling`, or because no row can appear any more up to
    /// `horizon`.
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
