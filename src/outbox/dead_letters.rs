//! Dead letters of events that were given up: copies in the outbox itself, so that they are published with the same promises.
//!
//! Not written by lanes, whose transactions the lock barrier leaves out because they never insert.

use crate::db::{DbError, Pool};

const WRITE: &str = include_str!("sql/write_dead_letters.sql");

/// Most dead letters of one transaction. A guess: a few milliseconds of work.
const PORTION: i64 = 500;

/// Writes the dead letters that are due, each exactly once, whoever else does the same. Returns how many; call it again until
/// there are none.
pub async fn write(pool: &Pool) -> Result<u64, DbError> {
    let connection = pool.get().await?;
    let written = connection.execute(&connection.prepare_cached(WRITE).await?, &[&PORTION]).await?;
    connection.done();
    Ok(written)
}
