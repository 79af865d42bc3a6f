//! Our advisory locks that only one session in the whole cluster may hold. The one place for their keys: two features
//! with the same key would block each other forever, and nobody would see why.
//!
//! Class 28514; instances have keys from 0 on (`outbox_session_key`), these are negative.

use crate::db::{Connection, DbError};

const LEAD: &str = include_str!("locks/sql/lead.sql");

/// What only one session does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// The scheduled retry. Its lock ends with its transaction.
    Reprocess = -1,
    /// Deleting what is finished and old.
    Cleaner = -2,
    /// Making and dropping partitions.
    Partitions = -3,
    /// Changing the number of shards.
    Shards = -4,
    /// Deleting entries of `event_handled` from a process that has no relay.
    Handled = -5,
}

/// Beginning a replay. Held by a transaction, which others wait for.
pub(super) const BEGIN_REPLAY: i32 = -6;

/// Becomes the one session that does it, for as long as the session lives; again and again true for the same session.
/// False: another one is. Behind a pooler the lock stays with the pooler's connection.
pub(super) async fn lead(connection: &Connection, what: Lead) -> Result<bool, DbError> {
    Ok(connection.query_one(LEAD, &[&(what as i32)]).await?.try_get(0)?)
}
