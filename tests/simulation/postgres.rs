//! PostgreSQL as the relay sees it: shards, events, writers that draw ids early and commit late.
//!
//! Every transaction of a lane is atomic and holds the lock on the row of its shard; a common one holds several. A
//! commit whose answer is lost may have happened, may not have happened, or may still be on its way: then it holds the
//! locks, and a plain read sees the old rows. A failover may lose commits, and then ids are drawn a second time. What a
//! step does is in `step.rs`, and what a change of the number of shards does is in `resharding.rs`.

use std::collections::{BTreeMap, HashSet};

use outbox_relay::outbox::{BatchTag, LastBatch, ShardState};
use uuid::Uuid;

use crate::rules::{Luck, Precaution, Rules};
use crate::shard::{NOBODY, Number, Retired, Shard, shard_of};

pub type Id = i64;
pub type Key = u8;
/// An event, which no other has been or will be; ids can come back after a failover.
pub type Event = usize;

/// Ticks of the database's clock.
pub const LEASE: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub shard: Number,
    pub owner: u32,
    pub epoch: i64,
}

#[derive(Debug, Clone, Hash)]
pub struct Row {
    pub id: Id,
    pub event: Event,
    pub key: Key,
    /// Computed from the key when it was inserted or moved.
    pub shard: Number,
    /// It says PUBLISHED.
    pub marked: bool,
}

/// An open transaction of the application. Writers of a key take turns: the lock is taken before the id is drawn.
#[derive(Debug, Clone, Hash)]
pub struct Writer {
    pub xid: u32,
    pub key: Key,
    /// By `nextval` alone, for rows to come.
    drawn: Vec<Id>,
    /// As soon as there are any, it holds a lock on the table.
    pub rows: Vec<Row>,
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
    /// Nothing was done for this part of a shared step.
    Undone,
}

/// A transaction of a lane before its commit.
#[derive(Debug, Clone, Hash)]
pub struct Draft {
    /// Those that it has locked.
    pub shards: BTreeMap<Number, Shard>,
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

/// What a failover can take back.
#[derive(Debug, Clone, Hash)]
pub struct Tables {
    pub shards: Vec<Shard>,
    pub retired: BTreeMap<Number, Retired>,
    /// `outbox_shard_count()`.
    pub shard_count: usize,
    /// How many there are to be.
    pub resharding_to: Option<usize>,
    /// Committed rows, by id.
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Hash)]
pub struct Database {
    pub tables: Tables,
    /// The key of every event that ever was.
    keys: Vec<Key>,
    last_id: Id,
    /// Which run of the server this is.
    pub server: u32,
    pub writers: Vec<Writer>,
    next_xid: u32,
    /// No failover takes it back: it is drawn at random.
    next_tag: u64,
    /// Commits that are still on their way.
    pub doubts: Vec<Draft>,
    /// Former states, for a failover that loses commits.
    past: Option<Vec<Tables>>,
    /// A transaction went through whose owner was not the owner any more.
    pub changed_by_fenced: bool,
}

impl Database {
    pub fn new(shards: usize, keeps_past: bool) -> Self {
        let tables = Tables {
            shards: vec![Shard::after(Retired::default()); shards],
            retired: BTreeMap::new(),
            shard_count: shards,
            resharding_to: None,
            rows: Vec::new(),
        };
        Self {
            tables,
            keys: Vec::new(),
            last_id: 0,
            server: 0,
            writers: Vec::new(),
            next_xid: 1,
            next_tag: 1,
            doubts: Vec::new(),
            past: keeps_past.then(Vec::new),
            changed_by_fenced: false,
        }
    }

    pub fn shards(&self) -> &[Shard] {
        &self.tables.shards
    }

    pub fn rows(&self) -> &[Row] {
        &self.tables.rows
    }

    /// The highest id drawn.
    pub fn last_id(&self) -> Id {
        self.last_id
    }

    /// The events of some rows, now.
    pub fn events(&self, ids: &[Id]) -> impl Iterator<Item = Event> {
        self.tables.rows.iter().filter(|row| ids.contains(&row.id)).map(|row| row.event)
    }

    /// What the outbox says about a row, whichever way it keeps track. As `outbox_current` has it.
    pub fn is_published(&self, row: &Row) -> bool {
        if row.marked {
            return true;
        }
        // A shard that was taken away has left nothing behind that waits.
        let Some(shard) = self.tables.shards.get(row.shard) else { return true };
        let passed = row.id <= shard.done_id || shard.ahead.contains(&row.id);
        passed && !shard.is_in_flight(row.id) && !shard.again.contains(&row.id)
    }

    /// No claim will ever look at it.
    pub fn is_overlooked(&self, row: &Row) -> bool {
        let Some(shard) = self.tables.shards.get(row.shard) else { return false };
        let waits = !self.is_published(row) && !shard.is_in_flight(row.id);
        waits && row.id < shard.low_id && !shard.again.contains(&row.id)
    }

    /// A transaction holds the lock on the row of this shard.
    pub fn is_locked(&self, shard: Number) -> bool {
        self.doubts.iter().any(|draft| draft.shards.contains_key(&shard))
    }

    /// While the number of shards changes, only those with a batch in flight, for it to be settled.
    pub fn is_to_be_had(&self, number: Number) -> bool {
        let Some(shard) = self.tables.shards.get(number) else { return false };
        shard.is_free() && (shard.batch_ids.is_some() || self.tables.resharding_to.is_none())
    }

    /// Takes the shard if it is free. A locked row is skipped.
    pub fn acquire(&mut self, owner: u32, number: Number) -> Option<(Fence, Option<Vec<Id>>)> {
        if self.is_locked(number) || !self.is_to_be_had(number) {
            return None;
        }
        self.remember();
        let shard = &mut self.tables.shards[number];
        shard.owner = Some(owner);
        shard.epoch += 1;
        shard.lease_left = LEASE;
        Some((Fence { shard: number, owner, epoch: shard.epoch }, shard.batch_ids.clone()))
    }

    /// The owner of a lane renews its lease, if nobody has locked the row.
    pub fn renew(&mut self, fence: Fence) {
        if !self.is_locked(fence.shard) && self.owns(fence) {
            self.tables.shards[fence.shard].lease_left = LEASE;
        }
    }

    /// A lane has drained.
    pub fn release(&mut self, fence: Fence) {
        if !self.is_locked(fence.shard) && self.owns(fence) {
            self.remember();
            let shard = &mut self.tables.shards[fence.shard];
            shard.owner = None;
            shard.lease_left = 0;
        }
    }

    /// Another transactional id, in place of `from`, so that others know it.
    pub fn next_producer(&mut self, fence: Fence, from: i32) -> Result<i32, PgError> {
        if self.is_locked(fence.shard) {
            return Err(PgError::Busy);
        }
        if !self.owns(fence) || self.tables.shards[fence.shard].producer != from {
            return Err(PgError::Fenced);
        }
        self.tables.shards[fence.shard].producer = from + 1;
        Ok(from + 1)
    }

    /// A plain read under the fence: it waits for no lock.
    pub fn state(&self, rules: Rules, fence: Fence) -> Result<ShardState, PgError> {
        let shard = self.tables.shards.get(fence.shard).ok_or(PgError::Fenced)?;
        match self.owns(fence) || !rules.has(Precaution::EpochFence) {
            true => Ok(shard.state()),
            false => Err(PgError::Fenced),
        }
    }

    /// Whether a transaction of a lane may go on. `expected` is what the lane goes on from.
    pub fn check(&self, rules: Rules, fence: Fence, expected: Option<LastBatch>) -> Result<(), PgError> {
        if self.is_locked(fence.shard) {
            return Err(PgError::Busy);
        }
        let Some(shard) = self.tables.shards.get(fence.shard) else { return Err(PgError::Fenced) };
        if rules.has(Precaution::EpochFence) && !self.owns(fence) {
            return Err(PgError::Fenced);
        }
        match expected.is_some_and(|expected| expected != shard.last()) {
            true => Err(PgError::Moved),
            false => Ok(()),
        }
    }

    /// One transaction of a lane.
    pub fn transaction<T>(
        &mut self,
        rules: Rules,
        fence: Fence,
        expected: Option<LastBatch>,
        luck: Luck,
        work: impl FnOnce(&mut Draft) -> T,
    ) -> Result<T, PgError> {
        self.check(rules, fence, expected)?;
        let mut draft = self.begin([fence.shard]);
        let done = work(&mut draft);
        self.end(draft, luck)?;
        Ok(done)
    }

    /// With these shards locked.
    pub fn begin(&self, shards: impl IntoIterator<Item = Number>) -> Draft {
        let shards = shards.into_iter().map(|number| (number, self.tables.shards[number].clone())).collect();
        Draft { shards, rows: self.tables.rows.clone(), settled: Vec::new(), next_tag: self.next_tag }
    }

    /// The commit, which renews the leases on the way.
    pub fn end(&mut self, mut draft: Draft, luck: Luck) -> Result<(), PgError> {
        if draft.shards.iter().any(|(number, shard)| shard.tag != self.tables.shards[*number].tag) {
            self.next_tag += 1;
        }
        for shard in draft.shards.values_mut() {
            shard.lease_left = LEASE;
        }
        match luck {
            Luck::Fine | Luck::Twice | Luck::Undone => {
                self.commit(draft);
                return Ok(());
            }
            Luck::LostAfter => self.commit(draft),
            Luck::Late => self.doubts.push(draft),
            Luck::LostBefore => {}
        }
        Err(PgError::Unknown)
    }

    /// A commit that was on its way arrives, or its connection breaks first.
    pub fn end_doubt(&mut self, doubt: usize, happened: bool) {
        let draft = self.doubts.remove(doubt);
        if happened {
            self.commit(draft);
        }
    }

    /// The clock of the database moves on. Those that `lives` is true for renew their leases meanwhile.
    pub fn pass(&mut self, ticks: u32, lives: impl Fn(u32) -> bool) {
        let drafts = self.doubts.iter_mut().flat_map(|draft| draft.shards.values_mut());
        for shard in self.tables.shards.iter_mut().chain(drafts) {
            // The lease of nobody ends in another age.
            if !shard.owner.is_some_and(|owner| owner == NOBODY || lives(owner)) {
                shard.lease_left = shard.lease_left.saturating_sub(ticks);
            }
        }
    }

    fn commit(&mut self, draft: Draft) {
        let same = |(number, shard): (&Number, &Shard)| {
            let before = &self.tables.shards[*number];
            *before == Shard { lease_left: before.lease_left, ..shard.clone() }
        };
        if !draft.shards.iter().all(same) || !draft.settled.is_empty() {
            self.remember();
        }
        for (number, shard) in draft.shards {
            let before = &mut self.tables.shards[number];
            self.changed_by_fenced |= (before.owner, before.epoch) != (shard.owner, shard.epoch);
            *before = shard;
        }
        for row in self.tables.rows.iter_mut().filter(|row| draft.settled.contains(&row.id)) {
            row.marked = true;
        }
    }

    fn owns(&self, fence: Fence) -> bool {
        let shard = self.tables.shards.get(fence.shard);
        shard.is_some_and(|shard| shard.owner == Some(fence.owner) && shard.epoch == fence.epoch)
    }

    pub fn open_writer(&mut self, key: Key) {
        self.writers.push(Writer { xid: self.next_xid, key, drawn: Vec::new(), rows: Vec::new() });
        self.next_xid += 1;
    }

    /// Draws an id for a row to come.
    pub fn draw(&mut self, writer: usize) {
        self.last_id += 1;
        self.writers[writer].drawn.push(self.last_id);
    }

    pub fn insert(&mut self, writer: usize) {
        if self.writers[writer].drawn.is_empty() {
            self.draw(writer);
        }
        let Writer { key, drawn, rows, .. } = &mut self.writers[writer];
        self.keys.push(*key);
        let (id, event, shard) = (drawn.remove(0), self.keys.len() - 1, shard_of(*key, self.tables.shard_count));
        rows.push(Row { id, event, key: *key, shard, marked: false });
    }

    pub fn end_writer(&mut self, writer: usize, commits: bool) {
        let Writer { rows, .. } = self.writers.remove(writer);
        if commits {
            self.remember();
            self.tables.rows.extend(rows);
            self.tables.rows.sort_by_key(|row| row.id);
        }
    }

    /// By hand. A commit of a lane that is on its way finds it gone.
    pub fn delete(&mut self, row: usize) {
        self.remember();
        self.tables.rows.remove(row);
    }

    /// What the barrier lists.
    pub fn open_writers(&self) -> HashSet<String> {
        let has_drawn = |writer: &&Writer| !writer.rows.is_empty() || !writer.drawn.is_empty();
        self.writers.iter().filter(has_drawn).map(|writer| format!("3/{}", writer.xid)).collect()
    }

    pub(crate) fn remember(&mut self) {
        if let Some(past) = &mut self.past {
            past.push(self.tables.clone());
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
            let tables = past.swap_remove(at);
            past.truncate(at);
            // What the rows of the shards rest on was drawn before them, and is not lost alone.
            let of_shards = tables.shards.iter().map(|shard| (shard.low_id - 1).max(shard.done_id));
            let rested_on = of_shards.chain(tables.retired.values().map(|retired| retired.done_id));
            self.last_id = tables.rows.iter().map(|row| row.id).chain(rested_on).max().unwrap_or(0).max(0);
            self.tables = tables;
        }
        self.server += 1;
        self.doubts.clear();
        self.writers.clear();
    }
}
