//! Shards and who owns them.

use crate::db::{DbError, Pool};
use crate::event::ShardId;

const LIST_SHARDS: &str = include_str!("sql/list_shards.sql");

/// A shard as an operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardLine {
    pub shard: ShardId,
    /// Name of the instance; `None` when nobody owns it.
    pub owner: Option<String>,
    pub epoch: i64,
    /// Seconds to the end of the lease, negative when it is over.
    pub lease_left: Option<f64>,
    pub batch_seq: i64,
    /// Events of the batch that is not settled.
    pub in_flight: i32,
    pub low_id: i64,
    pub held_keys: i64,
    /// Seconds that the first PENDING row has waited for.
    pub oldest_pending: Option<f64>,
}

/// All shards. Reads an index entry per shard and one for each held key.
pub async fn list(pool: &Pool) -> Result<Vec<ShardLine>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(LIST_SHARDS, &[]).await?;
    connection.done();
    Ok(rows
        .iter()
        .map(|row| ShardLine {
            shard: row.get("shard"),
            owner: row.get("owner"),
            epoch: row.get("epoch"),
            lease_left: row.get("lease_left"),
            batch_seq: row.get("batch_seq"),
            in_flight: row.get("in_flight"),
            low_id: row.get("low_id"),
            held_keys: row.get("held_keys"),
            oldest_pending: row.get("oldest_pending"),
        })
        .collect())
}
