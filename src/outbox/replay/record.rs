//! The row of a replay in `outbox_replays`: begun, read, taken over.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::filter::Filter;
use crate::db::{DbError, Pool, StoredTime, Transaction};
use crate::outbox::audit::{self, Author};
use crate::outbox::jobs::{self, Handle, New};
use crate::outbox::locks::BEGIN_REPLAY;

const BEGIN_ALONE: &str = include_str!("sql/begin_alone.sql");
const CREATE: &str = include_str!("sql/create.sql");
const SHOW: &str = include_str!("sql/show.sql");
const TAKE: &str = include_str!("sql/take.sql");

/// A replay as `outbox_replays` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub id: Uuid,
    pub filter: Filter,
    /// False: another version wrote a filter that this one does not understand, and it must not be guessed at.
    pub readable: bool,
    pub to_topic: Option<String>,
    pub new_ids: bool,
    pub rate: Option<i32>,
    pub upto_id: i64,
    pub last_id: i64,
    /// Counted before the first copy.
    pub matched: i64,
    pub copied: i64,
    pub created_at: Timestamp,
    pub finished: bool,
}

impl Replay {
    /// Whether the same was asked for.
    pub fn is_same(&self, other: &Self) -> bool {
        self.readable
            && self.filter.same(&other.filter)
            && (&self.to_topic, self.new_ids) == (&other.to_topic, other.new_ids)
    }
}

/// Whether a replay could begin.
#[derive(Debug)]
pub enum Begun {
    /// It has begun; `None` where it is not recorded as a job.
    Ours(Option<Handle>),
    /// The same one is unfinished. Nothing was changed.
    Same(Box<Replay>),
}

/// Records a replay that starts, who asked for it, and `job`. Of two processes that start the same one at the same
/// time, the second finds the first, unless it is to begin `again`.
pub async fn create(
    pool: &Pool,
    replay: &mut Replay,
    runner: Uuid,
    author: &Author,
    again: bool,
    job: Option<&New>,
) -> Result<Begun, DbError> {
    let filter = serde_json::to_value(&replay.filter).unwrap_or_default();
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    if !again {
        tx.query_one(BEGIN_ALONE, &[&BEGIN_REPLAY]).await?;
        let unfinished = tx.query(SHOW, &[&None::<Uuid>]).await?;
        let same = unfinished.iter().map(read).find(|other| other.is_same(replay));
        if let Some(same) = same {
            tx.rollback().await?;
            connection.done();
            return Ok(Begun::Same(Box::new(same)));
        }
    }
    let params: [&(dyn ToSql + Sync); 10] = [
        &replay.id,
        &filter,
        &replay.to_topic,
        &replay.new_ids,
        &replay.rate,
        &replay.upto_id,
        &replay.matched,
        &author.actor,
        &author.reason,
        &runner,
    ];
    let row = tx.query_one(CREATE, &params).await?;
    let created_at = row.get("created_at");
    audit::record(&tx, author, "replay", &details(replay)).await?;
    let handle = match job {
        Some(new) => Some(jobs::create(&tx, new, author).await?),
        None => None,
    };
    tx.commit().await?;
    connection.done();
    replay.created_at = created_at;
    Ok(Begun::Ours(handle))
}

/// The replay with this id, or with `None` every one that is not finished, the newest first.
pub async fn show(pool: &Pool, id: Option<Uuid>) -> Result<Vec<Replay>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(SHOW, &[&id]).await?;
    connection.done();
    Ok(rows.iter().map(read).collect())
}

/// Whether a replay could be taken over.
#[derive(Debug)]
pub enum Taken {
    /// `None` where it is not recorded as a job.
    Ours(Box<Replay>, Option<Handle>),
    /// There is none, or it is finished.
    Finished,
    /// A process is at work on its job. Nothing was changed.
    Busy,
}

/// How a replay is taken over.
#[derive(Debug, Clone, Copy)]
pub struct TakeOver<'a> {
    pub id: Uuid,
    pub runner: Uuid,
    /// Another rate from now on.
    pub rate: Option<i32>,
    pub author: &'a Author,
    /// The job to record it as, if there is none yet; `None`: it is not recorded.
    pub job: Option<&'a New>,
    /// Also from a process that is still at work.
    pub take_over: bool,
}

/// Makes an unfinished replay that of another process, and its job with it.
pub async fn take(pool: &Pool, how: TakeOver<'_>) -> Result<Taken, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let row = tx.query_opt(TAKE, &[&how.id, &how.runner, &how.rate]).await?;
    let Some(replay) = row.as_ref().map(read) else {
        tx.rollback().await?;
        connection.done();
        return Ok(Taken::Finished);
    };
    audit::record(&tx, how.author, "replay resumed", &details(&replay)).await?;
    let handle = match how.job {
        None => None,
        Some(new) => match take_job(&tx, new, how).await? {
            Some(handle) => Some(handle),
            None => {
                tx.rollback().await?;
                connection.done();
                return Ok(Taken::Busy);
            }
        },
    };
    tx.commit().await?;
    connection.done();
    Ok(Taken::Ours(Box::new(replay), handle))
}

/// `None`: a process is at work on it.
async fn take_job(tx: &Transaction<'_>, new: &New, how: TakeOver<'_>) -> Result<Option<Handle>, DbError> {
    let take = jobs::Take { id: how.id, author: how.author, take_over: how.take_over };
    match jobs::take(tx, take).await? {
        Some(handle) => Ok(Some(handle)),
        // A replay of an older version, or one whose job was deleted since.
        None if !jobs::exists(tx, how.id).await? => Ok(Some(jobs::create(tx, new, how.author).await?)),
        None => Ok(None),
    }
}

fn read(row: &Row) -> Replay {
    // Not even every number of jsonb is one of ours.
    let filter = row.try_get("filter").ok().and_then(|filter| serde_json::from_value(filter).ok());
    Replay {
        id: row.get("id"),
        readable: filter.is_some(),
        filter: filter.unwrap_or_default(),
        to_topic: row.get("to_topic"),
        new_ids: row.get("new_ids"),
        rate: row.get("rate"),
        upto_id: row.get("upto_id"),
        last_id: row.get("last_id"),
        matched: row.get("matched"),
        copied: row.get("copied"),
        created_at: row.get::<_, StoredTime>("created_at").clamped(),
        finished: row.get::<_, Option<StoredTime>>("finished_at").is_some(),
    }
}

pub(super) fn details(replay: &Replay) -> Value {
    serde_json::json!({
        "replay": replay.id.to_string(),
        "filter": replay.filter.for_audit(),
        "to_topic": replay.to_topic,
        "new_ids": replay.new_ids,
        "upto_id": replay.upto_id,
        "matched": replay.matched,
        "copied": replay.copied,
    })
}
