//! What became of events whose row cannot be changed. Normally none; see `migrations/V8__outcomes.sql`.
//!
//! Invariant: an outcome is written in the transaction that would have changed the row, under the fence of the shard.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::care::Budget;
use super::isolate::{Refused, cut};
use super::{Published, statements as sql};
use crate::clock::monotonic;
use crate::db::{DbError, Pool, Transaction};
use crate::event::{EventStatus, Place};
use crate::failpoint::{Fault, fault};

const EXPECT_LEFT: &str = include_str!("outcomes/sql/expect_left.sql");
const OUTCOMES_GIVE_UP: &str = include_str!("outcomes/sql/give_up.sql");
const OUTCOMES_FORGET: &str = include_str!("outcomes/sql/forget.sql");
const OUTCOMES_KEEP: &str = include_str!("outcomes/sql/keep.sql");
const OUTCOMES_MEND: &str = include_str!("outcomes/sql/mend.sql");
const OUTCOMES_PUBLISHED: &str = include_str!("outcomes/sql/published.sql");
const OUTCOMES_REOPEN: &str = include_str!("outcomes/sql/reopen.sql");

/// What is stored about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) id: i64,
    pub(super) status: EventStatus,
    pub(super) sqlstate: SqlState,
    pub(super) last_error: Option<String>,
    pub(super) place: Option<Place>,
    pub(super) letter: Option<DueLetter>,
}

/// A dead letter that is to be written of an event whose row cannot say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueLetter {
    pub(super) to: String,
    /// The topic that the event was for, if that is known.
    pub(super) from: Option<String>,
}

impl Outcome {
    /// Published, and the row does not say so.
    pub(super) fn published(event: Published, sqlstate: SqlState) -> Self {
        let Published { id, place } = event;
        Self { id, status: EventStatus::Published, sqlstate, last_error: None, place, letter: None }
    }

    pub(super) fn failed(id: i64, last_error: String, sqlstate: SqlState) -> Self {
        Self { id, status: EventStatus::Failed, sqlstate, last_error: Some(last_error), place: None, letter: None }
    }

    /// It waits behind another event of its key.
    pub(super) fn held(id: i64, sqlstate: SqlState) -> Self {
        Self { id, status: EventStatus::Held, sqlstate, last_error: None, place: None, letter: None }
    }
}

/// What the row answered; of those that there was no time for, that there was none.
pub(super) fn answers<T>(refused: Vec<Refused<T>>, left: Vec<T>) -> impl Iterator<Item = (T, SqlState)> {
    let refused = refused.into_iter().map(|row| (row.item, row.sqlstate.unwrap_or(SqlState::INTERNAL_ERROR)));
    refused.chain(left.into_iter().map(|item| (item, SqlState::QUERY_CANCELED)))
}

/// Notes outcomes. Returns of how many events: those that are finished, or gone, are left out.
pub(super) async fn keep(tx: &Transaction<'_>, outcomes: &[Outcome]) -> Result<u64, DbError> {
    if outcomes.is_empty() || fault(Fault::OutcomeNotStored) {
        return Ok(0);
    }
    let ids: Vec<i64> = outcomes.iter().map(|outcome| outcome.id).collect();
    let states: Vec<&str> = outcomes.iter().map(|outcome| outcome.status.as_str()).collect();
    let codes: Vec<&str> = outcomes.iter().map(|outcome| outcome.sqlstate.code()).collect();
    let errors: Vec<Option<&str>> = outcomes.iter().map(|outcome| outcome.last_error.as_deref()).collect();
    let attempts: Vec<i32> = outcomes.iter().map(|outcome| i32::from(outcome.status == EventStatus::Failed)).collect();
    let (partitions, offsets): (Vec<Option<i32>>, Vec<Option<i64>>) = outcomes
        .iter()
        .map(|outcome| (outcome.place.map(|place| place.partition), outcome.place.map(|place| place.offset)))
        .unzip();
    let letters = outcomes.iter().map(|outcome| outcome.letter.as_ref());
    let (to, from): (Vec<Option<&str>>, Vec<Option<&str>>) =
        letters.map(|letter| (letter.map(|due| due.to.as_str()), letter.and_then(|due| due.from.as_deref()))).unzip();
    let params: [&(dyn ToSql + Sync); 9] =
        [&ids, &states, &codes, &errors, &attempts, &partitions, &offsets, &to, &from];
    tx.execute(&tx.prepare_cached(OUTCOMES_KEEP).await?, &params).await
}

/// An event whose outcome does not say any more that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reopened {
    pub(super) id: i64,
    /// Its row is HELD, and has to be changed as well.
    pub(super) row_waits: bool,
}

/// Lets rows of FAILED events count again, so that they are tried once more, or gives events up for good whose rows do
/// not say so. The rows of their shards must be locked.
pub(super) async fn reopen(tx: &Transaction<'_>, ids: &[i64], retry: bool) -> Result<Vec<Reopened>, DbError> {
    let rows = tx.query(&tx.prepare_cached(OUTCOMES_REOPEN).await?, &[&ids, &retry]).await?;
    rows.iter().map(|row| Ok(Reopened { id: row.try_get("id")?, row_waits: row.try_get("row_waits")? })).collect()
}

/// Records that events were discarded whose rows cannot be changed. The rows of their shards must be locked. Returns
/// which: events that are neither failed nor waiting are left out.
pub(super) async fn give_up(tx: &Transaction<'_>, refused: &[Refused<i64>]) -> Result<Vec<i64>, DbError> {
    let internal = SqlState::INTERNAL_ERROR;
    let (ids, codes): (Vec<i64>, Vec<&str>) =
        refused.iter().map(|row| (row.item, row.sqlstate.as_ref().unwrap_or(&internal).code())).unzip();
    let rows = tx.query(OUTCOMES_GIVE_UP, &[&ids, &codes]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Constraints that are put off to the commit are checked with each statement, where the row can be found.
pub(super) const IMMEDIATE: &str = "set constraints all immediate";

/// Sees to it that rows have left these states, in the transaction that has changed them. Errors: SQLSTATE 27000 if one
/// has not.
pub(super) async fn expect_left(tx: &Transaction<'_>, ids: &[i64], states: &[EventStatus]) -> Result<(), DbError> {
    let states: Vec<&str> = states.iter().map(|status| status.as_str()).collect();
    tx.execute(EXPECT_LEFT, &[&ids, &states]).await?;
    Ok(())
}

/// Rows of one statement of [`publish`]. What a row that refuses makes PostgreSQL undo is no more than this, twice. A
/// guess.
const PUBLISHED_TOGETHER: usize = 10_000;

/// Marks rows PUBLISHED outside of a step. The outcome of a row that cannot be changed is stored.
pub(super) async fn publish(tx: &Transaction<'_>, published: &[Published]) -> Result<(), DbError> {
    if published.is_empty() {
        return Ok(());
    }
    tx.batch_execute(IMMEDIATE).await?;
    let mark = |part: Vec<Published>| async move {
        let ids: Vec<i64> = part.iter().map(|event| event.id).collect();
        let (partitions, offsets): (Vec<Option<i32>>, Vec<Option<i64>>) =
            part.iter().map(|event| event.place.map(|place| (place.partition, place.offset)).unzip()).unzip();
        tx.execute(sql::SETTLE_PUBLISHED, &[&ids, &partitions, &offsets]).await?;
        expect_left(tx, &ids, &[EventStatus::Pending]).await
    };
    for portion in published.chunks(PUBLISHED_TOGETHER) {
        let cut = cut(tx, portion, Duration::MAX, &mark).await?;
        let kept: Vec<_> =
            answers(cut.refused, cut.left).map(|(event, code)| Outcome::published(event, code)).collect();
        keep(tx, &kept).await?;
    }
    Ok(())
}

/// Published events whose rows are tried again at once.
const MENDED_TOGETHER: i64 = 100;
/// How long that may take.
const MEND_TIME: Duration = Duration::from_secs(3);

/// Tries to write outcomes to their rows, after the id `after`: whatever kept the rows from being changed may be gone.
/// Returns where to go on, 0 at the end.
pub async fn mend(pool: &Pool, after: i64) -> Result<i64, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let rows = tx.query(&tx.prepare_cached(OUTCOMES_PUBLISHED).await?, &[&after, &MENDED_TOGETHER]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if !ids.is_empty() {
        Budget::new(MEND_TIME, false).limit(&tx).await?;
        let statement = &tx.prepare_cached(OUTCOMES_MEND).await?;
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
    let forgotten = connection.execute(OUTCOMES_FORGET, &[]).await?;
    connection.done();
    Ok(forgotten)
}
