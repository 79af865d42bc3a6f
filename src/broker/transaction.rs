//! Publishes a batch in one Kafka transaction, together with a marker that says which batch it was. One thread and one
//! producer per lane.
//!
//! Owns what exactly-once needs on Kafka's side: the fence (`init_transactions`), the marker, and the rule that a producer
//! whose transaction met anything unusual is never used again. Knows nothing of manifests: the lane compares.
//! Invariants: the marker is read only after the fence, so that it is final; nothing is committed after the permit has ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::admin::QuietContext;
use super::batch::{BatchState, HandOver, POLL_EVERY, State, drain, hand_over};
use super::call::close;
use super::producer::{CallWatch, Producer};
use super::{Record, client_config};
use crate::clock::{Permit, monotonic};
use crate::failpoint::{self, Point};

/// Longest wait for the marker before the attempt to open counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for one attempt, so that the end of a permit is noticed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// A commit that took longer may have been sent twice by the client, which does not tell. Half of its request timeout.
const COMMIT_SUSPICIOUS: Duration = Duration::from_secs(5);
/// Longest wait for the abort of a transaction that is given up.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// A call of the client that lasts longer is not waited for: its timeout is a second. The thread is left to itself, with its producer.
const STUCK_CALL: Duration = Duration::from_secs(10);
/// Time between two looks at that.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Wait before asking again for a marker that a transaction in its end phase still covers.
const MARKER_RETRY: Duration = Duration::from_millis(20);

/// Where the marker of a shard stands: the committed offset of a group that never reads, on a topic without records.
#[derive(Debug, Clone)]
pub struct MarkerPlace {
    pub topic: String,
    pub group: String,
    pub partition: i32,
}

/// What a transaction leaves behind beside its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Number of the batch.
    pub seq: i64,
    /// Free text, at most 4096 bytes with the broker's default settings.
    pub note: String,
}

/// What a transactional publisher needs to know.
#[derive(Debug, Clone)]
pub struct TransactionSettings {
    /// From [`client_config::transactional`](super::client_config::transactional), to which the lane adds the `transactional.id`.
    pub client: ClientConfig,
    /// The `transactional.id` of a shard is this and its number.
    pub id_prefix: String,
    /// From [`client_config::common`](super::client_config::common).
    pub reader: ClientConfig,
    pub place: MarkerPlace,
    /// Time without any acknowledgement after which a transaction is given up.
    pub publish_timeout: Duration,
    /// For the name of the thread.
    pub name: String,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Outcome {
    /// Committed: partition and offset of each record.
    Committed(Vec<(i32, i64)>),
    /// Kafka refused this record, alone. Nothing was committed.
    Refused { index: usize, class: &'static str, reason: String },
    /// This client may not write to the topics of these records. Nothing was committed.
    Denied(Vec<usize>),
    /// Not committed, or nobody knows: the marker tells, after the next [`TransactionalPublisher::open`].
    Unknown(String),
}

/// A transaction that ended, and whether the producer may be used for another one.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    /// False: [`TransactionalPublisher::open`] comes first.
    pub usable: bool,
}

/// The lane's handle. Dropping it ends the thread after the job in hand.
#[derive(Debug)]
pub struct TransactionalPublisher {
    /// For the successor of a thread that is stuck.
    settings: Box<TransactionSettings>,
    thread: Mutex<Thread>,
    brokers_up: Arc<AtomicBool>,
}

/// The thread that owns the producer.
#[derive(Debug, Clone)]
struct Thread {
    jobs: SyncSender<Job>,
    watch: Arc<CallWatch>,
}

#[derive(Debug)]
enum Job {
    Peek { permit: Permit, reply: oneshot::Sender<Result<Option<Marker>, String>> },
    Open { permit: Permit, reply: oneshot::Sender<Result<Option<Marker>, String>> },
    Publish { records: Arc<Vec<Record>>, marker: Marker, permit: Permit, reply: oneshot::Sender<Ended> },
}

const GONE: &str = "the thread of the lane is gone or busy";

impl TransactionalPublisher {
    pub fn start(settings: TransactionSettings) -> std::io::Result<Self> {
        let brokers_up = Arc::new(AtomicBool::new(true));
        let thread = Mutex::new(Thread::start(settings.clone(), Arc::clone(&brokers_up))?);
        Ok(Self { settings: Box::new(settings), thread, brokers_up })
    }

    /// Reads the marker as it is now, without fencing anybody: it may still move.
    ///
    /// Errors and cancellation: as of [`TransactionalPublisher::open`].
    pub async fn peek(&self, permit: Permit) -> Result<Option<Marker>, String> {
        let (reply, answer) = oneshot::channel();
        let thread = self.thread();
        if thread.jobs.send(Job::Peek { permit, reply }).is_err() {
            return Err(GONE.to_owned());
        }
        self.watched(&thread, answer).await.unwrap_or_else(|reason| Err(reason.to_owned()))
    }

    /// Fences every older producer of this shard, ends what they had open, and reads the marker, which is final then.
    ///
    /// Errors: a text for the log; nothing is lost by trying again. Cancel safe, since the next call starts anew.
    pub async fn open(&self, permit: Permit) -> Result<Option<Marker>, String> {
        let (reply, answer) = oneshot::channel();
        let thread = self.thread();
        // Full while the thread is still at a job whose answer nobody waits for any more.
        if thread.jobs.try_send(Job::Open { permit, reply }).is_err() {
            return Err(GONE.to_owned());
        }
        self.watched(&thread, answer).await.unwrap_or_else(|reason| Err(reason.to_owned()))
    }

    /// Publishes the records and the marker in one transaction. Without records only the marker moves.
    ///
    /// Not cancel safe: a dropped future leaves the transaction running. End the permit instead.
    pub async fn publish(&self, records: Arc<Vec<Record>>, marker: Marker, permit: Permit) -> Ended {
        let (reply, answer) = oneshot::channel();
        let unknown = |reason: &str| Ended { outcome: Outcome::Unknown(reason.to_owned()), usable: false };
        let thread = self.thread();
        // The thread holds one job at most, and the lane waits for each, so there is always room.
        if thread.jobs.try_send(Job::Publish { records, marker, permit, reply }).is_err() {
            return unknown(GONE);
        }
        self.watched(&thread, answer).await.unwrap_or_else(unknown)
    }

    fn thread(&self) -> Thread {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the answer, unless the thread is stuck in a call of the client. Then another thread takes its place, whose first
    /// job is to open, which fences the producer of the stuck one: whatever that still does, the marker tells.
    async fn watched<T>(&self, thread: &Thread, answer: oneshot::Receiver<T>) -> Result<T, &'static str> {
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answered = &mut answer => return answered.map_err(|_| GONE),
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
            if thread.watch.lasts() > STUCK_CALL {
                let successor = Thread::start((*self.settings).clone(), Arc::clone(&self.brokers_up));
                if let Ok(successor) = successor {
                    *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = successor;
                    return Err("a call of the Kafka client does not return; another producer takes over");
                }
            }
        }
    }

    /// False while no broker can be reached.
    pub fn brokers_up(&self) -> bool {
        self.brokers_up.load(Ordering::Relaxed)
    }
}

impl Thread {
    fn start(settings: TransactionSettings, brokers_up: Arc<AtomicBool>) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(1);
        let watch = Arc::new(CallWatch::default());
        let worker = Worker { settings, open: None, brokers_up, watch: Arc::clone(&watch) };
        std::thread::Builder::new().name(worker.settings.name.clone()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, watch })
    }
}

/// A producer that fenced its predecessors.
struct Open {
    producer: Producer,
    group: ConsumerGroupMetadata,
    /// The end of the transaction was asked for: from then on it must not be aborted.
    committing: bool,
}

struct Worker {
    settings: TransactionSettings,
    open: Option<Open>,
    brokers_up: Arc<AtomicBool>,
    watch: Arc<CallWatch>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            // A lane that is gone has no use for the answer; its successor reads the marker.
            match job {
                Job::Peek { permit, reply } => drop(reply.send(self.peek(&permit))),
                Job::Open { permit, reply } => drop(reply.send(self.open(&permit))),
                Job::Publish { records, marker, permit, reply } => {
                    drop(reply.send(self.publish(&records, &marker, &permit)));
                }
            }
        }
    }

    fn open(&mut self, permit: &Permit) -> Result<Option<Marker>, String> {
        // The former producer goes first: two of one process would fence each other.
        if let Some(former) = self.open.take() {
            close(former);
        }
        // It connects while the producer does.
        let reader = self.reader("read_committed")?;
        let producer =
            Producer::new(&self.settings.client, 0, Arc::clone(&self.brokers_up)).map_err(|error| error.to_string())?;
        let producer = producer.watched_by(Arc::clone(&self.watch));
        producer.init_transactions(permit).map_err(|error| {
            self.brokers_up.store(false, Ordering::Relaxed);
            format!("the transactional producer cannot be initialised: {error}")
        })?;
        failpoint::reach(Point::FenceDone)?;
        let marker = self.marker(&reader, permit)?;
        failpoint::reach(Point::MarkerRead)?;
        let group = reader.group_metadata().ok_or("the group of the marker is not known")?;
        self.brokers_up.store(true, Ordering::Relaxed);
        self.open = Some(Open { producer, group, committing: false });
        Ok(marker)
    }

    fn peek(&self, permit: &Permit) -> Result<Option<Marker>, String> {
        // A transaction that its producer has left open is not waited for.
        self.marker(&self.reader("read_uncommitted")?, permit)
    }

    /// It never subscribes, so it takes nothing over.
    fn reader(&self, isolation: &str) -> Result<BaseConsumer<QuietContext>, String> {
        let mut reader = client_config::fresh(&self.settings.reader);
        reader
            .set("group.id", &self.settings.place.group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation);
        reader.create_with_context(QuietContext).map_err(|error| error.to_string())
    }

    fn marker(&self, reader: &BaseConsumer<QuietContext>, permit: &Permit) -> Result<Option<Marker>, String> {
        let MarkerPlace { topic, partition, .. } = &self.settings.place;
        let end = monotonic() + ANSWER_TIMEOUT;
        loop {
            let mut list = TopicPartitionList::new();
            list.add_partition(topic, *partition);
            let left = end.saturating_sub(monotonic());
            let asked = self.watch.during(|| reader.committed_offsets(list, left.min(ATTEMPT_TIMEOUT)));
            let found = asked.and_then(|list| {
                let element = list.elements_for_topic(topic).into_iter().next();
                element.map_or(Ok(None), |element| {
                    element.error()?;
                    let Offset::Offset(seq) = element.offset() else { return Ok(None) };
                    Ok(Some(Marker { seq, note: element.metadata().to_owned() }))
                })
            });
            match found {
                Ok(marker) => return Ok(marker),
                // Also where a transaction that is being ended still covers the marker: it is final a moment later.
                Err(error) if left.is_zero() || !permit.holds() => {
                    return Err(format!("the marker cannot be read: {error}"));
                }
                Err(_) => std::thread::sleep(MARKER_RETRY.min(left)),
            }
        }
    }

    fn publish(&mut self, records: &[Record], marker: &Marker, permit: &Permit) -> Ended {
        let Some(mut open) = self.open.take() else {
            return Ended { outcome: Outcome::Unknown("the producer is not open".to_owned()), usable: false };
        };
        let mut batch = BatchState::new(records.len());
        let mut outcome = self.attempt(&mut open, records, marker, permit, &mut batch);
        if batch.any(State::Suspect) {
            // A broker refuses whole requests. Once more from the beginning, the suspects one by one, to find the one.
            outcome = match open.producer.abort(permit) {
                Ok(()) if !open.producer.is_suspicious() => {
                    batch.begin_again();
                    self.attempt(&mut open, records, marker, permit, &mut batch)
                }
                Ok(()) => Outcome::Unknown("the transaction could not be ended in order".to_owned()),
                Err(error) => Outcome::Unknown(format!("the transaction cannot be aborted: {error}")),
            };
        }
        let usable = matches!(outcome, Outcome::Committed(_)) && !open.producer.is_suspicious();
        if usable {
            self.open = Some(open);
        } else {
            if !open.committing {
                // The next owner would do it too, but if none comes soon, readers would wait for the transaction to time out.
                drop(open.producer.abort_at_once(ABORT_TIMEOUT));
            }
            close(open);
        }
        Ended { outcome, usable }
    }

    fn attempt(
        &self,
        open: &mut Open,
        records: &[Record],
        marker: &Marker,
        permit: &Permit,
        batch: &mut BatchState,
    ) -> Outcome {
        match self.transaction(open, records, marker, permit, batch) {
            Ok(()) => Outcome::Committed(batch.places()),
            Err(reason) => batch.refused().or_else(|| batch.denied()).unwrap_or(Outcome::Unknown(reason)),
        }
    }

    fn transaction(
        &self,
        Open { producer, group, committing }: &mut Open,
        records: &[Record],
        marker: &Marker,
        permit: &Permit,
        batch: &mut BatchState,
    ) -> Result<(), String> {
        *committing = false;
        producer.begin().map_err(|error| format!("the transaction cannot be begun: {error}"))?;
        for (index, record) in records.iter().enumerate() {
            match index {
                0 => failpoint::reach(Point::ProduceFirst)?,
                _ if index == records.len() / 2 => failpoint::reach(Point::ProduceMid)?,
                _ => {}
            }
            let alone = (batch.states[index] == State::Suspect).then_some(index);
            if alone.is_some() {
                self.drain(producer, batch, permit, None)?;
            }
            match hand_over(producer, record, index, batch, &|| permit.holds()) {
                Ok(()) => {}
                Err(HandOver::Refused(class, code)) => {
                    batch.states[index] = State::Refused { class, code };
                    return Err("refused by the client".to_owned());
                }
                Err(HandOver::Ended(_)) => return Err("the client takes no more records".to_owned()),
            }
            if alone.is_some() {
                self.drain(producer, batch, permit, alone)?;
            } else if index % POLL_EVERY == POLL_EVERY - 1 {
                batch.take(producer.poll(Duration::ZERO), None);
                if batch.failures > 0 {
                    break;
                }
            }
        }
        self.drain(producer, batch, permit, None)?;
        let mut list = TopicPartitionList::new();
        let MarkerPlace { topic, partition, .. } = &self.settings.place;
        let mut element = list.add_partition(topic, *partition);
        element.set_metadata(&marker.note);
        element.set_offset(Offset::Offset(marker.seq)).map_err(|error| error.to_string())?;
        producer
            .send_offsets(&list, group, permit)
            .map_err(|error| format!("the marker cannot be written: {error}"))?;
        failpoint::reach(Point::OffsetsSent)?;
        failpoint::reach(Point::CommitBefore)?;
        // The last look: whoever took the shard over has fenced this producer, or will find this transaction committed.
        if !permit.holds() {
            return Err("the lease is over".to_owned());
        }
        let started = monotonic();
        *committing = true;
        producer.commit(permit).map_err(|error| format!("the transaction cannot be committed: {error}"))?;
        if monotonic().saturating_sub(started) > COMMIT_SUSPICIOUS {
            producer.suspect();
        }
        failpoint::reach(Point::CommitAfter)
    }

    /// Waits for all reports. Errors: anything but an acknowledgement of every record.
    fn drain(
        &self,
        producer: &mut Producer,
        batch: &mut BatchState,
        permit: &Permit,
        alone: Option<usize>,
    ) -> Result<(), String> {
        if drain(producer, batch, &|| permit.holds(), &|_| {}, self.settings.publish_timeout, alone).is_some() {
            return Err("records were not acknowledged in time".to_owned());
        }
        if batch.failures == 0 { Ok(()) } else { Err("records were not acknowledged".to_owned()) }
    }
}

impl BatchState {
    /// The record that Kafka refused alone, if any.
    fn refused(&self) -> Option<Outcome> {
        self.states.iter().enumerate().find_map(|(index, state)| match state {
            State::Refused { class, code } => {
                Some(Outcome::Refused { index, class, reason: format!("refused by Kafka: {code}") })
            }
            State::Waiting
            | State::Sent
            | State::Acked { .. }
            | State::Suspect
            | State::Withheld
            | State::Denied
            | State::Unsent => None,
        })
    }

    /// The records that went to topics which Kafka does not let this client write to, if any.
    fn denied(&self) -> Option<Outcome> {
        let indexes = self.states.iter().enumerate().filter(|(_, state)| **state == State::Denied);
        let denied: Vec<usize> = indexes.map(|(index, _)| index).collect();
        (!denied.is_empty()).then_some(Outcome::Denied(denied))
    }

    /// After an abort: all is to be sent again, and suspects stay suspects.
    fn begin_again(&mut self) {
        self.failures = 0;
        for state in &mut self.states {
            if *state != State::Suspect {
                *state = State::Waiting;
            }
        }
    }

    fn places(&self) -> Vec<(i32, i64)> {
        self.states
            .iter()
            .filter_map(|state| match state {
                State::Acked { partition, offset } => Some((*partition, *offset)),
                State::Waiting
                | State::Sent
                | State::Suspect
                | State::Refused { .. }
                | State::Withheld
                | State::Denied
                | State::Unsent => None,
            })
            .collect()
    }
}
