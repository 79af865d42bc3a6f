//! Moves events to the shards of their keys, so that a row that cannot be moved does not stop the others.
//!
//! Such a row stays where it is. If it is waiting, [`set_aside`] records in `outbox_outcomes` what happens to it: it
//! has failed and its key waits behind it in the shard of the key, or it waits behind another event of its key. A retry
//! and a release try to move it again (`rehome.sql`).

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::db::{DbError, Transaction};
use crate::event::ShardId;
use crate::outbox::isolate::{Refused, cut};
use crate::outbox::outcomes::{self, IMMEDIATE, Outcome, answers};
use crate::outbox::{Published, statements as sql};

const TAKE_AHEAD: &str = include_str!("sql/take_ahead.sql");
const STRAYS: &str = include_str!("sql/strays.sql");
const STRAYS_FAILED: &str = include_str!("sql/strays_failed.sql");
const STRAYS_KNOWN: &str = include_str!("sql/strays_known.sql");
const MOVE: &str = include_str!("sql/move.sql");
const MOVE_FAILED: &str = include_str!("sql/move_failed.sql");
const HOLD: &str = include_str!("sql/hold.sql");

/// Rows of one statement. What one that refuses makes PostgreSQL undo is no more than this, twice. A guess.
const PORTION: usize = 10_000;

/// What was done with the rows of a shard, or of all.
#[derive(Debug, Default)]
pub struct Moved {
    pub events: u64,
    /// These stay where they are.
    pub refused: Vec<Refused<i64>>,
}

impl Moved {
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.refused.extend(other.refused);
    }

    /// `work` on portions of `ids`, without the rows that make it fail.
    async fn over<F>(tx: &Transaction<'_>, ids: &[i64], mut work: impl FnMut(Vec<i64>) -> F) -> Result<Self, DbError>
    where
        F: Future<Output = Result<u64, DbError>>,
    {
        let mut moved = Self::default();
        for portion in ids.chunks(PORTION) {
            let cut = cut(tx, portion, Duration::MAX, &mut work).await?;
            moved.add(Self { events: cut.done.iter().sum(), refused: cut.refused });
        }
        Ok(moved)
    }
}

/// Finds out whether the table lets rows be moved at all. Changes nothing.
pub(super) async fn attempt(tx: &Transaction<'_>) -> Result<(), DbError> {
    tx.query_one(MOVE, &[&Vec::<i64>::new()]).await?;
    Ok(())
}

/// Marks what is published ahead of the watermark of each shard.
pub(super) async fn mark_ahead(tx: &Transaction<'_>) -> Result<(), DbError> {
    let published = ids(&tx.query(TAKE_AHEAD, &[]).await?)?;
    let published: Vec<_> = published.into_iter().map(Published::somewhere).collect();
    outcomes::publish(tx, &published).await
}

/// Moves FAILED events, and those that failed or wait by their outcome. Of the latter, those that refuse keep the
/// outcome that they have.
pub(super) async fn failed(tx: &Transaction<'_>) -> Result<Moved, DbError> {
    tx.batch_execute(IMMEDIATE).await?;
    let strays = ids(&tx.query(STRAYS_FAILED, &[]).await?)?;
    let work = |part: Vec<i64>| async move {
        let moved = tx.execute(MOVE_FAILED, &[&part]).await?;
        expect_moved(tx, &part).await?;
        Ok(moved)
    };
    let mut moved = Moved::over(tx, &strays, work).await?;
    moved.add(move_all(tx, &ids(&tx.query(STRAYS_KNOWN, &[]).await?)?).await?);
    Ok(moved)
}

/// Moves what waits in a shard.
pub(super) async fn waiting(tx: &Transaction<'_>, shard: ShardId) -> Result<Moved, DbError> {
    tx.batch_execute(IMMEDIATE).await?;
    move_all(tx, &ids(&tx.query(STRAYS, &[&shard]).await?)?).await
}

async fn move_all(tx: &Transaction<'_>, strays: &[i64]) -> Result<Moved, DbError> {
    let work = |part: Vec<i64>| async move {
        let moved: i64 = tx.query_one(MOVE, &[&part]).await?.try_get("moved")?;
        expect_moved(tx, &part).await?;
        Ok(u64::try_from(moved).unwrap_or(0))
    };
    Moved::over(tx, strays, work).await
}

/// Errors: a trigger of someone else's has skipped a row without an error.
async fn expect_moved(tx: &Transaction<'_>, ids: &[i64]) -> Result<(), DbError> {
    tx.execute(sql::REHOME, &[&ids]).await?;
    Ok(())
}

/// Records what happens to events that could not be moved, now that the held keys are in the right shards.
pub(super) async fn set_aside(tx: &Transaction<'_>, refused: &[Refused<i64>]) -> Result<(), DbError> {
    if refused.is_empty() {
        return Ok(());
    }
    let codes: HashMap<i64, SqlState> = answers(refused.to_vec(), Vec::new()).collect();
    let ids: Vec<i64> = refused.iter().map(|refused| refused.item).collect();
    let mut kept = Vec::with_capacity(ids.len());
    for row in tx.query(HOLD, &[&ids]).await? {
        let (id, failed): (i64, bool) = (row.try_get("id")?, row.try_get("failed")?);
        let Some(code) = codes.get(&id).cloned() else { continue };
        kept.push(if failed {
            let reason = format!(
                "unchangeable: the row refuses to be moved to the shard of its key (SQLSTATE {}); \
                 mend it, then retry the event",
                code.code()
            );
            Outcome::failed(id, reason, code)
        } else {
            Outcome::held(id, code)
        });
    }
    outcomes::keep(tx, &kept).await?;
    Ok(())
}

fn ids(rows: &[tokio_postgres::Row]) -> Result<Vec<i64>, DbError> {
    rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
}
