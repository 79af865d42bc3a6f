//! What a lane does only in exactly-once delivery: it asks Kafka what the protocol wants to know, and publishes in
//! transactions.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::protocol::{Ask, Protocol};
use super::{Lane, Sender};
use crate::broker::transaction::{
    Ended, Marker, OpenError, Outcome, Refused, TransactionSettings, TransactionalPublisher,
};
use crate::broker::{Delivery, Record};
use crate::clock::monotonic;
use crate::event::ShardId;
use crate::metrics::TransactionLabel;
use crate::outbox::BatchTag;
use crate::relay::takeover::note;

/// An idle lane writes its marker again after this long: by default Kafka forgets offsets of a group that commits
/// nothing for seven days.
const MARKER_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The transactions of a lane.
pub(super) struct Transactions {
    publisher: TransactionalPublisher,
    installation: Uuid,
    /// When this lane last committed a marker.
    marked: Option<Duration>,
}

impl Transactions {
    pub(super) fn start(
        mut settings: TransactionSettings,
        shard: ShardId,
        installation: Uuid,
    ) -> std::io::Result<Self> {
        settings.place.partition = i32::from(shard);
        Ok(Self { publisher: TransactionalPublisher::start(settings)?, installation, marked: None })
    }

    pub(super) fn brokers_up(&self) -> bool {
        self.publisher.brokers_up()
    }

    /// How long the marker may rest before it has to be written again.
    pub(super) fn marker_rest(&self) -> Duration {
        self.marked.map_or(Duration::ZERO, |at| MARKER_REFRESH.saturating_sub(monotonic().saturating_sub(at)))
    }

    /// The shard is open. A marker that was found there is not older than this lane.
    pub(super) fn opened(&mut self) {
        self.marked.get_or_insert_with(monotonic);
    }
}

/// How a batch that was sent in a transaction ended.
pub(super) struct InTransaction {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) usable: bool,
    pub(super) unknown: bool,
}

impl Lane {
    /// Asks Kafka, or has PostgreSQL note the next `transactional.id`.
    pub(super) async fn ask_about_transactions(&mut self, protocol: &mut Protocol, ask: Ask) {
        let Sender::ExactlyOnce(transactions) = &mut self.sender else { return protocol.ask_failed() };
        let permit = self.permit.clone();
        let failure = match ask {
            // Not for Kafka.
            Ask::State => None,
            Ask::Marker => match transactions.publisher.peek(permit).await {
                Ok(marker) => {
                    protocol.peeked(marker);
                    None
                }
                Err(reason) => Some(reason),
            },
            Ask::Fence { producer } => match transactions.publisher.open(producer, permit).await {
                Ok(marker) => {
                    protocol.fenced(marker, transactions.marker_rest().is_zero());
                    None
                }
                Err(OpenError::Blocked(blocked)) => {
                    protocol.blocked(blocked).is_err().then(|| "the new transactional.id is blocked as well".to_owned())
                }
                Err(OpenError::Failed(reason)) => Some(reason),
            },
            Ask::NextProducer { from } => return self.ask_for_next_producer(protocol, from).await,
            Ask::Write(marker) => {
                let ended = transactions.publisher.publish(Arc::default(), marker, permit).await;
                match not_written(ended) {
                    None => {
                        transactions.marked = Some(monotonic());
                        protocol.written();
                        None
                    }
                    failure @ Some(_) => failure,
                }
            }
        };
        if let Some(reason) = failure {
            protocol.ask_failed();
            self.kafka_did_not_answer(&reason);
        }
    }

    async fn ask_for_next_producer(&mut self, protocol: &mut Protocol, from: i32) {
        match self.shared.outbox.next_producer(self.fence, from).await {
            Ok(producer) => {
                let leaderless = self.shared.catalog.partitions().leaderless();
                tracing::warn!(
                    shard = self.fence.shard,
                    producer,
                    partitions = leaderless.join(", "),
                    "Kafka cannot end the shard's last transaction at the moment; continuing with another transactional.id"
                );
                self.shared.metrics.producers_left.inc();
                protocol.renumbered(producer);
            }
            Err(error) => self.state_failed(protocol, &error),
        }
    }

    /// A question to Kafka has no answer, and will be asked again.
    pub(super) fn kafka_did_not_answer(&mut self, reason: &str) {
        self.retry_in = self.backoff.next_wait();
        self.shared.health.kafka_failed(reason);
        tracing::warn!(shard = self.fence.shard, reason, "could not open the shard; retrying");
    }

    /// Publishes a batch in one transaction. Either every record is acknowledged, or none is.
    pub(super) async fn publish_in_transaction(
        &mut self,
        (seq, tag): (i64, Option<BatchTag>),
        records: &Arc<Vec<Record>>,
        ids: &[i64],
    ) -> InTransaction {
        let unsent = || vec![Delivery::Unsent; ids.len()];
        let Sender::ExactlyOnce(transactions) = &self.sender else {
            return InTransaction { deliveries: unsent(), usable: false, unknown: true };
        };
        let marker = Marker { seq, note: note(transactions.installation, tag) };
        let publishing = transactions.publisher.publish(Arc::clone(records), marker, self.permit.clone());
        let Ended { outcome, usable } = self.watched(publishing, || transactions.brokers_up()).await;
        let unknown = matches!(outcome, Outcome::Unknown(_));
        let label = match &outcome {
            Outcome::Committed(_) => "committed",
            Outcome::Refused(_) => "refused",
            Outcome::Denied(_) => "denied",
            Outcome::Stuck(_) => "unavailable",
            Outcome::Unknown(_) => "unknown",
        };
        self.shared.metrics.transactions.get_or_create(&TransactionLabel { outcome: label }).inc();
        let deliveries = match outcome {
            Outcome::Committed(places) => {
                if let Sender::ExactlyOnce(transactions) = &mut self.sender {
                    transactions.marked = Some(monotonic());
                }
                places.into_iter().map(|(partition, offset)| Delivery::Acked { partition, offset }).collect()
            }
            Outcome::Refused(refused) => {
                let mut deliveries = unsent();
                for Refused { index, class, reason } in refused {
                    deliveries[index] = Delivery::Refused { class, reason };
                }
                deliveries
            }
            Outcome::Denied(indexes) => some(ids.len(), &indexes, &Delivery::Denied),
            Outcome::Stuck(indexes) => some(ids.len(), &indexes, &Delivery::Stuck),
            Outcome::Unknown(reason) => {
                tracing::warn!(shard = self.fence.shard, reason, "the outcome of a transaction is unknown");
                unsent()
            }
        };
        InTransaction { deliveries, usable, unknown }
    }
}

/// Why a marker without records is not committed, or the producer cannot be used.
fn not_written(ended: Ended) -> Option<String> {
    match ended.outcome {
        Outcome::Committed(_) if ended.usable => None,
        Outcome::Committed(_) => Some("the connection to Kafka is unstable".to_owned()),
        Outcome::Unknown(reason) => Some(reason),
        Outcome::Refused(_) | Outcome::Denied(_) | Outcome::Stuck(_) => Some("the marker was not taken".to_owned()),
    }
}

/// What became of some of a batch; the rest was not sent.
fn some(count: usize, indexes: &[usize], delivery: &Delivery) -> Vec<Delivery> {
    let mut deliveries = vec![Delivery::Unsent; count];
    for index in indexes {
        deliveries[*index] = delivery.clone();
    }
    deliveries
}
