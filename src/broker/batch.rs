//! What is known of each record of a batch while it is sent, and how it is handed to the client.
//!
//! Shared by the publisher and by transactions. Leaves to them what to do about a record that was refused.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::failure::{Class, classify};
use super::partitions::{Partitions, Trouble};
use super::producer::{Producer, Rejection, Report, SendError};
use super::request_size::{self, PORTION_WAIT, Portions};
use super::{Delivery, Record};
use crate::clock::monotonic;

/// How long requests in flight may take to be answered after a fatal error before they are given up.
const FATAL_GRACE: Duration = Duration::from_secs(3);
/// Sleep between two looks for reports when there were none: what it adds to the latency of a batch, at most.
const REPORT_WAIT: Duration = Duration::from_micros(300);

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
        class: &'static str,
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

    /// Takes delivery reports in. A broker refuses whole requests: a record counts as refused when the broker named it or it was alone.
    /// Kafka names records since 2.4; but when it names one alone, librdkafka (2.12) gives its error to all of the request. When it names several,
    /// each has INVALID_RECORD, whatever is wrong with it; one that is named alone has that only where a key is missing.
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

    /// Partitions could not become part of the transaction, so all of it was given up: those are to blame, and not the others.
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

/// An operator wants to know after this long that records are waited for.
const SILENCE: Duration = Duration::from_secs(10);
/// After this long without any report, the partitions that are waited for are looked at.
const STALL: Duration = Duration::from_millis(2_500);
/// Time between two looks at them.
const STALL_LOOK: Duration = Duration::from_millis(500);
/// After a failure in a transaction, which ends it, answers that are on their way are waited for as long as they come at this pace.
const LAST_ANSWERS: Duration = Duration::from_millis(150);

/// Records handed over between two looks at the reports.
pub(super) const POLL_EVERY: usize = 512;

/// What is sent, and how long.
pub(super) struct Sending<'a> {
    pub(super) records: &'a [&'a Record],
    pub(super) partitions: &'a Partitions,
    pub(super) may_send: &'a dyn Fn() -> bool,
    /// Sees what is known after each look that brought something.
    pub(super) progress: &'a dyn Fn(&BatchState),
    /// Time without any acknowledgement after which the producer is given up.
    pub(super) timeout: Duration,
    /// All of it or nothing: after the first failure the rest is of no interest.
    pub(super) whole: bool,
    /// Partitions are to blame for silence. Not so in a transaction that perhaps has not begun, because the one before it is not ended.
    pub(super) begun: bool,
}

pub(super) enum HandOver {
    Refused(&'static str, RDKafkaErrorCode),
    Ended(Pass),
}

pub(super) fn hand_over(
    producer: &mut Producer,
    index: usize,
    batch: &mut BatchState,
    sending: &Sending<'_>,
) -> Result<(), HandOver> {
    let record = sending.records[index];
    wait_for_portion(producer, index, batch, sending)?;
    let partition = if record.key.is_none() { sending.partitions.alternative(&record.topic) } else { None };
    loop {
        match producer.send(record, index, partition) {
            Ok(()) => {
                batch.states[index] = State::Sent;
                return Ok(());
            }
            Err(SendError::QueueFull) => {
                batch.take(&producer.poll(REPORT_WAIT));
                if !(sending.may_send)() {
                    return Err(HandOver::Ended(interrupt(producer, batch)));
                }
            }
            Err(SendError::Code(code)) => match classify(code) {
                // The client itself refuses this one record: there is no batch to share the blame.
                Class::Record(class) | Class::Topic(class) => return Err(HandOver::Refused(class, code)),
                // The client knows it from the metadata of the topic.
                Class::Denied => {
                    batch.failures += 1;
                    batch.states[index] = State::Denied;
                    return Ok(());
                }
                Class::Infrastructure | Class::Innocent | Class::Fatal => {
                    let end = give_up(producer, batch, "the client takes no more records");
                    return Err(HandOver::Ended(end));
                }
            },
        }
    }
}

/// Waits while the topic takes no more at once than is on its way to it.
fn wait_for_portion(
    producer: &mut Producer,
    index: usize,
    batch: &mut BatchState,
    sending: &Sending<'_>,
) -> Result<(), HandOver> {
    let (record, limits, since) = (sending.records[index], sending.partitions.requests(), monotonic());
    while batch.portions.is_full(index, record, &batch.states, limits) {
        batch.take(&producer.poll(REPORT_WAIT));
        if !(sending.may_send)() {
            return Err(HandOver::Ended(interrupt(producer, batch)));
        }
        let in_vain = monotonic().saturating_sub(since) > PORTION_WAIT || producer.fatal().is_some();
        if in_vain || sending.whole && batch.failures > 0 {
            batch.portions.give_up();
        }
    }
    Ok(())
}

/// Waits until every record handed over has its report. `Some` is an end of the pass.
pub(super) fn drain(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>) -> Option<Pass> {
    let mut reported = monotonic();
    let mut silent_since = reported;
    let mut looked = reported;
    while producer.unreported() > 0 {
        let reports = producer.poll(REPORT_WAIT);
        if !reports.is_empty() {
            reported = monotonic();
            silent_since = reported;
            batch.take(&reports);
            (sending.progress)(batch);
            continue;
        }
        let now = monotonic();
        let silent = now.saturating_sub(reported);
        if now.saturating_sub(silent_since) > SILENCE {
            silent_since = now;
            warn_of_silence(producer, batch, sending);
        }
        if sending.whole && batch.failures > 0 && silent > LAST_ANSWERS {
            return Some(give_up(producer, batch, "a record was not taken"));
        }
        if silent > STALL && now.saturating_sub(looked) > STALL_LOOK {
            looked = now;
            if let Some(end) = unblock(producer, batch, sending, reported) {
                return Some(end);
            }
        }
        if !(sending.may_send)() {
            return Some(interrupt(producer, batch));
        } else if producer.fatal().is_some() {
            return Some(end_fatal(producer, batch));
        } else if producer.has_lost_its_brokers() {
            return Some(give_up(producer, batch, "the client has lost all its brokers, and there are some"));
        } else if silent > sending.timeout {
            return Some(give_up(producer, batch, "no acknowledgement within publish_timeout"));
        }
    }
    if producer.fatal().is_some() {
        return Some(end_fatal(producer, batch));
    }
    None
}

fn warn_of_silence(producer: &Producer, batch: &BatchState, sending: &Sending<'_>) {
    let thread = std::thread::current();
    let (lane, records) = (thread.name().unwrap_or_default(), producer.unreported());
    let first = batch.states.iter().position(|state| *state == State::Sent);
    let topic = first.map_or("", |index| sending.records[index].topic.as_str());
    tracing::warn!(lane, records, topic, brokers_down = producer.is_down(), "no acknowledgement for ten seconds");
}

/// Gives records up whose partition is known to take none, so that the others need not wait for it. The producer goes with them: it would
/// send them later, and out of order.
fn unblock(
    producer: &mut Producer,
    batch: &mut BatchState,
    Sending { records, partitions, begun, .. }: &Sending<'_>,
    since: Duration,
) -> Option<Pass> {
    let sent = |batch: &BatchState| -> Vec<usize> {
        batch.states.iter().enumerate().filter(|(_, state)| **state == State::Sent).map(|(index, _)| index).collect()
    };
    let waiting = sent(batch);
    partitions.suspect(waiting.iter().map(|index| records[*index].topic.as_str()));
    // An outage of Kafka is for everybody to wait for.
    if producer.is_down() {
        return None;
    }
    let gone: Vec<usize> =
        waiting.iter().copied().filter(|index| partitions.is_gone(&records[*index].topic, since)).collect();
    if !gone.is_empty() {
        collect_rest(producer, batch);
        batch.reset_sent();
        for index in gone {
            if batch.states[index] == State::Waiting {
                batch.failures += 1;
                batch.states[index] = State::Unsent;
            }
        }
        return Some(Pass::Again("a topic is gone"));
    }
    let mut stuck: Vec<(usize, Trouble)> = waiting
        .into_iter()
        .filter_map(|index| {
            let record = records[index];
            Some((index, partitions.stuck(&record.topic, record.key.as_deref(), since)?))
        })
        .collect();
    if !begun && !batch.states.iter().any(|state| matches!(state, State::Acked { .. })) {
        let silent = stuck.iter().any(|(_, trouble)| *trouble == Trouble::Silent);
        stuck.retain(|(_, trouble)| *trouble != Trouble::Silent);
        if stuck.is_empty() && (silent || partitions.any_leaderless()) {
            return Some(give_up(producer, batch, "the transaction does not begin"));
        }
    }
    if stuck.is_empty() {
        return None;
    }
    collect_rest(producer, batch);
    batch.reset_sent();
    for (index, trouble) in stuck {
        if batch.states[index] != State::Waiting {
            continue;
        }
        batch.failures += 1;
        batch.states[index] = State::Stuck;
        let record = records[index];
        let place = partitions.of(&record.topic, record.key.as_deref()).or_else(|| batch.places.get(&index).copied());
        if let Some(partition) = place {
            partitions.confirm(&record.topic, partition, trouble);
        }
    }
    Some(Pass::Again("a partition takes no records"))
}

/// After a fatal error the client sends nothing more, but what is in flight may still be answered: wait for that, so that
/// it need not be sent twice.
fn end_fatal(producer: &mut Producer, batch: &mut BatchState) -> Pass {
    producer.purge_queue();
    let end = monotonic() + FATAL_GRACE;
    while producer.unreported() > 0 && monotonic() < end {
        batch.take(&producer.poll(REPORT_WAIT));
    }
    give_up(producer, batch, "the client met a fatal error")
}

pub(super) fn give_up(producer: &mut Producer, batch: &mut BatchState, reason: &'static str) -> Pass {
    collect_rest(producer, batch);
    batch.reset_sent();
    Pass::Again(reason)
}

fn interrupt(producer: &mut Producer, batch: &mut BatchState) -> Pass {
    collect_rest(producer, batch);
    Pass::Interrupted
}

/// Purges, and takes what reports there are.
fn collect_rest(producer: &mut Producer, batch: &mut BatchState) {
    producer.purge_all();
    let end = monotonic() + Duration::from_millis(500);
    while producer.unreported() > 0 && monotonic() < end {
        batch.take(&producer.poll(REPORT_WAIT));
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
        assert!(matches!(batch.states[1], State::Refused { class: "too-large", .. }));
        assert_eq!(batch.states[0], State::Suspect);
    }

    #[test]
    fn a_broker_that_names_the_refused_records_is_believed() {
        let mut batch = BatchState::new(5);
        let (named, neighbour) = (Err(RDKafkaErrorCode::InvalidRecord), Err(innocent()));
        batch.take(&[report(0, 1, named), report(1, 1, neighbour), report(2, 1, named)]);
        assert!(matches!(batch.states[0], State::Refused { class: "invalid-record", .. }));
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
        assert!(batch.states.iter().all(|state| matches!(state, State::Refused { class: "invalid-topic", .. })));
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
