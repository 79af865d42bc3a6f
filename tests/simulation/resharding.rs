//! What a change of the number of shards does in PostgreSQL, as the statements of `outbox/resharding/sql` have it: one
//! transaction each. False or nothing done: it waits for a lock, or gives up waiting for one, and is tried again.

use crate::postgres::{Database, Id, Row};
use crate::rules::{Precaution, Rules};
use crate::shard::{NOBODY, Number, Retired, Shard, shard_of};

impl Database {
    /// announce.sql
    pub fn announce(&mut self, shards: Option<usize>) {
        self.remember();
        self.tables.resharding_to = shards;
    }

    /// take.sql and waiting.sql. True: nobody works on any shard.
    pub fn take_shards(&mut self, rules: Rules) -> bool {
        let idle = |shard: &Shard| shard.batch_ids.is_none() || !rules.has(Precaution::TakenIdle);
        let taken = |shard: &Shard| shard.is_free() && idle(shard);
        if (0..self.shards().len()).any(|number| taken(&self.shards()[number]) && self.is_locked(number)) {
            return false;
        }
        if self.shards().iter().any(taken) {
            self.remember();
        }
        for shard in self.tables.shards.iter_mut().filter(|shard| taken(shard)) {
            shard.owner = Some(NOBODY);
            shard.epoch += 1;
            shard.lease_left = u32::MAX;
        }
        self.shards().iter().all(Shard::is_taken)
    }

    /// give_back.sql
    fn give_back(&mut self) {
        for shard in self.tables.shards.iter_mut().filter(|shard| shard.is_taken()) {
            (shard.owner, shard.lease_left) = (None, 0);
        }
    }

    /// All of it is taken back.
    pub fn abandon_resharding(&mut self) {
        self.remember();
        self.give_back();
        self.tables.resharding_to = None;
    }

    /// change.sql. The lock on the table is not had while a writer has inserted, or a lane is at work.
    pub fn change(&mut self, shards: usize, rules: Rules) -> bool {
        let is_written = self.writers.iter().any(|writer| !writer.rows.is_empty());
        if (is_written && rules.has(Precaution::WritersAwaited)) || !self.doubts.is_empty() {
            return false;
        }
        self.remember();
        self.tables.shard_count = shards;
        let lowest = self.lowest();
        for number in self.shards().len()..shards {
            let left = self.tables.retired.get(&number).copied();
            let mut retired = left.unwrap_or_default();
            if !rules.has(Precaution::NumbersKept) {
                retired = Retired { done_id: retired.done_id, ..Retired::default() };
            }
            if !rules.has(Precaution::DoneKept) {
                retired.done_id = 0;
            }
            let after_done = left.map_or(0, |_| retired.done_id + 1);
            let low_id = lowest.max(after_done);
            let nobody = Shard { owner: Some(NOBODY), lease_left: u32::MAX, low_id, ..Shard::after(retired) };
            self.tables.shards.push(nobody);
        }
        self.tables.retired.retain(|number, _| *number >= shards);
        true
    }

    /// take_ahead.sql: what is published ahead of the watermark of each shard is marked.
    pub fn mark_ahead(&mut self, rules: Rules) -> bool {
        if !self.doubts.is_empty() {
            return false;
        }
        self.remember();
        if rules.has(Precaution::AheadMarked) {
            let ahead: Vec<Id> = self.tables.shards.iter_mut().flat_map(|shard| shard.ahead.drain(..)).collect();
            for row in self.tables.rows.iter_mut().filter(|row| ahead.contains(&row.id)) {
                row.marked = true;
            }
        }
        true
    }

    /// strays.sql and move.sql: what waits in a shard goes to the shards of its keys.
    pub fn move_waiting(&mut self, from: Number, rules: Rules) -> bool {
        if !self.doubts.is_empty() {
            return false;
        }
        self.remember();
        let count = self.tables.shard_count;
        let Shard { done_id, again, .. } = self.tables.shards[from].clone();
        let waits = |row: &Row| row.shard == from && !row.marked && (row.id > done_id || again.contains(&row.id));
        for at in 0..self.tables.rows.len() {
            let row = &mut self.tables.rows[at];
            let to = shard_of(row.key, count);
            if !waits(row) || to == from || !rules.has(Precaution::WaitingMoved) {
                continue;
            }
            row.shard = to;
            self.tables.shards[from].again.remove(&row.id);
            let target = &mut self.tables.shards[to];
            if row.id <= target.done_id {
                if rules.has(Precaution::PassedListed) {
                    target.again.insert(row.id);
                }
            } else if rules.has(Precaution::LowIdLowered) {
                target.low_id = target.low_id.min(row.id);
            }
        }
        true
    }

    /// low_ids.sql, retire.sql, give_back.sql, and the announcement is taken back.
    pub fn finish_resharding(&mut self, rules: Rules) -> bool {
        if !self.doubts.is_empty() {
            return false;
        }
        self.remember();
        if rules.has(Precaution::LowIdLowered) {
            let lowest = self.lowest();
            for shard in &mut self.tables.shards {
                shard.low_id = lowest.max(shard.done_id + 1);
            }
        }
        let drawn = self.last_id();
        let gone = self.tables.shards.split_off(self.tables.shard_count);
        for (number, shard) in (self.tables.shard_count..).zip(gone) {
            let Shard { epoch, batch_seq, marked, producer, done_id, .. } = shard;
            let done_id = if rules.has(Precaution::OwnWatermark) { done_id } else { drawn };
            self.tables.retired.insert(number, Retired { epoch, batch_seq, marked, producer, done_id });
        }
        self.give_back();
        self.tables.resharding_to = None;
        true
    }

    fn lowest(&self) -> Id {
        self.shards().iter().map(|shard| shard.low_id).min().unwrap_or(0)
    }
}
