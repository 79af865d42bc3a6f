//! How many bytes of a topic are sent before the first of them are acknowledged, for topics that accept only small
//! requests.
//!
//! A broker compares a topic's `max.message.bytes` with a whole request and rejects all of its records if the request
//! is larger. The client fills requests up to `batch.size`, which applies to all topics. Records of such a topic are
//! therefore sent in portions, each acknowledged before the next one. For topics that accept full requests this costs
//! one look at a counter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Record;
use super::batch::State;

/// As `batch.size` of the client says: no request is larger, unless it is one record.
const REQUEST_BYTES_MAX: u64 = 1_000_000;
/// Maximum wait for the acknowledgements of one portion. Then something else is wrong, and who waits for all reports
/// finds out what.
pub(super) const PORTION_WAIT: Duration = Duration::from_secs(2);

/// Topics that take less at once than the client sends.
#[derive(Debug, Default)]
pub struct RequestLimits {
    topics: Mutex<HashMap<String, Limit>>,
    /// There are some.
    any: AtomicBool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Limit {
    /// As the topic says of itself.
    told: Option<u64>,
    /// More than this was refused, and taken in smaller portions.
    learnt: Option<u64>,
}

impl RequestLimits {
    fn topics(&self) -> MutexGuard<'_, HashMap<String, Limit>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic says of itself what it takes: `max.message.bytes`, if it may be asked.
    pub fn told(&self, topic: &str, bytes: Option<u64>) {
        let bytes = bytes.filter(|bytes| *bytes < REQUEST_BYTES_MAX);
        if bytes.is_none() && !self.any.load(Ordering::Relaxed) {
            return;
        }
        self.change(topic, |limit| {
            // What was learnt is about the former one.
            let learnt = limit.learnt.filter(|_| limit.told == bytes);
            Limit { told: bytes, learnt }
        });
    }

    /// Records of so many bytes were refused together, and each of them was taken alone.
    fn refused_together(&self, topic: &str, bytes: u64) {
        self.change(topic, |limit| Limit { learnt: Some(limit.learnt.unwrap_or(bytes).min(bytes / 2)), ..limit });
    }

    pub(super) fn forget(&self, topic: &str) {
        if self.any.load(Ordering::Relaxed) {
            self.change(topic, |_| Limit::default());
        }
    }

    fn change(&self, topic: &str, change: impl Fn(Limit) -> Limit) {
        let mut topics = self.topics();
        let limit = change(topics.get(topic).copied().unwrap_or_default());
        if limit.bytes().is_some() {
            topics.insert(topic.to_owned(), limit);
        } else {
            topics.remove(topic);
        }
        self.any.store(!topics.is_empty(), Ordering::Relaxed);
    }

    /// The most that the topic takes at once; `None`: as much as the client sends.
    fn of(&self, topic: &str) -> Option<u64> {
        self.any.load(Ordering::Relaxed).then(|| self.topics().get(topic).and_then(|limit| limit.bytes())).flatten()
    }
}

impl Limit {
    fn bytes(self) -> Option<u64> {
        self.told.into_iter().chain(self.learnt).min()
    }
}

/// Portions of one walk through a batch, by topic.
#[derive(Debug, Default)]
pub(super) struct Portions {
    open: HashMap<String, Portion>,
    /// A portion was waited for in vain.
    given_up: bool,
}

#[derive(Debug, Default)]
struct Portion {
    bytes: u64,
    records: Vec<usize>,
}

impl Portions {
    /// Whether this record, which is about to be handed over, has to wait for others of its topic. If not, it counts as
    /// handed over.
    pub(super) fn is_full(&mut self, index: usize, record: &Record, states: &[State], limits: &RequestLimits) -> bool {
        let Some(limit) = limits.of(&record.topic) else { return false };
        if self.given_up {
            return false;
        }
        if !self.open.contains_key(&record.topic) {
            self.open.insert(record.topic.clone(), Portion::default());
        }
        let Some(portion) = self.open.get_mut(&record.topic) else { return false };
        let size = record.size() as u64;
        if !portion.records.is_empty() && portion.bytes.saturating_add(size) > limit {
            if portion.records.iter().any(|sent| states.get(*sent) == Some(&State::Sent)) {
                return true;
            }
            *portion = Portion::default();
        }
        portion.bytes = portion.bytes.saturating_add(size);
        portion.records.push(index);
        false
    }

    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }
}

/// Of the records that were refused together and taken alone, those of topics in which none was refused in the end:
/// together they were too large. Half of them is the most that goes out at once from now on.
pub(super) fn learn(records: &[&Record], states: &[State], suspected: &[usize], limits: &RequestLimits) {
    let mut together: HashMap<&str, u64> = HashMap::new();
    for index in suspected {
        if let (Some(record), Some(State::Acked { .. })) = (records.get(*index), states.get(*index)) {
            *together.entry(&record.topic).or_default() += record.size() as u64;
        }
    }
    for (record, state) in records.iter().zip(states) {
        if matches!(state, State::Refused { .. }) {
            together.remove(record.topic.as_str());
        }
    }
    for (topic, bytes) in together {
        limits.refused_together(topic, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Headers;
    use crate::event::FailureClass;

    fn record(topic: &str, bytes: usize) -> Record {
        let value = Some(vec![0; bytes]);
        Record { topic: topic.to_owned(), key: None, value, headers: Headers::default(), timestamp_ms: 0 }
    }

    const ACKED: State = State::Acked { partition: 0, offset: 0 };

    #[test]
    fn records_of_a_topic_that_takes_little_wait_for_those_before_them() {
        let limits = RequestLimits::default();
        limits.told("small", Some(20_000));
        limits.told("large", Some(REQUEST_BYTES_MAX + 1));
        let (small, large) = (record("small", 8_000), record("large", 900_000));
        let mut portions = Portions::default();
        let mut states = vec![State::Sent; 8];
        for index in 0..4 {
            assert!(!portions.is_full(index, &large, &states, &limits));
        }
        assert!(!portions.is_full(4, &small, &states, &limits));
        assert!(!portions.is_full(5, &small, &states, &limits));
        assert!(portions.is_full(6, &small, &states, &limits));
        states[4] = ACKED;
        assert!(portions.is_full(6, &small, &states, &limits), "one of them is on its way");
        states[5] = ACKED;
        assert!(!portions.is_full(6, &small, &states, &limits));
        assert!(!portions.is_full(7, &small, &states, &limits));
    }

    #[test]
    fn what_is_refused_together_and_taken_alone_goes_out_in_halves() {
        let limits = RequestLimits::default();
        let records = [record("t", 30_000), record("t", 30_000), record("u", 30_000), record("u", 30_000)];
        let records: Vec<&Record> = records.iter().collect();
        let refused = State::Refused {
            class: FailureClass::InvalidRecord,
            code: rdkafka::error::RDKafkaErrorCode::InvalidRecord,
        };
        learn(&records, &[ACKED, ACKED, ACKED, refused], &[0, 1, 2, 3], &limits);
        assert!(limits.of("t").is_some_and(|limit| limit > 29_000 && limit < 32_000));
        assert_eq!(limits.of("u"), None, "one of them was to blame");
        // What the topic says of itself does not undo it.
        limits.told("t", None);
        assert!(limits.of("t").is_some());
        limits.forget("t");
        assert_eq!(limits.of("t"), None);
    }
}
