//! What is known of each record of a batch while it is sent, and how it is handed to the client.
//!
//! Shared by the publisher and by transactions. Leaves to them what to do about a record that was refused.

use std::ops::Range;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::failure::{Class, classify};
use super::producer::{Producer, Report, SendError};
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
    /// The producer is of no use any more, or suspects have to be sent alone.
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
    /// Refused together with others of its request: has to be tried alone.
    Suspect,
    Refused {
        class: &'static str,
        code: RDKafkaErrorCode,
    },
    Withheld,
    /// Its topic does not take records of this client.
    Denied,
    Unsent,
}

/// What is known of each record of the batch.
pub(super) struct BatchState {
    pub(super) states: Vec<State>,
    /// Reports that were no acknowledgement.
    pub(super) failures: usize,
}

impl BatchState {
    pub(super) fn new(records: usize) -> Self {
        Self { states: vec![State::Waiting; records], failures: 0 }
    }

    /// Takes delivery reports in. `alone` is the record that was sent by itself, if any.
    pub(super) fn take(&mut self, reports: Vec<Report>, alone: Option<usize>) {
        for report in reports {
            self.failures += usize::from(report.outcome.is_err());
            self.states[report.index] = match report.outcome {
                Ok((partition, offset)) => State::Acked { partition, offset },
                Err(code) => match classify(code) {
                    Class::Record(class) if alone == Some(report.index) => State::Refused { class, code },
                    Class::Record(_) => State::Suspect,
                    Class::Denied => State::Denied,
                    Class::Fatal => State::Waiting,
                    Class::Infrastructure => State::Unsent,
                },
            };
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

    /// Whether these records need not be waited for any more.
    pub(super) fn is_decided(&self, range: &Range<usize>) -> bool {
        self.states[range.clone()].iter().all(|state| match state {
            State::Acked { .. } | State::Refused { .. } | State::Withheld | State::Denied => true,
            State::Waiting | State::Sent | State::Suspect | State::Unsent => false,
        })
    }

    pub(super) fn deliveries(&self, range: &Range<usize>) -> Vec<Delivery> {
        let delivery = |state: &State| match *state {
            State::Acked { partition, offset } => Delivery::Acked { partition, offset },
            State::Refused { class, code } => Delivery::Refused { class, reason: code.to_string() },
            State::Withheld => Delivery::Withheld,
            State::Denied => Delivery::Denied,
            State::Waiting | State::Sent | State::Suspect | State::Unsent => Delivery::Unsent,
        };
        self.states[range.clone()].iter().map(delivery).collect()
    }
}

/// An operator wants to know after this long that records are waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// Records handed over between two looks at the reports.
pub(super) const POLL_EVERY: usize = 512;

pub(super) enum HandOver {
    Refused(&'static str, RDKafkaErrorCode),
    Ended(Pass),
}

pub(super) fn hand_over(
    producer: &mut Producer,
    record: &Record,
    index: usize,
    batch: &mut BatchState,
    may_send: &dyn Fn() -> bool,
) -> Result<(), HandOver> {
    loop {
        match producer.send(record, index) {
            Ok(()) => {
                batch.states[index] = State::Sent;
                return Ok(());
            }
            Err(SendError::QueueFull) => {
                batch.take(producer.poll(REPORT_WAIT), None);
                if !may_send() {
                    return Err(HandOver::Ended(interrupt(producer, batch)));
                }
            }
            Err(SendError::Code(code)) => match classify(code) {
                // The client itself refuses this one record: there is no batch to share the blame.
                Class::Record(class) => return Err(HandOver::Refused(class, code)),
                // The client knows it from the metadata of the topic.
                Class::Denied => {
                    batch.failures += 1;
                    batch.states[index] = State::Denied;
                    return Ok(());
                }
                Class::Infrastructure | Class::Fatal => {
                    let end = give_up(producer, batch, "the client takes no more records");
                    return Err(HandOver::Ended(end));
                }
            },
        }
    }
}

/// Waits until every record handed over has its report; `progress` sees what is known after each look that brought something. `Some` is an end of the pass.
pub(super) fn drain(
    producer: &mut Producer,
    batch: &mut BatchState,
    may_send: &dyn Fn() -> bool,
    progress: &dyn Fn(&BatchState),
    timeout: Duration,
    alone: Option<usize>,
) -> Option<Pass> {
    let mut reported = monotonic();
    let mut silent_since = reported;
    while producer.unreported() > 0 {
        let reports = producer.poll(REPORT_WAIT);
        if !reports.is_empty() {
            reported = monotonic();
            silent_since = reported;
            batch.take(reports, alone);
            progress(batch);
            continue;
        }
        if monotonic().saturating_sub(silent_since) > SILENCE {
            silent_since = monotonic();
            let thread = std::thread::current();
            let (lane, records) = (thread.name().unwrap_or_default(), producer.unreported());
            tracing::warn!(lane, records, brokers_down = producer.is_down(), "no acknowledgement for ten seconds");
        }
        if !may_send() {
            return Some(interrupt(producer, batch));
        } else if producer.fatal().is_some() {
            return Some(end_fatal(producer, batch, alone));
        } else if producer.has_lost_its_brokers() {
            return Some(give_up(producer, batch, "the client has lost all its brokers, and there are some"));
        } else if monotonic().saturating_sub(reported) > timeout {
            return Some(give_up(producer, batch, "no acknowledgement within publish_timeout"));
        }
    }
    if producer.fatal().is_some() {
        return Some(end_fatal(producer, batch, alone));
    }
    None
}

/// After a fatal error the client sends nothing more, but what is in flight may still be answered: wait for that, so that
/// it need not be sent twice.
fn end_fatal(producer: &mut Producer, batch: &mut BatchState, alone: Option<usize>) -> Pass {
    producer.purge_queue();
    let end = monotonic() + FATAL_GRACE;
    while producer.unreported() > 0 && monotonic() < end {
        batch.take(producer.poll(REPORT_WAIT), alone);
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
        batch.take(producer.poll(REPORT_WAIT), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(index: usize, outcome: Result<(i32, i64), RDKafkaErrorCode>) -> Report {
        Report { index, outcome }
    }

    #[test]
    fn a_record_refused_with_others_is_only_a_suspect() {
        let mut batch = BatchState::new(2);
        batch.take(
            vec![
                report(0, Err(RDKafkaErrorCode::MessageSizeTooLarge)),
                report(1, Err(RDKafkaErrorCode::MessageSizeTooLarge)),
            ],
            None,
        );
        assert!(batch.states.iter().all(|state| *state == State::Suspect));
        batch.take(vec![report(1, Err(RDKafkaErrorCode::MessageSizeTooLarge))], Some(1));
        assert!(matches!(batch.states[1], State::Refused { class: "too-large", .. }));
        assert_eq!(batch.states[0], State::Suspect);
    }

    #[test]
    fn what_the_client_gave_up_waits_and_what_the_broker_would_not_take_yet_is_unsent() {
        let mut batch = BatchState::new(3);
        batch.take(
            vec![
                report(0, Err(RDKafkaErrorCode::PurgeQueue)),
                report(1, Err(RDKafkaErrorCode::NotEnoughReplicas)),
                report(2, Ok((4, 17))),
            ],
            None,
        );
        assert_eq!(batch.states, [State::Waiting, State::Unsent, State::Acked { partition: 4, offset: 17 }]);
    }

    /// Half an hour without Kafka, one attempt every half second, and whatever the client may report meanwhile.
    #[test]
    fn an_outage_of_any_length_refuses_no_record() {
        const ATTEMPTS: usize = 30 * 60 * 2;
        let outage: Vec<RDKafkaErrorCode> = (-200..=200)
            .filter_map(|code| rdkafka::bindings::rd_kafka_resp_err_t::try_from(code).ok())
            .map(RDKafkaErrorCode::from)
            .filter(|code| !matches!(classify(*code), Class::Record(_)))
            .collect();
        assert!(outage.len() > 100, "{} codes", outage.len());
        let records = 16;
        let mut codes = outage.iter().cycle();
        for attempt in 0..ATTEMPTS {
            let mut batch = BatchState::new(records);
            for index in 0..records {
                // A producer that ends leaves some without a report.
                if (attempt + index) % 7 != 0 {
                    batch.take(codes.next().map(|code| report(index, Err(*code))).into_iter().collect(), None);
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
