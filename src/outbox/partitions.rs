//! Partitions of the outbox by id: creating them ahead of time, and dropping those whose events are finished.
//!
//! Which ones and when is up to `cleanup::partitions`. Invariants: there is a partition for every id at every moment,
//! since the last one has no upper bound; a table is dropped only after it was detached with [`Session::take_off`],
//! which marks it, and was checked once more.

use std::sync::LazyLock;
use std::time::Duration;

use super::locks::{Lead, lead};
use super::statements as sql;
use crate::db::fragments::assemble;
use crate::db::{Connection, DbError, Pool};

const LAST_ID: &str = include_str!("sql/last_id.sql");
const PARTITIONS: &str = include_str!("sql/partitions.sql");
const DOOMED: &str = include_str!("partitions/sql/partitions_doomed.sql");
const NEEDED: &str = include_str!("partitions/sql/needed.sql");
static LOOK: LazyLock<String> = LazyLock::new(|| assemble(include_str!("partitions/sql/look.sql"), &[sql::NEXT_ROWS]));
const EXTEND: &str = include_str!("partitions/sql/extend.sql");
const MARK: &str = include_str!("partitions/sql/mark.sql");
const DETACH: &str = include_str!("partitions/sql/detach.sql");
const FINALIZE: &str = include_str!("partitions/sql/finalize.sql");
const ATTACH: &str = include_str!("partitions/sql/attach.sql");
const UNMARK: &str = include_str!("partitions/sql/unmark.sql");
const UNFINISHED: &str = include_str!("partitions/sql/unfinished.sql");
const DROP: &str = include_str!("partitions/sql/drop.sql");

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As it can stand in a statement.
    pub name: String,
    pub schema: String,
    /// The first id; `None`: every id below `upper`.
    pub lower: Option<i64>,
    /// The id behind the last; `None` for the last partition.
    pub upper: Option<i64>,
    /// Taken off, but not to the end.
    pub pending: bool,
}

/// A table that was taken off to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    pub name: String,
    pub lower: String,
    pub upper: String,
}

/// A session that looks after partitions. Not the one of [`cleanup`](super::cleanup): both lead at the same time, each
/// by a lock of its own.
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

    /// Becomes the one session of all that looks after partitions, for as long as it lives. False: another one is.
    pub async fn lead(&self) -> Result<bool, DbError> {
        lead(&self.connection, Lead::Partitions).await
    }

    pub async fn last_id(&self) -> Result<i64, DbError> {
        let statement = self.connection.prepare_cached(LAST_ID).await?;
        Ok(self.connection.query_one(&statement, &[]).await?.try_get(0)?)
    }

    /// In the order of their ids; none when the table is a plain one.
    pub async fn list(&self) -> Result<Vec<Partition>, DbError> {
        let statement = self.connection.prepare_cached(PARTITIONS).await?;
        let rows = self.connection.query(&statement, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Partition {
                    name: row.try_get("name")?,
                    schema: row.try_get("schema")?,
                    lower: row.try_get("lower")?,
                    upper: row.try_get("upper")?,
                    pending: row.try_get("pending")?,
                })
            })
            .collect()
    }

    /// Gives the last partition an end at `upper`, and makes a new last one. One transaction; inserts wait for as long.
    pub async fn extend(&mut self, last: &Partition, upper: i64) -> Result<(), DbError> {
        let lower = last.lower.map_or_else(|| "minvalue".to_owned(), |lower| lower.to_string());
        let script = EXTEND
            .replace("{last}", &last.name)
            .replace("{renamed}", &format!("outbox_events_p{lower}"))
            .replace("{schema}", &last.schema)
            .replace("{lower}", &lower)
            .replace("{upper}", &upper.to_string());
        let tx = self.connection.transaction().await?;
        tx.batch_execute(&script).await?;
        tx.commit().await
    }

    /// Whether something shows at once that rows with these ids are still needed.
    pub async fn is_needed(&self, ids: (i64, i64), age: Duration) -> Result<bool, DbError> {
        let row = self.connection.query_one(NEEDED, &[&ids.0, &ids.1, &age.as_secs_f64()]).await?;
        Ok(row.try_get(0)?)
    }

    /// The last id and the number of the next rows, and how many of them are still needed.
    pub async fn look(
        &self,
        after: i64,
        up_to: i64,
        rows: u32,
        age: Duration,
    ) -> Result<(Option<i64>, i64, i64), DbError> {
        let statement = self.connection.prepare_cached(&LOOK).await?;
        let row =
            self.connection.query_one(&statement, &[&after, &up_to, &i64::from(rows), &age.as_secs_f64()]).await?;
        Ok((row.try_get("last_id")?, row.try_get("seen")?, row.try_get("needed")?))
    }

    /// Takes the partition off, in two steps that PostgreSQL does by itself; when it ends between them, the partition
    /// is `pending`.
    pub async fn take_off(&self, partition: &Partition) -> Result<(), DbError> {
        let bound = |id: Option<i64>, none: &str| id.map_or_else(|| none.to_owned(), |id| id.to_string());
        let mark = MARK
            .replace("{name}", &partition.name)
            .replace("{lower}", &bound(partition.lower, "minvalue"))
            .replace("{upper}", &bound(partition.upper, "maxvalue"));
        self.connection.batch_execute(&mark).await?;
        self.connection.batch_execute(&DETACH.replace("{name}", &partition.name)).await
    }

    /// Goes on with [`take_off`](Self::take_off).
    pub async fn finish_taking_off(&self, partition: &Partition) -> Result<(), DbError> {
        self.connection.batch_execute(&FINALIZE.replace("{name}", &partition.name)).await
    }

    /// Tables that were taken off and are to be dropped.
    pub async fn doomed(&self) -> Result<Vec<Doomed>, DbError> {
        let rows = self.connection.query(DOOMED, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Doomed { name: row.try_get("name")?, lower: row.try_get("lower")?, upper: row.try_get("upper")? })
            })
            .collect()
    }

    /// Drops a table that was taken off. False: it has a row that is not finished, and is a partition again.
    pub async fn drop_or_put_back(&mut self, doomed: &Doomed) -> Result<bool, DbError> {
        let unfinished = UNFINISHED.replace("{name}", &doomed.name);
        if !self.connection.query_one(&unfinished, &[]).await?.try_get::<_, bool>(0)? {
            self.connection.batch_execute(&DROP.replace("{name}", &doomed.name)).await?;
            return Ok(true);
        }
        let attach =
            ATTACH.replace("{name}", &doomed.name).replace("{lower}", &doomed.lower).replace("{upper}", &doomed.upper);
        let tx = self.connection.transaction().await?;
        tx.batch_execute(&attach).await?;
        tx.batch_execute(&UNMARK.replace("{name}", &doomed.name)).await?;
        tx.commit().await?;
        Ok(false)
    }
}
