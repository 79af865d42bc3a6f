//! What has to be true in every state.

use std::collections::{BTreeMap, BTreeSet};

use crate::kafka::{PARTITIONS, Record};
use crate::postgres::{Id, Key};
use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A row that only exactly-once delivery has ever handled is visible twice.
    Twice,
    /// A row is settled and no reader will ever see it.
    Lost,
    /// An event of a key is visible for the first time after a later one.
    Disorder,
    /// A row waits below `low_id`, where no claim looks.
    BelowLowId,
    /// A former owner changed the row of the shard or an event.
    ChangedByFenced,
    /// A relay refuses to go on although no history was lost.
    RefusedForNothing,
    /// A repeat is not the same batch again.
    AnotherBatch,
    /// Something of its keys stands between the records of one sending.
    Interrupted,
    /// Everything works, and something is not delivered.
    Stuck,
}

pub fn check(world: &World) -> Option<Violation> {
    let mut visible = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let mut highest: BTreeMap<Key, Id> = BTreeMap::new();
        for record in world.kafka.visible(partition) {
            if !visible.insert(record.id) {
                if !world.repeatable.contains(&record.id) {
                    return Some(Violation::Twice);
                }
            } else if world.history_lost && !world.db.rows.iter().any(|row| row.id == record.id) {
                // Its row was lost by PostgreSQL. Nothing is promised of it.
            } else if highest.insert(record.key, record.id).is_some_and(|before| before > record.id) {
                return Some(Violation::Disorder);
            }
        }
    }
    for row in &world.db.rows {
        if row.published && !visible.contains(&row.id) {
            return Some(Violation::Lost);
        }
        if !row.published && row.id < world.db.shard.low_id {
            return Some(Violation::BelowLowId);
        }
    }
    if world.db.changed_by_fenced {
        return Some(Violation::ChangedByFenced);
    }
    if world.refused() && !world.history_lost {
        return Some(Violation::RefusedForNothing);
    }
    None
}

/// What has to be true of repeats at the end, where no history was lost: each is the same batch, whole or broken off,
/// and when nobody slept through the end of a lease nothing stands between its records.
pub fn check_repeats(world: &World) -> Option<Violation> {
    let mut batch_of: BTreeMap<Id, &[Id]> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let log: Vec<&Record> = world.kafka.visible(partition).collect();
        for (at, record) in log.iter().enumerate() {
            let ids = world.attempts[record.attempt].ids.as_slice();
            if *batch_of.entry(record.id).or_insert(ids) != ids {
                return Some(Violation::AnotherBatch);
            }
            let of_key = |other: &&&Record| other.key == record.key;
            let before = log[..at].iter().rev().find(of_key);
            let again = log[..at].iter().any(|other| other.attempt == record.attempt && other.key == record.key);
            if !world.setting.zombies && again && before.is_some_and(|before| before.attempt != record.attempt) {
                return Some(Violation::Interrupted);
            }
        }
    }
    None
}
