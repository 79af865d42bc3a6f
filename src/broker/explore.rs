//! Finds all records of a batch that Kafka rejects, in a few walks.
//!
//! A broker rejects whole requests. Kafka says which records were the reason; if it does not, requests get smaller from
//! walk to walk until a record is alone in its request. Owns the ordering while a producer continues after a rejection:
//! at most one record per key at a time.

use std::collections::{HashMap, HashSet};

use super::Record;
use super::batch::{BatchState, HandOver, Pass, Sending, State, drain, hand_over};
use super::partitions::Partitions;
use super::producer::Producer;
use crate::failpoint::{Fault, fault};

/// From walk to walk, requests of suspects get smaller by this.
const SHRINK: usize = 8;

/// Which records one walk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// The first of each key that has no outcome, so that a refusal cannot come after a later record of the key.
    Heads,
    /// Every one: nothing of it will stay.
    All,
}

/// What must not be sent, for what became of earlier records.
pub(super) struct Blocked<'a> {
    partitions: &'a Partitions,
    /// The first refused record of each key.
    refused_keys: HashMap<&'a str, usize>,
    topics: HashMap<&'a str, State>,
    stuck_keys: HashSet<&'a str>,
    stuck_places: HashSet<(&'a str, i32)>,
}

impl<'a> Blocked<'a> {
    pub(super) fn new(records: &[&'a Record], states: &[State], partitions: &'a Partitions) -> Self {
        let mut blocked = Self {
            partitions,
            refused_keys: HashMap::new(),
            topics: HashMap::new(),
            stuck_keys: HashSet::new(),
            stuck_places: HashSet::new(),
        };
        for (index, (record, state)) in records.iter().zip(states).enumerate() {
            match state {
                State::Refused { .. } => blocked.refuse(index, record),
                // What Kafka would not take yet keeps the rest of its topic back, or a later record of its key would go
                // first.
                State::Unsent | State::Denied => {
                    blocked.topics.insert(&record.topic, *state);
                }
                State::Stuck => {
                    blocked.stuck_keys.extend(record.key.as_deref());
                    let place = record.key.as_deref().and_then(|key| partitions.of(&record.topic, Some(key)));
                    blocked.stuck_places.extend(place.map(|partition| (record.topic.as_str(), partition)));
                }
                State::Waiting | State::Sent | State::Acked { .. } | State::Suspect | State::Withheld => {}
            }
        }
        blocked
    }

    /// Nothing later of its key goes out.
    pub(super) fn refuse(&mut self, index: usize, record: &'a Record) {
        if let Some(key) = record.key.as_deref() {
            let first = self.refused_keys.entry(key).or_insert(index);
            *first = index.min(*first);
        }
    }

    /// What becomes of a record instead of being sent.
    pub(super) fn instead(&self, index: usize, record: &Record) -> Option<State> {
        if let Some(state) = self.topics.get(record.topic.as_str()) {
            return Some(*state);
        }
        let key = record.key.as_deref()?;
        if self.refused_keys.get(key).is_some_and(|first| *first < index) && !fault(Fault::RefusedPassed) {
            return Some(State::Withheld);
        }
        let stuck = || {
            let place = self.partitions.of(&record.topic, Some(key))?;
            self.stuck_places.contains(&(record.topic.as_str(), place)).then_some(())
        };
        let waits = !self.stuck_places.is_empty() && stuck().is_some() || self.stuck_keys.contains(key);
        waits.then_some(State::Stuck)
    }
}

/// How many suspects go out together in the next walk, after as many as `last` did in the last one.
pub(super) fn group(batch: &BatchState, last: usize) -> usize {
    match batch.count(State::Suspect) {
        0 => usize::MAX,
        _ if fault(Fault::SuspectsStayTogether) => usize::MAX,
        suspects => smaller(last, suspects),
    }
}

fn smaller(last: usize, suspects: usize) -> usize {
    (last.min(suspects) / SHRINK).max(1)
}

/// Sends what has no outcome yet, suspects in groups of `group`, and waits for the reports.
pub(super) fn walk(
    producer: &mut Producer,
    batch: &mut BatchState,
    sending: &Sending<'_>,
    take: Take,
    group: usize,
) -> Pass {
    let (mut waiting, mut suspects) = (Vec::new(), Vec::new());
    let mut keys: HashSet<&str> = HashSet::new();
    let blocked = match take {
        Take::Heads => Some(Blocked::new(sending.records, &batch.states, sending.partitions)),
        Take::All => None,
    };
    for (index, record) in sending.records.iter().enumerate() {
        let state = batch.states[index];
        if !matches!(state, State::Waiting | State::Suspect) {
            continue;
        }
        if let Some(state) = blocked.as_ref().and_then(|blocked| blocked.instead(index, record)) {
            batch.states[index] = state;
            continue;
        }
        if take == Take::Heads && record.key.as_deref().is_some_and(|key| !keys.insert(key)) {
            continue;
        }
        if state == State::Suspect { suspects.push(index) } else { waiting.push(index) }
    }
    let all = std::iter::once(waiting.as_slice());
    let groups: Vec<&[usize]> = match take {
        Take::Heads => all.chain(suspects.chunks(group)).collect(),
        // The first refusal ends it, and is to be as small as possible.
        Take::All => suspects.chunks(group).chain(all).collect(),
    };
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        for index in group {
            match hand_over(producer, *index, batch, sending) {
                Ok(()) => {}
                Err(HandOver::Refused(class, code)) => batch.states[*index] = State::Refused { class, code },
                Err(HandOver::Ended(end)) => return end,
            }
        }
        if let Some(end) = drain(producer, batch, sending) {
            return end;
        }
        (sending.progress)(batch);
    }
    Pass::Done
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;
    use crate::broker::Headers;
    use crate::event::FailureClass;

    fn record(topic: &str, key: &str) -> Record {
        Record {
            topic: topic.to_owned(),
            key: Some(key.to_owned()),
            value: None,
            headers: Headers::default(),
            timestamp_ms: 0,
        }
    }

    #[test]
    fn only_what_comes_after_a_refused_record_of_its_key_is_withheld() {
        let records = [record("t", "a"), record("t", "a"), record("t", "a"), record("t", "b")];
        let records: Vec<&Record> = records.iter().collect();
        let refused = State::Refused { class: FailureClass::InvalidRecord, code: RDKafkaErrorCode::InvalidRecord };
        let states = [State::Waiting, refused, State::Waiting, State::Waiting];
        let partitions = Partitions::default();
        let blocked = Blocked::new(&records, &states, &partitions);
        let instead: Vec<_> = (0..4).map(|index| blocked.instead(index, records[index])).collect();
        assert_eq!(instead, [None, None, Some(State::Withheld), None]);
    }

    #[test]
    fn what_is_not_taken_yet_keeps_its_topic_back_and_what_is_stuck_its_key() {
        let records = [record("t", "a"), record("u", "b"), record("t", "c"), record("v", "b"), record("v", "d")];
        let records: Vec<&Record> = records.iter().collect();
        let states = [State::Unsent, State::Stuck, State::Waiting, State::Waiting, State::Waiting];
        let partitions = Partitions::default();
        let blocked = Blocked::new(&records, &states, &partitions);
        let instead: Vec<_> = (2..5).map(|index| blocked.instead(index, records[index])).collect();
        assert_eq!(instead, [Some(State::Unsent), Some(State::Stuck), None]);
    }

    #[test]
    fn requests_of_suspects_shrink_until_each_is_alone() {
        let (mut group, mut walks) = (usize::MAX, 0);
        while group != 1 {
            group = smaller(group, 10_000);
            walks += 1;
        }
        assert_eq!(walks, 5);
    }
}
