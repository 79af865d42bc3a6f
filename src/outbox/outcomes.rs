//! What became of events whose row refuses to be changed. Normally none; see `migrations/V8__outcomes.sql`.
//!
//! Invariant: an outcome is written in the transaction that would have changed the row, under the fence of the shard.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::OutboxError;
use super::care::Budget;
use super::isolate::{Refused, cut};
use super::statements as sql;
use crate::clock::monotonic;
use crate::db::{DbError, Pool, Transaction};

/// What is noted of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) id: i64,
    pub(super) status: &'static str,
    pub(super) sqlstate: SqlState,
    pub(super) last_error: Option<String>,
    pub(super) place: Option<(i32, i64)>,
}

impl Outcome {
    /// Published, and the row does not say so.
    pub(super) fn published(id: i64, place: Option<(i32, i64)>, sqlstate: SqlState) -> Self {
        Self { id, status: "PUBLISHED", sqlstate, last_error: None, place }
    }

    pub(super) fn failed(id: i64, last_error: String, sqlstate: SqlState) -> Self {
        Self { id, status: "FAILED", sqlstate, last_error: Some(last_error), place: None }
    }

    /// It waits behind another event of its key.
    pub(super) fn held(id: i64, sqlstate: SqlState) -> Self {
        Self { id, status: "HELD", sqlstate, last_error: None, place: None }
    }
}

/// What the row answered; of those that there was no time for, that there was none.
pub(super) fn answers<T>(refused: Vec<Refused<T>>, left: Vec<T>) -> impl Iterator<Item = (T, SqlState)> {
    let refused = refused.into_iter().map(|row| (row.item, row.sqlstate.unwrap_or(SqlState::INTERNAL_ERROR)));
    refused.chain(left.into_iter().map(|item| (item, SqlState::QUERY_CANCELED)))
}

/// Notes outcomes. Returns of how many events: those that are finished, or gone, are left out.
pub(super) async fn keep(tx: &Transaction<'_>, outcomes: &[Outcome]) -> Result<u64, OutboxError> {
    if outcomes.is_empty() {
        return Ok(0);
    }
    let ids: Vec<i64> = outcomes.iter().map(|outcome| outcome.id).collect();
    let states: Vec<&str> = outcomes.iter().map(|outcome| outcome.status).collect();
    let codes: Vec<&str> = outcomes.iter().map(|outcome| outcome.sqlstate.code()).collect();
    let errors: Vec<Option<&str>> = outcomes.iter().map(|outcome| outcome.last_error.as_deref()).collect();
    let attempts: Vec<i32> = outcomes.iter().map(|outcome| i32::from(outcome.status == "FAILED")).collect();
    let (partitions, offsets): (Vec<Option<i32>>, Vec<Option<i64>>) =
        outcomes.iter().map(|outcome| (outcome.place.map(|place| place.0), outcome.place.map(|place| place.1))).unzip();
    let params: [&(dyn ToSql + Sync); 7] = [&ids, &states, &codes, &errors, &attempts, &partitions, &offsets];
    Ok(tx.execute(&tx.prepare_cached(sql::OUTCOMES_KEEP).await?, &params).await?)
}

/// Lets rows of FAILED events count again, so that they are tried once more, or gives events up for good whose rows do not say so. The rows of
/// their shards must be locked. Returns how many there were.
pub(super) async fn reopen(tx: &Transaction<'_>, ids: &[i64], retry: bool) -> Result<u64, DbError> {
    let row = tx.query_one(&tx.prepare_cached(sql::OUTCOMES_REOPEN).await?, &[&ids, &retry]).await?;
    Ok(u64::try_from(row.get::<_, i64>("events")).unwrap_or(0))
}

/// Published events whose rows are tried again at once.
const MENDED_TOGETHER: i64 = 100;
/// How long that may take.
const MEND_TIME: Duration = Duration::from_secs(3);

/// Tries to write outcomes to their rows, after the id `after`: whatever kept the rows from being changed may be gone. Returns where to go on,
/// 0 at the end.
pub async fn mend(pool: &Pool, after: i64) -> Result<i64, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let rows = tx.query(&tx.prepare_cached(sql::OUTCOMES_PUBLISHED).await?, &[&after, &MENDED_TOGETHER]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if !ids.is_empty() {
        Budget::new(MEND_TIME).limit(&tx).await?;
        let statement = &tx.prepare_cached(sql::OUTCOMES_MEND).await?;
        let mending = &tx;
        let mend = |ids: Vec<i64>| async move { mending.execute(statement, &[&ids]).await };
        cut(&tx, &ids, monotonic() + MEND_TIME, mend).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(if (ids.len() as i64) < MENDED_TOGETHER { 0 } else { ids.last().copied().unwrap_or(0) })
}

/// Forgets those of events that are gone or were changed since, so that they cost nothing any more. Returns how many.
pub async fn forget(pool: &Pool) -> Result<u64, DbError> {
    let connection = pool.get().await?;
    let forgotten = connection.execute(sql::OUTCOMES_FORGET, &[]).await?;
    connection.done();
    Ok(forgotten)
}
