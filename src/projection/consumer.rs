//! Reads the topics: group membership, assignment, gathering batches, and what to do when Kafka or PostgreSQL fails.
//!
//! The one place of the consumer that knows librdkafka. One thread owns the client and does everything in turn: it polls,
//! folds what it has gathered (by [`super::fold`], waiting for it), and answers rebalances. While it folds it does not
//! poll; a fold ends within a few statement timeouts, far below `max.poll.interval.ms`. While PostgreSQL is away no
//! partition is assigned, so nothing piles up, and polling goes on.
//!
//! Invariant: where to read is decided by `consumer_partitions` alone. A partition is handed to Kafka only with the offset
//! that taking its fence returned, and what was read before a rebalance is dropped, never folded with a newer epoch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Projection;
use super::assignment::{Assignment, Why};
use super::failure::{Cause, FoldError};
use super::fold::{End, fold_batch};
use super::record::{Headers, Place, Record};
use super::status::{ConsumerStatus, Problems};
use super::store::{Counts, Fence, Store};
use crate::clock;
use crate::config::ConsumerConfig;
use crate::db::{Database, DbError};
use crate::error::{Code, Error, Result};
use crate::metrics::{ConsumerLabels, Metrics, PartitionLabels};
use crate::retry::Backoff;

/// Longest wait for a record, so that a stop and a due partition are noticed.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Longest wait for the begin and end of one partition's log.
const WATERMARK_WAIT: Duration = Duration::from_secs(5);
/// Between two commits of offsets to Kafka, which only tools read.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long an error of the client counts when it does not come again.
const ERROR_LASTS: Duration = Duration::from_secs(30);

/// What the promises rest on: not to be overridden by `[kafka.properties]`.
const FIXED: [(&str, &str); 10] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "false"),
    // Records of aborted transactions are not events.
    ("isolation.level", "read_committed"),
    // Never a silent jump: an offset that the log does not hold is reported.
    ("auto.offset.reset", "error"),
    // Eager: every rebalance takes all partitions away and gives a full list, which is what the loop expects.
    ("group.protocol", "classic"),
    ("partition.assignment.strategy", "range,roundrobin"),
    // For lag and for whether a broker is connected.
    ("statistics.interval.ms", "5000"),
    ("allow.auto.create.topics", "false"),
    // How soon a topic that is created later, and new partitions, are noticed.
    ("topic.metadata.refresh.interval.ms", "10000"),
];

/// Defaults that `[kafka.properties]` may override.
const DEFAULTS: [(&str, &str); 4] = [
    ("session.timeout.ms", "30000"),
    ("max.poll.interval.ms", "300000"),
    // Prefetched over all partitions: bounds memory. librdkafka lowers fetch.max.bytes to the same.
    ("queued.max.messages.kbytes", "16384"),
    // A full prefetch queue is looked at again after this; the default of a second would starve a fast fold.
    ("fetch.queue.backoff.ms", "10"),
];

/// The companion consumer, ready to run.
pub struct Consumer {
    store: Store,
    kafka: ClientConfig,
    settings: ConsumerConfig,
    metrics: Metrics,
    status: ConsumerStatus,
}

impl Consumer {
    /// `kafka`: brokers, security and `[kafka.properties]`. Opens nothing yet.
    pub fn new(
        database: &Database,
        kafka: ClientConfig,
        settings: ConsumerConfig,
        projections: Vec<Projection>,
        metrics: Metrics,
    ) -> Self {
        let store = Store::new(database, settings.group.clone(), projections, metrics.clone());
        let kafka = client_settings(kafka, &settings.group);
        Self { store, kafka, settings, metrics, status: ConsumerStatus::default() }
    }

    /// For `/readyz`; stays valid while the consumer runs and after.
    pub fn status(&self) -> ConsumerStatus {
        self.status.clone()
    }

    /// Consumes until `stop` is cancelled: then folds what it has in hand and leaves the group.
    ///
    /// Waits for PostgreSQL and Kafka as long as it takes. Errors: [`Code::ProjectionInvalid`] and
    /// [`Code::SchemaOutdated`] before anything is read, [`Code::KafkaConfig`], [`Code::Fenced`] if another instance has
    /// the same `group.instance.id`.
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
        let reader = Reader::new(self, Handle::current(), stop)?;
        std::thread::Builder::new()
            .name("consumer".to_owned())
            .spawn(move || drop(sender.send(reader.run())))
            .map_err(|error| Error::new(Code::Unexpected, "cannot start the consumer thread").caused_by(error))?;
        ended.await.map_err(|_| Error::new(Code::Unexpected, "the consumer thread panicked"))?
    }

    /// Waits until PostgreSQL answers and takes every statement. `false` when stopped before.
    async fn wait_for_store(&self, stop: &CancellationToken) -> Result<bool> {
        let mut backoff = Backoff::for_connection();
        loop {
            match self.store.prepare().await {
                Ok(()) => return Ok(true),
                Err(error) if error.code() == Code::PostgresUnreachable => {
                    self.status.not_running(&error.to_string());
                    tracing::debug!(error = %error.chain(), "the consumer waits for PostgreSQL");
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

fn client_settings(mut config: ClientConfig, group: &str) -> ClientConfig {
    for (name, value) in DEFAULTS {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    for (name, value) in FIXED {
        config.set(name, value);
    }
    config.set("group.id", group);
    config
}

/// What the group coordinator decided, in the order of its decisions.
#[derive(Debug, PartialEq, Eq)]
enum Rebalance {
    Assign(Vec<Place>),
    Revoke,
}

/// Records what librdkafka tells during a poll; the loop acts on it afterwards.
#[derive(Default)]
struct Context {
    rebalances: Mutex<Vec<Rebalance>>,
    statistics: Mutex<Option<Statistics>>,
    /// The loop has ended: nobody else would answer.
    closing: AtomicBool,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "the Kafka client reports");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            drop(consumer.unassign());
            return;
        }
        let rebalance = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let places = partitions.elements().into_iter();
            let place = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Place {
                topic: element.topic().to_owned(),
                partition: element.partition(),
            };
            Rebalance::Assign(places.map(place).collect())
        } else {
            Rebalance::Revoke
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(error = %error, "Kafka did not take the offsets; only lag tools miss them");
        }
    }
}

/// The loop, on its own thread.
struct Reader {
    consumer: BaseConsumer<Context>,
    store: Store,
    settings: ConsumerConfig,
    metrics: Metrics,
    status: ConsumerStatus,
    runtime: Handle,
    stop: CancellationToken,
    assignment: Assignment,
    joined: bool,
    /// Kafka waits for our answer to an assignment.
    unanswered: bool,
    /// No broker is connected.
    brokers_down: bool,
    /// Errors of the client that an operator has to see, with when they came last.
    errors: BTreeMap<String, Duration>,
    /// Offsets that Kafka does not know yet.
    uncommitted: BTreeMap<Place, i64>,
    committed_at: Duration,
}

impl Reader {
    fn new(consumer: Consumer, runtime: Handle, stop: CancellationToken) -> Result<Self> {
        let Consumer { store, kafka, settings, metrics, status } = consumer;
        let refused = |error: KafkaError| {
            Error::new(Code::KafkaConfig, "the Kafka consumer cannot be created")
                .caused_by(error)
                .hint("check [kafka] and [kafka.properties]")
        };
        let consumer = BaseConsumer::from_config_and_context(&kafka, Context::default()).map_err(refused)?;
        let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(refused)?;
        let batch_records = usize::try_from(settings.batch_records.get()).expect("a u32 fits");
        let reader = Self {
            consumer,
            store,
            settings,
            metrics,
            status,
            runtime,
            stop,
            assignment: Assignment::new(batch_records),
            joined: false,
            unanswered: false,
            brokers_down: false,
            errors: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            committed_at: Duration::ZERO,
        };
        for topic in &reader.settings.topics {
            reader.count(topic, Counts::default());
        }
        Ok(reader)
    }

    fn run(mut self) -> Result<()> {
        let outcome = self.run_until_stopped();
        self.commit_offsets();
        // Dropping the client leaves the group, which asks for one more answer to a rebalance.
        self.consumer.context().closing.store(true, Ordering::Relaxed);
        outcome
    }

    fn run_until_stopped(&mut self) -> Result<()> {
        while !self.stop.is_cancelled() {
            self.answer_rebalances()?;
            self.take_due_partitions()?;
            self.report();
            self.gather()?;
            self.fold()?;
            if clock::monotonic().saturating_sub(self.committed_at) >= COMMIT_INTERVAL {
                self.commit_offsets();
            }
            self.observe();
        }
        Ok(())
    }

    fn answer_rebalances(&mut self) -> Result<()> {
        let rebalances = std::mem::take(&mut *self.rebalances());
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assign(places) => {
                    tracing::info!(partitions = places.len(), group = self.store.group(), "partitions assigned");
                    self.assignment.assign(places, clock::monotonic());
                    self.joined = true;
                    self.unanswered = true;
                }
                Rebalance::Revoke => {
                    tracing::info!(group = self.store.group(), "partitions revoked");
                    self.commit_offsets();
                    for place in self.assignment.places() {
                        self.metrics.consumer_lag_records.remove(&self.lag_labels(place));
                    }
                    self.assignment.assign(Vec::new(), clock::monotonic());
                    self.unanswered = false;
                    self.consumer.unassign().map_err(|error| refused_assignment(&error))?;
                }
            }
        }
        Ok(())
    }

    fn rebalances(&self) -> std::sync::MutexGuard<'_, Vec<Rebalance>> {
        self.consumer.context().rebalances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the fence of each partition whose time has come, and hands the assignment to Kafka if it has changed.
    fn take_due_partitions(&mut self) -> Result<()> {
        let due = self.assignment.due(clock::monotonic());
        if !due.is_empty() {
            let logs = self.log_ranges(&due);
            let taking: Vec<_> = logs.iter().map(|(place, (start, _))| (place.clone(), *start)).collect();
            match self.runtime.block_on(self.store.take(&taking)) {
                Ok(fences) => {
                    for fence in fences {
                        let (start, end) = logs[&fence.place];
                        self.begin(&fence, start, end);
                    }
                }
                Err(error) => {
                    let why = why_not(error);
                    for (place, _) in taking {
                        self.assignment.wait(&place, why.clone(), clock::monotonic());
                    }
                }
            }
        }
        if !due.is_empty() || self.unanswered { self.hand_over() } else { Ok(()) }
    }

    /// First offset and end of the logs. A partition whose log cannot be asked waits, and so do those after it.
    fn log_ranges(&mut self, places: &[Place]) -> BTreeMap<Place, (i64, i64)> {
        let mut ranges = BTreeMap::new();
        let mut failed = None;
        for place in places {
            if failed.is_none() {
                match self.consumer.fetch_watermarks(&place.topic, place.partition, WATERMARK_WAIT) {
                    Ok(range) => {
                        ranges.insert(place.clone(), range);
                        continue;
                    }
                    Err(error) => failed = Some(format!("Kafka does not answer: {error}")),
                }
            }
            let why = Why::Unavailable(failed.clone().expect("set just above"));
            self.assignment.wait(place, why, clock::monotonic());
        }
        ranges
    }

    /// The fence is taken: reads the partition from its offset, unless the log does not hold it.
    fn begin(&mut self, fence: &Fence, log_start: i64, log_end: i64) {
        let next = fence.next_offset;
        self.set_lag(&fence.place, log_end - next);
        self.assignment.read(&fence.place, fence.epoch, next);
        let lost = if next < log_start {
            Some(format!("{}: the records from {next} to {} are gone", fence.place, log_start - 1))
        } else if next > log_end {
            Some(format!("{}: the log ends at {log_end}, before offset {next}: was the topic made anew?", fence.place))
        } else {
            None
        };
        if let Some(lost) = lost {
            self.assignment.wait(&fence.place, Why::Lost(lost), clock::monotonic());
        }
    }

    /// Tells Kafka which partitions to read and from where. Whatever was prefetched is fetched again.
    fn hand_over(&mut self) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (place, next_offset) in self.assignment.reading() {
            list.add_partition_offset(&place.topic, place.partition, Offset::Offset(next_offset))
                .map_err(|error| refused_assignment(&error))?;
        }
        self.assignment.reset_buffer();
        self.consumer.assign(&list).map_err(|error| refused_assignment(&error))?;
        self.unanswered = false;
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
            let told = self.unanswered || !self.rebalances().is_empty();
            if told || self.assignment.is_full() || self.stop.is_cancelled() || clock::monotonic() >= until {
                return Ok(());
            }
        }
    }

    /// Folds what is gathered, all partitions at the same time.
    fn fold(&mut self) -> Result<()> {
        let batches = self.assignment.take_batches();
        if batches.is_empty() {
            return Ok(());
        }
        let store = &self.store;
        let folds = batches.iter().map(|batch| fold_batch(store, &batch.place, batch.epoch, &batch.records));
        let outcomes = self.runtime.block_on(join_all(folds));
        let mut interrupted = false;
        for (batch, folded) in batches.iter().zip(outcomes) {
            self.count(&batch.place.topic, folded.counts);
            if let Some(next_offset) = folded.next_offset {
                self.assignment.folded(&batch.place, next_offset);
                self.uncommitted.insert(batch.place.clone(), next_offset);
            }
            let why = match folded.end {
                End::Done => continue,
                End::Fenced => {
                    tracing::info!(partition = %batch.place, "another instance has the partition: batch dropped");
                    Why::Fenced
                }
                End::Failed(error) => match error.cause() {
                    Cause::Unavailable | Cause::TooSlow => Why::Unavailable(error.to_string()),
                    Cause::Data | Cause::Program => Why::Blocked(error.to_string()),
                },
            };
            self.assignment.wait(&batch.place, why, clock::monotonic());
            interrupted = true;
        }
        if interrupted { self.hand_over() } else { Ok(()) }
    }

    /// An error event of the client. Errors: those from which it cannot recover.
    fn note_error(&mut self, error: &KafkaError) -> Result<()> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            return Err(Error::new(Code::Fenced, format!("the Kafka consumer cannot go on: {code}"))
                .hint("give each instance a group.instance.id of its own, or none"));
        }
        let Some(code) = error.rdkafka_error_code() else { return Ok(()) };
        if matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) {
            // It does not say which partition: look at all of them.
            self.assignment.recheck("an offset is outside the log", clock::monotonic());
            return self.hand_over();
        }
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.brokers_down = true;
        } else if needs_operator(code) {
            self.errors.insert(format!("Kafka refuses: {code}"), clock::monotonic());
        } else {
            tracing::debug!(error = %error, "the Kafka client reports");
        }
        Ok(())
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
            tracing::debug!(error = %error, "the offsets were not sent to Kafka");
        }
    }

    /// Takes lag and reachability from the client's statistics, if there are new ones.
    fn observe(&mut self) {
        let context = self.consumer.context();
        let Some(statistics) = context.statistics.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.brokers_down = !statistics.brokers.values().any(|broker| broker.state == "UP");
        for (place, next_offset) in self.assignment.reading() {
            let topic = statistics.topics.get(&place.topic);
            let Some(partition) = topic.and_then(|topic| topic.partitions.get(&place.partition)) else { continue };
            let end = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
            if end < 0 {
                continue;
            }
            // With nothing in the queue, what lies between the last record and the client's position are the markers of
            // transactions, which are nobody's lag.
            let position = if partition.fetchq_cnt == 0 { next_offset.max(partition.next_offset) } else { next_offset };
            self.set_lag(place, end - position);
        }
    }

    /// Tells the status what is wrong, if anything.
    fn report(&mut self) {
        let now = clock::monotonic();
        self.errors.retain(|_, seen| now.saturating_sub(*seen) < ERROR_LASTS);
        let mut problems = Problems::new();
        if self.brokers_down {
            problems.insert("no Kafka broker is connected".to_owned(), None);
        }
        problems.extend(self.errors.keys().map(|error| (error.clone(), Some(Code::KafkaUnreachable))));
        for (_, why) in self.assignment.waiting() {
            match why {
                Why::New | Why::Fenced => {}
                Why::Unavailable(text) => drop(problems.insert(text.clone(), None)),
                Why::Blocked(text) => drop(problems.insert(text.clone(), Some(Code::ProjectionInvalid))),
                Why::Lost(text) => drop(problems.insert(text.clone(), Some(Code::ConsumerDataLoss))),
            }
        }
        self.status.report(self.joined, problems);
    }

    fn count(&self, topic: &str, counts: Counts) {
        let outcomes = [
            ("applied", counts.applied),
            ("duplicate", counts.duplicate),
            ("skipped", counts.skipped),
            ("parked", counts.parked),
        ];
        for (outcome, events) in outcomes {
            let labels = ConsumerLabels { group: self.store.group().to_owned(), topic: topic.to_owned(), outcome };
            self.metrics.consumer_events.get_or_create(&labels).inc_by(events);
        }
    }

    fn set_lag(&self, place: &Place, lag: i64) {
        self.metrics.consumer_lag_records.get_or_create(&self.lag_labels(place)).set(lag.max(0));
    }

    fn lag_labels(&self, place: &Place) -> PartitionLabels {
        PartitionLabels {
            group: self.store.group().to_owned(),
            topic: place.topic.clone(),
            partition: i64::from(place.partition),
        }
    }
}

/// Why partitions wait after their fence could not be taken.
fn why_not(error: DbError) -> Why {
    let error = FoldError::from(error);
    match error.cause() {
        Cause::Unavailable | Cause::TooSlow => Why::Unavailable(error.to_string()),
        Cause::Data | Cause::Program => Why::Blocked(error.to_string()),
    }
}

/// Errors that waiting does not cure.
fn needs_operator(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

fn refused_assignment(error: &KafkaError) -> Error {
    Error::new(Code::Unexpected, format!("the Kafka client refused an assignment: {error}"))
}

fn to_record(message: &BorrowedMessage<'_>) -> Record {
    let headers: Headers = message.headers().map_or_else(Vec::new, |headers| {
        let header =
            |header: rdkafka::message::Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
        headers.iter().map(header).collect()
    });
    Record::new(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp().to_millis(),
        headers,
        message.key().map(<[u8]>::to_vec),
        message.payload().map(<[u8]>::to_vec),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_a_promise_rests_on_cannot_be_overridden() {
        let mut config = ClientConfig::new();
        config.set("auto.offset.reset", "latest").set("enable.auto.commit", "true").set("session.timeout.ms", "6000");
        let config = client_settings(config, "shop");
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get("session.timeout.ms"), Some("6000"), "this one may be");
        assert_eq!(config.get("group.id"), Some("shop"));
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        let config = client_settings(ClientConfig::new(), "shop");
        let consumer: Result<BaseConsumer<Context>, _> =
            BaseConsumer::from_config_and_context(&config, Context::default());
        assert!(consumer.is_ok(), "{:?}", consumer.err());
    }
}
