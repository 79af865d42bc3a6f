//! Publishes batches in order and waits for every acknowledgement: one thread and one producer for each lane, and one of each for the small
//! batches of all lanes, which then go out together.
//!
//! Owns what order needs on Kafka's side: records go to the client in the order of the batch, from one thread; when one is
//! refused nothing later of its key goes out; what has to be sent again is sent again in order.
//! Invariant: a record is reported [`Delivery::Refused`] only after it was refused alone. A broker refuses whole batches,
//! and librdkafka then fails every record in them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use tokio::sync::oneshot;

use super::batch::{BatchState, HandOver, POLL_EVERY, Pass, State, drain, give_up, hand_over};
use super::producer::Producer;
use super::{Delivery, Record};
use crate::clock::{Permit, monotonic};
use crate::failpoint::{self, Point};

/// Wait between two attempts to create a producer.
const CREATE_RETRY: Duration = Duration::from_millis(500);

/// Longest wait for the jobs that come with one: a request for each of them would take longer.
const COMPANY_WAIT: Duration = Duration::from_micros(500);

/// The handle of a lane, or of all lanes. Dropping it ends the thread after what it has in hand.
#[derive(Debug)]
pub struct Publisher {
    jobs: Sender<Job>,
    brokers_up: Arc<AtomicBool>,
    /// Since when it has been sending, in monotonic milliseconds and one more; 0 when it has nothing to send.
    sending_since: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Job {
    records: Arc<Vec<Record>>,
    permit: Permit,
    /// So many jobs, this one with them, are about to come.
    company: usize,
    reply: oneshot::Sender<Vec<Delivery>>,
}

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct PublisherSettings {
    /// From [`client_config::producer`](super::client_config::producer).
    pub client: ClientConfig,
    /// Time without any acknowledgement after which the producer is replaced.
    pub publish_timeout: Duration,
    /// Of the thread.
    pub name: String,
}

impl PublisherSettings {
    /// The same for one publisher of several: its thread is called `name`, its client `client_id`.
    #[must_use]
    pub fn of(&self, name: String, client_id: String) -> Self {
        let mut settings = Self { name, ..self.clone() };
        settings.client.set("client.id", client_id);
        settings
    }
}

impl Publisher {
    /// Starts the thread, which connects in the background.
    pub fn start(settings: PublisherSettings) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let brokers_up = Arc::new(AtomicBool::new(true));
        let sending_since = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            settings,
            producer: None,
            brokers_up: Arc::clone(&brokers_up),
            sending_since: Arc::clone(&sending_since),
        };
        std::thread::Builder::new().name(worker.settings.name.clone()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, brokers_up, sending_since })
    }

    /// Publishes a batch and returns what became of each record, in the order of the batch. Waits as long as Kafka is
    /// away and the permit holds; after that what is not acknowledged is [`Delivery::Unsent`]. Batches that have come in while another one
    /// was sent go out together, and an end of one's permit then ends all of them: what is not acknowledged may be sent again.
    ///
    /// `company`: so many batches, this one with them, are about to come; they are waited for a moment.
    /// Two batches of one key must not be on their way at the same time.
    /// Not cancel safe: a dropped future leaves the batch being sent. End the permit instead.
    pub async fn publish(&self, records: Arc<Vec<Record>>, permit: Permit, company: usize) -> Vec<Delivery> {
        let (reply, answer) = oneshot::channel();
        let count = records.len();
        // Each lane waits for its answer, so there are never more than there are lanes.
        if self.jobs.send(Job { records, permit, company, reply }).is_err() {
            return vec![Delivery::Unsent; count];
        }
        answer.await.unwrap_or_else(|_| vec![Delivery::Unsent; count])
    }

    /// How long it has been at what it sends now.
    pub fn busy(&self) -> Duration {
        match self.sending_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => (monotonic() + Duration::from_millis(1)).saturating_sub(Duration::from_millis(since)),
        }
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
    sending_since: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        // Before the first batch: an idempotent producer needs half a second to connect and get its id.
        self.producer = self.producer(0);
        while let Ok(job) = inbox.recv() {
            let mut jobs = gather(job, inbox);
            // A lane that may not send any more hears at once that nothing was sent.
            jobs.retain(|job| job.permit.holds());
            let since = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            self.sending_since.store(since, Ordering::Relaxed);
            let mut deliveries = self.publish(&jobs).into_iter();
            self.sending_since.store(0, Ordering::Relaxed);
            for job in jobs {
                // A lane that is gone has no use for the answer; its successor reads the manifest.
                let own = deliveries.by_ref().take(job.records.len()).collect();
                drop(job.reply.send(own));
            }
        }
    }

    /// What became of each record of all jobs, in their order.
    fn publish(&mut self, jobs: &[Job]) -> Vec<Delivery> {
        let records: Vec<&Record> = jobs.iter().flat_map(|job| job.records.iter()).collect();
        let may_send = || jobs.iter().all(|job| job.permit.holds());
        let mut batch = BatchState::new(records.len());
        while may_send() {
            let Some(mut producer) = self.producer(records.len()) else {
                let remaining = jobs.iter().map(|job| job.permit.remaining()).min().unwrap_or_default();
                std::thread::sleep(CREATE_RETRY.min(remaining));
                continue;
            };
            match pass(&mut producer, &records, &mut batch, &may_send, self.settings.publish_timeout) {
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

/// The first job, and those that come with it.
fn gather(first: Job, inbox: &Receiver<Job>) -> Vec<Job> {
    let (company, started) = (first.company, monotonic());
    let mut jobs = vec![first];
    loop {
        jobs.extend(inbox.try_iter());
        let patience = COMPANY_WAIT.saturating_sub(monotonic().saturating_sub(started));
        if jobs.len() >= company || patience.is_zero() {
            return jobs;
        }
        jobs.extend(inbox.recv_timeout(patience));
    }
}

/// Sends every record that still waits, in order, and waits for the reports. A suspect is sent alone.
fn pass(
    producer: &mut Producer,
    records: &[&Record],
    batch: &mut BatchState,
    may_send: &dyn Fn() -> bool,
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
            if let Some(end) = drain(producer, batch, may_send, timeout, None) {
                return end;
            }
        }
        match hand_over(producer, record, index, batch, may_send) {
            Ok(()) => {}
            Err(HandOver::Refused(class, code)) => {
                batch.states[index] = State::Refused { class, code };
                refused_keys.extend(record.key.as_deref());
            }
            Err(HandOver::Ended(end)) => return end,
        }
        if alone.is_some() {
            let ended = drain(producer, batch, may_send, timeout, alone);
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
    if let Some(end) = drain(producer, batch, may_send, timeout, None) {
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
