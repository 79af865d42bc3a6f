//! Shards: who works on what, and among how many keys are spread.

pub(crate) mod set;

use serde::Serialize;

use crate::db::{DbError, Pool};
use crate::outbox::inspect::shards::{self, ShardLine};

/// A shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub shard: i16,
    /// `null`: nobody.
    pub owner: Option<String>,
    pub epoch: i64,
    /// Negative when the lease is over.
    pub lease_left_seconds: Option<f64>,
    pub batch: i64,
    pub in_flight: i32,
    pub low_id: i64,
    pub held_keys: i64,
    pub oldest_pending_seconds: Option<f64>,
}

impl Line {
    /// Whether somebody works on it.
    pub fn is_owned(&self) -> bool {
        self.owner.is_some() && !self.is_lease_over()
    }

    pub fn is_lease_over(&self) -> bool {
        self.lease_left_seconds.is_some_and(|left| left < 0.0)
    }
}

/// All shards, by number.
pub async fn lines(pool: &Pool) -> Result<Vec<Line>, DbError> {
    Ok(shards::list(pool).await?.into_iter().map(Line::from).collect())
}

impl From<ShardLine> for Line {
    fn from(line: ShardLine) -> Self {
        Self {
            shard: line.shard,
            owner: line.owner,
            epoch: line.epoch,
            lease_left_seconds: line.lease_left,
            batch: line.batch_seq,
            in_flight: line.in_flight,
            low_id: line.low_id,
            held_keys: line.held_keys,
            oldest_pending_seconds: line.oldest_pending,
        }
    }
}
