//! The outbox as `outbox-relay recover` sees it: what a shard was doing when PostgreSQL and Kafka diverged, and how it
//! resumes.
//!
//! Writes only to shards that nobody owns, and records every change in `outbox_audit`.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::audit::{self, Author};
use super::statements::{INSTALLATION, REQUEUE};
use super::{BatchTag, Published, outcomes};
use crate::db::{DbError, Pool, StoredTime, stored_text};
use crate::event::{Place, ShardId};

const SHARDS: &str = include_str!("recovery/sql/shards.sql");
const CANDIDATES: &str = include_str!("recovery/sql/candidates.sql");
const KNOWN: &str = include_str!("recovery/sql/known.sql");
const SHARD: &str = include_str!("recovery/sql/shard.sql");

/// A shard and its last batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub shard: ShardId,
    pub batch_seq: i64,
    pub in_flight: Option<Vec<i64>>,
    pub marked: bool,
    pub tag: Option<BatchTag>,
    /// An instance has it, and its lease is not over.
    pub owned: bool,
}

/// A PENDING row that may be in Kafka already.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub id: i64,
    /// The row that this one is the dead letter of, which is the one that its record names.
    pub dead_letter_of: Option<i64>,
    pub event_id: Uuid,
    pub shard: ShardId,
    /// `None`: routing decides.
    pub topic: Option<String>,
    pub created_at: Timestamp,
}

/// A row that was found in Kafka: id, partition, offset.
pub type FoundRow = (i64, i32, i64);

pub async fn shards(pool: &Pool) -> Result<Vec<Shard>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(SHARDS, &[]).await?;
    connection.done();
    Ok(rows
        .iter()
        .map(|row| {
            let batch_seq = row.get("batch_seq");
            Shard {
                shard: row.get("shard"),
                batch_seq,
                in_flight: row.get("batch_ids"),
                marked: row.get("marked"),
                tag: BatchTag::of_batch(row.get("batch_tag"), batch_seq),
                owned: row.get("owned"),
            }
        })
        .collect())
}

/// The name of this outbox in markers.
pub async fn installation(pool: &Pool) -> Result<Uuid, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(INSTALLATION, &[]).await?;
    connection.done();
    Ok(row.get("id"))
}

/// PENDING rows of the shards, of the batch in flight alone if `in_flight`. About 100 bytes of memory for each.
pub async fn candidates(pool: &Pool, shards: &[ShardId], in_flight: bool) -> Result<Vec<Candidate>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(CANDIDATES, &[&shards, &in_flight]).await?;
    connection.done();
    rows.iter()
        .map(|row| {
            Ok(Candidate {
                id: row.try_get("id")?,
                dead_letter_of: row.try_get("dead_letter_of")?,
                event_id: row.try_get("event_id")?,
                shard: row.try_get("shard")?,
                topic: stored_text(row, "topic")?,
                created_at: row.try_get::<_, StoredTime>("created_at")?.clamped(),
            })
        })
        .collect()
}

/// How many of these events the outbox has, by id and event_id.
pub async fn known(pool: &Pool, events: &[(i64, Uuid)]) -> Result<usize, DbError> {
    let (ids, event_ids): (Vec<i64>, Vec<Uuid>) = events.iter().copied().unzip();
    let connection = pool.get().await?;
    let row = connection.query_one(KNOWN, &[&ids, &event_ids]).await?;
    connection.done();
    Ok(usize::try_from(row.get::<_, i64>("known")).unwrap_or(0))
}

/// Marks the rows that were found and lets the shard resume, in one transaction. False if the shard has an owner by now
/// or has moved on; then nothing was changed. A repeat after a lost answer returns false.
pub async fn apply(
    pool: &Pool,
    shard: &Shard,
    marker: Option<i64>,
    found: &[FoundRow],
    author: &Author,
) -> Result<bool, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    if tx.execute(SHARD, &[&shard.shard, &marker.unwrap_or(0), &shard.batch_seq]).await? == 0 {
        tx.rollback().await?;
        connection.done();
        return Ok(false);
    }
    let ids: Vec<i64> = found.iter().map(|(id, _, _)| *id).collect();
    let published: Vec<_> =
        found.iter().map(|&(id, partition, offset)| Published::at(id, Place { partition, offset })).collect();
    outcomes::publish(&tx, &published).await?;
    // The watermark has passed them, and now no manifest says that they wait.
    tx.execute(REQUEUE, &[&shard.in_flight.as_deref().unwrap_or_default()]).await?;
    let details: Value = serde_json::json!({
        "shard": shard.shard,
        "batch": shard.batch_seq,
        "marker": marker,
        "in_flight": shard.in_flight,
        "marked_published": ids,
    });
    audit::record(&tx, author, "recover", &details).await?;
    tx.commit().await?;
    connection.done();
    Ok(true)
}
