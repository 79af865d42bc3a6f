//! Ids that start over: `truncate outbox_events restart identity`, a sequence that was set back.
//!
//! The bounds of a shard say that everything up to certain ids is done. If ids are drawn again below them, that would
//! be said of events that nobody has seen. The bounds are therefore reset: marked rows are skipped while reading, and
//! rows published under a watermark are at most published again, never left out.

use uuid::Uuid;

use super::{Published, outcomes};
use crate::db::{DbError, Pool};
use crate::event::ShardId;

const LOCK: &str = include_str!("restart/sql/lock.sql");
const MARK: &str = include_str!("restart/sql/mark.sql");
const SHARDS: &str = include_str!("restart/sql/shards.sql");

/// How it was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// A shard has passed ids that were never drawn.
    Beyond,
    /// The table and its sequence were both emptied since the last look; by now there may be as many ids again.
    Emptied,
}

/// Resets the bounds of shards that are beyond the last id and, if the table was emptied, of all shards that this
/// instance owns. Returns them; none if another instance was faster. Repeating it does no harm.
pub async fn begin_again(pool: &Pool, instance: Uuid, restart: Restart) -> Result<Vec<ShardId>, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let rows = tx.query(LOCK, &[&instance, &(restart == Restart::Emptied)]).await?;
    let shards: Vec<ShardId> = rows.iter().map(|row| row.get(0)).collect();
    if !shards.is_empty() {
        let published = tx.query(MARK, &[&shards]).await?;
        let published: Vec<_> = published.iter().map(|row| Published::somewhere(row.get("id"))).collect();
        outcomes::publish(&tx, &published).await?;
        tx.execute(SHARDS, &[&shards]).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(shards)
}
