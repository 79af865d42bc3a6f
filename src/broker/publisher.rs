//! Publishes a batch in order and waits for every acknowledgement. One thread and one producer per lane.
//!
//! Owns what order needs on Kafka's side: records go to the client in the order of the batch, from one thread; when one is
//! refused nothing later of its key goes out; what has to be sent again is sent again in order.
//! Invariant: a record is reported [`Delivery::Refused`] only after it was refused alone. A broker refuses whole batches,
//! and librdkafka then fails every record in them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::failure::{Class, classify};
use super::producer::{Producer, Report, SendError};
use super::{Delivery, Record};
use crate::clock::{Permit, monotonic};

/// How long requests in flight may take to be answered after a fatal error before they are given up.
const FATAL_GRACE: Duration = Duration::from_secs(3);
/// Sleep between two looks for reports when there were none: what it adds to the latency of a batch, at most.
const REPORT_WAIT: Duration = Duration::from_micros(300);
/// Wait between two attempts to create a producer.
const CREATE_RETRY: Duration = Duration::from_millis(500);

/// The lane's handle. Dropping it ends the thread after the batch in hand.
#[derive(Debug)]
pub struct Publisher {
    jobs: SyncSender<Job>,
    brokers_up: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Job {
    records: Arc<Vec<Record>>,
    permit: Permit,
    reply: oneshot::Sender<Vec<Delivery>>,
}

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct PublisherSettings {
    /// From [`client_config::producer`](super::client_config::producer).
    pub client: ClientConfig,
    /// Time without any acknowledgement after which the producer is replaced.
    pub publish_timeout: Duration,
    /// For the name of the thread.
    pub name: String,
}

impl Publisher {
    /// Starts the thread, which connects in the background.
    pub fn start(settings: PublisherSettings) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(1);
        let brokers_up = Arc::new(AtomicBool::new(true));
        let worker = Worker { settings, producer: None, brokers_up: Arc::clone(&brokers_up) };
        std::thread::Builder::new().name(worker.settings.name.clone()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, brokers_up })
    }

    /// Publishes a batch and returns what became of each record, in the order of the batch. Waits as long as Kafka is
    /// away and the permit holds; after that what is not acknowledged is [`Delivery::Unsent`].
    ///
    /// Not cancel safe: a dropped future leaves the batch being sent. End the permit instead.
    pub async fn publish(&self, records: Arc<Vec<Record>>, permit: Permit) -> Vec<Delivery> {
        let (reply, answer) = oneshot::channel();
        let count = records.len();
        // The thread holds one job at most, and this lane waits for each, so there is always room.
        if self.jobs.try_send(Job { records, permit, reply }).is_err() {
            return vec![Delivery::Unsent; count];
        }
        answer.await.unwrap_or_else(|_| vec![Delivery::Unsent; count])
    }

    /// False while no broker can be reached.
    pub fn brokers_up(&self) -> bool {
        self.brokers_up.load(Ordering::Relaxed)
    }
}

struct Worker {
    settings: PublisherSettings,
    producer: Option<Producer>,
    brokers_up: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        // Before the first batch: an idempotent producer needs half a second to connect and get its id.
        self.producer = self.producer(0);
        while let Ok(job) = inbox.recv() {
            let deliveries = self.publish(&job.records, &job.permit);
            // A lane that is gone has no use for the answer; its successor reads the manifest.
            drop(job.reply.send(deliveries));
        }
    }

    fn publish(&mut self, records: &[Record], permit: &Permit) -> Vec<Delivery> {
        let mut batch = BatchState::new(records.len());
        while permit.holds() {
            let Some(mut producer) = self.producer(records.len()) else {
                std::thread::sleep(CREATE_RETRY.min(permit.remaining()));
                continue;
            };
            match pass(&mut producer, records, &mut batch, permit, self.settings.publish_timeout) {
                Pass::Done => {
                    self.producer = Some(producer);
                    return batch.into_deliveries();
                }
                // The next producer begins with the first record that is not acknowledged.
                Pass::Again(reason) => tracing::warn!(reason, lane = self.settings.name, "the producer is replaced"),
                Pass::Interrupted => return batch.into_deliveries(),
            }
        }
        batch.into_deliveries()
    }

    fn producer(&mut self, records: usize) -> Option<Producer> {
        if let Some(producer) = self.producer.take() {
            return Some(producer);
        }
        match Producer::new(&self.settings.client, records, Arc::clone(&self.brokers_up)) {
            Ok(producer) => Some(producer),
            Err(error) => {
                self.brokers_up.store(false, Ordering::Relaxed);
                tracing::error!(error = %error, "the Kafka client cannot be created");
                None
            }
        }
    }
}

/// How one walk through the batch ended.
enum Pass {
    /// Every record has its outcome.
    Done,
    /// The producer is of no use any more, or suspects have to be sent alone.
    Again(&'static str),
    /// The permit ended.
    Interrupted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
    Unsent,
}

/// What is known of each record of the batch.
struct BatchState {
    states: Vec<State>,
}

impl BatchState {
    fn new(records: usize) -> Self {
        Self { states: vec![State::Waiting; records] }
    }

    /// Takes delivery reports in. `alone` is the record that was sent by itself, if any.
    fn take(&mut self, reports: Vec<Report>, alone: Option<usize>) {
        for report in reports {
            self.states[report.index] = match report.outcome {
                Ok((partition, offset)) => State::Acked { partition, offset },
                Err(code) => match classify(code) {
                    Class::Record(class) if alone == Some(report.index) => State::Refused { class, code },
                    Class::Record(_) => State::Suspect,
                    Class::Infrastructure if is_purge(code) => State::Waiting,
                    Class::Infrastructure => State::Unsent,
                },
            };
        }
    }

    /// Before another pass: what was in flight when the producer ended has no report and is sent again.
    fn reset_sent(&mut self) {
        for state in &mut self.states {
            if *state == State::Sent {
                *state = State::Waiting;
            }
        }
    }

    fn any(&self, wanted: State) -> bool {
        self.states.contains(&wanted)
    }

    fn into_deliveries(self) -> Vec<Delivery> {
        self.states
            .into_iter()
            .map(|state| match state {
                State::Acked { partition, offset } => Delivery::Acked { partition, offset },
                State::Refused { class, code } => Delivery::Refused { class, reason: code.to_string() },
                State::Withheld => Delivery::Withheld,
                State::Waiting | State::Sent | State::Suspect | State::Unsent => Delivery::Unsent,
            })
            .collect()
    }
}

/// Reports that say nothing of the record: this producer gave it up.
fn is_purge(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::GaplessGuarantee
    )
}

/// Records handed over between two looks at the reports.
const POLL_EVERY: usize = 512;

/// Sends every record that still waits, in order, and waits for the reports. A suspect is sent alone.
fn pass(
    producer: &mut Producer,
    records: &[Record],
    batch: &mut BatchState,
    permit: &Permit,
    timeout: Duration,
) -> Pass {
    let mut refused_keys: HashSet<&str> = records
        .iter()
        .zip(&batch.states)
        .filter(|(_, state)| matches!(state, State::Refused { .. }))
        .filter_map(|(record, _)| record.key.as_deref())
        .collect();
    // What Kafka would not take yet keeps the rest of its topic back, or a later record of its key would go first.
    let unsent_topics: HashSet<&str> = records
        .iter()
        .zip(&batch.states)
        .filter(|(_, state)| **state == State::Unsent)
        .map(|(record, _)| record.topic.as_str())
        .collect();
    for (index, record) in records.iter().enumerate() {
        let state = batch.states[index];
        if !matches!(state, State::Waiting | State::Suspect) {
            continue;
        }
        if unsent_topics.contains(record.topic.as_str()) {
            batch.states[index] = State::Unsent;
            continue;
        }
        if record.key.as_deref().is_some_and(|key| refused_keys.contains(key)) {
            batch.states[index] = State::Withheld;
            continue;
        }
        let alone = (state == State::Suspect).then_some(index);
        if alone.is_some() {
            // Everything before it first, so that the refusal, if there is one, is its own.
            if let Some(end) = drain(producer, batch, permit, timeout, None) {
                return end;
            }
        }
        match hand_over(producer, record, index, batch, permit) {
            Ok(()) => {}
            Err(HandOver::Refused(class, code)) => {
                batch.states[index] = State::Refused { class, code };
                refused_keys.extend(record.key.as_deref());
            }
            Err(HandOver::Ended(end)) => return end,
        }
        if alone.is_some() {
            let ended = drain(producer, batch, permit, timeout, alone);
            if matches!(batch.states[index], State::Refused { .. }) {
                refused_keys.extend(record.key.as_deref());
            }
            if let Some(end) = ended {
                return end;
            }
        } else if index % POLL_EVERY == POLL_EVERY - 1 {
            batch.take(producer.poll(Duration::ZERO), None);
            if producer.fatal().is_some() {
                break;
            }
        }
    }
    if let Some(end) = drain(producer, batch, permit, timeout, None) {
        return end;
    }
    if batch.any(State::Suspect) {
        return Pass::Again("a request was refused: its records are sent one by one");
    }
    if batch.any(State::Waiting) {
        return Pass::Again("records were given up by the client");
    }
    Pass::Done
}

enum HandOver {
    Refused(&'static str, RDKafkaErrorCode),
    Ended(Pass),
}

fn hand_over(
    producer: &mut Producer,
    record: &Record,
    index: usize,
    batch: &mut BatchState,
    permit: &Permit,
) -> Result<(), HandOver> {
    loop {
        match producer.send(record, index) {
            Ok(()) => {
                batch.states[index] = State::Sent;
                return Ok(());
            }
            Err(SendError::QueueFull) => {
                batch.take(producer.poll(REPORT_WAIT), None);
                if !permit.holds() {
                    return Err(HandOver::Ended(interrupt(producer, batch)));
                }
            }
            Err(SendError::Code(code)) => match classify(code) {
                // The client itself refuses this one record: there is no batch to share the blame.
                Class::Record(class) => return Err(HandOver::Refused(class, code)),
                Class::Infrastructure => {
                    let end = give_up(producer, batch, "the client takes no more records");
                    return Err(HandOver::Ended(end));
                }
            },
        }
    }
}

/// Waits until every record handed over has its report. `Some` is an end of the pass.
fn drain(
    producer: &mut Producer,
    batch: &mut BatchState,
    permit: &Permit,
    timeout: Duration,
    alone: Option<usize>,
) -> Option<Pass> {
    let mut progress = monotonic();
    while producer.unreported() > 0 {
        let reports = producer.poll(REPORT_WAIT);
        if !reports.is_empty() {
            progress = monotonic();
            batch.take(reports, alone);
        } else if !permit.holds() {
            return Some(interrupt(producer, batch));
        } else if producer.fatal().is_some() {
            return Some(end_fatal(producer, batch, alone));
        } else if monotonic().saturating_sub(progress) > timeout {
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
                report(1, Err(RDKafkaErrorCode::TopicAuthorizationFailed)),
                report(2, Ok((4, 17))),
            ],
            None,
        );
        assert_eq!(batch.states, [State::Waiting, State::Unsent, State::Acked { partition: 4, offset: 17 }]);
    }
}
