//! Deleting old, finished rows: the statements, one transaction each, and the session that runs them.
//!
//! When, how fast and how far is up to `crate::cleanup`. Invariants: a row is deleted only in a state that it cannot
//! leave on its own, never while it holds a key or is listed in a manifest; and no PENDING row is ever locked, because
//! a lane skips locked rows. Ages use the database's clock.

use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::Row;

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
const PARTITIONS: &str = include_str!("sql/partitions.sql");
const LAST_ID: &str = include_str!("sql/last_id.sql");

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

/// A session that deletes.
pub struct Session {
    connection: Connection,
}

impl Session {
    /// `pool` is of [`Role::Cleanup`](crate::db::Role::Cleanup).
    pub async fn open(pool: &Pool) -> Result<Self, DbError> {
        Ok(Self { connection: pool.get().await? })
    }

    /// Gives the connection back to its pool.
    pub fn close(self) {
        self.connection.done();
    }

    /// Becomes the one session of all that deletes by schedule, for as long as it lives. False: another one is.
    pub async fn lead(&self) -> Result<bool, DbError> {
        lead(&self.connection, Lead::Cleaner).await
    }

    /// The same for entries of `event_handled`, where only a consumer runs.
    pub async fn lead_of_handled(&self) -> Result<bool, DbError> {
        lead(&self.connection, Lead::Handled).await
    }

    /// Whether finished events go by partition rather than by row.
    pub async fn is_partitioned(&self) -> Result<bool, DbError> {
        let statement = self.connection.prepare_cached(PARTITIONS).await?;
        Ok(!self.connection.query(&statement, &[]).await?.is_empty())
    }

    /// The highest id drawn so far.
    pub async fn last_id(&self) -> Result<i64, DbError> {
        Ok(self.connection.query_one(LAST_ID, &[]).await?.try_get(0)?)
    }

    pub async fn replica_lag(&self) -> Result<ReplicaLag, DbError> {
        let row = self.connection.query_one(&self.connection.prepare_cached(REPLICA_LAG).await?, &[]).await?;
        let bytes: Option<i64> = row.try_get("lag")?;
        Ok(ReplicaLag { bytes: bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)), hidden: count(&row, "hidden")? })
    }

    /// Deletes PUBLISHED and DISCARDED rows of the window.
    pub async fn finished(&self, window: Window, ages: Ages) -> Result<Looked, DbError> {
        let statement = self.connection.prepare_cached(FINISHED).await?;
        let (published, discarded) = (seconds(ages.published), seconds(ages.discarded));
        let row = self
            .connection
            .query_one(&statement, &[&window.after, &window.up_to, &i64::from(window.rows), &published, &discarded])
            .await?;
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
        let statement = self.connection.prepare_cached(FAILED).await?;
        let row = self
            .connection
            .query_one(&statement, &[&window.after, &window.up_to, &i64::from(window.rows), &age.as_secs_f64()])
            .await?;
        Ok(Looked {
            last_id: row.try_get("last_id")?,
            seen: count(&row, "seen")?,
            deleted: Tally { failed: count(&row, "failed")?, ..Tally::default() },
            ..Looked::default()
        })
    }

    pub async fn handled_extent(&self) -> Result<Extent, DbError> {
        let row = self.connection.query_one(HANDLED_EXTENT, &[]).await?;
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
        let statement = self.connection.prepare_cached(HANDLED).await?;
        let (from, to) = (page(pages.start), page(pages.end));
        let row = self.connection.query_one(&statement, &[&from, &to, &age.as_secs_f64(), &i64::from(rows)]).await?;
        let next_in: Option<f64> = row.try_get("next_in")?;
        // A time that no duration holds (`infinity`) is far enough away.
        let next_in = next_in.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(age));
        Ok((count(&row, "handled")?, next_in))
    }

    /// What [`finished`](Self::finished) would delete of the window.
    pub async fn count_finished(&self, window: Window, ages: Ages) -> Result<Looked, DbError> {
        let statement = self.connection.prepare_cached(&COUNT_FINISHED).await?;
        let (published, discarded) = (seconds(ages.published), seconds(ages.discarded));
        let row = self
            .connection
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
        let statement = self.connection.prepare_cached(COUNT_FAILED).await?;
        let row = self
            .connection
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
        let statement = self.connection.prepare_cached(COUNT_HANDLED).await?;
        let (from, to) = (page(pages.start), page(pages.end));
        let row = self.connection.query_one(&statement, &[&from, &to, &age.as_secs_f64()]).await?;
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
