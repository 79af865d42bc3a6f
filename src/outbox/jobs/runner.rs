//! What the process that works on a job writes: its start, its portions, signs of life and its end.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Kind, Part, State};
use crate::db::{Connection, DbError, Pool, Transaction};
use crate::outbox::audit::{self, Author};

const ADVANCE: &str = include_str!("sql/advance.sql");
const BEAT: &str = include_str!("sql/beat.sql");
const CREATE: &str = include_str!("sql/create.sql");
const END: &str = include_str!("sql/end.sql");
const EXISTS: &str = include_str!("sql/exists.sql");
const MAY_RECORD: &str = include_str!("sql/may_record.sql");
const TAKE: &str = include_str!("sql/take.sql");

/// A process that has not been heard of for this long counts as gone. Many times the interval of its signs of life, so
/// that a slow server or a busy host is not taken for a death. Being wrong is harmless: it is fenced.
const LEASE: Duration = Duration::from_secs(15);

/// The right to work on a job: this process, in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    pub id: Uuid,
    runner: Uuid,
    epoch: i64,
}

/// A job that starts.
#[derive(Debug, Clone)]
pub struct New {
    pub id: Uuid,
    pub kind: Kind,
    pub arguments: Value,
    pub parts: Vec<Part>,
    pub cursor: Option<Value>,
}

/// Whether this role can record jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recordable {
    Yes,
    /// The schema is older than the table.
    NoTable,
    NoGrants,
}

/// Asked before anything is written, since a failed statement would end the transaction of the work.
pub async fn recordable(pool: &Pool) -> Result<Recordable, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(MAY_RECORD, &[]).await?;
    connection.done();
    Ok(match (row.try_get("exists")?, row.try_get("granted")?) {
        (false, _) => Recordable::NoTable,
        (true, false) => Recordable::NoGrants,
        (true, true) => Recordable::Yes,
    })
}

/// Records a job that starts.
pub async fn create(tx: &Transaction<'_>, new: &New, author: &Author) -> Result<Handle, DbError> {
    let handle = Handle { id: new.id, runner: Uuid::new_v4(), epoch: 1 };
    let params: [&(dyn ToSql + Sync); 10] = [
        &new.id,
        &new.kind.as_str(),
        &new.arguments,
        &author.actor,
        &author.reason,
        &json(&new.parts),
        &new.cursor,
        &handle.runner,
        &run_by(author),
        &LEASE.as_secs_f64(),
    ];
    tx.execute(CREATE, &params).await?;
    Ok(handle)
}

/// How a job is taken from the process that worked on it before.
#[derive(Debug, Clone, Copy)]
pub struct Take<'a> {
    pub id: Uuid,
    pub author: &'a Author,
    /// Also from a process that is still at work.
    pub take_over: bool,
}

/// Makes a job ours. `None`: there is no such job, it is done, or a process works on it.
pub async fn take(tx: &Transaction<'_>, how: Take<'_>) -> Result<Option<Handle>, DbError> {
    let Take { id, author, take_over } = how;
    let runner = Uuid::new_v4();
    let row = tx.query_opt(TAKE, &[&id, &runner, &run_by(author), &LEASE.as_secs_f64(), &take_over]).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Handle { id, runner, epoch: row.try_get("epoch")? }))
}

/// Whether there is a job with this id.
pub async fn exists(tx: &Transaction<'_>, id: Uuid) -> Result<bool, DbError> {
    Ok(tx.query_opt(EXISTS, &[&id]).await?.is_some())
}

/// As [`take`], in a transaction of its own, which also records who asked for it.
pub async fn resume(pool: &Pool, how: Take<'_>) -> Result<Option<Handle>, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let taken = take(&tx, how).await?;
    if let Some(handle) = taken {
        let details = serde_json::json!({ "job": handle.id.to_string(), "epoch": handle.epoch });
        audit::record(&tx, how.author, "job resumed", &details).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(taken)
}

/// As [`create`], in a transaction of its own.
pub async fn begin(pool: &Pool, new: &New, author: &Author) -> Result<Handle, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let handle = create(&tx, new, author).await?;
    tx.commit().await?;
    connection.done();
    Ok(handle)
}

/// What a portion has achieved, counted from the start of the job.
#[derive(Debug, Clone)]
pub struct Advance {
    pub parts: Vec<Part>,
    /// `None` leaves it as it was.
    pub cursor: Option<Value>,
    pub result: Value,
}

/// Records a portion, in its transaction. False: the job was lost, and the transaction must be rolled back.
pub async fn advance(tx: &Transaction<'_>, handle: Handle, to: &Advance) -> Result<bool, DbError> {
    let statement = tx.prepare_cached(ADVANCE).await?;
    let params: [&(dyn ToSql + Sync); 7] =
        [&handle.id, &handle.runner, &handle.epoch, &json(&to.parts), &to.cursor, &to.result, &LEASE.as_secs_f64()];
    Ok(tx.execute(&statement, &params).await? > 0)
}

/// The answer to a sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    Ours,
    /// Somebody has cancelled the job: end it after the portion under way.
    Cancelling {
        by: String,
    },
    /// Another process has the job, or it was cancelled while this process was not heard of.
    Lost,
}

/// A sign of life. `parts`: how far it is, where no transaction records that.
pub async fn beat(pool: &Pool, handle: Handle, parts: Option<&[Part]>) -> Result<Beat, DbError> {
    let connection = pool.get().await?;
    let beat = beat_on(&connection, handle, parts).await?;
    connection.done();
    Ok(beat)
}

async fn beat_on(connection: &Connection, handle: Handle, parts: Option<&[Part]>) -> Result<Beat, DbError> {
    let parts = parts.map(json);
    let params: [&(dyn ToSql + Sync); 5] = [&handle.id, &handle.runner, &handle.epoch, &LEASE.as_secs_f64(), &parts];
    let Some(row) = connection.query_opt(&connection.prepare_cached(BEAT).await?, &params).await? else {
        return Ok(Beat::Lost);
    };
    Ok(match row.try_get("cancelling")? {
        false => Beat::Ours,
        true => Beat::Cancelling { by: row.try_get::<_, Option<String>>("cancelled_by")?.unwrap_or_default() },
    })
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum Ending<'a> {
    Done,
    Cancelled {
        /// If nobody has said so in the table: whoever stopped the process.
        by: &'a str,
    },
    Failed {
        code: &'static str,
        error: String,
        hint: Option<&'a str>,
    },
}

#[derive(Debug, Clone)]
pub struct End<'a> {
    pub ending: Ending<'a>,
    /// `None`, here and below, leaves it as it was.
    pub parts: Option<&'a [Part]>,
    pub result: Option<Value>,
}

/// Ends a job. False: it was lost before.
pub async fn end(pool: &Pool, handle: Handle, end: &End<'_>) -> Result<bool, DbError> {
    let parts = end.parts.map(json);
    let (state, code, error, hint, by) = match &end.ending {
        Ending::Done => (State::Done, None, None, None, None),
        Ending::Cancelled { by } => (State::Cancelled, None, None, None, Some(*by)),
        Ending::Failed { code, error, hint } => (State::Failed, Some(*code), Some(error.as_str()), *hint, None),
    };
    let connection = pool.get().await?;
    let params: [&(dyn ToSql + Sync); 10] =
        [&handle.id, &handle.runner, &handle.epoch, &state.as_str(), &parts, &end.result, &code, &error, &hint, &by];
    let changed = connection.execute(END, &params).await?;
    connection.done();
    Ok(changed > 0)
}

fn json(parts: &[Part]) -> Value {
    serde_json::to_value(parts).unwrap_or_default()
}

/// The process, for people who look for it.
fn run_by(author: &Author) -> String {
    format!("{} process {}", author.actor, std::process::id())
}
