//! What has to be true in every state.

use std::collections::{BTreeMap, BTreeSet};

use crate::kafka::{Logged, PARTITIONS};
use crate::postgres::{Event, Id, Key};
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
        for record in world.kafka.visible(partition).map(|logged| logged.record) {
            if !visible.insert(record.event) {
                if !world.repeatable.contains(&record.event) {
                    return Some(Violation::Twice);
                }
            } else if !world.db.rows().iter().any(|row| row.event == record.event) {
                // PostgreSQL lost its row, or somebody deleted it. Nothing is promised of it.
            } else if highest.insert(record.key, record.id).is_some_and(|before| before > record.id) {
                return Some(Violation::Disorder);
            }
        }
    }
    for row in world.db.rows() {
        if world.db.is_published(row) && !visible.contains(&row.event) {
            return Some(Violation::Lost);
        }
        if world.db.is_overlooked(row) {
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
    let mut batch_of: BTreeMap<Event, &[Event]> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let log: Vec<&Logged> = world.kafka.visible(partition).collect();
        for (at, logged) in log.iter().enumerate() {
            let events = world.attempts[logged.attempt].events.as_slice();
            if *batch_of.entry(logged.record.event).or_insert(events) != events {
                return Some(Violation::AnotherBatch);
            }
            let of_key = |other: &&&Logged| other.record.key == logged.record.key;
            let before = log[..at].iter().rev().find(of_key);
            let again = log[..at].iter().any(|other| other.attempt == logged.attempt && of_key(&other));
            if !world.setting.zombies && again && before.is_some_and(|before| before.attempt != logged.attempt) {
                return Some(Violation::Interrupted);
            }
        }
    }
    None
}
