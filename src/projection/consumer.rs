//! Reads the topics: group membership, assignment, gathering batches, and what to do when Kafka or PostgreSQL fails.
//!
//! The one place of the consumer that knows librdkafka. One thread owns the client and does everything in turn: it
//! polls, has folded what it has gathered (by [`super::fold`]; `consumer/folding.rs` waits for it, a second at most),
//! and answers rebalances. A partition that waits, because PostgreSQL is away or a projection is broken, is not
//! assigned: nothing of it piles up, polling goes on, and it is read again from its offset afterwards.
//!
//! Invariant: where to read is decided by `consumer_partitions` alone. A partition is handed to Kafka only with the
//! offset that taking its fence returned, and what was read under one epoch is folded under that epoch or dropped.

mod client;
mod folding;
mod membership;
mod positions;
mod released;
mod signals;
mod unassigned;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::client::{Context, client_settings, is_missing_topic, keeps_out, needs_operator, to_record};
use self::folding::Folding;
use self::membership::subscribe;
use self::positions::{IDS_INTERVAL, LOOK_INTERVAL};
use self::released::Releasing;
use self::unassigned::Unassigned;
use super::Projection;
use super::assignment::{Assignment, Reading, Why};
use super::failure::{Cause, FoldError};
use super::meters::Meters;
use super::record::Place;
use super::status::ConsumerStatus;
use super::store::{Counts, Store};
use crate::clock;
use crate::config::ConsumerConfig;
use crate::db::Database;
use crate::error::{Code, Error, Result};
use crate::failpoint::{self, Point};
use crate::health::Heartbeat;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use crate::signals::Situation;

/// Maximum wait for a record, so that a stop and a due partition are noticed.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Maximum wait for the begin and end of one partition's log.
const WATERMARK_WAIT: Duration = Duration::from_secs(5);
/// Between two commits of offsets to Kafka, which only tools read.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long an error of the client counts when it does not come again.
const ERROR_LASTS: Duration = Duration::from_secs(30);

/// How long the stop waits for the client to leave its group.
const LEAVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Told again and again whether the client has no broker; true: it will never find one again, and another has to take
/// its place.
pub type IsLost = Box<dyn FnMut(bool) -> bool + Send + Sync>;

/// The settings for a new client, made of those of the old one.
pub type Fresh = fn(&ClientConfig) -> ClientConfig;

/// The companion consumer, ready to run.
pub struct Consumer {
    store: Store,
    kafka: ClientConfig,
    fresh: Fresh,
    lost: IsLost,
    settings: ConsumerConfig,
    metrics: Metrics,
    status: ConsumerStatus,
    heartbeat: Option<Heartbeat>,
}

impl Consumer {
    /// `kafka`: brokers, security and `[kafka.properties]`. Opens nothing yet.
    pub fn new(
        database: &Database,
        kafka: ClientConfig,
        lost: IsLost,
        settings: ConsumerConfig,
        projections: Vec<Projection>,
        metrics: Metrics,
    ) -> Self {
        let store = Store::new(database, settings.group.clone(), projections, metrics.clone());
        let kafka = client_settings(kafka, &settings.group);
        let status = ConsumerStatus::new(metrics.clone());
        Self { store, kafka, fresh: Clone::clone, lost, settings, metrics, status, heartbeat: None }
    }

    /// Beats as long as the consumer is not stuck, whatever it waits for.
    #[must_use]
    pub fn heard_by(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    fn beat(&self) {
        self.heartbeat.iter().for_each(Heartbeat::beat);
    }

    /// What makes of the settings those of another client, whose secrets may have changed.
    #[must_use]
    pub fn refreshed_by(mut self, fresh: Fresh) -> Self {
        self.fresh = fresh;
        self
    }

    /// For `/readyz`; stays valid while the consumer runs and after.
    pub fn status(&self) -> ConsumerStatus {
        self.status.clone()
    }

    /// Consumes until `stop` is cancelled: then folds what it has in hand and leaves the group.
    ///
    /// Waits for PostgreSQL and Kafka as long as it takes. Errors: [`Code::ProjectionInvalid`] and
    /// [`Code::SchemaOutdated`] before anything is read, [`Code::KafkaConfig`], [`Code::Fenced`] if another instance
    /// has the same `group.instance.id`.
    ///
    /// Not cancel safe in the strict sense: dropped, it stops soon after, on its own thread.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let status = self.status.clone();
        let outcome = self.run_until(stop).await;
        status.not_running("the consumer has stopped");
        outcome
    }

    async fn run_until(self, stop: CancellationToken) -> Result<()> {
        if !self.wait_for_store(&stop).await? {
            return Ok(());
        }
        let stop = stop.child_token();
        let _stops_the_thread = stop.clone().drop_guard();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let (closed, left) = tokio::sync::oneshot::channel();
        let mut reader = Reader::new(self, Handle::current(), stop)?;
        std::thread::Builder::new()
            .name("consumer".to_owned())
            .spawn(move || {
                drop(sender.send(reader.run()));
                drop(reader);
                closed.send(()).unwrap_or_default();
            })
            .map_err(|error| Error::new(Code::Unexpected, "cannot start the consumer thread").caused_by(error))?;
        let outcome = ended.await.map_err(|_| Error::new(Code::Unexpected, "the consumer thread panicked"))?;
        // Leaving the group takes a broker that answers; without one librdkafka may wait for very long.
        if tokio::time::timeout(LEAVE_TIMEOUT, left).await.is_err() {
            tracing::warn!("could not leave the consumer group in time; its session will expire");
        }
        outcome
    }

    /// Waits until PostgreSQL answers and takes every statement. `false` when stopped before.
    async fn wait_for_store(&self, stop: &CancellationToken) -> Result<bool> {
        let mut backoff = Backoff::for_connection();
        loop {
            self.beat();
            match self.store.prepare().await {
                Ok(()) => return Ok(true),
                Err(error) if error.code() == Code::PostgresUnreachable => {
                    if self.status.not_running(&error.to_string()) {
                        tracing::warn!(error = %error.chain(), "waiting for PostgreSQL");
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }
}

/// The loop, on its own thread.
struct Reader {
    consumer: BaseConsumer<Context>,
    kafka: ClientConfig,
    fresh: Fresh,
    lost: IsLost,
    /// The ids of topics as they were when each partition was taken.
    identities: BTreeMap<Place, Uuid>,
    /// The ids of topics as this client saw them first.
    client_ids: BTreeMap<String, Uuid>,
    identified_at: Duration,
    store: Arc<Store>,
    folding: Folding,
    settings: ConsumerConfig,
    meters: Meters,
    status: ConsumerStatus,
    heartbeat: Option<Heartbeat>,
    runtime: Handle,
    stop: CancellationToken,
    assignment: Assignment,
    /// The group has answered, or it will not because no topic exists yet: nothing that this instance could do better.
    joined: bool,
    /// Kafka waits for our answer to an assignment.
    unanswered: bool,
    /// No broker is connected.
    brokers_down: bool,
    /// Errors of the client that an operator has to see, with when they came last.
    errors: BTreeMap<String, (Situation, Duration)>,
    /// Partitions that are read up to where another producer's transaction is open.
    open: BTreeSet<Place>,
    /// Offsets that Kafka does not know yet.
    uncommitted: BTreeMap<Place, i64>,
    committed_at: Duration,
    looked_at: Duration,
    /// Why PostgreSQL has not told the positions at the last look.
    look_failed: Option<String>,
    /// Partitions with parked events that are to be folded again.
    released: BTreeSet<Place>,
    releasing: Releasing,
    unassigned: Unassigned,
}

impl Reader {
    fn new(consumer: Consumer, runtime: Handle, stop: CancellationToken) -> Result<Self> {
        let Consumer { store, kafka, fresh, lost, settings, metrics, status, heartbeat } = consumer;
        let consumer = subscribe(&kafka, &settings.topics)?;
        let batch_records = usize::try_from(settings.batch_records.get()).expect("a u32 fits");
        let meters = Meters::new(metrics, settings.group.clone());
        for topic in &settings.topics {
            meters.count(topic, Counts::default());
        }
        Ok(Self {
            consumer,
            lost,
            kafka,
            fresh,
            identities: BTreeMap::new(),
            client_ids: BTreeMap::new(),
            identified_at: Duration::ZERO,
            store: Arc::new(store),
            folding: Folding::default(),
            settings,
            meters,
            status,
            heartbeat,
            runtime,
            stop,
            assignment: Assignment::new(batch_records),
            joined: false,
            unanswered: false,
            brokers_down: false,
            errors: BTreeMap::new(),
            open: BTreeSet::new(),
            uncommitted: BTreeMap::new(),
            committed_at: Duration::ZERO,
            looked_at: Duration::ZERO,
            look_failed: None,
            released: BTreeSet::new(),
            releasing: Releasing::default(),
            unassigned: Unassigned::default(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let outcome = self.run_until_stopped();
        self.fold_last();
        self.commit_offsets();
        self.forget_gauges();
        // Dropping the client leaves the group, which asks for one more answer to a rebalance.
        self.consumer.context().close();
        outcome
    }

    fn run_until_stopped(&mut self) -> Result<()> {
        while !self.stop.is_cancelled() {
            self.heartbeat.iter().for_each(Heartbeat::beat);
            failpoint::reach(Point::ConsumerTurn).map_err(|error| Error::new(Code::Unexpected, error))?;
            self.answer_rebalances()?;
            self.take_due_partitions()?;
            self.report();
            self.gather()?;
            self.stop_strange_partitions()?;
            self.fold()?;
            self.fold_released()?;
            if clock::monotonic().saturating_sub(self.committed_at) >= COMMIT_INTERVAL {
                self.pass_markers();
                self.commit_offsets();
            }
            if clock::monotonic().saturating_sub(self.looked_at) >= LOOK_INTERVAL {
                self.look()?;
            }
            if clock::monotonic().saturating_sub(self.identified_at) >= IDS_INTERVAL && !self.brokers_down {
                self.look_at_topics()?;
            }
            self.observe();
            if (self.lost)(self.brokers_down) {
                tracing::warn!(
                    "the Kafka client lost all its brokers although brokers are reachable; replacing the client"
                );
                self.connect_anew()?;
            }
        }
        Ok(())
    }

    /// Polls until there is enough for a fold, or something else to do.
    fn gather(&mut self) -> Result<()> {
        let now = clock::monotonic();
        let idle_until = self.assignment.next_due().map_or(now + POLL_WAIT, |due| due.min(now + POLL_WAIT));
        let mut until = idle_until;
        loop {
            let wait = until.saturating_sub(clock::monotonic());
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let first = self.assignment.is_empty();
                    let record = to_record(&message);
                    self.assignment.push(message.topic(), message.partition(), record);
                    if first && !self.assignment.is_empty() {
                        until = clock::monotonic() + self.settings.batch_wait;
                    }
                }
                Some(Err(error)) => self.note_error(&error)?,
                None => {}
            }
            let told = self.unanswered || self.consumer.context().has_rebalances();
            if told || self.assignment.is_full() || self.stop.is_cancelled() || clock::monotonic() >= until {
                return Ok(());
            }
        }
    }

    /// An error event of the client. Errors: those from which it cannot recover.
    fn note_error(&mut self, error: &KafkaError) -> Result<()> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            return Err(Error::new(Code::Fenced, format!("the Kafka consumer cannot continue: {code}"))
                .hint("give each instance its own group.instance.id, or none"));
        }
        let Some(code) = error.rdkafka_error_code() else { return Ok(()) };
        if matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) {
            // It does not say which partition: look at all of them.
            self.assignment.recheck("an offset is outside the log", clock::monotonic());
            return self.hand_over();
        }
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.brokers_down = true;
        } else if is_missing_topic(code) {
            self.joined = true;
        } else if needs_operator(code) {
            let situation = if keeps_out(code) { Situation::GroupRefused } else { Situation::KafkaRefused };
            self.errors.insert(format!("Kafka refuses: {code}"), (situation, clock::monotonic()));
        } else {
            tracing::debug!(error = %error, "Kafka client error");
        }
        Ok(())
    }

    /// Moves offsets over what the client has passed without giving us a record: the markers and aborted records of
    /// transactions. Otherwise the end of an idle log, once retention has emptied it, would look like a loss, and its
    /// markers like lag. Called with nothing in hand, so that no record lies in between.
    fn pass_markers(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        let mut passed = Vec::new();
        for Reading { place, epoch, next_offset, .. } in self.assignment.reading() {
            let position = positions.find_partition(&place.topic, place.partition).map(|element| element.offset());
            if let Some(Offset::Offset(to)) = position
                && to > next_offset
            {
                passed.push((place.clone(), epoch, next_offset, to));
            }
        }
        for (place, epoch, next_offset, to) in passed {
            // A failure is none of a record: the next fold meets it again and deals with it.
            if let Ok(true) = self.runtime.block_on(self.store.pass(&place, epoch, next_offset, to)) {
                self.assignment.passed(&place, to);
                self.uncommitted.insert(place, to);
            }
        }
    }

    /// Tells Kafka how far we are. Nobody depends on it.
    fn commit_offsets(&mut self) {
        self.committed_at = clock::monotonic();
        let mut list = TopicPartitionList::new();
        for (place, offset) in std::mem::take(&mut self.uncommitted) {
            drop(list.add_partition_offset(&place.topic, place.partition, Offset::Offset(offset)));
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(error = %error, "could not commit offsets to Kafka");
        }
    }
}

/// Why a partition waits after PostgreSQL failed.
fn why_not(error: &FoldError) -> Why {
    match error.cause() {
        Cause::Doubtful | Cause::Unavailable => Why::Unavailable(error.to_string()),
        Cause::Locked => Why::Locked(error.to_string()),
        Cause::TooSlow | Cause::Unclear | Cause::Data | Cause::Program => Why::Blocked(error.to_string()),
    }
}
