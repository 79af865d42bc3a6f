//! Changing the number of shards while the outbox is in use.
//!
//! The sequence of steps keeps the order per key: no event is claimed from the moment the first shard is taken
//! ([`Session::take`] takes only shards without a batch in flight) until every waiting event is in the shard of its key
//! ([`Session::finish`]). Writers are kept out only while the function that computes a shard is replaced
//! ([`Session::change`]); rows inserted before have the old shard and are moved, rows inserted after have the new one.
//! A row that cannot be moved does not stop other rows (`moves.rs`). Each step can be repeated, and the request is
//! stored in `outbox_installation`, so a killed command can be run again.

mod moves;

use serde_json::json;
use uuid::Uuid;

use super::audit::{self, Author};
use super::locks::{Lead, lead};
use crate::db::{Connection, DbError, Pool};
use crate::event::ShardId;
pub use moves::Moved;

const SESSION: &str = include_str!("resharding/sql/session.sql");
const STATE: &str = include_str!("resharding/sql/state.sql");
const ANNOUNCE: &str = include_str!("resharding/sql/announce.sql");
const TAKE: &str = include_str!("resharding/sql/take.sql");
const WAITING: &str = include_str!("resharding/sql/waiting.sql");
const GIVE_BACK: &str = include_str!("resharding/sql/give_back.sql");
const CHANGE: &str = include_str!("resharding/sql/change.sql");
const LOCK_SHARDS: &str = include_str!("resharding/sql/lock_shards.sql");
const MOVE_KEYS: &str = include_str!("resharding/sql/move_keys.sql");
const RETIRE: &str = include_str!("resharding/sql/retire.sql");
const LOW_IDS: &str = include_str!("resharding/sql/low_ids.sql");
const OPEN_WRITERS: &str = include_str!("sql/open_writers.sql");

/// Who owns the shards while their number changes.
const NOBODY: Uuid = Uuid::nil();

/// How many shards there are, and what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// That keys are spread over now.
    pub shards: i32,
    /// The number requested by a command that has not finished. If it equals `shards`, events may still be where they
    /// were.
    pub wanted: Option<i32>,
    /// Exactly-once delivery has written markers for them.
    pub marked: bool,
    /// This role may change the number.
    pub may_change: bool,
}

/// A shard that is not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    pub shard: ShardId,
    /// The instance that has its lease; `None` when there is none, or it is over.
    pub owner: Option<String>,
    /// Events whose publishing is not settled.
    pub in_flight: i32,
}

/// The one session that changes the number of shards.
pub struct Session {
    connection: Connection,
}

impl Session {
    /// `pool` is of [`Role::Admin`](crate::db::Role::Admin). `None`: another session is at it.
    pub async fn open(pool: &Pool) -> Result<Option<Self>, DbError> {
        let mut connection = pool.get().await?;
        connection.query_one(SESSION, &[]).await?;
        connection.without_statement_limit().await?;
        // A connection that is not given back is closed, and the lock goes with it.
        Ok(lead(&connection, Lead::Shards).await?.then_some(Self { connection }))
    }

    pub async fn state(&self) -> Result<State, DbError> {
        let row = self.connection.query_one(STATE, &[]).await?;
        Ok(State {
            shards: row.try_get("shards")?,
            wanted: row.try_get("wanted")?,
            marked: row.try_get("marked")?,
            may_change: row.try_get("may")?,
        })
    }

    /// Asks every instance to give its shards up.
    pub async fn announce(&self, shards: i32) -> Result<(), DbError> {
        self.connection.execute(ANNOUNCE, &[&shards]).await?;
        Ok(())
    }

    /// Takes the shards that nobody works on. Returns those that are still at work; none: [`Session::change`] may
    /// follow.
    pub async fn take(&self) -> Result<Vec<Busy>, DbError> {
        self.connection.execute(TAKE, &[&NOBODY]).await?;
        let rows = self.connection.query(WAITING, &[&NOBODY]).await?;
        rows.iter()
            .map(|row| {
                let leased: Option<bool> = row.try_get("leased")?;
                let owner: Option<String> = row.try_get("owner")?;
                Ok(Busy {
                    shard: row.try_get("shard")?,
                    owner: owner.filter(|_| leased == Some(true)),
                    in_flight: row.try_get("in_flight")?,
                })
            })
            .collect()
    }

    /// Gives back what was taken, and takes the announcement back. Only before [`Session::change`].
    pub async fn abandon(&mut self) -> Result<(), DbError> {
        let tx = self.connection.transaction().await?;
        tx.execute(GIVE_BACK, &[&NOBODY]).await?;
        tx.execute(ANNOUNCE, &[&None::<i32>]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Spreads the keys of new events over `shards` shards. Writers wait for it, 200 ms and a moment at most.
    ///
    /// Errors: [`DbError::is_lock_timeout`] when a transaction that has inserted events stays open: try again. Nothing
    /// was changed then.
    pub async fn change(&mut self, shards: i32) -> Result<(), DbError> {
        let tx = self.connection.transaction().await?;
        tx.batch_execute(&CHANGE.replace("{shards}", &shards.to_string())).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Transactions that have inserted events and are open.
    pub async fn open_writers(&self) -> Result<usize, DbError> {
        Ok(self.connection.query(OPEN_WRITERS, &[]).await?.len())
    }

    /// Finds out whether the table lets events be moved at all: after [`Session::change`] they must be.
    pub async fn try_move(&mut self) -> Result<(), DbError> {
        let tx = self.connection.transaction().await?;
        moves::attempt(&tx).await?;
        tx.rollback().await
    }

    /// Moves FAILED events to the shards of their keys, before waiting events: a retry makes a FAILED event wait where
    /// it is. Returns the shards whose events are to be moved next.
    pub async fn move_failed(&mut self) -> Result<(Moved, Vec<ShardId>), DbError> {
        let tx = self.connection.transaction().await?;
        let shards =
            tx.query(LOCK_SHARDS, &[]).await?.iter().map(|row| row.try_get("shard")).collect::<Result<_, _>>()?;
        moves::mark_ahead(&tx).await?;
        let moved = moves::failed(&tx).await?;
        tx.commit().await?;
        Ok((moved, shards))
    }

    /// Moves the events that wait in a shard to the shards of their keys. One transaction, in which no command changes
    /// what waits.
    pub async fn move_waiting(&mut self, shard: ShardId) -> Result<Moved, DbError> {
        let tx = self.connection.transaction().await?;
        tx.query(LOCK_SHARDS, &[]).await?;
        let moved = moves::waiting(&tx, shard).await?;
        tx.commit().await?;
        Ok(moved)
    }

    /// Moves the held keys, records what happens to events that could not be moved, removes surplus shards, lets
    /// instances take the others, and records the change.
    pub async fn finish(&mut self, shards: i32, moved: &Moved, author: &Author) -> Result<(), DbError> {
        let tx = self.connection.transaction().await?;
        tx.query(LOCK_SHARDS, &[]).await?;
        tx.execute(MOVE_KEYS, &[]).await?;
        moves::set_aside(&tx, &moved.refused).await?;
        tx.execute(LOW_IDS, &[]).await?;
        tx.execute(RETIRE, &[]).await?;
        tx.execute(GIVE_BACK, &[&NOBODY]).await?;
        tx.execute(ANNOUNCE, &[&None::<i32>]).await?;
        let refused: Vec<i64> = moved.refused.iter().map(|refused| refused.item).collect();
        let details = json!({ "shards": shards, "moved": moved.events, "refused": refused });
        audit::record(&tx, author, "set shards", &details).await?;
        tx.commit().await?;
        Ok(())
    }
}
