//! Dead letters of failed events: copies in the outbox itself, so that they are published with the same guarantees.
//!
//! Not written by lanes: the lock barrier ignores their transactions because they never insert.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::clock::monotonic;
use crate::db::{DbError, Pool};
use crate::failpoint::{Fault, fault};
use crate::outbox::isolate::{self, Blame, MayBlame, Refused};

const WRITE: &str = include_str!("sql/write.sql");
const DUE: &str = include_str!("sql/due.sql");

/// Maximum number of dead letters in one transaction. A guess: a few milliseconds of work.
const PORTION: i64 = 500;
/// How long one that the table refused is put off: what refuses it (a constraint, a trigger) is changed by people.
const PUT_OFF: Duration = Duration::from_mins(1);
/// Maximum number of remembered failures; each costs eight bytes in every statement. The rest is retried each time.
const PUT_OFF_MAX: usize = 10_000;
/// Time limit for finding those that make a portion fail; the rest comes next time.
const SEARCH: Duration = Duration::from_secs(5);

/// What a call has written.
#[derive(Debug, Default)]
pub struct Written {
    pub letters: u64,
    /// Events whose dead letter the table refused. They stay due, and are tried again after a minute.
    pub refused: Vec<Refused<i64>>,
}

/// Writes dead letters. Knows which ones the table has refused, so that they cost the others nothing.
#[derive(Debug)]
pub struct Writer {
    pool: Pool,
    /// By event, until when.
    put_off: HashMap<i64, Duration>,
    /// Maximum number of dead letters in the next transaction.
    portion: i64,
}

impl Writer {
    pub fn new(pool: Pool) -> Self {
        Self { pool, put_off: HashMap::new(), portion: PORTION }
    }

    /// Writes the due dead letters, each exactly once, even if other instances do the same. Call it again until there
    /// are none.
    pub async fn write(&mut self) -> Result<Written, DbError> {
        self.put_off.retain(|_, until| *until > monotonic());
        let put_off: Vec<i64> = self.put_off.keys().copied().collect();
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(WRITE).await?;
        match connection.query_one(&statement, &[&self.portion, &put_off, &None::<Vec<i64>>]).await {
            Ok(row) => {
                let (letters, kept) = written(&row)?;
                connection.done();
                self.portion = (self.portion * 2).min(PORTION);
                let refused = refused_silently(kept);
                self.put_off(&refused);
                Ok(Written { letters, refused })
            }
            Err(error) if error.blame() != Blame::Nobody && !fault(Fault::LettersNotCut) => {
                connection.done();
                self.write_apart(&put_off).await
            }
            Err(error) => Err(error),
        }
    }

    async fn write_apart(&mut self, put_off: &[i64]) -> Result<Written, DbError> {
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        let rows = tx.query(&tx.prepare_cached(DUE).await?, &[&self.portion, &put_off]).await?;
        let due: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
        let write = tx.prepare_cached(WRITE).await?;
        let (tx_ref, write) = (&tx, &write);
        let work =
            move |part: Vec<i64>| async move { written(&tx_ref.query_one(write, &[&PORTION, &put_off, &part]).await?) };
        let cut = isolate::cut_proven(tx_ref, &due, monotonic() + SEARCH, work).await?;
        tx.commit().await?;
        connection.done();
        if cut.left.len() == due.len() {
            // One row takes longer than the search may: fewer of them next time, down to that one.
            self.portion = (self.portion / 2).max(1);
        }
        let (mut letters, mut refused) = (0, cut.refused);
        for (written, kept) in cut.done {
            letters += written;
            refused.extend(refused_silently(kept));
        }
        self.put_off(&refused);
        Ok(Written { letters, refused })
    }

    fn put_off(&mut self, refused: &[Refused<i64>]) {
        let until = monotonic() + PUT_OFF;
        let room = PUT_OFF_MAX.saturating_sub(self.put_off.len());
        self.put_off.extend(refused.iter().take(room).map(|refused| (refused.item, until)));
    }
}

/// Dead letters that were written, and events without one because a trigger did not let the due mark be removed.
fn written(row: &tokio_postgres::Row) -> Result<(u64, Vec<i64>), DbError> {
    Ok((u64::try_from(row.try_get::<_, i64>("letters")?).unwrap_or(0), row.try_get("kept")?))
}

/// What PostgreSQL calls the same between its own statements.
fn refused_silently(kept: Vec<i64>) -> Vec<Refused<i64>> {
    let sqlstate = Some(SqlState::TRIGGERED_DATA_CHANGE_VIOLATION);
    kept.into_iter().map(|item| Refused { item, sqlstate: sqlstate.clone() }).collect()
}
