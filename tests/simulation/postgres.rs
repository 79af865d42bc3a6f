//! PostgreSQL as the relay sees it: one shard, its events, writers that draw ids early and commit late.
//!
//! Every transaction of a lane is atomic and holds the lock on the row of the shard. A commit whose answer is lost may
//! have happened, may not have happened, or may still be on its way: then it holds the lock, and a plain read sees the
//! old row.

use std::collections::HashSet;

use outbox_relay::relay::takeover::Manifest;

use crate::rules::{Luck, Rules, Safeguard};

pub type Id = i64;
pub type Key = u8;
/// A number of a batch, and one that no other batch has.
pub type Tag = (i64, u32);

/// Ticks of the database's clock.
pub const LEASE: u32 = 20;
/// Rows of one batch.
const CLAIM_MAX: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub owner: u32,
    pub epoch: i64,
}

#[derive(Debug, Clone, Hash)]
pub struct Shard {
    pub owner: Option<u32>,
    pub epoch: i64,
    /// What is left of the lease by the clock of the database.
    pub lease_left: u32,
    pub batch_seq: i64,
    pub batch_ids: Option<Vec<Id>>,
    pub marked: bool,
    /// Of the last batch that exactly-once delivery has claimed: its number, and one that no other batch has.
    pub tag: Option<Tag>,
    /// The transactional id that its owner uses.
    pub producer: usize,
    pub low_id: Id,
}

impl Shard {
    pub fn manifest(&self) -> Manifest {
        Manifest { seq: self.batch_seq, in_flight: self.batch_ids.is_some(), marked: self.marked }
    }

    /// The tag of the last batch, if exactly-once delivery has claimed it.
    pub fn tag(&self) -> Option<Tag> {
        self.tag.filter(|(seq, _)| *seq == self.batch_seq)
    }
}

#[derive(Debug, Clone, Hash)]
pub struct Row {
    pub id: Id,
    pub key: Key,
    pub published: bool,
}

/// An open transaction of the application. Writers of a key take turns: the lock is taken before the id is drawn.
#[derive(Debug, Clone, Hash)]
pub struct Writer {
    pub xid: u32,
    pub key: Key,
    pub ids: Vec<Id>,
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
}

/// A transaction of a lane before its commit.
#[derive(Debug, Clone, Hash)]
pub struct Draft {
    pub shard: Shard,
    rows: Vec<Row>,
    settled: Vec<Id>,
    next_tag: u32,
}

impl Draft {
    pub fn settle(&mut self, rules: Rules, ids: &[Id]) {
        if rules.has(Safeguard::SettleByList) {
            self.settled.extend(ids);
        } else if let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) {
            self.settled.extend(*low..=*high);
        }
    }

    /// The next rows that wait, lowest id first.
    pub fn claim(&self) -> Vec<Id> {
        self.pending().filter(|id| *id >= self.shard.low_id).take(CLAIM_MAX).collect()
    }

    /// Names the batch that was claimed under the number of the shard.
    pub fn draw_tag(&mut self) {
        self.shard.tag = Some((self.shard.batch_seq, self.next_tag));
    }

    /// Those rows of a manifest that still wait.
    pub fn claim_again(&self, ids: &[Id]) -> Vec<Id> {
        self.pending().filter(|id| ids.contains(id)).collect()
    }

    pub fn move_low_id(&mut self, horizon: Id) {
        let lowest = self.pending().find(|id| *id >= self.shard.low_id).unwrap_or(Id::MAX);
        self.shard.low_id = self.shard.low_id.max(lowest.min(horizon + 1));
    }

    fn pending(&self) -> impl Iterator<Item = Id> {
        self.rows.iter().filter(|row| !row.published && !self.settled.contains(&row.id)).map(|row| row.id)
    }
}

#[derive(Debug, Clone, Hash)]
pub struct Database {
    pub shard: Shard,
    /// Committed rows, by id.
    pub rows: Vec<Row>,
    /// The key of every id that was ever drawn.
    drawn: Vec<Key>,
    pub writers: Vec<Writer>,
    next_xid: u32,
    /// No failover takes it back: it is drawn at random.
    next_tag: u32,
    /// A commit that is still on its way.
    pub doubt: Option<Draft>,
    /// Former states, for a failover that loses commits.
    past: Option<Vec<(Shard, Vec<Row>)>>,
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
        };
        Self {
            shard,
            rows: Vec::new(),
            drawn: Vec::new(),
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
        Id::try_from(self.drawn.len()).expect("few rows")
    }

    pub fn key_of(&self, id: Id) -> Key {
        self.drawn[usize::try_from(id - 1).expect("ids begin with 1")]
    }

    /// Takes the shard if it is free. A locked row is skipped.
    pub fn acquire(&mut self, owner: u32) -> Option<Fence> {
        if self.doubt.is_some() || (self.shard.owner.is_some() && self.shard.lease_left > 0) {
            return None;
        }
        self.remember();
        self.shard.owner = Some(owner);
        self.shard.epoch += 1;
        self.shard.lease_left = LEASE;
        Some(Fence { owner, epoch: self.shard.epoch })
    }

    pub fn renew(&mut self, fence: Fence) -> Result<(), PgError> {
        if self.doubt.is_some() {
            return Err(PgError::Busy);
        }
        if !self.owns(fence) {
            return Err(PgError::Fenced);
        }
        self.shard.lease_left = LEASE;
        Ok(())
    }

    /// Another transactional id, in place of `from`. `noted`: so that others know it.
    pub fn next_producer(&mut self, fence: Fence, from: usize, noted: bool) -> Result<(), PgError> {
        if self.doubt.is_some() {
            return Err(PgError::Busy);
        }
        if !self.owns(fence) || (noted && self.shard.producer != from) {
            return Err(PgError::Fenced);
        }
        if noted {
            self.shard.producer = from + 1;
        }
        Ok(())
    }

    /// A plain read under the fence: it waits for no lock.
    pub fn state(&self, rules: Rules, fence: Fence) -> Result<&Shard, PgError> {
        match self.owns(fence) || !rules.has(Safeguard::EpochFence) {
            true => Ok(&self.shard),
            false => Err(PgError::Fenced),
        }
    }

    /// One transaction of a lane. `expected` is what the lane goes on from: the number of the last batch, and whether
    /// it is in flight.
    pub fn transaction<T>(
        &mut self,
        rules: Rules,
        fence: Fence,
        expected: Option<(i64, bool)>,
        luck: Luck,
        work: impl FnOnce(&mut Draft) -> T,
    ) -> Result<T, PgError> {
        if self.doubt.is_some() {
            return Err(PgError::Busy);
        }
        if rules.has(Safeguard::EpochFence) && !self.owns(fence) {
            return Err(PgError::Fenced);
        }
        let found = (self.shard.batch_seq, self.shard.batch_ids.is_some());
        if expected.is_some_and(|expected| expected != found) && rules.has(Safeguard::NumberChecked) {
            return Err(PgError::Moved);
        }
        let mut draft =
            Draft { shard: self.shard.clone(), rows: self.rows.clone(), settled: Vec::new(), next_tag: self.next_tag };
        let done = work(&mut draft);
        if draft.shard.tag != self.shard.tag {
            self.next_tag += 1;
        }
        draft.shard.lease_left = LEASE;
        self.changed_by_fenced |= rules.has(Safeguard::EpochFence) && !self.owns(fence);
        match luck {
            Luck::Fine | Luck::Twice => {
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
        let writes = |shard: &Shard| (shard.batch_seq, shard.batch_ids.clone(), shard.marked, shard.low_id);
        if writes(&self.shard) != writes(&draft.shard) {
            self.remember();
        }
        self.shard = draft.shard;
        for row in self.rows.iter_mut().filter(|row| draft.settled.contains(&row.id)) {
            row.published = true;
        }
    }

    fn owns(&self, fence: Fence) -> bool {
        self.shard.owner == Some(fence.owner) && self.shard.epoch == fence.epoch
    }

    pub fn open_writer(&mut self, key: Key) {
        self.writers.push(Writer { xid: self.next_xid, key, ids: Vec::new() });
        self.next_xid += 1;
    }

    pub fn insert(&mut self, writer: usize) {
        self.drawn.push(self.writers[writer].key);
        let id = self.last_id();
        self.writers[writer].ids.push(id);
    }

    pub fn end_writer(&mut self, writer: usize, commits: bool) {
        let writer = self.writers.remove(writer);
        if commits {
            self.remember();
            self.rows.extend(writer.ids.iter().map(|id| Row { id: *id, key: writer.key, published: false }));
            self.rows.sort_by_key(|row| row.id);
        }
    }

    /// What the barrier lists.
    pub fn open_writers(&self) -> HashSet<String> {
        self.writers.iter().map(|writer| format!("3/{}", writer.xid)).collect()
    }

    fn remember(&mut self) {
        if let Some(past) = &mut self.past {
            past.push((self.shard.clone(), self.rows.clone()));
        }
    }

    pub fn past_commits(&self) -> usize {
        self.past.as_ref().map_or(0, Vec::len)
    }

    /// A standby takes over that never got the last commits, or a backup is restored. Ids are not drawn twice.
    pub fn go_back(&mut self, commits: usize) {
        let Some(past) = &mut self.past else { return };
        let at = past.len() - commits.min(past.len());
        if at < past.len() {
            let (shard, rows) = past.swap_remove(at);
            past.truncate(at);
            (self.shard, self.rows) = (shard, rows);
        }
        self.doubt = None;
        self.writers.clear();
    }
}
