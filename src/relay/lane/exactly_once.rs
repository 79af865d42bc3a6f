//! What a lane does more in exactly-once delivery: it opens before it claims, and publishes in transactions.
//!
//! To open is: fence every older producer of the shard, read the marker, and let `takeover::resolve` decide about the
//! batch that PostgreSQL believes to be in flight. It comes at the start and after every transaction that was not
//! entirely ordinary, so there is one path for a crash, a lost answer, a refusal and a change of owner.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Ended, Lane, Sender, Unsettled};
use crate::broker::transaction::{
    Blocked, Marker, OpenError, Outcome, Refused, TransactionSettings, TransactionalPublisher,
};
use crate::broker::{Delivery, Record};
use crate::clock::monotonic;
use crate::db::DbError;
use crate::event::ShardId;
use crate::failpoint::{self, Point};
use crate::metrics::TransactionLabel;
use crate::outbox::{BatchTag, LastBatch, OutboxError, Settlement, ShardState};
use crate::relay::takeover::{
    Disagreement, Known, Manifest, Resolution, Seen, foresee, is_ours, may_leave, note, resolve,
};
use crate::retry::Backoff;

/// An idle lane writes its marker again after this long: by default Kafka forgets offsets of a group that commits
/// nothing for seven days.
const MARKER_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The transactions of a lane.
pub(super) struct Transactions {
    publisher: TransactionalPublisher,
    installation: Uuid,
    open: bool,
    /// Somebody else may have written the marker since this lane did, if it ever did: it is looked at before anybody is
    /// fenced.
    estranged: bool,
    /// When this lane last committed a marker.
    marked: Option<Duration>,
    /// The last batch as this lane knows it. A step that finds another one in PostgreSQL does nothing: a commit whose
    /// answer was lost came through late, or PostgreSQL went back.
    pub(super) last: LastBatch,
}

impl Transactions {
    pub(super) fn start(
        mut settings: TransactionSettings,
        shard: ShardId,
        installation: Uuid,
    ) -> std::io::Result<Self> {
        settings.place.partition = i32::from(shard);
        Ok(Self {
            publisher: TransactionalPublisher::start(settings)?,
            installation,
            open: false,
            estranged: true,
            marked: None,
            last: LastBatch::default(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// The next batch needs an open first.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    pub(super) fn brokers_up(&self) -> bool {
        self.publisher.brokers_up()
    }

    /// How long the marker may rest before it has to be written again.
    pub(super) fn marker_rest(&self) -> Duration {
        self.marked.map_or(Duration::ZERO, |at| MARKER_REFRESH.saturating_sub(monotonic().saturating_sub(at)))
    }

    fn marker(&self, seq: i64, tag: Option<BatchTag>) -> Marker {
        Marker { seq, note: note(self.installation, tag) }
    }

    /// What a marker says of the last batch. Errors: it is another outbox's.
    fn seen(&self, state: &ShardState, marker: Option<Marker>) -> Result<Option<Seen>, Disagreement> {
        let Some(Marker { seq, note }) = marker else { return Ok(None) };
        if !is_ours(&note, self.installation) {
            return Err(Disagreement::ForeignMarker);
        }
        let known = Known { installation: self.installation, tag: state.tag, ids: state.batch_ids.as_deref() };
        Ok(Some(Seen { seq, same_batch: known.agrees(&note) }))
    }
}

/// How an opening ended.
pub(super) enum Opened {
    Ready(Unsettled),
    Ended(Ended),
}

/// Why an attempt to open failed.
enum Obstacle {
    Fenced,
    Refused(Disagreement),
    Postgres(DbError),
    Kafka(String),
    /// A transaction of a former owner cannot be ended, and whether its batch is committed depends on that. With
    /// partitions that have no leader.
    Blocked(Vec<String>),
}

impl From<OutboxError> for Obstacle {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Fenced(_) => Self::Fenced,
            OutboxError::Db(error) => Self::Postgres(error),
            OutboxError::Moved { .. } | OutboxError::Unchanged => Self::Kafka(error.to_string()),
        }
    }
}

fn manifest_of(state: &ShardState) -> Manifest {
    Manifest { seq: state.batch_seq, in_flight: state.batch_ids.is_some(), marked: state.marked }
}

impl Lane {
    /// Opens, and waits for PostgreSQL and Kafka as long as the permit holds. A stop ends the waiting: the next owner
    /// opens.
    pub(super) async fn open(&mut self, mut unsettled: Unsettled, stop: &CancellationToken) -> Opened {
        let mut backoff = Backoff::for_connection();
        loop {
            match self.try_open(&mut unsettled).await {
                Ok(()) => return Opened::Ready(unsettled),
                Err(Obstacle::Fenced) => return Opened::Ended(Ended::LostLease),
                Err(Obstacle::Refused(disagreement)) => return Opened::Ended(Ended::Disagree(disagreement)),
                Err(Obstacle::Postgres(error)) => {
                    self.shared.health.postgres_failed(&error);
                    tracing::warn!(shard = self.fence.shard, error = %error.chain(), "could not open the shard; retrying");
                }
                Err(Obstacle::Kafka(reason)) => {
                    self.shared.health.kafka_failed(&reason);
                    tracing::warn!(shard = self.fence.shard, reason, "could not open the shard; retrying");
                }
                Err(Obstacle::Blocked(partitions)) => {
                    // Kafka works, and other shards may be open.
                    self.waits_for_former_owner();
                    tracing::warn!(
                        shard = self.fence.shard,
                        partitions = partitions.join(", "),
                        "the outcome of a former owner's batch is unknown while a partition of its transaction has no leader; the shard waits"
                    );
                }
            }
            if stop.is_cancelled() {
                return Opened::Ended(Ended::Drained);
            }
            self.pause(backoff.next_wait(), stop).await;
            if !self.permit.holds() {
                return Opened::Ended(Ended::LostLease);
            }
        }
    }

    async fn try_open(&mut self, unsettled: &mut Unsettled) -> Result<(), Obstacle> {
        let Sender::ExactlyOnce(transactions) = &mut self.sender else { return Ok(()) };
        let outbox = &self.shared.outbox;
        // Before the fence, so that a process that lost its lease does not fence its successor.
        let state = outbox.state(self.fence).await?;
        if transactions.estranged {
            let marker = transactions.publisher.peek(self.permit.clone()).await.map_err(Obstacle::Kafka)?;
            let seen = transactions.seen(&state, marker).map_err(Obstacle::Refused)?;
            if let Some(why) = foresee(manifest_of(&state), seen) {
                return Err(Obstacle::Refused(why));
            }
        }
        let marker = match transactions.publisher.open(state.producer, self.permit.clone()).await {
            Ok(marker) => marker,
            Err(OpenError::Failed(reason)) => return Err(Obstacle::Kafka(reason)),
            Err(OpenError::Blocked(Blocked { own, marker })) => {
                let state = outbox.state(self.fence).await?;
                let seen = transactions.seen(&state, marker).map_err(Obstacle::Refused)?;
                let leaderless = self.shared.catalog.partitions().leaderless();
                if !may_leave(own, manifest_of(&state), seen) {
                    return Err(Obstacle::Blocked(leaderless));
                }
                // Whoever owns the shard next fences this one, so PostgreSQL has it before Kafka does.
                let producer = outbox.next_producer(self.fence, state.producer).await?;
                tracing::warn!(
                    shard = self.fence.shard,
                    producer,
                    partitions = leaderless.join(", "),
                    "Kafka cannot end the shard's last transaction at the moment; continuing with another transactional.id"
                );
                self.shared.metrics.producers_left.inc();
                let opened = transactions.publisher.open(producer, self.permit.clone()).await;
                opened.map_err(|error| match error {
                    OpenError::Failed(reason) => Obstacle::Kafka(reason),
                    OpenError::Blocked(_) => Obstacle::Kafka("the new transactional.id is blocked as well".to_owned()),
                })?
            }
        };
        // And after it, in case the lease was lost in between: then the successor opens again, and we are out.
        let state = outbox.state(self.fence).await?;
        self.shared.health.postgres_works();
        self.shared.health.kafka_works();
        let seen = transactions.seen(&state, marker).map_err(Obstacle::Refused)?;
        let manifest = manifest_of(&state);
        let resolution = resolve(manifest, seen);
        let ids = state.batch_ids.unwrap_or_default();
        tracing::debug!(shard = self.fence.shard, ?manifest, ?resolution, "opened the shard");
        failpoint::reach(Point::Resolved).map_err(Obstacle::Kafka)?;
        let mut write_marker = transactions.marker_rest().is_zero();
        match resolution {
            Resolution::Refuse(why) => return Err(Obstacle::Refused(why)),
            Resolution::Settle => {
                // Where they are is known only to the lane that sent them.
                let known = unsettled.settlement.published.iter().map(|(id, _)| id).eq(&ids);
                if !known {
                    let published = ids.iter().map(|id| (*id, None)).collect();
                    unsettled.settlement = Settlement { published, ..Settlement::default() };
                }
                (unsettled.resend, unsettled.forget, write_marker) = (None, false, false);
            }
            Resolution::Forget => {
                unsettled.settlement.published.clear();
                (unsettled.resend, unsettled.forget, write_marker) = (None, true, false);
            }
            Resolution::Resend => {
                unsettled.settlement.published.clear();
                (unsettled.resend, unsettled.forget, write_marker) = (Some(ids), false, false);
            }
            Resolution::Ready | Resolution::Baseline => {
                unsettled.settlement.published.clear();
                (unsettled.resend, unsettled.forget) = (None, false);
                write_marker |= resolution == Resolution::Baseline;
            }
        }
        if write_marker {
            let marker = transactions.marker(state.batch_seq, state.tag);
            let ended = transactions.publisher.publish(Arc::default(), marker, self.permit.clone()).await;
            match ended.outcome {
                Outcome::Committed(_) if ended.usable => {}
                Outcome::Committed(_) => {
                    return Err(Obstacle::Kafka("the connection to Kafka is unstable".to_owned()));
                }
                Outcome::Unknown(reason) => return Err(Obstacle::Kafka(reason)),
                Outcome::Refused(_) | Outcome::Denied(_) | Outcome::Stuck(_) => {
                    return Err(Obstacle::Kafka("the marker was not taken".to_owned()));
                }
            }
        }
        if write_marker || transactions.marked.is_none() {
            transactions.marked = Some(monotonic());
        }
        transactions.last = LastBatch { seq: manifest.seq, in_flight: manifest.in_flight };
        transactions.open = true;
        transactions.estranged = false;
        self.shared.metrics.opens.inc();
        Ok(())
    }

    /// Publishes a batch in one transaction. Either every record is acknowledged, or none is.
    pub(super) async fn publish_in_transaction(
        &mut self,
        (seq, tag): (i64, Option<BatchTag>),
        records: &Arc<Vec<Record>>,
        ids: &[i64],
    ) -> Vec<Delivery> {
        let Sender::ExactlyOnce(transactions) = &self.sender else { return vec![Delivery::Unsent; ids.len()] };
        let marker = transactions.marker(seq, tag);
        let publishing = transactions.publisher.publish(Arc::clone(records), marker, self.permit.clone());
        let ended = self.watched(publishing, || transactions.brokers_up()).await;
        let Sender::ExactlyOnce(transactions) = &mut self.sender else { return vec![Delivery::Unsent; ids.len()] };
        transactions.open = ended.usable;
        transactions.estranged |= matches!(ended.outcome, Outcome::Unknown(_));
        let outcome = match &ended.outcome {
            Outcome::Committed(_) => "committed",
            Outcome::Refused(_) => "refused",
            Outcome::Denied(_) => "denied",
            Outcome::Stuck(_) => "unavailable",
            Outcome::Unknown(_) => "unknown",
        };
        self.shared.metrics.transactions.get_or_create(&TransactionLabel { outcome }).inc();
        match ended.outcome {
            Outcome::Committed(places) => {
                transactions.marked = Some(monotonic());
                places.into_iter().map(|(partition, offset)| Delivery::Acked { partition, offset }).collect()
            }
            Outcome::Refused(refused) => {
                let mut deliveries = vec![Delivery::Unsent; ids.len()];
                for Refused { index, class, reason } in refused {
                    deliveries[index] = Delivery::Refused { class, reason };
                }
                deliveries
            }
            Outcome::Denied(indexes) => some(ids.len(), &indexes, &Delivery::Denied),
            Outcome::Stuck(indexes) => some(ids.len(), &indexes, &Delivery::Stuck),
            Outcome::Unknown(reason) => {
                tracing::warn!(shard = self.fence.shard, reason, "the outcome of a transaction is unknown");
                vec![Delivery::Unsent; ids.len()]
            }
        }
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
