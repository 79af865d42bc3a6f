//! Opening a shard: the fence and the marker, and what to do about a `transactional.id` whose last transaction cannot
//! be ended.
//!
//! A transaction ends in every partition that it contains. While one of them has no leader, the coordinator has decided
//! the outcome but cannot write it; until then it gives the `transactional.id` to nobody (`CONCURRENT_TRANSACTIONS`),
//! whatever `transaction.timeout.ms` says. A shard that waited for that would be blocked as long as the partition. It
//! therefore continues under another `transactional.id`, if nobody can commit anything more under the old one
//! (`docs/adr/0009-another-producer.md`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Marker, MarkerPlace, Open, TransactionSettings, Worker};
use crate::broker::admin::QuietContext;
use crate::broker::call::close;
use crate::broker::producer::Producer;
use crate::broker::{client_config, raw};
use crate::clock::{Permit, monotonic};
use crate::failpoint::{self, Point};

/// Maximum wait for the marker before the attempt to open counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for one attempt, so that the end of a permit is noticed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait before asking again for a marker that a transaction in its end phase still covers.
const MARKER_RETRY: Duration = Duration::from_millis(20);
/// A transaction that is being ended takes milliseconds. After this long its end counts as blocked.
const BLOCKED: Duration = Duration::from_secs(4);

/// Why an attempt to open failed.
#[derive(Debug)]
pub enum OpenError {
    /// A text for the log; nothing is lost by trying again.
    Failed(String),
    /// The last transaction of this `transactional.id` cannot be ended now.
    Blocked(Blocked),
}

/// What is known of a `transactional.id` that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Blocked {
    /// All its transactions since the last fence were this publisher's own, and it has no producer left: nobody can
    /// commit anything under it that was not decided before.
    pub own: bool,
    /// What was committed last, as a reader of stable offsets sees it.
    pub marker: Option<Marker>,
}

impl From<String> for OpenError {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl TransactionSettings {
    /// The first is that of earlier versions. No name of a deployment makes two of them equal: what stands behind the
    /// last dot tells shard and number.
    pub(super) fn transactional_id(&self, number: i32) -> String {
        let (prefix, shard) = (&self.id_prefix, self.place.partition);
        match number {
            0 => format!("{prefix}{shard}"),
            _ => format!("{prefix}{shard}-{number}"),
        }
    }
}

impl Worker {
    /// Fences the producers of this number, and reads the marker.
    pub(super) fn open(&mut self, number: i32, permit: &Permit) -> Result<Option<Marker>, OpenError> {
        // The former producer goes first: two of one process would fence each other.
        if let Some(former) = self.open.take() {
            close(former);
        }
        self.settings.client.set("transactional.id", self.settings.transactional_id(number));
        // It connects while the producer does.
        let reader = self.reader("read_committed")?;
        let producer =
            Producer::new(&self.settings.client, 0, Arc::clone(&self.brokers_up)).map_err(|error| error.to_string())?;
        let producer = producer.watched_by(Arc::clone(&self.watch));
        if let Err(error) = producer.fence(permit, BLOCKED) {
            if is_concurrent(&error) {
                close(producer);
                let marker = self.marker(&reader, permit)?;
                return Err(OpenError::Blocked(Blocked { own: self.fenced == Some(number), marker }));
            }
            self.brokers_up.store(false, Ordering::Relaxed);
            return Err(OpenError::Failed(format!("could not initialise the transactional producer: {error}")));
        }
        self.fenced = Some(number);
        failpoint::reach(Point::FenceDone)?;
        let marker = self.marker(&reader, permit)?;
        failpoint::reach(Point::MarkerRead)?;
        let group = reader.group_metadata().ok_or_else(|| "the marker's group does not exist".to_owned())?;
        self.brokers_up.store(true, Ordering::Relaxed);
        self.open = Some(Open { producer, group, committing: false });
        Ok(marker)
    }

    pub(super) fn peek(&self, permit: &Permit) -> Result<Option<Marker>, String> {
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
            let asked = self.watch.committed_by(reader, list, left.min(ATTEMPT_TIMEOUT));
            let found = asked.and_then(|list| {
                let element = list.elements_for_topic(topic).into_iter().next();
                element.map_or(Ok(None), |element| {
                    element.error()?;
                    let Offset::Offset(seq) = element.offset() else { return Ok(None) };
                    Ok(Some(Marker { seq, note: raw::committed_note(&list, topic, *partition) }))
                })
            });
            match found {
                Ok(marker) => return Ok(marker),
                // Also where a transaction that is being ended still covers the marker: it is final a moment later.
                Err(error) if left.is_zero() || !permit.holds() => {
                    return Err(format!("could not read the marker: {error}"));
                }
                Err(_) => std::thread::sleep(MARKER_RETRY.min(left)),
            }
        }
    }
}

/// The coordinator still has a transaction to end.
fn is_concurrent(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::ConcurrentTransactions)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rdkafka::ClientConfig;

    use super::*;
    use crate::broker::partitions::Partitions;

    fn id(deployment: &str, partition: i32, number: i32) -> String {
        let place = MarkerPlace { topic: String::new(), group: String::new(), partition };
        let settings = TransactionSettings {
            client: ClientConfig::new(),
            id_prefix: format!("{deployment}."),
            reader: ClientConfig::new(),
            place,
            publish_timeout: Duration::ZERO,
            partitions: Partitions::default(),
            name: String::new(),
        };
        settings.transactional_id(number)
    }

    #[test]
    fn no_two_producers_of_any_deployments_have_one_id() {
        assert_eq!(id("shop", 3, 0), "shop.3", "as every version has called it");
        let mut ids = HashSet::new();
        for deployment in ["a", "a.1", "a.1-1", "a.1.1", "a-1"] {
            for shard in 0..12 {
                for number in 0..12 {
                    let id = id(deployment, shard, number);
                    assert!(id.starts_with(&format!("{deployment}.")), "{id} has no grant");
                    assert!(ids.insert(id.clone()), "{id} occurs twice");
                }
            }
        }
    }
}
