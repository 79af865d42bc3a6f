//! The lock barrier: which ids can no longer appear, and the sweep that checks it.
//!
//! An INSERT locks the table before it draws an id and keeps the lock until its transaction ends. So: read the highest id
//! drawn, then list the transactions that hold that lock, and when all of those have ended, every id up to the one read is
//! either visible or will never be. Without the barrier a scan bound could pass a row that is committed late.

use std::collections::HashSet;

use uuid::Uuid;

use super::statements as sql;
use crate::db::{DbError, Pool};
use crate::event::ShardId;

/// Finds the horizon step by step. One per instance; kept between calls.
#[derive(Debug)]
pub struct Barrier {
    pool: Pool,
    candidate: Option<Candidate>,
    horizon: i64,
}

/// An id that becomes the horizon when the writers that were open then have ended.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    id: i64,
    writers: HashSet<String>,
}

impl Barrier {
    pub fn new(pool: Pool) -> Self {
        Self { pool, candidate: None, horizon: 0 }
    }

    /// Looks once and returns the horizon: no row with an id up to it can appear any more. It never falls.
    /// Two statements, or one when no id was drawn since the last call.
    pub async fn probe(&mut self) -> Result<i64, DbError> {
        let connection = self.pool.get().await?;
        if self.candidate.is_none() {
            let statement = connection.prepare_cached(sql::LAST_ID).await?;
            let id: i64 = connection.query_one(&statement, &[]).await?.get(0);
            if id <= self.horizon {
                connection.done();
                return Ok(self.horizon);
            }
            // The order matters: first the id, then the writers.
            let writers = open_writers(&connection).await?;
            self.candidate = Some(Candidate { id, writers });
        } else {
            let open = open_writers(&connection).await?;
            if let Some(candidate) = &mut self.candidate {
                candidate.writers.retain(|writer| open.contains(writer));
            }
        }
        connection.done();
        self.horizon = advance(self.horizon, &mut self.candidate);
        Ok(self.horizon)
    }

    /// Looks below `low_id` of the owned shards, where nothing must wait. Returns what it found and put right.
    pub async fn sweep(&self, shards: &[ShardId], owner: Uuid) -> Result<Vec<(ShardId, i64)>, DbError> {
        let connection = self.pool.get().await?;
        let rows = connection.query(sql::SWEEP, &[&shards, &owner]).await?;
        connection.done();
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

async fn open_writers(connection: &crate::db::Connection) -> Result<HashSet<String>, DbError> {
    let statement = connection.prepare_cached(sql::OPEN_WRITERS).await?;
    let rows = connection.query(&statement, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The candidate becomes the horizon when none of its writers is left.
fn advance(horizon: i64, candidate: &mut Option<Candidate>) -> i64 {
    match candidate {
        Some(found) if found.writers.is_empty() => {
            let id = found.id;
            *candidate = None;
            horizon.max(id)
        }
        _ => horizon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_waits_for_every_writer_that_was_open() {
        let mut candidate = Some(Candidate { id: 9, writers: HashSet::from(["3/17".to_owned()]) });
        assert_eq!(advance(4, &mut candidate), 4);
        candidate.as_mut().unwrap().writers.clear();
        assert_eq!(advance(4, &mut candidate), 9);
        assert_eq!(candidate, None);
    }
}
