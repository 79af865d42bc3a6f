//! Publishes a batch in order and waits for every acknowledgement. One thread and one producer per lane.
//!
//! Owns what order needs on Kafka's side: records go to the client in the order of the batch, from one thread; when one is
//! refused nothing later of its key goes out; what has to be sent again is sent again in order.
//! Invariant: a record is reported [`Delivery::Refused`] only after it was refused alone. A broker refuses whole batches,
//! and librdkafka then fails every record in them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use tokio::sync::oneshot;

use super::batch::{BatchState, HandOver, POLL_EVERY, Pass, State, drain, give_up, hand_over};
use super::producer::Producer;
use super::{Delivery, Record};
use crate::clock::Permit;
use crate::failpoint::{self, Point};

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
    let unsent_topics: HashMap<&str, State> = records
        .iter()
        .zip(&batch.states)
        .filter(|(_, state)| matches!(state, State::Unsent | State::Denied))
        .map(|(record, state)| (record.topic.as_str(), *state))
        .collect();
    for (index, record) in records.iter().enumerate() {
        let state = batch.states[index];
        if !matches!(state, State::Waiting | State::Suspect) {
            continue;
        }
        if let Some(why) = unsent_topics.get(record.topic.as_str()) {
            batch.states[index] = *why;
            continue;
        }
        if record.key.as_deref().is_some_and(|key| refused_keys.contains(key)) {
            batch.states[index] = State::Withheld;
            continue;
        }
        let reached = match index {
            0 => failpoint::reach(Point::ProduceFirst),
            _ if index == records.len() / 2 => failpoint::reach(Point::ProduceMid),
            _ => Ok(()),
        };
        if reached.is_err() {
            return give_up(producer, batch, "a test asked for it");
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
