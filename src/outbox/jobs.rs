//! Jobs: long-running commands and how far each is, in `outbox_jobs`. Anybody who reads the table can list, cancel and
//! resume them, wherever they were started.
//!
//! A process that works on a job renews a lease every second; after it the job counts as stalled. Invariants: every
//! write of a process names its epoch and its own id, so a process that lost the job changes nothing more; where a
//! command works in portions, progress is written in the transaction of the portion ([`advance`]). No key, aggregate id
//! or payload is stored here.

mod runner;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit::{self, Author};
use crate::db::{DbError, Pool, StoredTime, stored_text};
pub use runner::{
    Advance, Beat, End, Ending, Handle, New, Recordable, Take, advance, beat, begin, create, end, exists, recordable,
    resume, take,
};

const CANCEL: &str = include_str!("jobs/sql/cancel.sql");
const LIST: &str = include_str!("jobs/sql/list.sql");
const UNFINISHED: &str = include_str!("jobs/sql/unfinished.sql");

/// Which command a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Replay,
    Cleanup,
    /// `dlq redrive`
    Redrive,
    /// `shards set`
    Reshard,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Replay, Self::Cleanup, Self::Redrive, Self::Reshard];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Cleanup => "cleanup",
            Self::Redrive => "redrive",
            Self::Reshard => "reshard",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    /// Somebody has cancelled it, and its process is finishing the portion under way.
    Cancelling,
    /// Its process has not renewed the lease: it was killed, frozen or cut off from PostgreSQL.
    Stalled,
    Cancelled,
    Done,
    Failed,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Cancelling, Self::Stalled, Self::Cancelled, Self::Done, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Stalled => "stalled",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// How far one part of the work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Follows the figures: `1200 of 5000 copied`.
    pub what: String,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
}

/// A job as the table has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: Uuid,
    pub kind: String,
    /// `None`: another version has written a state that this one does not know.
    pub state: Option<State>,
    pub state_name: String,
    pub actor: String,
    pub reason: Option<String>,
    pub run_by: String,
    pub cancelled_by: Option<String>,
    pub epoch: i64,
    /// `None`, here and below: not there, or larger than anything that we write.
    pub arguments: Option<Value>,
    /// Empty where they cannot be read.
    pub parts: Vec<Part>,
    pub cursor: Option<Value>,
    pub result: Option<Value>,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub started_at: StoredTime,
    pub resumed_at: Option<StoredTime>,
    pub updated_at: StoredTime,
    pub ended_at: Option<StoredTime>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all.
    pub states: Vec<State>,
    /// Empty: all.
    pub kinds: Vec<Kind>,
    pub limit: u32,
}

/// The newest jobs first.
pub async fn list(pool: &Pool, filter: &Filter) -> Result<Vec<Job>, DbError> {
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let kinds: Vec<&str> = filter.kinds.iter().map(|kind| kind.as_str()).collect();
    let (states, kinds) = ((!states.is_empty()).then_some(states), (!kinds.is_empty()).then_some(kinds));
    let connection = pool.get().await?;
    let rows = connection.query(LIST, &[&None::<Uuid>, &states, &kinds, &i64::from(filter.limit)]).await?;
    connection.done();
    rows.iter().map(job).collect()
}

/// The job with this id.
pub async fn find(pool: &Pool, id: Uuid) -> Result<Option<Job>, DbError> {
    let connection = pool.get().await?;
    let none = None::<Vec<&str>>;
    let row = connection.query_opt(LIST, &[&Some(id), &none, &none, &1_i64]).await?;
    connection.done();
    row.as_ref().map(job).transpose()
}

/// The newest job of a kind with these arguments that is not done.
pub async fn unfinished(pool: &Pool, kind: Kind, arguments: &Value) -> Result<Option<Uuid>, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_opt(UNFINISHED, &[&kind.as_str(), arguments]).await?;
    connection.done();
    Ok(row.map(|row| row.get("id")))
}

/// What a request to cancel has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The process that works on it has been asked to stop.
    Asked,
    /// No process was at work on it. It has ended.
    Ended,
    /// There is no such job, or it had ended before.
    Nothing,
}

/// Cancels a job, and records who asked for it.
pub async fn cancel(pool: &Pool, id: Uuid, author: &Author) -> Result<Cancelled, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let row = tx.query_opt(CANCEL, &[&id, &author.actor]).await?;
    let cancelled = match row.map(|row| row.get::<_, String>("state")) {
        None => Cancelled::Nothing,
        Some(state) if state == State::Cancelled.as_str() => Cancelled::Ended,
        Some(_) => Cancelled::Asked,
    };
    if cancelled != Cancelled::Nothing {
        audit::record(&tx, author, "job cancelled", &serde_json::json!({ "job": id.to_string() })).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(cancelled)
}

fn job(row: &Row) -> Result<Job, DbError> {
    let text = |column| Ok::<_, DbError>(stored_text(row, column)?.unwrap_or_default());
    let state_name = text("state")?;
    // Not every number of jsonb is one of ours.
    let json = |column| row.try_get::<_, Option<Value>>(column).ok().flatten();
    Ok(Job {
        id: row.try_get("id")?,
        kind: text("kind")?,
        state: State::from_name(&state_name),
        state_name,
        actor: text("actor")?,
        reason: stored_text(row, "reason")?,
        run_by: text("run_by")?,
        cancelled_by: stored_text(row, "cancelled_by")?,
        epoch: row.try_get("epoch")?,
        arguments: json("arguments"),
        parts: json("parts").and_then(|parts| serde_json::from_value(parts).ok()).unwrap_or_default(),
        cursor: json("cursor"),
        result: json("result"),
        error_code: stored_text(row, "error_code")?,
        error: stored_text(row, "error")?,
        hint: stored_text(row, "hint")?,
        started_at: row.try_get("started_at")?,
        resumed_at: row.try_get("resumed_at")?,
        updated_at: row.try_get("updated_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}
