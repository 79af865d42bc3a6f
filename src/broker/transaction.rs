//! Publishes a batch in one Kafka transaction, together with a marker that identifies the batch. One thread and one
//! producer per lane.
//!
//! Owns what exactly-once delivery needs on Kafka's side: the fence (`init_transactions`), the marker, and the rule
//! that a producer is never reused after anything unusual happened in its transaction. Knows nothing of manifests: the
//! lane compares. Invariants: the marker is read only after the fence, so it is final; nothing is committed after the
//! permit has ended.

mod open;
mod search;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::Record;
use super::batch::{BatchState, HandOver, POLL_EVERY, Sending, State, drain, hand_over};
use super::call::{CallWatch, close};
use super::partitions::Partitions;
use super::producer::Producer;
use crate::clock::{Permit, monotonic};
use crate::event::FailureClass;
use crate::failpoint::{self, Fault, Point};
pub use open::{Blocked, OpenError};

/// A commit that took longer may have been sent twice by the client, which does not tell. Half of its request timeout.
const COMMIT_SUSPICIOUS: Duration = Duration::from_secs(5);
/// Maximum wait for the abort of a transaction that is given up.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// A call of the client that lasts longer is not waited for: its timeout is a second. The thread is left to itself,
/// with its producer.
const STUCK_CALL: Duration = Duration::from_secs(10);
/// Time between two looks at that.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Where the marker of a shard stands: the committed offset of a group that never reads, on a topic without records.
#[derive(Debug, Clone)]
pub struct MarkerPlace {
    pub topic: String,
    pub group: String,
    pub partition: i32,
}

/// What a transaction leaves behind beside its records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Marker {
    /// Number of the batch.
    pub seq: i64,
    /// Free text, at most 4096 bytes with the broker's default settings.
    pub note: String,
}

/// What a transactional publisher needs to know.
#[derive(Debug, Clone)]
pub struct TransactionSettings {
    /// From [`transactional`](super::client_config::transactional); the `transactional.id` is set with each opening.
    pub client: ClientConfig,
    /// What the `transactional.id` of every shard begins with.
    pub id_prefix: String,
    /// From [`common`](super::client_config::common).
    pub reader: ClientConfig,
    pub place: MarkerPlace,
    /// Time without any acknowledgement after which a transaction is given up.
    pub publish_timeout: Duration,
    /// Where what is found out about partitions is kept.
    pub partitions: Partitions,
    /// For the name of the thread.
    pub name: String,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Outcome {
    /// Committed: partition and offset of each record.
    Committed(Vec<(i32, i64)>),
    /// Kafka refused these records. Nothing was committed.
    Refused(Vec<Refused>),
    /// This client may not write to the topics of these records. Nothing was committed.
    Denied(Vec<usize>),
    /// The partitions of these records take none now. Nothing was committed.
    Stuck(Vec<usize>),
    /// Not committed, or nobody knows: the marker tells, after the next [`TransactionalPublisher::open`].
    Unknown(String),
}

/// A record that Kafka refused for itself.
#[derive(Debug)]
pub struct Refused {
    pub index: usize,
    pub class: FailureClass,
    pub reason: String,
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
    Open { number: i32, permit: Permit, reply: oneshot::Sender<Result<Option<Marker>, OpenError>> },
    Publish { records: Arc<Vec<Record>>, marker: Marker, permit: Permit, reply: oneshot::Sender<Ended> },
}

const GONE: &str = "the thread of the lane is gone or busy";
/// A thread lives as long as its handle, unless it has panicked. Then its lane panics as well: the relay is started
/// again, and what was in flight is judged by the marker like after a crash.
const PANICKED: &str = "the thread of the Kafka producer panicked";

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
        assert!(thread.jobs.send(Job::Peek { permit, reply }).is_ok(), "{PANICKED}");
        self.watched(&thread, answer).await.unwrap_or_else(|reason| Err(reason.to_owned()))
    }

    /// Fences every older producer of this shard under the `transactional.id` of this number, ends what they had open,
    /// and reads the marker, which is final then.
    ///
    /// Errors: nothing is lost by trying again. Cancel safe, since the next call starts over.
    pub async fn open(&self, number: i32, permit: Permit) -> Result<Option<Marker>, OpenError> {
        let (reply, answer) = oneshot::channel();
        let thread = self.thread();
        // Full while the thread is still at a job whose answer nobody waits for any more.
        if !thread.takes(Job::Open { number, permit, reply }) {
            return Err(OpenError::Failed(GONE.to_owned()));
        }
        self.watched(&thread, answer).await.unwrap_or_else(|reason| Err(OpenError::Failed(reason.to_owned())))
    }

    /// Publishes the records and the marker in one transaction. Without records only the marker moves.
    ///
    /// Not cancel safe: a dropped future leaves the transaction running. End the permit instead.
    pub async fn publish(&self, records: Arc<Vec<Record>>, marker: Marker, permit: Permit) -> Ended {
        let (reply, answer) = oneshot::channel();
        let unknown = |reason: &str| Ended { outcome: Outcome::Unknown(reason.to_owned()), usable: false };
        let thread = self.thread();
        // The thread holds one job at most, and the lane waits for each, so there is always room.
        if !thread.takes(Job::Publish { records, marker, permit, reply }) {
            return unknown(GONE);
        }
        self.watched(&thread, answer).await.unwrap_or_else(unknown)
    }

    fn thread(&self) -> Thread {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the answer, unless the thread is stuck in a call of the client. Then another thread takes its place,
    /// whose first job is to open, which fences the producer of the stuck one: whatever that still does, the marker
    /// tells.
    async fn watched<T>(&self, thread: &Thread, answer: oneshot::Receiver<T>) -> Result<T, &'static str> {
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answered = &mut answer => return answered.map_err(|_| GONE),
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
            if let Some(call) = thread.watch.outlasts(STUCK_CALL) {
                tracing::warn!(lane = self.settings.name, call, "a Kafka client call does not return");
                let successor = Thread::start((*self.settings).clone(), Arc::clone(&self.brokers_up));
                if let Ok(successor) = successor {
                    *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = successor;
                    return Err("a Kafka client call does not return; another producer takes over");
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
        let worker = Worker { settings, open: None, fenced: None, mute: false, brokers_up, watch: Arc::clone(&watch) };
        std::thread::Builder::new().name(worker.settings.name.clone()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, watch })
    }

    /// False when it is still at another job.
    fn takes(&self, job: Job) -> bool {
        match self.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => panic!("{PANICKED}"),
        }
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
    /// The number of the `transactional.id` whose former producers this thread has fenced: those since then were all
    /// its own.
    fenced: Option<i32>,
    /// No record of the last transaction was acknowledged, and nobody knows why.
    mute: bool,
    brokers_up: Arc<AtomicBool>,
    watch: Arc<CallWatch>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            // A lane that is gone has no use for the answer; its successor reads the marker.
            match job {
                Job::Peek { permit, reply } => drop(reply.send(self.peek(&permit))),
                Job::Open { number, permit, reply } => drop(reply.send(self.open(number, &permit))),
                Job::Publish { records, marker, permit, reply } => {
                    drop(reply.send(self.publish(&records, &marker, &permit)));
                }
            }
        }
    }

    fn publish(&mut self, records: &[Record], marker: &Marker, permit: &Permit) -> Ended {
        let Some(mut open) = self.open.take() else {
            return Ended { outcome: Outcome::Unknown("the producer is not open".to_owned()), usable: false };
        };
        let records: Vec<&Record> = records.iter().collect();
        let partitions = self.settings.partitions.clone();
        let mut batch = BatchState::of(&records);
        let sending = Sending {
            records: &records,
            partitions: &partitions,
            may_send: &|| permit.holds(),
            progress: &|_| {},
            timeout: self.settings.publish_timeout,
            whole: true,
            begun: self.mute,
        };
        let mut outcome = match self.transaction(&mut open, marker, permit, &mut batch, &sending) {
            Ok(()) => Outcome::Committed(batch.places()),
            Err(reason) => {
                batch.reject(&records, &partitions, &open.producer.rejections());
                batch.at_fault().unwrap_or(Outcome::Unknown(reason))
            }
        };
        // If a new producer does not change that, partitions are to blame.
        self.mute = matches!(outcome, Outcome::Unknown(_))
            && !batch.states.iter().any(|state| matches!(state, State::Acked { .. }))
            && !records.is_empty();
        let usable = matches!(outcome, Outcome::Committed(_)) && !open.producer.is_suspicious();
        if usable {
            self.open = Some(open);
        } else {
            if !open.committing {
                // The next owner would do it too, but if none comes soon, readers would wait for the transaction to
                // time out.
                drop(open.producer.abort_at_once(ABORT_TIMEOUT));
            }
            let committing = open.committing;
            close(open);
            if !committing && batch.met_refusals() && !failpoint::fault(Fault::RefusedNotSearched) {
                batch.begin_again();
                outcome = self.search(&mut batch, &sending, permit);
            }
        }
        batch.tell(&records, &partitions);
        Ended { outcome, usable }
    }

    fn transaction(
        &self,
        Open { producer, group, committing }: &mut Open,
        marker: &Marker,
        permit: &Permit,
        batch: &mut BatchState,
        sending: &Sending<'_>,
    ) -> Result<(), String> {
        *committing = false;
        producer.begin().map_err(|error| format!("could not begin the transaction: {error}"))?;
        for index in 0..sending.records.len() {
            match index {
                0 => failpoint::reach(Point::ProduceFirst)?,
                _ if index == sending.records.len() / 2 => failpoint::reach(Point::ProduceMid)?,
                _ => {}
            }
            match hand_over(producer, index, batch, sending) {
                Ok(()) => {}
                Err(HandOver::Refused(class, code)) => {
                    // The client needs no broker for that, and sees the others of its kind as well.
                    batch.failures += 1;
                    batch.states[index] = State::Refused { class, code };
                }
                Err(HandOver::Ended(_)) => return Err("the client does not accept more records".to_owned()),
            }
            if index % POLL_EVERY == POLL_EVERY - 1 {
                batch.take(&producer.poll(Duration::ZERO));
                if batch.failures > 0 {
                    break;
                }
            }
        }
        drain(producer, batch, sending);
        if batch.failures > 0 || !batch.places_all() {
            return Err("records were not acknowledged".to_owned());
        }
        let mut list = TopicPartitionList::new();
        let MarkerPlace { topic, partition, .. } = &self.settings.place;
        let mut element = list.add_partition(topic, *partition);
        element.set_metadata(&marker.note);
        element.set_offset(Offset::Offset(marker.seq)).map_err(|error| error.to_string())?;
        producer.send_offsets(&list, group, permit).map_err(|error| format!("could not write the marker: {error}"))?;
        failpoint::reach(Point::OffsetsSent)?;
        failpoint::reach(Point::CommitBefore)?;
        // The last look: whoever took the shard over has fenced this producer, or will find this transaction committed.
        if !permit.holds() {
            return Err("the lease is over".to_owned());
        }
        let started = monotonic();
        *committing = true;
        producer.commit(permit).map_err(|error| format!("could not commit the transaction: {error}"))?;
        if monotonic().saturating_sub(started) > COMMIT_SUSPICIOUS {
            producer.suspect();
        }
        failpoint::reach(Point::CommitAfter)
    }
}

impl BatchState {
    /// The records for which nothing could be committed: refused ones first, else those of topics or partitions that
    /// take none.
    fn at_fault(&self) -> Option<Outcome> {
        let of = |wanted: State| -> Vec<usize> {
            self.states.iter().enumerate().filter(|(_, state)| **state == wanted).map(|(index, _)| index).collect()
        };
        let refused: Vec<_> = self
            .states
            .iter()
            .enumerate()
            .filter_map(|(index, state)| match state {
                State::Refused { class, code } => Some(Refused { index, class: *class, reason: code.to_string() }),
                State::Waiting
                | State::Sent
                | State::Acked { .. }
                | State::Suspect
                | State::Withheld
                | State::Denied
                | State::Stuck
                | State::Unsent => None,
            })
            .collect();
        if !refused.is_empty() {
            return Some(Outcome::Refused(refused));
        }
        let (denied, stuck) = (of(State::Denied), of(State::Stuck));
        match (denied.is_empty(), stuck.is_empty()) {
            (false, _) => Some(Outcome::Denied(denied)),
            (true, false) => Some(Outcome::Stuck(stuck)),
            (true, true) => None,
        }
    }

    /// After an abort: all is to be sent again, and suspects stay suspects. Who was acknowledged was not to blame.
    fn begin_again(&mut self) {
        self.failures = 0;
        self.reset_sent();
    }

    /// Whether every record is acknowledged.
    fn places_all(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::Acked { .. }))
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
                | State::Stuck
                | State::Unsent => None,
            })
            .collect()
    }
}
