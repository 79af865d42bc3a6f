//! A portion of a replay: copies and progress in one transaction.

use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::filter::{MATCHES, conditions};
use super::pace::Pace;
use super::record::{Replay, details};
use crate::db::fragments::assemble;
use crate::db::{DbError, Pool, Transaction};
use crate::outbox::audit::{self, Author};
use crate::outbox::inspect::is_timeout;
use crate::outbox::isolate::{self, Blame, MayBlame};
use crate::outbox::jobs::{self, Advance, Handle, Part};

static COPY: LazyLock<String> = LazyLock::new(|| assemble(include_str!("sql/copy.sql"), &[MATCHES]));
const LOCK: &str = include_str!("sql/lock.sql");
const NEXT: &str = include_str!("sql/next.sql");
const PROGRESS: &str = include_str!("sql/progress.sql");

/// Stored bytes of one portion, so that rows of a megabyte do not make a transaction of gigabytes.
const PORTION_BYTES: i64 = 16 * 1024 * 1024;

/// How often a single copy fails with an error by which PostgreSQL blames itself before other copies are tried, the
/// wait in between, and how many others are tried. Guesses: a deadlock is over sooner.
const DOUBTS: u32 = 3;
const DOUBT_WAIT: Duration = Duration::from_millis(500);
const PROBES: u32 = 20;

/// Whoever makes the copies.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    pub runner: Uuid,
    /// `None` where the replay is not recorded as a job.
    pub job: Option<Handle>,
    pub author: &'a Author,
}

/// What a portion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portion {
    Done,
    /// The table does not take a copy of this row, because of a constraint or a trigger. The replay has gone past it.
    Refused {
        id: i64,
        reason: String,
    },
    /// Another process has taken the replay. Nothing was changed.
    Taken,
}

/// Looks at the next window of a replay and copies what matches, in one transaction. `replay` is moved on with it.
///
/// After [`DbError::Unavailable`] the portion may have been committed; the row in `outbox_replays` knows, and the next
/// call goes by it.
pub async fn portion(pool: &Pool, replay: &mut Replay, by: By<'_>, pace: &mut Pace) -> Result<Portion, DbError> {
    let mut doubts = 0;
    loop {
        match try_portion(pool, replay, by, pace).await {
            Err(error) if is_timeout(&error) && pace.slow() => {}
            // Some row of the window cannot be copied: the window shrinks to it.
            Err(error) if error.blame() != Blame::Nobody => {
                if pace.slow() {
                    continue;
                }
                if error.blame() == Blame::Doubtful {
                    doubts += 1;
                    if doubts < DOUBTS {
                        tokio::time::sleep(DOUBT_WAIT).await;
                        continue;
                    }
                    if !copies_of_others_pass(pool, replay).await? {
                        return Err(error);
                    }
                }
                return skip(pool, replay, by, &error).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether another event can be copied, so that an error by which PostgreSQL blames itself is about the next one alone.
/// The first event of the replay and some behind the next one are tried, and taken back.
async fn copies_of_others_pass(pool: &Pool, replay: &Replay) -> Result<bool, DbError> {
    let mut after = 0;
    for tried in 0..=PROBES {
        let mut connection = pool.get().await?;
        let tx = connection.transaction().await?;
        match tx.query_one(COPY.as_str(), &copy_params(replay, &after, &Pace::new(1))).await {
            Ok(row) if row.get::<_, i64>("copied") > 0 => {
                tx.rollback().await?;
                connection.done();
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if error.blame() == Blame::Nobody => return Err(error),
            Err(_) => {}
        }
        tx.rollback().await?;
        let from = if tried == 0 { replay.last_id } else { after };
        let next = connection.query_one(NEXT, &[&from, &replay.upto_id, &replay.filter.ids]).await?;
        connection.done();
        let Some(next) = next.get("next_id") else { return Ok(false) };
        after = next;
    }
    Ok(false)
}

/// The parameters of the statement that copies.
fn copy_params<'p>(replay: &'p Replay, after: &'p i64, pace: &'p Pace) -> Vec<&'p (dyn ToSql + Sync)> {
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![after, &replay.upto_id, &pace.rows];
    params.extend(conditions(&replay.filter));
    params.extend([
        &pace.copies as &(dyn ToSql + Sync),
        &PORTION_BYTES,
        &replay.to_topic,
        &replay.new_ids,
        &replay.created_at,
    ]);
    params
}

/// Goes past the next row, which the table does not take a copy of.
async fn skip(pool: &Pool, replay: &mut Replay, by: By<'_>, why: &DbError) -> Result<Portion, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let Some(row) = tx.query_opt(LOCK, &[&replay.id, &by.runner]).await? else {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    };
    let last: i64 = row.get("last_id");
    let next: Option<i64> = tx.query_one(NEXT, &[&last, &replay.upto_id, &replay.filter.ids]).await?.get("next_id");
    let reached = next.unwrap_or(replay.upto_id);
    let finished = next.is_none() || reached >= replay.upto_id;
    tx.execute(PROGRESS, &[&replay.id, &reached, &0_i64, &finished]).await?;
    (replay.last_id, replay.finished) = (reached, finished);
    if !recorded(&tx, replay, by).await? {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    }
    tx.commit().await?;
    connection.done();
    match next {
        Some(id) => Ok(Portion::Refused { id, reason: isolate::reason(why.sqlstate()) }),
        None => Ok(Portion::Done),
    }
}

async fn try_portion(pool: &Pool, replay: &mut Replay, by: By<'_>, pace: &mut Pace) -> Result<Portion, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let Some(row) = tx.query_opt(LOCK, &[&replay.id, &by.runner]).await? else {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    };
    // The row knows better than we do, if the answer to a commit was lost.
    (replay.last_id, replay.copied, replay.finished) = (row.get("last_id"), row.get("copied"), row.get("finished"));
    if replay.finished {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Done);
    }
    let row = tx.query_one(COPY.as_str(), &copy_params(replay, &replay.last_id, pace)).await?;
    let (copied, seen): (i64, i64) = (row.get("copied"), row.get("seen"));
    let reached = row.get::<_, Option<i64>>("last_id").unwrap_or(replay.upto_id);
    let finished = (seen < pace.rows && !row.get::<_, bool>("cut")) || reached >= replay.upto_id;
    tx.execute(PROGRESS, &[&replay.id, &reached, &copied, &finished]).await?;
    (replay.last_id, replay.copied, replay.finished) = (reached, replay.copied + copied, finished);
    if !recorded(&tx, replay, by).await? {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    }
    tx.commit().await?;
    connection.done();
    pace.met(copied);
    Ok(Portion::Done)
}

/// Records what the portion did. False: the job was lost.
async fn recorded(tx: &Transaction<'_>, replay: &Replay, by: By<'_>) -> Result<bool, DbError> {
    if replay.finished {
        audit::record(tx, by.author, "replay finished", &details(replay)).await?;
    }
    match by.job {
        None => Ok(true),
        Some(job) => jobs::advance(tx, job, &progress(replay)).await,
    }
}

/// How far a replay is, as its job has it.
pub fn progress(replay: &Replay) -> Advance {
    let count = |events: i64| u64::try_from(events).unwrap_or(0);
    let part = Part { what: "copied".to_owned(), done: count(replay.copied), total: count(replay.matched) };
    let result = serde_json::json!({ "matched": replay.matched, "copied": replay.copied });
    Advance { parts: vec![part], cursor: None, result }
}
