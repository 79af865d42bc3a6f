//! Every metric: name, labels, meaning. Nothing else in the code names one.
//!
//! Labels come from closed or configured sets (topics, shards, outcomes), never from keys, ids or error texts.

mod tenure;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

pub use self::tenure::Tenure;
use self::tenure::Tenures;
use crate::clock;

/// 5 ms to 60 s: what people wait for an event.
const LATENCY_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 0.5 ms to 10 s: what one database call or batch takes.
const DURATION_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const BATCH_BUCKETS: [f64; 10] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0];

/// Topics with a label of their own.
pub const LABELLED_TOPICS: usize = 50;
/// The label of all others, and of a topic that is called so.
const OTHER_TOPICS: &str = "other";

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TopicLabel {
    pub topic: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FailureLabels {
    pub topic: String,
    /// The class of the error, as in `docs/operations/failed-events.md`.
    pub reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ShardLabel {
    pub shard: i64,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ComponentLabel {
    /// `postgres` or `kafka`.
    pub component: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StateLabel {
    pub state: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PollLabel {
    /// `full`, `partial` or `empty`.
    pub result: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TransactionLabel {
    /// `committed`, `refused` (records), `denied` (a topic), `unavailable` (a partition) or `unknown` (the marker
    /// tells).
    pub outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ConsumerLabels {
    pub group: String,
    pub topic: String,
    /// `applied`, `duplicate`, `skipped` or `parked`.
    pub outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PartitionLabels {
    pub group: String,
    pub topic: String,
    pub partition: i64,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WaitLabels {
    /// `consumer` or `relay`.
    pub part: &'static str,
    /// As in `docs/operations/alerts.md`.
    pub situation: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StopLabels {
    pub group: String,
    /// As in `consumer_partitions`.
    pub reason: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ProjectionLabel {
    pub projection: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CleanupLabel {
    /// `published`, `discarded`, `failed` or `handled`.
    pub kind: &'static str,
}

pub type CountGauge = Gauge<i64, AtomicI64>;

/// A gauge that is not shown while its value is unknown: an old figure, or a zero that nobody has measured, would look
/// like a good one. A value may also have a time after which it is not believed any more. Whoever reads the metrics
/// judges that, so that a thread which is stuck cannot leave its last figure standing.
#[derive(Debug, Clone)]
pub struct Measured<N>(Arc<Mutex<Option<Value<N>>>>);

#[derive(Debug, Clone, Copy)]
struct Value<N> {
    number: N,
    /// Monotonic; `None`: until the next one.
    believed_until: Option<Duration>,
}

impl<N> Default for Measured<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<N: Copy> Measured<N> {
    pub fn set(&self, number: N) {
        *self.lock() = Some(Value { number, believed_until: None });
    }

    /// A value that is believed for so long.
    pub fn set_for(&self, lasts: Duration, number: N) {
        *self.lock() = Some(Value { number, believed_until: Some(clock::monotonic().saturating_add(lasts)) });
    }

    /// The value, while it is known and believed.
    pub fn get(&self) -> Option<N> {
        self.at(clock::monotonic())
    }

    /// Until the next value.
    pub fn unknown(&self) {
        *self.lock() = None;
    }

    fn at(&self, now: Duration) -> Option<N> {
        self.lock().filter(|value| value.believed_until.is_none_or(|until| now < until)).map(|value| value.number)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Value<N>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Copy + EncodeGaugeValue> EncodeMetric for Measured<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.at(clock::monotonic()).map_or(Ok(()), |number| encoder.encode_gauge(&number))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.at(clock::monotonic()).is_none()
    }
}

impl<N> TypedMetric for Measured<N> {
    const TYPE: MetricType = MetricType::Gauge;
}

/// All metrics of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    tenures: Tenures,
    pub pending_events: Measured<i64>,
    pub oldest_pending_age_seconds: Measured<f64>,
    pub failed_events: Measured<i64>,
    pub held_events: Measured<i64>,
    pub claimed_events: Family<TopicLabel, Counter>,
    pub published_events: Family<TopicLabel, Counter>,
    pub publish_failures: Family<FailureLabels, Counter>,
    pub delivery_latency: Family<TopicLabel, Histogram>,
    pub publish_duration: Histogram,
    pub batch_events: Histogram,
    pub poll_duration: Family<PollLabel, Histogram>,
    pub transactions: Family<TransactionLabel, Counter>,
    pub opens: Counter,
    pub producers_left: Counter,
    pub dead_letters: Counter,
    pub paused: Family<TopicLabel, CountGauge>,
    pub partitions_unavailable: Family<StateLabel, CountGauge>,
    labelled: Arc<Mutex<HashSet<String>>>,
    pub db_pool_connections: Family<StateLabel, CountGauge>,
    pub lease_held: Family<ShardLabel, CountGauge>,
    pub sweep_found_below_watermark: Counter,
    pub component_up: Family<ComponentLabel, CountGauge>,
    pub waits: Family<WaitLabels, CountGauge>,
    pub waits_since: Family<WaitLabels, CountGauge>,
    pub consumer_lag_records: Family<PartitionLabels, Measured<i64>>,
    pub consumer_events: Family<ConsumerLabels, Counter>,
    pub consumer_partitions_stopped: Family<StopLabels, Measured<i64>>,
    pub process_duration: Family<ProjectionLabel, Histogram>,
    pub cleanup_deleted_rows: Family<CleanupLabel, Counter>,
    pub cleanup_batch_duration: Histogram,
    pub cleanup_passes: Counter,
    pub cleanup_paused: CountGauge,
    pub partition_ids_ahead: Measured<i64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("outbox_relay");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
            ($name:literal, $help:literal, seconds $metric:expr) => {{
                let metric = $metric;
                registry.register_with_unit($name, $help, Unit::Seconds, metric.clone());
                metric
            }};
        }
        registry.register(
            "build",
            "What runs",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("librdkafka", rdkafka_version())]),
        );
        let latency = || Histogram::new(LATENCY_BUCKETS);
        let pending_events = register!(
            "pending_events",
            "Rows that wait to be published; estimated where more than 10,000 of one shard do; absent while it cannot be counted",
            Measured::<i64>::default()
        );
        let oldest_pending_age_seconds = register!("oldest_pending_age", "Age of the oldest row that waits: alert on this first, and on its absence", seconds Measured::<f64>::default());
        let failed_events =
            register!("failed_events", "Rows that failed and need a decision", Measured::<i64>::default());
        let held_events = register!(
            "held_events",
            "Rows that wait behind a failed or delayed row of their key",
            Measured::<i64>::default()
        );
        let claimed_events = register!("claimed_events", "Rows claimed", Family::<TopicLabel, Counter>::default());
        let published_events =
            register!("published_events", "Rows that Kafka acknowledged", Family::<TopicLabel, Counter>::default());
        let publish_failures = register!(
            "publish_failures",
            "Failed attempts, by topic and class of error",
            Family::<FailureLabels, Counter>::default()
        );
        let delivery_latency = register!(
            "delivery_latency",
            "From the insert of the row (created_at) to the acknowledgement of Kafka",
            seconds Family::<TopicLabel, Histogram>::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS))
        );
        let publish_duration =
            register!("publish_duration", "From handing over a batch to its last acknowledgement", seconds latency());
        let batch_events = register!("batch_events", "Events per batch", Histogram::new(BATCH_BUCKETS));
        let poll_duration = register!(
            "poll_duration",
            "Time of the settle-and-claim transaction",
            seconds Family::<PollLabel, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS))
        );
        let transactions = register!(
            "transactions",
            "Kafka transactions of exactly-once delivery, by how they ended",
            Family::<TransactionLabel, Counter>::default()
        );
        let opens = register!(
            "opens",
            "Times that a lane fenced its predecessors and read its marker: once per takeover, and after unusual transactions",
            Counter::default()
        );
        let producers_left = register!(
            "producers_left",
            "Times that a shard went on with another transactional.id, because Kafka could not end its last transaction",
            Counter::default()
        );
        let dead_letters = register!(
            "dead_letters",
            "Events that were given up and whose copy goes to a dead-letter topic",
            Counter::default()
        );
        let paused = register!(
            "paused",
            "1 for each topic that an operator has paused; \"*\" is everything",
            Family::<TopicLabel, CountGauge>::default()
        );
        let partitions_unavailable = register!(
            "partitions_unavailable",
            "Partitions that take no records and whose keys wait, by what is wrong with them",
            Family::<StateLabel, CountGauge>::default()
        );
        let db_pool_connections = register!(
            "db_pool_connections",
            "Connections of the lane pool",
            Family::<StateLabel, CountGauge>::default()
        );
        let lease_held =
            register!("lease_held", "1 for each shard this instance owns", Family::<ShardLabel, CountGauge>::default());
        let sweep_found_below_watermark = register!(
            "sweep_found_below_watermark",
            "Rows found below the scan bound: must stay 0",
            Counter::default()
        );
        let component_up = register!(
            "component_up",
            "1 while PostgreSQL or Kafka answers",
            Family::<ComponentLabel, CountGauge>::default()
        );
        let waits = register!(
            "waits",
            "Things that this instance waits for, by what they are",
            Family::<WaitLabels, CountGauge>::default()
        );
        let waits_since = register!(
            "waits_since_timestamp",
            "When the oldest wait of each kind began; absent while there is none",
            seconds Family::<WaitLabels, CountGauge>::default()
        );
        let consumer_lag_records = register!(
            "consumer_lag_records",
            "Records not yet folded, per partition of this instance; absent while it is not known",
            Family::<PartitionLabels, Measured<i64>>::default()
        );
        let consumer_events = register!(
            "consumer_events",
            "Records read by the consumer, by outcome",
            Family::<ConsumerLabels, Counter>::default()
        );
        let consumer_partitions_stopped = register!(
            "consumer_partitions_stopped",
            "Partitions of this instance that wait for a decision about their position, by reason; absent while no consumer runs",
            Family::<StopLabels, Measured<i64>>::default()
        );
        let process_duration = register!(
            "process_duration",
            "Time of one fold of a batch",
            seconds Family::<ProjectionLabel, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS))
        );
        let cleanup_deleted_rows = register!(
            "cleanup_deleted_rows",
            "Rows deleted because they were finished and old, by kind",
            Family::<CleanupLabel, Counter>::default()
        );
        let cleanup_batch_duration = register!(
            "cleanup_batch_duration",
            "Time of one transaction that deletes",
            seconds Histogram::new(DURATION_BUCKETS)
        );
        let cleanup_passes = register!(
            "cleanup_passes",
            "Times that this instance went over everything there is to delete",
            Counter::default()
        );
        let cleanup_paused =
            register!("cleanup_paused", "1 while deleting waits for a replica that is behind", CountGauge::default());
        let partition_ids_ahead = register!(
            "partition_ids_ahead",
            "Ids before the last partition of a partitioned outbox, on the instance that looks after it",
            Measured::<i64>::default()
        );
        // Sets that are known beforehand start at 0, so that rate() works from the first scrape.
        for result in ["full", "partial", "empty"] {
            drop(poll_duration.get_or_create(&PollLabel { result }));
        }
        for outcome in ["committed", "refused", "denied", "unavailable", "unknown"] {
            drop(transactions.get_or_create(&TransactionLabel { outcome }));
        }
        for kind in ["published", "discarded", "failed", "handled"] {
            drop(cleanup_deleted_rows.get_or_create(&CleanupLabel { kind }));
        }
        Self {
            registry: Arc::new(registry),
            tenures: Tenures::default(),
            pending_events,
            oldest_pending_age_seconds,
            failed_events,
            held_events,
            claimed_events,
            published_events,
            publish_failures,
            delivery_latency,
            publish_duration,
            batch_events,
            poll_duration,
            transactions,
            opens,
            producers_left,
            dead_letters,
            paused,
            partitions_unavailable,
            labelled: Arc::default(),
            db_pool_connections,
            lease_held,
            sweep_found_below_watermark,
            component_up,
            waits,
            waits_since,
            consumer_lag_records,
            consumer_events,
            consumer_partitions_stopped,
            process_duration,
            cleanup_deleted_rows,
            cleanup_batch_duration,
            cleanup_passes,
            cleanup_paused,
            partition_ids_ahead,
        }
    }

    /// The label of a topic: its name for the first [`LABELLED_TOPICS`], `other` for those that come later. Topics may
    /// be named by rows, as many as there are.
    pub fn topic_label(&self, topic: &str) -> String {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if labelled.contains(topic) {
            return topic.to_owned();
        }
        if labelled.len() >= LABELLED_TOPICS {
            return OTHER_TOPICS.to_owned();
        }
        labelled.insert(topic.to_owned());
        topic.to_owned()
    }

    /// Sets whether a component answers.
    pub fn set_component(&self, component: &'static str, up: bool) {
        self.component_up.get_or_create(&ComponentLabel { component }).set(i64::from(up));
    }

    /// Counts rows that were deleted.
    pub fn count_deleted(&self, published: u64, discarded: u64, failed: u64, handled: u64) {
        for (kind, rows) in
            [("published", published), ("discarded", discarded), ("failed", failed), ("handled", handled)]
        {
            self.cleanup_deleted_rows.get_or_create(&CleanupLabel { kind }).inc_by(rows);
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut buffer = String::new();
        text::encode(&mut buffer, &self.registry).expect("writing to a String cannot fail");
        buffer
    }
}

fn rdkafka_version() -> String {
    crate::broker::librdkafka_version()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_is_not_known_is_not_shown() {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("outbox_relay_pending_events "), "nobody has counted yet");
        metrics.pending_events.set(7);
        metrics.oldest_pending_age_seconds.set(1.5);
        let shown = metrics.encode();
        assert!(shown.contains("\noutbox_relay_pending_events 7\n"), "{shown}");
        assert!(shown.contains("\noutbox_relay_oldest_pending_age_seconds 1.5\n"), "{shown}");
        metrics.pending_events.unknown();
        let shown = metrics.encode();
        assert!(
            !shown.contains("outbox_relay_pending_events 7") && shown.contains("pending_age_seconds 1.5"),
            "{shown}"
        );
    }

    #[test]
    fn a_gauge_that_nobody_renews_is_not_shown() {
        let gauge = Measured::<i64>::default();
        gauge.set_for(Duration::from_secs(20), 3);
        let now = clock::monotonic();
        assert_eq!(gauge.at(now), Some(3));
        assert_eq!(gauge.at(now + Duration::from_secs(21)), None);
        let metrics = Metrics::new();
        let labels = PartitionLabels { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 };
        metrics.consumer_lag_records.get_or_create(&labels).set_for(Duration::ZERO, 3);
        assert!(!metrics.encode().contains("consumer_lag_records{"), "{}", metrics.encode());
    }

    #[test]
    fn as_many_topics_as_rows_may_name_make_a_bounded_number_of_series() {
        let metrics = Metrics::new();
        let before = metrics.encode().lines().count();
        for n in 0..5_000 {
            let topic = metrics.topic_label(&format!("topic-{n}"));
            drop(metrics.delivery_latency.get_or_create(&TopicLabel { topic: topic.clone() }));
            metrics.publish_failures.get_or_create(&FailureLabels { topic, reason: "unknown-topic" }).inc();
        }
        let series = metrics.encode().lines().count() - before;
        assert!(series < 1_000, "{series}");
        assert_eq!(metrics.topic_label("topic-0"), "topic-0");
        assert_eq!(metrics.topic_label("topic-4999"), "other");
    }
}
