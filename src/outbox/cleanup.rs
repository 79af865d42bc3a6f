//! Deleting old, finished rows: the statements, one transaction each, and the session that runs them.
//!
//! When, how fast and how far is up to `crate::cleanup`. Invariants: a row is deleted only in a state that it cannot
//! leave on its own, never while it holds a key or is listed in a manifest; and no PENDING row is ever locked, because
//! a lane skips locked rows. Ages use the database's clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::jobs::{self, Advance, Handle, Part};
use super::locks::{Lead, lead};
use super::statements as sql;
use crate::db::fragments::assemble;
use crate::db::{Connection, DbError, Pool};

const REPLICA_LAG: &str = include_str!("cleanup/sql/replica_lag.sql");
const FINISHED: &str = include_str!("cleanup/sql/finished.sql");
const FAILED: &str = include_str!("cleanup/sql/failed.sql");
const HANDLED: &str = include_str!("cleanup/sql/handled.sql");
const HANDLED_EXTENT: &str = include_str!("cleanup/sql/handled_extent.sql");
static COUNT_FINISHED: LazyLock<String> =
    LazyLock::new(|| assemble(include_str!("cleanup/sql/count_finished.sql"), &[sql::NEXT_ROWS]));
const COUNT_FAILED: &str = include_str!("cleanup/sql/count_failed.sql");
const COUNT_HANDLED: &str = include_str!("cleanup/sql/count_handled.sql");
const JOBS: &str = include_str!("cleanup/sql/jobs.sql");
const PARTITIONS: &str = include_str!("sql/partitions.sql");
const LAST_ID: &str = include_str!("sql/last_id.sql");

/// Jobs that one pass deletes at most. There are a few a day.
const JOBS_MOST: i64 = 1_000;

/// A run of rows by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Begin behind this id.
    pub after: i64,
    /// The highest id.
    pub up_to: i64,
    /// Maximum number of rows to look at.
    pub rows: u32,
}

/// From which age rows of `outbox_events` that need nobody any more go; `None` keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ages {
    pub published: Option<Duration>,
    pub discarded: Option<Duration>,
}

/// Rows by what they were. What was deleted, or what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub published: u64,
    pub discarded: u64,
    pub failed: u64,
    pub handled: u64,
}

impl Tally {
    pub fn total(self) -> u64 {
        self.published + self.discarded + self.failed + self.handled
    }

    /// As jobs and the audit have it.
    pub fn to_json(self) -> Value {
        let Self { published, discarded, failed, handled } = self;
        json!({ "published": published, "discarded": discarded, "failed": failed, "handled": handled })
    }

    /// What cannot be read counts as nothing.
    pub fn from_json(json: &Value) -> Self {
        // More than any table has, and far from an overflow.
        let count = |name: &str| json[name].as_u64().unwrap_or(0).min(1 << 53);
        Self {
            published: count("published"),
            discarded: count("discarded"),
            failed: count("failed"),
            handled: count("handled"),
        }
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.discarded += other.discarded;
        self.failed += other.failed;
        self.handled += other.handled;
    }
}

/// What one window held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looked {
    /// The last id looked at; `None` when there was no row.
    pub last_id: Option<i64>,
    pub seen: u64,
    /// The lowest id that stays.
    pub first_left: Option<i64>,
    /// Some row is as old as those that go.
    pub any_old: bool,
    pub deleted: Tally,
}

/// Where `event_handled` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    pub pages: u64,
    /// The file: another one means that every row has another place.
    pub file: i64,
}

/// How far replicas are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaLag {
    /// Bytes that the slowest has still to replay; `None` without any.
    pub bytes: Option<u64>,
    /// Replicas that this role may not see.
    pub hidden: u64,
}

/// A job that each batch is recorded in, in the transaction of the batch.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub job: Handle,
    /// Rows that there are to delete, counted from the start of the job.
    pub total: u64,
    /// The same, of those deleted.
    pub deleted: Tally,
}

impl Record {
    fn to(self, deleted: Tally) -> Advance {
        let part = Part { what: ROWS_DELETED.to_owned(), done: deleted.total(), total: self.total };
        Advance { parts: vec![part], cursor: None, result: deleted.to_json() }
    }
}

/// Follows the figures of progress.
pub const ROWS_DELETED: &str = "rows deleted";

/// A session that deletes.
pub struct Session {
    /// Only one call at a time uses it; the lock is for a transaction, which needs it alone.
    connection: Mutex<Connection>,
    record: std::sync::Mutex<Option<Record>>,
    /// Another process has the job. Nothing more is deleted.
    lost: AtomicBool,
}

impl Session {
    /// `pool` is of [`Role::Cleanup`](crate::db::Role::Cleanup).
    pub async fn open(pool: &Pool) -> Result<Self, DbError> {
        let connection = Mutex::new(pool.get().await?);
        Ok(Self { connection, record: std::sync::Mutex::default(), lost: AtomicBool::new(false) })
    }

    /// Records each batch in a job from now on.
    pub fn record(&self, record: Record) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
    }

    /// Whether another process has the job.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Gives the connection back to its pool.
    pub fn close(self) {
        self.connection.into_inner().done();
    }

    /// Becomes the one session of all that deletes by schedule, for as long as it lives. False: another one is.
    pub async fn lead(&self) -> Result<bool, DbError> {
        lead(&*self.connection.lock().await, Lead::Cleaner).await
    }

    /// The same for entries of `event_handled`, where only a consumer runs.
    pub async fn lead_of_handled(&self) -> Result<bool, DbError> {
        lead(&*self.connection.lock().await, Lead::Handled).await
    }

    /// Whether finished events go by partition rather than by row.
    pub async fn is_partitioned(&self) -> Result<bool, DbError> {
        let connection = self.connection.lock().await;
        let statement = connection.prepare_cached(PARTITIONS).await?;
        Ok(!connection.query(&statement, &[]).await?.is_empty())
    }

    /// The highest id drawn so far.
    pub async fn last_id(&self) -> Result<i64, DbError> {
        Ok(self.connection.lock().await.query_one(LAST_ID, &[]).await?.try_get(0)?)
    }

    pub async fn replica_lag(&self) -> Result<ReplicaLag, DbError> {
        let connection = self.connection.lock().await;
        let row = connection.query_one(&connection.prepare_cached(REPLICA_LAG).await?, &[]).await?;
        let bytes: Option<i64> = row.try_get("lag")?;
        Ok(ReplicaLag { bytes: bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)), hidden: count(&row, "hidden")? })
    }

    /// Runs one batch. Where it is recorded, the record is part of its transaction. `None`: the job was lost, and
    /// nothing was deleted.
    async fn batch(
        &self,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
        tally: impl Fn(&Row) -> Result<Tally, DbError>,
    ) -> Result<Option<Row>, DbError> {
        let record = *self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = self.connection.lock().await;
        let Some(record) = record else {
            let statement = connection.prepare_cached(statement).await?;
            return Ok(Some(connection.query_one(&statement, params).await?));
        };
        let tx = connection.transaction().await?;
        let row = tx.query_one(&tx.prepare_cached(statement).await?, params).await?;
        let some = tally(&row)?;
        let deleted = record.deleted + some;
        if some.total() > 0 && !jobs::advance(&tx, record.job, &record.to(deleted)).await? {
            tx.rollback().await?;
            self.lost.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        tx.commit().await?;
        self.record(Record { deleted, ..record });
        Ok(Some(row))
    }

    /// Deletes jobs that ended long ago. Returns how many.
    pub async fn jobs(&self, age: Duration) -> Result<u64, DbError> {
        let connection = self.connection.lock().await;
        let statement = connection.prepare_cached(JOBS).await?;
        count(&connection.query_one(&statement, &[&age.as_secs_f64(), &JOBS_MOST]).await?, "jobs")
    }

    /// Deletes PUBLISHED and DISCARDED rows of the window.
    pub async fn finished(&self, window: Window, ages: Ages) -> Result<Looked, DbError> {
        let (published, discarded) = (seconds(ages.published), seconds(ages.discarded));
        let params: [&(dyn ToSql + Sync); 5] =
            [&window.after, &window.up_to, &i64::from(window.rows), &published, &discarded];
        let Some(row) = self.batch(FINISHED, &params, finished).await? else { return Ok(Looked::default()) };
        Ok(Looked {
            last_id: row.try_get("last_id")?,
            seen: count(&row, "seen")?,
            first_left: row.try_get("first_left")?,
            any_old: row.try_get("any_old")?,
            deleted: finished(&row)?,
        })
    }

    /// Deletes FAILED rows among the next ones of the window that nobody waits for. Notes of those that do not say
    /// since when they have failed that it is since now.
    pub async fn failed(&self, window: Window, age: Duration) -> Result<Looked, DbError> {
        let params: [&(dyn ToSql + Sync); 4] =
            [&window.after, &window.up_to, &i64::from(window.rows), &age.as_secs_f64()];
        let tally = |row: &Row| Ok(Tally { failed: count(row, "failed")?, ..Tally::default() });
        let Some(row) = self.batch(FAILED, &params, tally).await? else { return Ok(Looked::default()) };
        Ok(Looked {
            last_id: row.try_get("last_id")?,
            seen: count(&row, "seen")?,
            deleted: tally(&row)?,
            ..Looked::default()
        })
    }

    pub async fn handled_extent(&self) -> Result<Extent, DbError> {
        let row = self.connection.lock().await.query_one(HANDLED_EXTENT, &[]).await?;
        Ok(Extent { pages: count(&row, "pages")?, file: row.try_get("file")? })
    }

    /// Deletes at most `rows` old entries of `event_handled` from these pages. Returns how many, and in what time the
    /// oldest of the others will be old; `None` when there is no other.
    pub async fn handled(
        &self,
        pages: std::ops::Range<u64>,
        age: Duration,
        rows: u32,
    ) -> Result<(u64, Option<Duration>), DbError> {
        let (from, to) = (page(pages.start), page(pages.end));
        let params: [&(dyn ToSql + Sync); 4] = [&from, &to, &age.as_secs_f64(), &i64::from(rows)];
        let tally = |row: &Row| Ok(Tally { handled: count(row, "handled")?, ..Tally::default() });
        let Some(row) = self.batch(HANDLED, &params, tally).await? else { return Ok((0, None)) };
        let next_in: Option<f64> = row.try_get("next_in")?;
        // A time that no duration holds (`infinity`) is far enough away.
        let next_in = next_in.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(age));
        Ok((count(&row, "handled")?, next_in))
    }

    /// What [`finished`](Self::finished) would delete of the window.
    pub async fn count_finished(&self, window: Window, ages: Ages) -> Result<Looked, DbError> {
        let connection = self.connection.lock().await;
        let statement = connection.prepare_cached(&COUNT_FINISHED).await?;
        let (published, discarded) = (seconds(ages.published), seconds(ages.discarded));
        let row = connection
            .query_one(&statement, &[&window.after, &window.up_to, &i64::from(window.rows), &published, &discarded])
            .await?;
        Ok(Looked {
            last_id: row.try_get("last_id")?,
            seen: count(&row, "seen")?,
            deleted: finished(&row)?,
            ..Looked::default()
        })
    }

    /// What [`failed`](Self::failed) would delete of the window, and how many of that age would stay.
    pub async fn count_failed(&self, window: Window, age: Duration) -> Result<(Looked, u64), DbError> {
        let connection = self.connection.lock().await;
        let statement = connection.prepare_cached(COUNT_FAILED).await?;
        let row = connection
            .query_one(&statement, &[&window.after, &window.up_to, &i64::from(window.rows), &age.as_secs_f64()])
            .await?;
        let kept = count(&row, "kept")?;
        let looked = Looked {
            last_id: row.try_get("last_id")?,
            seen: count(&row, "seen")?,
            deleted: Tally { failed: count(&row, "old")?.saturating_sub(kept), ..Tally::default() },
            ..Looked::default()
        };
        Ok((looked, kept))
    }

    /// How many entries of `event_handled` in these pages are old.
    pub async fn count_handled(&self, pages: std::ops::Range<u64>, age: Duration) -> Result<u64, DbError> {
        let connection = self.connection.lock().await;
        let statement = connection.prepare_cached(COUNT_HANDLED).await?;
        let (from, to) = (page(pages.start), page(pages.end));
        let row = connection.query_one(&statement, &[&from, &to, &age.as_secs_f64()]).await?;
        count(&row, "handled")
    }
}

/// The counts of finished events in a row of `cleanup/sql/finished.sql` or `cleanup/sql/count_finished.sql`.
fn finished(row: &Row) -> Result<Tally, DbError> {
    Ok(Tally { published: count(row, "published")?, discarded: count(row, "discarded")?, ..Tally::default() })
}

fn seconds(age: Option<Duration>) -> Option<f64> {
    age.map(|age| age.as_secs_f64())
}

fn page(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(row: &Row, column: &str) -> Result<u64, DbError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}
