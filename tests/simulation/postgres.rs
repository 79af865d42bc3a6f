//! PostgreSQL as the relay sees it: one shard, its events, writers that draw ids early and commit late.
//!
//! Every transaction of a lane is atomic and holds the lock on the row of the shard. A commit whose answer is lost may
//! have happened, may not have happened, or may still be on its way: then it holds the lock, and a plain read sees the
//! old row. A failover may lose commits, and then ids are drawn a second time. What a step does is in `step.rs`.

use std::collections::{BTreeSet, HashSet};

use outbox_relay::outbox::{BatchTag, LastBatch, ShardState};
use uuid::Uuid;

use crate::rules::{Luck, Precaution, Rules};

pub type Id = i64;
pub type Key = u8;
/// An event, which no other has been or will be; ids can come back after a failover.
pub type Event = usize;

/// Ticks of the database's clock.
pub const LEASE: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub owner: u32,
    pub epoch: i64,
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

impl Shard {
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
}

#[derive(Debug, Clone, Hash)]
pub struct Row {
    pub id: Id,
    pub event: Event,
    pub key: Key,
    /// It says PUBLISHED.
    pub marked: bool,
}

/// An open transaction of the application. Writers of a key take turns: the lock is taken before the id is drawn.
#[derive(Debug, Clone, Hash)]
pub struct Writer {
    pub xid: u32,
    pub key: Key,
    pub rows: Vec<(Id, Event)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum PgError {
    Fenced,
    /// The row is ours and says something else than what we went on from.
    Moved,
    /// Whether the commit happened is not known.
    Unknown,
    /// Somebody else's transaction holds the row.
    Busy,
    /// A shared step was undone.
    Undone,
}

/// A transaction of a lane before its commit.
#[derive(Debug, Clone, Hash)]
pub struct Draft {
    pub shard: Shard,
    pub rows: Vec<Row>,
    /// Rows that are marked.
    pub settled: Vec<Id>,
    next_tag: u64,
}

impl Draft {
    pub fn mark(&mut self, rules: Rules, ids: &[Id]) {
        if rules.has(Precaution::SettleByList) {
            self.settled.extend(ids);
        } else if let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) {
            self.settled.extend(*low..=*high);
        }
    }

    /// A name for the batch with this number.
    pub fn draw_tag(&self, seq: i64) -> BatchTag {
        let tag = Uuid::from_u64_pair(seq.cast_unsigned(), self.next_tag);
        BatchTag::of_batch(Some(tag), seq).expect("it has the number")
    }

    /// Rows that say PENDING.
    pub fn pending(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.marked && !self.settled.contains(&row.id))
    }
}

/// What a failover goes back to.
#[derive(Debug, Clone, Hash)]
struct Past {
    shard: Shard,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Hash)]
pub struct Database {
    pub shard: Shard,
    /// Committed rows, by id.
    pub rows: Vec<Row>,
    /// The key of every event that ever was.
    keys: Vec<Key>,
    last_id: Id,
    /// Which run of the server this is.
    pub server: u32,
    pub writers: Vec<Writer>,
    next_xid: u32,
    /// No failover takes it back: it is drawn at random.
    next_tag: u64,
    /// A commit that is still on its way.
    pub doubt: Option<Draft>,
    /// Former states, for a failover that loses commits.
    past: Option<Vec<Past>>,
    /// A transaction went through whose owner was not the owner any more.
    pub changed_by_fenced: bool,
}

impl Database {
    pub fn new(keeps_past: bool) -> Self {
        let shard = Shard {
            owner: None,
            epoch: 0,
            lease_left: 0,
            batch_seq: 0,
            batch_ids: None,
            marked: false,
            tag: None,
            producer: 0,
            low_id: 0,
            done_id: 0,
            ahead: Vec::new(),
            again: BTreeSet::new(),
        };
        Self {
            shard,
            rows: Vec::new(),
            keys: Vec::new(),
            last_id: 0,
            server: 0,
            writers: Vec::new(),
            next_xid: 1,
            next_tag: 1,
            doubt: None,
            past: keeps_past.then(Vec::new),
            changed_by_fenced: false,
        }
    }

    /// The highest id drawn.
    pub fn last_id(&self) -> Id {
        self.last_id
    }

    /// The events of some rows, now.
    pub fn events(&self, ids: &[Id]) -> impl Iterator<Item = Event> {
        self.rows.iter().filter(|row| ids.contains(&row.id)).map(|row| row.event)
    }

    /// What the outbox says about a row, whichever way it keeps track.
    pub fn is_published(&self, row: &Row) -> bool {
        let Shard { batch_ids, done_id, ahead, again, .. } = &self.shard;
        let in_flight = batch_ids.as_ref().is_some_and(|ids| ids.contains(&row.id));
        row.marked || ahead.contains(&row.id) || (row.id <= *done_id && !in_flight && !again.contains(&row.id))
    }

    /// No claim will ever look at it.
    pub fn is_overlooked(&self, row: &Row) -> bool {
        let Shard { batch_ids, low_id, again, .. } = &self.shard;
        let in_flight = batch_ids.as_ref().is_some_and(|ids| ids.contains(&row.id));
        row.id < *low_id && !self.is_published(row) && !in_flight && !again.contains(&row.id)
    }

    /// Takes the shard if it is free. A locked row is skipped.
    pub fn acquire(&mut self, owner: u32) -> Option<(Fence, Option<Vec<Id>>)> {
        if self.doubt.is_some() || (self.shard.owner.is_some() && self.shard.lease_left > 0) {
            return None;
        }
        self.remember();
        self.shard.owner = Some(owner);
        self.shard.epoch += 1;
        self.shard.lease_left = LEASE;
        Some((Fence { owner, epoch: self.shard.epoch }, self.shard.batch_ids.clone()))
    }

    /// The owner of a lane renews its lease, if nobody has locked the row.
    pub fn renew(&mut self, fence: Fence) {
        if self.doubt.is_none() && self.owns(fence) {
            self.shard.lease_left = LEASE;
        }
    }

    /// A lane has drained.
    pub fn release(&mut self, fence: Fence) {
        if self.doubt.is_none() && self.owns(fence) {
            self.remember();
            self.shard.owner = None;
            self.shard.lease_left = 0;
        }
    }

    /// Another transactional id, in place of `from`, so that others know it.
    pub fn next_producer(&mut self, fence: Fence, from: i32) -> Result<i32, PgError> {
        if self.doubt.is_some() {
            return Err(PgError::Busy);
        }
        if !self.owns(fence) || self.shard.producer != from {
            return Err(PgError::Fenced);
        }
        self.shard.producer = from + 1;
        Ok(self.shard.producer)
    }

    /// A plain read under the fence: it waits for no lock.
    pub fn state(&self, rules: Rules, fence: Fence) -> Result<ShardState, PgError> {
        match self.owns(fence) || !rules.has(Precaution::EpochFence) {
            true => Ok(self.shard.state()),
            false => Err(PgError::Fenced),
        }
    }

    /// One transaction of a lane. `expected` is what the lane goes on from.
    pub fn transaction<T>(
        &mut self,
        rules: Rules,
        fence: Fence,
        expected: Option<LastBatch>,
        luck: Luck,
        work: impl FnOnce(&mut Draft) -> T,
    ) -> Result<T, PgError> {
        if luck == Luck::Undone {
            return Err(PgError::Undone);
        }
        if self.doubt.is_some() {
            return Err(PgError::Busy);
        }
        if rules.has(Precaution::EpochFence) && !self.owns(fence) {
            return Err(PgError::Fenced);
        }
        if expected.is_some_and(|expected| expected != self.shard.last()) {
            return Err(PgError::Moved);
        }
        let (shard, rows) = (self.shard.clone(), self.rows.clone());
        let mut draft = Draft { shard, rows, settled: Vec::new(), next_tag: self.next_tag };
        let done = work(&mut draft);
        if draft.shard.tag != self.shard.tag {
            self.next_tag += 1;
        }
        draft.shard.lease_left = LEASE;
        self.changed_by_fenced |= rules.has(Precaution::EpochFence) && !self.owns(fence);
        match luck {
            Luck::Fine | Luck::Twice | Luck::Undone => {
                self.commit(draft);
                return Ok(done);
            }
            Luck::LostAfter => self.commit(draft),
            Luck::Late => self.doubt = Some(draft),
            Luck::LostBefore => {}
        }
        Err(PgError::Unknown)
    }

    /// The commit that was on its way arrives, or its connection breaks first.
    pub fn end_doubt(&mut self, happened: bool) {
        if let Some(draft) = self.doubt.take()
            && happened
        {
            self.commit(draft);
        }
    }

    /// The clock of the database moves on.
    pub fn pass(&mut self, ticks: u32) {
        self.shard.lease_left = self.shard.lease_left.saturating_sub(ticks);
        if let Some(draft) = &mut self.doubt {
            draft.shard.lease_left = draft.shard.lease_left.saturating_sub(ticks);
        }
    }

    fn commit(&mut self, draft: Draft) {
        let lease_left = self.shard.lease_left;
        if (Shard { lease_left, ..draft.shard.clone() }) != self.shard || !draft.settled.is_empty() {
            self.remember();
        }
        self.shard = draft.shard;
        for row in self.rows.iter_mut().filter(|row| draft.settled.contains(&row.id)) {
            row.marked = true;
        }
    }

    fn owns(&self, fence: Fence) -> bool {
        self.shard.owner == Some(fence.owner) && self.shard.epoch == fence.epoch
    }

    pub fn open_writer(&mut self, key: Key) {
        self.writers.push(Writer { xid: self.next_xid, key, rows: Vec::new() });
        self.next_xid += 1;
    }

    pub fn insert(&mut self, writer: usize) {
        self.keys.push(self.writers[writer].key);
        self.last_id += 1;
        self.writers[writer].rows.push((self.last_id, self.keys.len() - 1));
    }

    pub fn end_writer(&mut self, writer: usize, commits: bool) {
        let Writer { key, rows, .. } = self.writers.remove(writer);
        if commits {
            self.remember();
            self.rows.extend(rows.into_iter().map(|(id, event)| Row { id, event, key, marked: false }));
            self.rows.sort_by_key(|row| row.id);
        }
    }

    /// By hand. A commit of a lane that is on its way finds it gone.
    pub fn delete(&mut self, row: usize) {
        self.remember();
        self.rows.remove(row);
    }

    /// What the barrier lists.
    pub fn open_writers(&self) -> HashSet<String> {
        self.writers.iter().map(|writer| format!("3/{}", writer.xid)).collect()
    }

    fn remember(&mut self) {
        if let Some(past) = &mut self.past {
            past.push(Past { shard: self.shard.clone(), rows: self.rows.clone() });
        }
    }

    pub fn past_commits(&self) -> usize {
        self.past.as_ref().map_or(0, Vec::len)
    }

    /// A standby takes over that never got the last commits, or a backup is restored. Ids that were drawn since are
    /// drawn again.
    pub fn go_back(&mut self, commits: usize) {
        let Some(past) = &mut self.past else { return };
        let at = past.len() - commits.min(past.len());
        if at < past.len() {
            let Past { shard, rows } = past.swap_remove(at);
            past.truncate(at);
            // What the row of the shard rests on was drawn before it, and is not lost alone.
            let rested_on = (shard.low_id - 1).max(shard.done_id);
            self.last_id = rows.iter().map(|row| row.id).max().unwrap_or(0).max(rested_on);
            (self.shard, self.rows) = (shard, rows);
        }
        self.server += 1;
        self.doubt = None;
        self.writers.clear();
    }
}
