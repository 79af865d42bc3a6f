//! The lock barrier: which ids can no longer appear, and the sweep that checks it.
//!
//! `nextval` locks the sequence before it draws an id, and the lock is held until the transaction ends. So: read the
//! highest id drawn, then list the transactions that hold that lock. Once all of those have ended, every id up to the
//! one read is either visible or will never be. Without the barrier a scan bound could pass a row that is committed
//! late.
//!
//! This depends on a sequence that hands out each id when it is asked for, in ascending order ([`Sequence`]).

use std::collections::HashSet;

use uuid::Uuid;

use super::restart::Restart;
use crate::db::{DbError, Pool};
use crate::event::ShardId;

const LAST_ID: &str = include_str!("sql/last_id.sql");
const OPEN_WRITERS: &str = include_str!("sql/open_writers.sql");
const SWEEP_HELD: &str = include_str!("barrier/sql/sweep_held.sql");
const SWEEP: &str = include_str!("barrier/sql/sweep.sql");

/// An id up to which no row can appear any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    pub id: i64,
    /// The run of the server that this holds for, as last_id.sql has it. After a failover that lost commits ids are
    /// drawn again, and so they may be after a crash: the log of the last ids drawn had perhaps not reached the disk.
    /// They certainly are after `truncate … restart identity`.
    pub server: i64,
}

/// How the sequence of the outbox gives out ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub cache: i64,
    pub increment: i64,
    pub cycles: bool,
}

impl Sequence {
    /// What breaks the barrier, in words, and the change that fixes it. `None`: nothing.
    pub fn fault(&self) -> Option<(String, &'static str)> {
        if self.cache > 1 {
            let what = format!("the sequence of outbox_events.id caches {} ids in each session", self.cache);
            Some((what, "for table outbox_events: alter column id set cache 1"))
        } else if self.increment < 1 {
            let what = format!("the sequence of outbox_events.id counts by {}", self.increment);
            Some((what, "for table outbox_events: alter column id set increment by 1"))
        } else if self.cycles {
            let what = "the sequence of outbox_events.id cycles".to_owned();
            Some((what, "for table outbox_events: alter column id set no cycle"))
        } else {
            None
        }
    }
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
    /// What the last look found wrong with the sequence.
    fault: Option<(String, &'static str)>,
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

    /// `writers` must have been listed after `id` was read: listing first would miss a writer that draws an id in
    /// between.
    pub fn begin(&mut self, id: i64, writers: HashSet<String>) {
        self.candidate = Some(Candidate { id, writers });
        self.advance();
    }

    /// These are the writers that are open now.
    pub fn look(&mut self, open: &HashSet<String>) {
        if let Some(candidate) = &mut self.candidate {
            candidate.writers.retain(|writer| open.contains(writer));
            // A transaction that is prepared loses its name and is listed under another one: any of these may be one
            // that was open.
            candidate.writers.extend(open.iter().filter(|writer| writer.starts_with(PREPARED)).cloned());
        }
        self.advance();
    }

    /// What was being waited for counts for nothing.
    fn forget_candidate(&mut self) {
        self.candidate = None;
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
        Self { pool, horizon: Horizon::default(), server: 0, seen: None, restart: None, fault: None }
    }

    /// What the last look found wrong with the sequence, and how to put it right. The horizon stays where it is
    /// meanwhile.
    pub fn fault(&self) -> Option<&(String, &'static str)> {
        self.fault.as_ref()
    }

    /// Looks once and returns the horizon: two cheap statements, or one when no id was drawn since the last call.
    pub async fn probe(&mut self) -> Result<Reached, DbError> {
        let connection = self.pool.get().await?;
        let row = connection.query_one(&connection.prepare_cached(LAST_ID).await?, &[]).await?;
        let (id, server): (i64, i64) = (row.get("last_id"), row.get("server"));
        let seen = Seen { last_id: id, sequence_file: row.get("sequence_file"), table_file: row.get("table_file") };
        let went_back = self.seen.is_some_and(|before| before.last_id > id);
        self.restart = self.restart.or(Seen::restart(self.seen, seen, row.get("beyond")));
        self.seen = Some(seen);
        if server != self.server || went_back {
            (self.server, self.horizon) = (server, Horizon::default());
        }
        self.fault = sequence_of(&row).fault();
        if self.fault.is_some() {
            // Putting it right waits for every transaction that has drawn, and makes sessions forget what they have
            // cached.
            self.horizon.forget_candidate();
        } else if !self.horizon.is_settled() {
            self.horizon.look(&open_writers(&connection).await?);
        } else if id > self.horizon.reached() {
            self.horizon.begin(id, open_writers(&connection).await?);
        }
        connection.done();
        Ok(Reached { id: self.horizon.reached(), server })
    }
}

impl Barrier {
    /// Whether ids have started over since the last call.
    pub fn take_restart(&mut self) -> Option<Restart> {
        self.restart.take()
    }

    /// It was of no avail, and is to be tried again.
    pub fn put_back(&mut self, restart: Restart) {
        self.restart = self.restart.or(Some(restart));
    }
}

/// Looks below `low_id` of the owned shards, where nothing may be waiting. Returns what it found and fixed. It reads
/// one row per shard, after any dead rows that an open transaction elsewhere keeps from being removed.
///
/// `server`: as in [`Reached`], where the bounds were last known to be right. Ids that started over since are below the
/// bounds as well, and no bug; [`super::restart`] resets the bounds.
pub async fn sweep(pool: &Pool, shards: &[ShardId], owner: Uuid, server: i64) -> Result<Vec<(ShardId, i64)>, DbError> {
    let connection = pool.get().await?;
    let before = connection.query_one(LAST_ID, &[]).await?;
    if before.get::<_, i64>("server") != server || before.get("beyond") {
        connection.done();
        return Ok(Vec::new());
    }
    let rows = connection.query(SWEEP, &[&shards, &owner]).await?;
    let mut found: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if !found.is_empty() {
        let after = connection.query_one(LAST_ID, &[]).await?;
        let (last_id, then): (i64, i64) = (after.get("last_id"), before.get("last_id"));
        if after.get::<_, i64>("server") != server || last_id < then {
            found.clear();
        }
    }
    connection.done();
    Ok(found)
}

/// Looks for held events of the owned shards that nothing would release, since their key was changed under way. Returns
/// the first event of each key that was found.
pub async fn sweep_strays(pool: &Pool, shards: &[ShardId]) -> Result<Vec<(ShardId, i64)>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(SWEEP_HELD, &[&shards]).await?;
    connection.done();
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// How the sequence gives out ids now.
pub async fn sequence(pool: &Pool) -> Result<Sequence, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(LAST_ID, &[]).await?;
    connection.done();
    Ok(sequence_of(&row))
}

fn sequence_of(row: &tokio_postgres::Row) -> Sequence {
    Sequence { cache: row.get("cache"), increment: row.get("increment"), cycles: row.get("cycles") }
}

async fn open_writers(connection: &crate::db::Connection) -> Result<HashSet<String>, DbError> {
    let statement = connection.prepare_cached(OPEN_WRITERS).await?;
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
    fn a_sequence_that_gives_ids_out_of_turn_is_told_by_its_settings() {
        let sequence = |cache, increment, cycles| Sequence { cache, increment, cycles };
        assert_eq!(sequence(1, 1, false).fault(), None);
        assert_eq!(sequence(1, 2, false).fault(), None, "two writers of one table may share ids so");
        for bad in [sequence(2, 1, false), sequence(1, -1, false), sequence(1, 1, true)] {
            let (_, fix) = bad.fault().expect("a fault");
            assert!(fix.starts_with("for table outbox_events: "), "{fix}");
        }
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
