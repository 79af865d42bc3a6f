//! The row of a shard, and what stays of one that is taken away.

use std::collections::BTreeSet;

use outbox_relay::outbox::{BatchTag, LastBatch, ShardState};

use crate::postgres::{Id, Key};

/// The number of a shard.
pub type Number = usize;

/// There are at most this many.
pub const SHARDS_MAX: usize = 2;

/// Who owns the shards while their number changes.
pub const NOBODY: u32 = 0;

/// As `outbox_shard_of`. Another rule than that of the partitions, so that a partition has keys of two shards.
pub fn shard_of(key: Key, count: usize) -> Number {
    usize::from(key).div_ceil(2) % count
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    pub owner: Option<u32>,
    pub epoch: i64,
    /// What is left of the lease by the clock of the database.
    pub lease_left: u32,
    pub batch_seq: i64,
    pub batch_ids: Option<Vec<Id>>,
    pub marked: bool,
    /// Of the last batch that exactly-once delivery has claimed.
    pub tag: Option<BatchTag>,
    /// The transactional id that its owner uses.
    pub producer: i32,
    pub low_id: Id,
    pub done_id: Id,
    pub ahead: Vec<Id>,
    /// `outbox_again`: what waits although `done_id` has passed it.
    pub again: BTreeSet<Id>,
}

/// `outbox_retired_shards`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Retired {
    pub epoch: i64,
    pub batch_seq: i64,
    pub marked: bool,
    pub producer: i32,
    pub done_id: Id,
}

impl Shard {
    /// Without an owner. It goes on from what a shard with its number has left behind.
    pub fn after(retired: Retired) -> Self {
        let Retired { epoch, batch_seq, marked, producer, done_id } = retired;
        Self {
            owner: None,
            epoch,
            lease_left: 0,
            batch_seq,
            batch_ids: None,
            marked,
            tag: None,
            producer,
            low_id: 0,
            done_id,
            ahead: Vec::new(),
            again: BTreeSet::new(),
        }
    }

    /// As the product reads it.
    pub fn state(&self) -> ShardState {
        ShardState {
            batch_seq: self.batch_seq,
            batch_ids: self.batch_ids.clone(),
            marked: self.marked,
            tag: BatchTag::of_batch(self.tag.map(BatchTag::as_uuid), self.batch_seq),
            producer: self.producer,
        }
    }

    pub fn last(&self) -> LastBatch {
        LastBatch { seq: self.batch_seq, in_flight: self.batch_ids.is_some() }
    }

    /// Nobody owns it, or not any more.
    pub fn is_free(&self) -> bool {
        self.owner.is_none() || self.lease_left == 0
    }

    /// By a command that changes the number of shards.
    pub fn is_taken(&self) -> bool {
        self.owner == Some(NOBODY)
    }

    pub fn is_in_flight(&self, id: Id) -> bool {
        self.batch_ids.as_ref().is_some_and(|ids| ids.contains(&id))
    }
}
