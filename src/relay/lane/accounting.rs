//! Sends a claimed batch, and turns what Kafka says about each record into a settlement, metrics and facts about
//! topics.

use std::collections::HashSet;
use std::sync::Arc;

use super::counters::PerTopic;
use super::exactly_once::InTransaction;
use super::protocol::{Protocol, Sent};
use super::{KAFKA_RETRY, Lane, Sender};
use crate::broker::{Delivery, Record};
use crate::clock::{monotonic, wall};
use crate::event::{FailureClass, Place};
use crate::failpoint::{self, Point};
use crate::metrics::FailureLabels;
use crate::outbox::failure::Failed;
use crate::outbox::{Claimed, Published, Settlement};

/// Events of a batch that are not in the settlement.
#[derive(Debug, Default)]
struct Rest {
    unsent: u64,
    stuck: u64,
}

impl Lane {
    /// Publishes the claimed batch. When the permit ends, what is to be settled is only what was acknowledged.
    pub(super) async fn publish(&mut self, protocol: &mut Protocol) {
        let Some(batch) = self.claimed.take() else { return };
        self.waits_for_kafka();
        self.shared.metrics.batch_events.observe(batch.events.len() as f64);
        let (mut records, mut ids) = (Vec::with_capacity(batch.events.len()), Vec::with_capacity(batch.events.len()));
        for Claimed { id, record } in batch.events {
            ids.push(id);
            records.push(record);
        }
        let records = Arc::new(records);
        let started = monotonic();
        let InTransaction { deliveries, usable, unknown } = match &self.sender {
            Sender::AtLeastOnce(own) => {
                let deliveries = self.watched(self.publish_outside(own, &records), || self.brokers_up()).await;
                // Everything is acknowledged and nothing is settled: a test may crash here.
                drop(failpoint::reach(Point::CommitAfter));
                InTransaction { deliveries, usable: true, unknown: false }
            }
            Sender::ExactlyOnce(_) => self.publish_in_transaction((batch.seq, batch.tag), &records, &ids).await,
        };
        self.shared.metrics.publish_duration.observe(monotonic().saturating_sub(started).as_secs_f64());
        if self.brokers_up() {
            self.shared.health.kafka_works();
        } else {
            self.shared.health.kafka_failed("no broker can be reached");
        }
        let (settlement, Rest { unsent, stuck }) = self.account(&records, &ids, deliveries);
        if !protocol.published(Sent { settlement, unsent, stuck, usable, unknown }) {
            self.publishing = None;
        } else if self.permit.holds() {
            tracing::warn!(
                shard = self.fence.shard,
                events = unsent,
                "Kafka did not acknowledge part of the batch; those events stay PENDING and will be resent"
            );
        }
    }

    fn brokers_up(&self) -> bool {
        match &self.sender {
            Sender::AtLeastOnce(own) => self.publisher(own).brokers_up(),
            Sender::ExactlyOnce(transactions) => transactions.brokers_up(),
        }
    }

    /// Waits for a batch, and says so while no broker can be reached: a batch may wait as long as Kafka is away.
    pub(super) async fn watched<T>(&self, publishing: impl Future<Output = T>, brokers_up: impl Fn() -> bool) -> T {
        tokio::pin!(publishing);
        loop {
            tokio::select! {
                ended = &mut publishing => return ended,
                () = tokio::time::sleep(KAFKA_RETRY) => {
                    if !brokers_up() {
                        self.shared.health.kafka_failed("no broker can be reached");
                    }
                }
            }
        }
    }

    fn account(&self, records: &[Record], ids: &[i64], deliveries: Vec<Delivery>) -> (Settlement, Rest) {
        let now_ms = wall().as_millisecond();
        let mut settlement = Settlement { published: Vec::with_capacity(records.len()), ..Settlement::default() };
        let mut per_topic = PerTopic::new(&self.shared.metrics);
        let mut rest = Rest::default();
        let (any_denied, mut written) = (self.shared.catalog.any_denied(), HashSet::new());
        for ((record, id), delivery) in records.iter().zip(ids.iter().copied()).zip(deliveries) {
            let acked = matches!(delivery, Delivery::Acked { .. });
            if acked && any_denied {
                written.insert(record.topic.as_str());
            }
            per_topic.count(&record.topic, acked.then(|| (now_ms - record.timestamp_ms) as f64 / 1_000.0));
            match delivery {
                Delivery::Acked { partition, offset } => {
                    settlement.published.push(Published::at(id, Place { partition, offset }))
                }
                Delivery::Refused { class, reason } => settlement.failed.push(self.refused(record, id, class, &reason)),
                // It stays PENDING, and the next claim sees what has become of its key.
                Delivery::Withheld => {}
                // The next claim holds its key.
                Delivery::Denied => {
                    self.count_failure(record, "denied");
                    self.shared.catalog.deny(&record.topic, true);
                }
                // The next claim holds its key.
                Delivery::Stuck => rest.stuck += 1,
                Delivery::Unsent => rest.unsent += 1,
            }
        }
        per_topic.flush();
        if rest.stuck > 0 {
            let (shard, events) = (self.fence.shard, rest.stuck);
            tracing::info!(
                shard,
                events,
                "some partitions did not accept their part of the batch; those events wait for them"
            );
        }
        if !written.is_empty() {
            self.shared.catalog.written(written.into_iter());
        }
        if let Some(tap) = &self.shared.ack_tap {
            let ids: Vec<i64> = settlement.published.iter().map(|event| event.id).collect();
            tap(&ids);
        }
        (settlement, rest)
    }

    fn refused(&self, record: &Record, id: i64, class: FailureClass, reason: &str) -> Failed {
        self.count_failure(record, class.as_str());
        self.shared.catalog.doubt(&record.topic);
        Failed {
            id,
            key: record.key.clone(),
            class,
            topic: Some(record.topic.clone()),
            reason: format!("refused by Kafka: {reason}"),
        }
    }

    fn count_failure(&self, record: &Record, reason: &'static str) {
        let labels = FailureLabels { topic: self.shared.metrics.topic_label(&record.topic), reason };
        self.shared.metrics.publish_failures.get_or_create(&labels).inc();
    }
}
