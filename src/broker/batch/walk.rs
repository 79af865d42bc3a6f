//! One walk through a batch: its records are handed to the client, and the reports are awaited for as long as brokers
//! respond.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::{BatchState, Pass, State};
use crate::broker::Record;
use crate::broker::failure::{Class, classify};
use crate::broker::partitions::{Partitions, Trouble};
use crate::broker::producer::{Producer, SendError};
use crate::broker::request_size::PORTION_WAIT;
use crate::clock::monotonic;
use crate::event::FailureClass;

/// How long requests in flight may take to be answered before their producer is given up: librdkafka gives up on each
/// after `socket.timeout.ms`, which is 10 s. What is not waited for may be in the log, and is sent twice.
const LANDING: Duration = Duration::from_secs(12);
/// The same in a transaction that has failed: only what else was refused is of interest.
const LANDING_OF_FAILED: Duration = Duration::from_secs(3);
/// The same while a partition takes no records, and the others want to go on.
const LANDING_OF_OTHERS: Duration = Duration::from_secs(5);
/// A request that fails meanwhile goes back to the queue of the client, which is emptied again after this long.
const EMPTY_AGAIN: Duration = Duration::from_millis(20);
/// Sleep between two looks for reports when there were none: what it adds to the latency of a batch, at most.
const REPORT_WAIT: Duration = Duration::from_micros(300);
/// An operator wants to know after this long that records are waited for.
const SILENCE: Duration = Duration::from_secs(10);
/// After this long without any report, the partitions that are waited for are looked at.
const STALL: Duration = Duration::from_millis(2_500);
/// Time between two looks at them.
const STALL_LOOK: Duration = Duration::from_millis(500);
/// After a failure in a transaction, which ends it, answers that are on their way are waited for as long as they come
/// at this pace.
const LAST_ANSWERS: Duration = Duration::from_millis(150);

const FATAL: &str = "the client met a fatal error";
const TAKES_NO_MORE: &str = "the client does not accept more records";

/// Records handed over between two looks at the reports.
pub(in crate::broker) const POLL_EVERY: usize = 512;

/// What is sent, and how long.
pub(in crate::broker) struct Sending<'a> {
    pub(in crate::broker) records: &'a [&'a Record],
    pub(in crate::broker) partitions: &'a Partitions,
    pub(in crate::broker) may_send: &'a dyn Fn() -> bool,
    /// Sees what is known after each look that brought something.
    pub(in crate::broker) progress: &'a dyn Fn(&BatchState),
    /// Time without any acknowledgement after which the producer is given up.
    pub(in crate::broker) timeout: Duration,
    /// All of it or nothing: after the first failure the rest is of no interest.
    pub(in crate::broker) whole: bool,
    /// Partitions are to blame for silence. Not so in a transaction that perhaps has not begun, because the one before
    /// it is not ended.
    pub(in crate::broker) begun: bool,
}

pub(in crate::broker) enum HandOver {
    Refused(FailureClass, RDKafkaErrorCode),
    Ended(Pass),
}

pub(in crate::broker) fn hand_over(
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
                // Also after a record was refused while later ones are still handed over.
                Class::Infrastructure | Class::Innocent | Class::Fatal => {
                    let end = land_and_give_up(producer, batch, sending, TAKES_NO_MORE);
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
pub(in crate::broker) fn drain(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>) -> Option<Pass> {
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
            return Some(land_and_give_up(producer, batch, sending, FATAL));
        } else if producer.has_lost_its_brokers() {
            return Some(give_up(producer, batch, "the client lost all its brokers although brokers are reachable"));
        } else if silent > sending.timeout {
            return Some(give_up(producer, batch, "no acknowledgement within publish_timeout"));
        }
    }
    if producer.fatal().is_some() {
        return Some(land_and_give_up(producer, batch, sending, FATAL));
    }
    None
}

fn warn_of_silence(producer: &Producer, batch: &BatchState, sending: &Sending<'_>) {
    let thread = std::thread::current();
    let (lane, records) = (thread.name().unwrap_or_default(), producer.unreported());
    let first = batch.states.iter().position(|state| *state == State::Sent);
    let topic = first.map_or("", |index| sending.records[index].topic.as_str());
    tracing::warn!(
        lane,
        records,
        topic,
        brokers_down = producer.is_down(),
        "no acknowledgement from Kafka for ten seconds"
    );
}

/// Gives records up whose partition is known to take none, so that the others need not wait for it. The producer goes
/// with them: it would send them later, and out of order.
fn unblock(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>, since: Duration) -> Option<Pass> {
    let Sending { records, partitions, begun, .. } = sending;
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
        give_up_some(producer, batch, sending, &gone);
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
            return Some(give_up(producer, batch, "the transaction did not begin in time"));
        }
    }
    if stuck.is_empty() {
        return None;
    }
    let places: Vec<usize> = stuck.iter().map(|(index, _)| *index).collect();
    give_up_some(producer, batch, sending, &places);
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
    Some(Pass::Again("a partition does not accept records"))
}

/// Sends nothing more, and waits until what is on its way is answered, so that it need not be sent twice. Records at
/// the places `lost`, in ascending order, are not waited for: their partitions do not answer.
fn land(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>, lost: &[usize], limit: Duration) {
    let on_its_way = |batch: &BatchState| {
        let mut places = batch.states.iter().enumerate();
        places.any(|(place, state)| *state == State::Sent && lost.binary_search(&place).is_err())
    };
    let end = monotonic() + limit;
    let mut empty_at = Duration::ZERO;
    while on_its_way(batch) && (sending.may_send)() && !producer.has_lost_its_brokers() {
        let now = monotonic();
        if now >= end {
            return;
        }
        if now >= empty_at {
            empty_at = now + EMPTY_AGAIN;
            producer.purge_queue();
        }
        batch.take(&producer.poll(REPORT_WAIT));
    }
}

/// The same for the sake of records that are lost: those of other partitions are on their way. Nothing of a transaction
/// will stay.
fn give_up_some(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>, lost: &[usize]) {
    if !sending.whole {
        land(producer, batch, sending, lost, LANDING_OF_OTHERS);
    }
    collect_rest(producer, batch);
    batch.reset_sent();
}

/// Gives the producer up once what is on its way is answered.
pub(in crate::broker) fn land_and_give_up(
    producer: &mut Producer,
    batch: &mut BatchState,
    sending: &Sending<'_>,
    reason: &'static str,
) -> Pass {
    let limit = if sending.whole { LANDING_OF_FAILED } else { LANDING };
    land(producer, batch, sending, &[], limit);
    give_up(producer, batch, reason)
}

fn give_up(producer: &mut Producer, batch: &mut BatchState, reason: &'static str) -> Pass {
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
