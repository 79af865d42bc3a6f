//! The lock barrier: which ids can no longer appear, and the sweep that checks it.
//!
//! An INSERT locks the table before it draws an id and keeps the lock until its transaction ends. So: read the highest id
//! drawn, then list the transactions that hold that lock, and when all of those have ended, every id up to the one read is
//! either visible or will never be. Without the barrier a scan bound could pass a row that is committed late.

use std::collections::HashSet;

use uuid::Uuid;

use super::restart::Restart;
use super::statements as sql;
use crate::db::{DbError, Pool};
use crate::event::ShardId;

/// An id up to which no row can appear any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    pub id: i64,
    /// Which server, and which file of the sequence, this holds for. After a failover that lost commits, and after
    /// `truncate … restart identity`, ids are drawn again.
    pub server: i64,
}

/// How names of prepared transactions begin: they have no session (PostgreSQL, TwoPhaseGetDummyProc).
const PREPARED: &str = "-1/";

/// Finds the horizon step by step. One per instance; kept between calls.
#[derive(Debug)]
pub struct Barrier {
    pool: Pool,
    horizon: Horizon,
    /// As in [`Reached`].
    server: i64,
    /// The last id drawn, and the files of the sequence and the table; `None` before the first look.
    seen: Option<Seen>,
    restart: Option<Restart>,
}

/// What the looks compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    last_id: i64,
    sequence_file: i64,
    table_file: i64,
}

impl Seen {
    /// Ids began again between two looks. `beyond`: a shard has passed ids that were never drawn.
    fn restart(before: Option<Self>, now: Self, beyond: bool) -> Option<Restart> {
        // A partitioned table has no file, and keeps its ids when it is made of a plain one.
        let emptied = before.is_some_and(|before| {
            before.sequence_file != now.sequence_file
                && ![before.table_file, 0].contains(&now.table_file)
                && before.table_file != 0
        });
        match (emptied, beyond) {
            (true, _) => Some(Restart::Emptied),
            (false, true) => Some(Restart::Beyond),
            (false, false) => None,
        }
    }
}

/// What the looks add up to. Pure, so that `tests/simulation.rs` can put a writer between any two of them.
#[derive(Debug, Clone, Default)]
pub struct Horizon {
    candidate: Option<Candidate>,
    reached: i64,
}

/// An id that becomes the horizon when the writers that were open then have ended.
#[derive(Debug, Clone)]
struct Candidate {
    id: i64,
    writers: HashSet<String>,
}

impl Horizon {
    /// No row with an id up to this one can appear any more. It never falls.
    pub fn reached(&self) -> i64 {
        self.reached
    }

    /// Nothing is being waited for: the next look reads the highest id drawn, if there is a higher one.
    pub fn is_settled(&self) -> bool {
        self.candidate.is_none()
    }

    /// `writers` must have been listed after `id` was read: who lists first misses a writer that draws an id in between.
    pub fn begin(&mut self, id: i64, writers: HashSet<String>) {
        self.candidate = Some(Candidate { id, writers });
        self.advance();
    }

    /// These are the writers that are open now.
    pub fn look(&mut self, open: &HashSet<String>) {
        if let Some(candidate) = &mut self.candidate {
            candidate.writers.retain(|writer| open.contains(writer));
            // A transaction that is prepared loses its name and is listed under another one: any of these may be one that was open.
            candidate.writers.extend(open.iter().filter(|writer| writer.starts_with(PREPARED)).cloned());
        }
        self.advance();
    }

    /// The candidate becomes the horizon when none of its writers is left.
    fn advance(&mut self) {
        if let Some(found) = self.candidate.take_if(|candidate| candidate.writers.is_empty()) {
            self.reached = self.reached.max(found.id);
        }
    }
}

impl Barrier {
    pub fn new(pool: Pool) -> Self {
        Self { pool, horizon: Horizon::default(), server: 0, seen: None, restart: None }
    }

    /// Looks once and returns the horizon: two cheap statements, or one when no id was drawn since the last call.
    pub async fn probe(&mut self) -> Result<Reached, DbError> {
        let connection = self.pool.get().await?;
        let row = connection.query_one(&connection.prepare_cached(sql::LAST_ID).await?, &[]).await?;
        let (id, server): (i64, i64) = (row.get("last_id"), row.get("server"));
        let seen = Seen { last_id: id, sequence_file: row.get("sequence_file"), table_file: row.get("table_file") };
        let went_back = self.seen.is_some_and(|before| before.last_id > id);
        self.restart = self.restart.or(Seen::restart(self.seen, seen, row.get("beyond")));
        self.seen = Some(seen);
        if server != self.server || went_back {
            (self.server, self.horizon) = (server, Horizon::default());
        }
        if !self.horizon.is_settled() {
            self.horizon.look(&open_writers(&connection).await?);
        } else if id > self.horizon.reached() {
            self.horizon.begin(id, open_writers(&connection).await?);
        }
        connection.done();
        Ok(Reached { id: self.horizon.reached(), server })
    }
}

impl Barrier {
    /// Whether ids have begun again since this was asked last.
    pub fn take_restart(&mut self) -> Option<Restart> {
        self.restart.take()
    }

    /// It was of no avail, and is to be tried again.
    pub fn put_back(&mut self, restart: Restart) {
        self.restart = self.restart.or(Some(restart));
    }
}

/// Looks below `low_id` of the owned shards, where nothing must wait. Returns what it found and put right. Of each
/// shard it reads one row, and before that the dead ones that an open transaction elsewhere keeps from being removed.
pub async fn sweep(pool: &Pool, shards: &[ShardId], owner: Uuid) -> Result<Vec<(ShardId, i64)>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(sql::SWEEP, &[&shards, &owner]).await?;
    connection.done();
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn open_writers(connection: &crate::db::Connection) -> Result<HashSet<String>, DbError> {
    let statement = connection.prepare_cached(sql::OPEN_WRITERS).await?;
    let rows = connection.query(&statement, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(writers: &[u8]) -> HashSet<String> {
        writers.iter().map(|writer| format!("3/{writer}")).collect()
    }

    #[test]
    fn the_horizon_waits_for_every_writer_that_was_open() {
        let mut horizon = Horizon::default();
        horizon.begin(9, names(&[17, 18]));
        horizon.look(&names(&[18, 19]));
        assert_eq!((horizon.reached(), horizon.is_settled()), (0, false));
        horizon.look(&names(&[19]));
        assert_eq!((horizon.reached(), horizon.is_settled()), (9, true));
    }

    #[test]
    fn a_writer_that_is_prepared_is_not_taken_for_ended() {
        let mut horizon = Horizon::default();
        horizon.begin(9, names(&[17]));
        let prepared = HashSet::from(["-1/734".to_owned()]);
        horizon.look(&prepared);
        assert_eq!((horizon.reached(), horizon.is_settled()), (0, false));
        horizon.look(&names(&[18]));
        assert_eq!((horizon.reached(), horizon.is_settled()), (9, true));
    }

    #[test]
    fn ids_that_begin_again_are_noticed_and_other_changes_of_the_files_are_not() {
        let before = Seen { last_id: 10, sequence_file: 1, table_file: 2 };
        let restart = |now, beyond| Seen::restart(Some(before), now, beyond);
        assert_eq!(restart(Seen { last_id: 20, sequence_file: 3, table_file: 4 }, false), Some(Restart::Emptied));
        assert_eq!(restart(Seen { sequence_file: 3, ..before }, false), None, "the sequence was altered");
        assert_eq!(restart(Seen { table_file: 4, ..before }, false), None, "the table was rewritten");
        assert_eq!(restart(Seen { sequence_file: 3, table_file: 0, ..before }, false), None, "it is partitioned now");
        assert_eq!(Seen::restart(None, before, true), Some(Restart::Beyond));
        assert_eq!(Seen::restart(None, before, false), None);
    }

    proptest! {
        #[test]
        fn the_horizon_never_falls_and_never_passes_an_open_writer(
            looks in proptest::collection::vec((1_i64..50, proptest::collection::vec(0_u8..6, 0..4)), 1..40),
        ) {
            let mut horizon = Horizon::default();
            let mut waits_for: Option<(i64, HashSet<String>)> = None;
            for (id, writers) in looks {
                let (before, open) = (horizon.reached(), names(&writers));
                match &mut waits_for {
                    None => {
                        horizon.begin(id, open.clone());
                        waits_for = Some((id, open));
                    }
                    Some((_, writers)) => {
                        horizon.look(&open);
                        writers.retain(|writer| open.contains(writer));
                    }
                }
                prop_assert!(horizon.reached() >= before);
                let done = waits_for.take_if(|(_, writers)| writers.is_empty());
                prop_assert_eq!(horizon.is_settled(), done.is_some());
                prop_assert_eq!(horizon.reached(), done.map_or(before, |(id, _)| before.max(id)));
            }
        }
    }
}
