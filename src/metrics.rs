//! Every metric: name, labels, meaning. Nothing else in the code names one.
//!
//! Labels come from closed or configured sets (topics, shards, outcomes), never from keys, ids or error texts.

mod labels;
mod measured;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

pub use labels::{
    CleanupLabel, ComponentLabel, ConsumerLabels, FailureLabels, PartitionLabels, PollLabel, ProjectionLabel,
    ShardLabel, StateLabel, StopLabels, TopicLabel, TransactionLabel, WaitLabels,
};
pub use measured::Measured;

/// 5 ms to 60 s: what people wait for an event.
const LATENCY_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 0.5 ms to 10 s: what one database call or batch takes.
const DURATION_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const BATCH_BUCKETS: [f64; 10] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0];

/// Topics with a label of their own.
pub const LABELLED_TOPICS: usize = 50;
/// The label of all others, and of a topic that is called so.
const OTHER_TOPICS: &str = "other";

pub type CountGauge = Gauge<i64, AtomicI64>;

/// Declares the metrics, in the order in which they are shown. Of each: field, type and first value (the default if
/// none is given), name and unit (which becomes a part of the name), and what it means.
macro_rules! metrics {
    ($($field:ident: $kind:ty $(= $first:expr)?, $name:literal $(in $unit:ident)?, $help:literal;)*) => {
        /// All metrics of a process. Cheap to clone.
        #[derive(Debug, Clone)]
        pub struct Metrics {
            registry: Arc<Registry>,
            labelled: Arc<Mutex<HashSet<String>>>,
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            fn registered(mut registry: Registry) -> Self {
                $(
                    let $field: $kind = metrics!(@first $($first)?);
                    register(&mut registry, $name, $help, metrics!(@unit $($unit)?), $field.clone());
                )*
                Self { registry: Arc::new(registry), labelled: Arc::default(), $($field,)* }
            }
        }
    };
    (@first) => { Default::default() };
    (@first $first:expr) => { $first };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

metrics! {
    pending_events: Measured<i64>, "pending_events",
        "Rows that wait to be published; estimated where more than 10,000 of one shard do; absent while it cannot be counted";
    oldest_pending_age_seconds: Measured<f64>, "oldest_pending_age" in Seconds,
        "Age of the oldest row that waits: alert on this first, and on its absence";
    failed_events: Measured<i64>, "failed_events", "Rows that failed and need a decision";
    held_events: Measured<i64>, "held_events", "Rows that wait behind a failed or delayed row of their key";
    claimed_events: Family<TopicLabel, Counter>, "claimed_events", "Rows claimed";
    published_events: Family<TopicLabel, Counter>, "published_events", "Rows that Kafka acknowledged";
    publish_failures: Family<FailureLabels, Counter>, "publish_failures",
        "Failed attempts, by topic and class of error";
    delivery_latency: Family<TopicLabel, Histogram> = latencies_by(), "delivery_latency" in Seconds,
        "From the insert of the row (created_at) to the acknowledgement of Kafka";
    publish_duration: Histogram = latencies(), "publish_duration" in Seconds,
        "From handing over a batch to its last acknowledgement";
    batch_events: Histogram = batch_sizes(), "batch_events", "Events per batch";
    poll_duration: Family<PollLabel, Histogram> = durations_by(), "poll_duration" in Seconds,
        "Time of the settle-and-claim transaction";
    transactions: Family<TransactionLabel, Counter>, "transactions",
        "Kafka transactions of exactly-once delivery, by how they ended";
    opens: Counter, "opens",
        "Times that a lane fenced its predecessors and read its marker: once per takeover, and after unusual transactions";
    producers_left: Counter, "producers_left",
        "Times that a shard went on with another transactional.id, because Kafka could not end its last transaction";
    dead_letters: Counter, "dead_letters", "Events that were given up and whose copy goes to a dead-letter topic";
    paused: Family<TopicLabel, CountGauge>, "paused",
        "1 for each topic that an operator has paused; \"*\" is everything";
    partitions_unavailable: Family<StateLabel, CountGauge>, "partitions_unavailable",
        "Partitions that take no records and whose keys wait, by what is wrong with them";
    db_pool_connections: Family<StateLabel, CountGauge>, "db_pool_connections", "Connections of the lane pool";
    lease_held: Family<ShardLabel, CountGauge>, "lease_held", "1 for each shard this instance owns";
    sweep_found_below_watermark: Counter, "sweep_found_below_watermark", "Rows found below the scan bound: must stay 0";
    component_up: Family<ComponentLabel, CountGauge>, "component_up", "1 while PostgreSQL or Kafka answers";
    waits: Family<WaitLabels, CountGauge>, "waits", "Things that this instance waits for, by what they are";
    waits_since: Family<WaitLabels, CountGauge>, "waits_since_timestamp" in Seconds,
        "When the oldest wait of each kind began; absent while there is none";
    consumer_lag_records: Family<PartitionLabels, Measured<i64>>, "consumer_lag_records",
        "Records not yet folded, per partition of this instance; absent while it is not known";
    consumer_events: Family<ConsumerLabels, Counter>, "consumer_events", "Records read by the consumer, by outcome";
    consumer_partitions_stopped: Family<StopLabels, CountGauge>, "consumer_partitions_stopped",
        "Partitions of this instance that wait for a decision about their position, by reason";
    process_duration: Family<ProjectionLabel, Histogram> = durations_by(), "process_duration" in Seconds,
        "Time of one fold of a batch";
    cleanup_deleted_rows: Family<CleanupLabel, Counter>, "cleanup_deleted_rows",
        "Rows deleted because they were finished and old, by kind";
    cleanup_batch_duration: Histogram = durations(), "cleanup_batch_duration" in Seconds,
        "Time of one transaction that deletes";
    cleanup_passes: Counter, "cleanup_passes", "Times that this instance went over everything there is to delete";
    cleanup_paused: CountGauge, "cleanup_paused", "1 while deleting waits for a replica that is behind";
    partition_ids_ahead: CountGauge, "partition_ids_ahead",
        "Ids before the last partition of a partitioned outbox, on the instance that looks after it";
}

fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, metric: impl Metric) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

fn latencies() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn latencies_by<L: Clone + Hash + Eq>() -> Family<L, Histogram> {
    Family::<L, Histogram>::new_with_constructor(latencies)
}

fn durations() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

fn durations_by<L: Clone + Hash + Eq>() -> Family<L, Histogram> {
    Family::<L, Histogram>::new_with_constructor(durations)
}

fn batch_sizes() -> Histogram {
    Histogram::new(BATCH_BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("outbox_relay");
        registry.register(
            "build",
            "What runs",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("librdkafka", rdkafka_version())]),
        );
        let metrics = Self::registered(registry);
        metrics.start_at_zero();
        metrics
    }

    /// Sets that are known beforehand start at 0, so that rate() and absent() work from the first scrape.
    fn start_at_zero(&self) {
        for component in ["postgres", "kafka"] {
            self.component_up.get_or_create(&ComponentLabel { component }).set(0);
        }
        self.paused.get_or_create(&TopicLabel { topic: "*".to_owned() }).set(0);
        for state in crate::broker::partitions::Trouble::STATES {
            self.partitions_unavailable.get_or_create(&StateLabel { state }).set(0);
        }
        for result in ["full", "partial", "empty"] {
            drop(self.poll_duration.get_or_create(&PollLabel { result }));
        }
        for outcome in ["committed", "refused", "denied", "unavailable", "unknown"] {
            drop(self.transactions.get_or_create(&TransactionLabel { outcome }));
        }
        for kind in ["published", "discarded", "failed", "handled"] {
            drop(self.cleanup_deleted_rows.get_or_create(&CleanupLabel { kind }));
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
