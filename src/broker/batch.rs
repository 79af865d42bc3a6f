//! The state of each record of a batch while it is sent; `walk.rs` hands the records to the client.
//!
//! Shared by the publisher and by transactions, which decide what to do about a rejected record.

mod walk;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rdkafka::error::RDKafkaErrorCode;

use super::failure::{Class, classify};
use super::partitions::Partitions;
use super::producer::{Rejection, Report};
use super::request_size::{self, Portions};
use super::{Delivery, Record};
use crate::event::FailureClass;

pub(super) use walk::{HandOver, POLL_EVERY, Sending, drain, hand_over, land_and_give_up};

/// How one walk through the batch ended.
pub(super) enum Pass {
    /// Every record has its outcome.
    Done,
    /// The producer is of no use any more.
    Again(&'static str),
    /// It may not send any more.
    Interrupted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Sent,
    Acked {
        partition: i32,
        offset: i64,
    },
    /// Refused together with others of its request, and the broker did not say which it refuses.
    Suspect,
    Refused {
        class: FailureClass,
        code: RDKafkaErrorCode,
    },
    Withheld,
    /// Its topic does not take records of this client.
    Denied,
    /// Its partition takes no records now.
    Stuck,
    Unsent,
}

/// What is known of each record of the batch.
pub(super) struct BatchState {
    pub(super) states: Vec<State>,
    /// Reports that were no acknowledgement.
    pub(super) failures: usize,
    /// Suspects of the requests that were refused since somebody last asked.
    flagged: Vec<usize>,
    /// Records were refused since somebody last asked.
    refusals: bool,
    /// Where records without an acknowledgement would have gone.
    places: HashMap<usize, i32>,
    /// Errors that are no record's: index, partition, code.
    troubles: Vec<(usize, i32, RDKafkaErrorCode)>,
    /// Which records have a key; empty if that is not known.
    keyed: Vec<bool>,
    /// Records that were suspects at some time.
    suspected: Vec<usize>,
    portions: Portions,
}

impl BatchState {
    pub(super) fn new(records: usize) -> Self {
        Self {
            states: vec![State::Waiting; records],
            failures: 0,
            flagged: Vec::new(),
            refusals: false,
            places: HashMap::new(),
            troubles: Vec::new(),
            keyed: Vec::new(),
            suspected: Vec::new(),
            portions: Portions::default(),
        }
    }

    pub(super) fn of(records: &[&Record]) -> Self {
        let keyed = records.iter().map(|record| record.key.is_some()).collect();
        Self { keyed, ..Self::new(records.len()) }
    }

    /// Takes delivery reports in. A broker refuses whole requests: a record counts as refused when the broker named it
    /// or it was alone. Kafka names records since 2.4; but when it names one alone, librdkafka (2.12) gives its error
    /// to all of the request. When it names several, each has INVALID_RECORD, whatever is wrong with it; one that is
    /// named alone has that only where a key is missing.
    pub(super) fn take(&mut self, reports: &[Report]) {
        for request in reports.chunk_by(|one, next| one.request == next.request) {
            let named = request
                .iter()
                .any(|report| report.outcome.is_err_and(|code| matches!(classify(code), Class::Innocent)));
            let all_named = request.iter().all(|report| {
                let keyed = self.keyed.get(report.index).is_some_and(|keyed| *keyed);
                keyed && report.outcome == Err(RDKafkaErrorCode::InvalidRecord)
            });
            let certain = named || all_named || request.len() == 1;
            for report in request {
                self.states[report.index] = match report.outcome {
                    Ok(offset) => State::Acked { partition: report.partition, offset },
                    Err(code) => self.failed(*report, code, certain),
                };
            }
        }
    }

    fn failed(&mut self, report: Report, code: RDKafkaErrorCode, certain: bool) -> State {
        self.failures += 1;
        if report.partition >= 0 {
            self.places.insert(report.index, report.partition);
        }
        let class = classify(code);
        self.refusals |= matches!(class, Class::Record(_) | Class::Topic(_) | Class::Innocent);
        match class {
            Class::Record(class) if certain => State::Refused { class, code },
            Class::Record(_) => {
                self.flagged.push(report.index);
                self.suspected.push(report.index);
                State::Suspect
            }
            Class::Topic(class) => State::Refused { class, code },
            Class::Denied => State::Denied,
            Class::Innocent | Class::Fatal => State::Waiting,
            Class::Infrastructure => {
                self.troubles.push((report.index, report.partition, code));
                State::Unsent
            }
        }
    }

    /// Suspects of the requests that were refused since the last call.
    pub(super) fn flagged(&mut self) -> HashSet<usize> {
        std::mem::take(&mut self.flagged).into_iter().collect()
    }

    /// Whether Kafka has refused records since the last call.
    pub(super) fn met_refusals(&mut self) -> bool {
        std::mem::take(&mut self.refusals)
    }

    /// Partitions could not become part of the transaction, so all of it was given up: those are to blame, and not the
    /// others.
    pub(super) fn reject(&mut self, records: &[&Record], partitions: &Partitions, rejections: &[Rejection]) {
        for Rejection { topic, partition, code } in rejections {
            // Another partition of the same request was to blame.
            if *code == RDKafkaErrorCode::OperationNotAttempted {
                continue;
            }
            let class = classify(*code);
            for (index, record) in records.iter().enumerate().filter(|(_, record)| record.topic == *topic) {
                if !matches!(self.states[index], State::Waiting | State::Sent) {
                    continue;
                }
                let place = partitions.of(topic, record.key.as_deref());
                match class {
                    Class::Denied => self.states[index] = State::Denied,
                    Class::Topic(class) => self.states[index] = State::Refused { class, code: *code },
                    Class::Infrastructure | Class::Record(_) if place.is_none_or(|place| place == *partition) => {
                        self.troubles.push((index, *partition, *code));
                        self.states[index] = State::Unsent;
                    }
                    Class::Infrastructure | Class::Record(_) | Class::Innocent | Class::Fatal => {}
                }
            }
        }
    }

    /// Tells what this batch found out about partitions.
    pub(super) fn tell(&mut self, records: &[&Record], partitions: &Partitions) {
        for (index, partition, code) in self.troubles.drain(..) {
            if matches!(self.states[index], State::Unsent) && partition >= 0 {
                partitions.failed(&records[index].topic, partition, code);
            }
        }
        if !self.suspected.is_empty() {
            self.suspected.sort_unstable();
            self.suspected.dedup();
            request_size::learn(records, &self.states, &self.suspected, partitions.requests());
        }
        if partitions.is_watching() {
            let mut told = HashSet::new();
            for (record, state) in records.iter().zip(&self.states) {
                if let State::Acked { partition, .. } = state
                    && told.insert((record.topic.as_str(), *partition))
                {
                    partitions.works(&record.topic, *partition);
                }
            }
        }
    }

    /// Before another pass: what was in flight when the producer ended has no report and is sent again.
    pub(super) fn reset_sent(&mut self) {
        for state in &mut self.states {
            if *state == State::Sent {
                *state = State::Waiting;
            }
        }
    }

    pub(super) fn any(&self, wanted: State) -> bool {
        self.states.contains(&wanted)
    }

    pub(super) fn count(&self, wanted: State) -> usize {
        self.states.iter().filter(|state| **state == wanted).count()
    }

    /// Whether these records need not be waited for any more.
    pub(super) fn is_decided(&self, range: &Range<usize>) -> bool {
        self.states[range.clone()].iter().all(|state| match state {
            State::Acked { .. } | State::Refused { .. } | State::Withheld | State::Denied | State::Stuck => true,
            State::Waiting | State::Sent | State::Suspect | State::Unsent => false,
        })
    }

    pub(super) fn deliveries(&self, range: &Range<usize>) -> Vec<Delivery> {
        let delivery = |state: &State| match *state {
            State::Acked { partition, offset } => Delivery::Acked { partition, offset },
            State::Refused { class, code } => Delivery::Refused { class, reason: code.to_string() },
            State::Withheld => Delivery::Withheld,
            State::Denied => Delivery::Denied,
            State::Stuck => Delivery::Stuck,
            State::Waiting | State::Sent | State::Suspect | State::Unsent => Delivery::Unsent,
        };
        self.states[range.clone()].iter().map(delivery).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(index: usize, request: u64, outcome: Result<i64, RDKafkaErrorCode>) -> Report {
        Report { index, request, partition: 4, outcome }
    }

    fn innocent() -> RDKafkaErrorCode {
        rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD.into()
    }

    #[test]
    fn a_record_refused_with_others_is_only_a_suspect() {
        let mut batch = BatchState::new(2);
        let refused = Err(RDKafkaErrorCode::MessageSizeTooLarge);
        batch.take(&[report(0, 1, refused), report(1, 1, refused)]);
        assert!(batch.states.iter().all(|state| *state == State::Suspect));
        assert!(batch.met_refusals() && !batch.met_refusals());
        batch.take(&[report(1, 2, refused)]);
        assert!(matches!(batch.states[1], State::Refused { class: FailureClass::TooLarge, .. }));
        assert_eq!(batch.states[0], State::Suspect);
    }

    #[test]
    fn a_broker_that_names_the_refused_records_is_believed() {
        let mut batch = BatchState::new(5);
        let (named, neighbour) = (Err(RDKafkaErrorCode::InvalidRecord), Err(innocent()));
        batch.take(&[report(0, 1, named), report(1, 1, neighbour), report(2, 1, named)]);
        assert!(matches!(batch.states[0], State::Refused { class: FailureClass::InvalidRecord, .. }));
        assert_eq!(batch.states[1], State::Waiting);
        assert!(matches!(batch.states[2], State::Refused { .. }));
        // All of them named, or one of them alone: that looks the same.
        batch.take(&[report(3, 2, named), report(4, 2, named)]);
        assert_eq!(batch.states[3..], [State::Suspect, State::Suspect]);
        assert_eq!(batch.flagged(), HashSet::from([3, 4]));
    }

    #[test]
    fn records_with_keys_that_are_all_named_are_certain() {
        let named = Err(RDKafkaErrorCode::InvalidRecord);
        let mut batch = BatchState { keyed: vec![true, true, false, true], ..BatchState::new(4) };
        batch.take(&[report(0, 1, named), report(1, 1, named)]);
        assert!(batch.states[..2].iter().all(|state| matches!(state, State::Refused { .. })));
        batch.take(&[report(2, 2, named), report(3, 2, named)]);
        assert_eq!(batch.states[2..], [State::Suspect, State::Suspect], "a missing key is named alone, too");
        let alone = Err(RDKafkaErrorCode::InvalidTimestamp);
        batch.take(&[report(0, 3, alone), report(1, 3, alone)]);
        assert_eq!(batch.states[..2], [State::Suspect, State::Suspect], "one of them was named");
    }

    #[test]
    fn partitions_that_were_not_added_to_a_transaction_are_to_blame_alone() {
        let partitions = Partitions::default();
        let record = |topic: &str, key: &str| Record {
            topic: topic.to_owned(),
            key: Some(key.to_owned()),
            value: None,
            headers: crate::broker::Headers::default(),
            timestamp_ms: 0,
        };
        let records = [record("denied", "a"), record("good", "b"), record("other", "c")];
        let records: Vec<&Record> = records.iter().collect();
        let reject = |topic: &str, code| Rejection { topic: topic.to_owned(), partition: 0, code };
        let mut batch = BatchState::of(&records);
        batch.reject(
            &records,
            &partitions,
            &[
                reject("denied", RDKafkaErrorCode::TopicAuthorizationFailed),
                reject("good", RDKafkaErrorCode::OperationNotAttempted),
                reject("other", RDKafkaErrorCode::KafkaStorageError),
            ],
        );
        assert_eq!(batch.states, [State::Denied, State::Waiting, State::Unsent]);
        let mut batch = BatchState::of(&records);
        batch.reject(&records, &partitions, &[reject("good", RDKafkaErrorCode::InvalidTransactionalState)]);
        assert_eq!(batch.states, [State::Waiting; 3], "the producer is to blame");
    }

    #[test]
    fn what_a_topic_refuses_needs_no_search() {
        let mut batch = BatchState::new(2);
        let refused = Err(RDKafkaErrorCode::InvalidTopic);
        batch.take(&[report(0, 1, refused), report(1, 1, refused)]);
        assert!(
            batch.states.iter().all(|state| matches!(state, State::Refused { class: FailureClass::InvalidTopic, .. }))
        );
    }

    #[test]
    fn what_the_client_gave_up_waits_and_what_the_broker_would_not_take_yet_is_unsent() {
        let mut batch = BatchState::new(3);
        batch.take(&[
            report(0, 1, Err(RDKafkaErrorCode::PurgeQueue)),
            report(1, 2, Err(RDKafkaErrorCode::NotEnoughReplicas)),
            report(2, 3, Ok(17)),
        ]);
        assert_eq!(batch.states, [State::Waiting, State::Unsent, State::Acked { partition: 4, offset: 17 }]);
    }

    /// Half an hour without Kafka, one attempt every half second, and whatever the client may report meanwhile.
    #[test]
    fn an_outage_of_any_length_refuses_no_record() {
        const ATTEMPTS: usize = 30 * 60 * 2;
        let outage: Vec<RDKafkaErrorCode> = (-200..=200)
            .filter_map(|code| rdkafka::bindings::rd_kafka_resp_err_t::try_from(code).ok())
            .map(RDKafkaErrorCode::from)
            .filter(|code| !matches!(classify(*code), Class::Record(_) | Class::Topic(_)))
            .collect();
        assert!(outage.len() > 100, "{} codes", outage.len());
        let records = 16;
        let mut codes = outage.iter().cycle();
        for attempt in 0..ATTEMPTS {
            let mut batch = BatchState::new(records);
            for index in 0..records {
                // A producer that ends leaves some without a report.
                if (attempt + index) % 7 != 0 {
                    let code = codes.next().expect("a cycle has no end");
                    batch.take(&[report(index, attempt as u64, Err(*code))]);
                }
            }
            batch.reset_sent();
            let deliveries = batch.deliveries(&(0..records));
            assert!(
                deliveries.iter().all(|delivery| matches!(delivery, Delivery::Unsent | Delivery::Denied)),
                "attempt {attempt}: {deliveries:?}"
            );
        }
    }
}
