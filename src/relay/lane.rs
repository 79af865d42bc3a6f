//! One lane: settles the batch in hand, claims the next one, publishes it in order, and starts again.
//!
//! Owns the order of events of its shard. Knows no SQL (`outbox`) and no librdkafka (`broker`).
//! Invariants: at most one batch is in flight per lane; a claimed batch runs to its settle and no branch of a `select!`
//! can drop it; a stop is not an attempt. `tests/it/ordering.rs` fails if order is lost.

mod counters;
mod exactly_once;
mod pace;
mod patience;
mod recover;
mod screen;

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ownership::permit_end;
use super::shared_step::{InFlight, Request, SHARED_ROWS_MAX, SharedSteps};
use super::takeover::Disagreement;
use super::{Lanes, Sending, horizon, wakeup};
use crate::broker::publisher::Publisher;
use crate::broker::{Delivery, Record};
use crate::clock::{Permit, monotonic, wall};
use crate::config::{Ordering, Tracking};
use crate::error::Code;
use crate::failpoint::{self, Point};
use crate::health::Wait;
use crate::metrics::{FailureLabels, PollLabel};
use crate::outbox::failure::Failed;
use crate::outbox::{Batch, Claim, Claimed, Fence, LastBatch, Limits, OutboxError, Settlement, Source, Step};
use crate::retry::Backoff;
use counters::PerTopic;
use exactly_once::{Opened, Transactions};
use pace::Pace;
pub(super) use screen::Screen;

/// How often a lane moves its `low_id`, where rows are marked. One index read each; and where an open transaction
/// elsewhere keeps dead rows from being removed, each claim reads again what was published since.
const LOW_ID_INTERVAL: Duration = Duration::from_millis(200);
/// Longest wait for news of topics, and the wait after records that Kafka would not take yet.
const KAFKA_RETRY: Duration = Duration::from_millis(500);
/// Time between two looks whether a pause of everything is over.
const PAUSED_LOOK: Duration = Duration::from_millis(250);
/// A walk to Kafka that has lasted as long is not waited for by lanes that have nothing to do with it.
const STUCK: Duration = Duration::from_millis(250);

/// How a lane ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to, and everything in hand is settled: the lease may be given away.
    Drained,
    /// The lease is over or another instance has it. What was in hand belongs to the next owner.
    LostLease,
    /// PostgreSQL and Kafka contradict each other: nobody may go on before an operator has looked.
    Disagree(Disagreement),
}

/// What a lane has in hand between two steps.
#[derive(Debug, Default)]
struct Unsettled {
    /// Of the batch that was published last; still to be written.
    settlement: Settlement,
    /// A batch that was sent without a transaction, perhaps in part, and is to be sent again as it was.
    resend: Option<Vec<i64>>,
    /// The batch in flight is known not to be in Kafka: it may be claimed afresh.
    forget: bool,
    /// In at-least-once delivery: the last batch in PostgreSQL when this was taken in hand. After a failover that lost
    /// commits it is another one, and ids in hand may be those of other rows.
    last: Option<LastBatch>,
}

/// How records go out.
enum Sender {
    AtLeastOnce(Publisher),
    ExactlyOnce(Transactions),
}

pub(super) struct Lane {
    fence: Fence,
    permit: Permit,
    shared: Arc<Lanes>,
    sender: Sender,
    low_id_moved: Duration,
    /// Where rows are marked: the highest id that was claimed, as long as `low_id` has not passed it.
    unpassed: Option<i64>,
    /// The last claim found few events, or none: the next one is taken together with other lanes.
    is_small: bool,
    /// The step in hand is; so is its batch sent.
    is_shared: bool,
    /// Its batch is on its way, and the others wait for it.
    in_flight: Option<InFlight>,
    /// What rows of the last claim took on average.
    row_bytes: u64,
    pace: Pace,
    /// Topics that the last claim left events of aside for, and since when the cluster is asked about them.
    asked_topics: HashMap<String, Duration>,
    /// The last claim stopped before an event whose topic does not exist yet.
    awaits_topic: bool,
    /// What keeps it, for `/readyz`: from the first attempt to the one that succeeds.
    stepping: Option<Wait>,
    publishing: Option<Wait>,
}

impl Lane {
    pub(super) fn new(fence: Fence, permit: Permit, shared: Arc<Lanes>) -> std::io::Result<Self> {
        let (name, client_id) = (format!("lane-{}", fence.shard), format!("{}-{}", shared.client_id, fence.shard));
        let sender = match &shared.sending {
            Sending::AtLeastOnce(settings) => Sender::AtLeastOnce(Publisher::start(settings.of(name, client_id))?),
            Sending::ExactlyOnce(settings, installation) => {
                let mut settings = settings.clone();
                settings.name = name;
                settings.client.set("client.id", client_id);
                Sender::ExactlyOnce(Transactions::start(settings, fence.shard, *installation)?)
            }
        };
        let low_id_moved = monotonic();
        Ok(Self {
            fence,
            permit,
            shared,
            sender,
            low_id_moved,
            unpassed: None,
            is_small: false,
            is_shared: false,
            in_flight: None,
            row_bytes: 0,
            pace: Pace::default(),
            asked_topics: HashMap::new(),
            awaits_topic: false,
            stepping: None,
            publishing: None,
        })
    }

    /// Relays until `stop` is cancelled, then settles what is in hand and returns. `inherited` is the manifest that a
    /// former owner left, and `resolved` becomes true when nothing of it is in flight any more.
    pub(super) async fn run(
        mut self,
        inherited: Option<Vec<i64>>,
        resolved: &AtomicBool,
        stop: CancellationToken,
    ) -> Ended {
        // In exactly-once delivery the marker decides about the inherited batch, when the lane opens.
        let mut unsettled = Unsettled { resend: inherited, ..Unsettled::default() };
        let mut backoff = Backoff::for_connection();
        loop {
            if !self.permit.holds() && !self.permit.is_ended() {
                return Ended::LostLease;
            }
            if stop.is_cancelled() && unsettled.settlement.is_empty() {
                // A manifest that is not resolved stays for the next owner.
                return Ended::Drained;
            }
            if let Sender::ExactlyOnce(transactions) = &self.sender
                && !transactions.is_open()
            {
                self.waits_to_open();
                unsettled = match self.open(unsettled, &stop).await {
                    Opened::Ready(unsettled) => unsettled,
                    Opened::Ended(ended) => return ended,
                };
                continue;
            }
            // What is in hand is settled; an inherited batch waits with the rest.
            if self.shared.paused.everything() && !stop.is_cancelled() && unsettled.settlement.is_empty() {
                self.in_flight = None;
                (self.stepping, self.publishing) = (None, None);
                self.pause(PAUSED_LOOK, &stop).await;
                continue;
            }
            // Held until the batch that this step claims is acknowledged. First come, first served, so lanes take
            // turns. A step that only settles needs none. The semaphore is never closed.
            let turn = match stop.is_cancelled() {
                true => None,
                false if self.is_small && unsettled.resend.is_none() => self.shared.shared_steps.turn().await,
                false => Arc::clone(&self.shared.batches).acquire_owned().await.ok(),
            };
            let stopping = stop.is_cancelled();
            // Alone it settles what it has when it stops, and takes up what was in flight.
            self.is_shared = self.is_small && !stopping && unsettled.resend.is_none();
            if !self.is_shared {
                self.in_flight = None;
            }
            if stopping && unsettled.settlement.is_empty() {
                return Ended::Drained;
            }
            if stopping && failpoint::reach(Point::ShutdownDraining).is_err() {
                return Ended::Drained;
            }
            self.waits_for_step();
            let step = match self.step(&mut unsettled, stopping).await {
                Ok(step) => step,
                Err(OutboxError::Fenced(_)) => return Ended::LostLease,
                Err(error @ (OutboxError::Moved { .. } | OutboxError::Unchanged)) => {
                    tracing::warn!(shard = self.fence.shard, error = %error, "reopening the shard");
                    drop(turn);
                    if let Sender::ExactlyOnce(transactions) = &mut self.sender {
                        transactions.close();
                        continue;
                    }
                    match self.recover(unsettled, &stop).await {
                        Some(recovered) => unsettled = recovered,
                        None => return Ended::LostLease,
                    }
                    continue;
                }
                Err(OutboxError::Db(error)) => {
                    drop(turn);
                    self.shared.health.step_failed(self.fence.shard, &error);
                    let wait = backoff.next_wait();
                    tracing::warn!(shard = self.fence.shard, error = %error.chain(), wait = ?wait, "settle/claim transaction failed; retrying");
                    if self.permit.is_ended() {
                        return Ended::LostLease;
                    }
                    self.pause(wait, &stop).await;
                    if let Sender::ExactlyOnce(transactions) = &mut self.sender {
                        // Whether the commit happened is one more thing that manifest and marker tell.
                        transactions.close();
                        continue;
                    }
                    match self.recover(unsettled, &stop).await {
                        Some(recovered) => unsettled = recovered,
                        None => return Ended::LostLease,
                    }
                    continue;
                }
            };
            backoff.reset();
            self.stepping = None;
            if let Some(leased_at) = step.leased_at {
                self.permit.extend(permit_end(leased_at, self.shared.outbox.lease()));
            }
            self.shared.health.step_worked(self.fence.shard);
            if step.missing > 0 {
                let code = Code::SettleMismatch.as_str();
                tracing::error!(
                    code,
                    shard = self.fence.shard,
                    rows = step.missing,
                    "published rows were changed or deleted by another session before they were settled"
                );
            }
            if step.postponed {
                drop(turn);
                self.wait_for_work(&stop).await;
                continue;
            }
            if let Sender::ExactlyOnce(transactions) = &mut self.sender
                && unsettled.resend.is_some()
                && step.batch.is_none()
            {
                // Nothing was left to send again, so no marker was written for that batch.
                transactions.close();
            }
            if unsettled.resend.is_none() || step.batch.is_none() {
                resolved.store(true, Atomic::Release);
            }
            unsettled = Unsettled { last: Some(step.last), ..Unsettled::default() };
            match step.batch {
                Some(batch) => {
                    let unsent;
                    self.waits_for_kafka();
                    (unsettled.settlement, unsent) = self.publish(batch).await;
                    drop(turn);
                    if unsent == 0 {
                        self.publishing = None;
                    } else {
                        self.in_flight = None;
                        self.pause(KAFKA_RETRY, &stop).await;
                    }
                }
                None if stopping => return Ended::Drained,
                None if step.moved > 0 => {}
                None => {
                    drop(turn);
                    self.wait_for_work(&stop).await;
                }
            }
        }
    }

    async fn step(&mut self, unsettled: &mut Unsettled, stopping: bool) -> Result<Step<Record>, OutboxError> {
        let move_low_id = monotonic().saturating_sub(self.low_id_moved) > LOW_ID_INTERVAL;
        if move_low_id {
            self.low_id_moved = monotonic();
        }
        let limits = self.pace.limits(Limits { row_bytes: self.row_bytes, ..self.shared.limits });
        let claim = Claim {
            source: if stopping || self.shared.paused.everything() { Source::Nothing } else { Source::Waiting },
            release: self.asked_topics.is_empty() && !self.awaits_topic,
            limits: if self.is_shared { SharedSteps::limits(limits) } else { limits },
            horizon: self.shared.horizon(),
            move_low_id,
            strict: self.shared.ordering == Ordering::Strict,
            marked: matches!(self.sender, Sender::ExactlyOnce(_)),
            expected: match &self.sender {
                Sender::AtLeastOnce(_) => unsettled.last,
                Sender::ExactlyOnce(transactions) => Some(transactions.last),
            },
            forget: unsettled.forget,
        };
        let started = monotonic();
        let screen = Screen::new(Arc::clone(&self.shared), unsettled.resend.is_some(), self.asked_topics.clone());
        let (mut screen, step) = Box::pin(self.take_step(unsettled, claim, screen, stopping)).await;
        // After an error it goes alone, too.
        self.is_small = false;
        let took = monotonic().saturating_sub(started);
        match &step {
            Ok(_) => self.pace.worked(),
            Err(_) => self.pace.failed(took),
        }
        let step = step?;
        if !step.postponed {
            screen.report();
        }
        if let Sender::ExactlyOnce(transactions) = &mut self.sender {
            transactions.last = step.last;
        }
        self.row_bytes = step.row_bytes.unwrap_or(self.row_bytes);
        if let (Some(batch), Tracking::Rows) = (&step.batch, self.shared.tracking) {
            self.unpassed = self.unpassed.max(batch.events.last().map(|event| event.id));
        } else if move_low_id {
            self.unpassed = self.unpassed.filter(|last| *last > claim.horizon.id);
        }
        self.awaits_topic = screen.awaited;
        self.ask(screen.unknown);
        let result = match (&step.batch, step.full) {
            (_, true) => "full",
            (Some(_), false) => "partial",
            (None, false) => "empty",
        };
        self.shared.metrics.poll_duration.get_or_create(&PollLabel { result }).observe(took.as_secs_f64());
        let is_small = |batch: &Batch<Record>| batch.events.len() <= SHARED_ROWS_MAX as usize;
        self.is_small =
            !step.full && step.batch.as_ref().is_none_or(is_small) && self.shared.shared_steps.publisher().is_some();
        Ok(step)
    }

    /// SharedSteps with other lanes where it was to be so and nothing keeps it from that, alone otherwise.
    async fn take_step(
        &mut self,
        unsettled: &mut Unsettled,
        claim: Claim<'static>,
        mut screen: Screen,
        stopping: bool,
    ) -> (Screen, Result<Step<Record>, OutboxError>) {
        if self.is_shared {
            let settlement = mem::take(&mut unsettled.settlement);
            let request = Request { fence: self.fence, settlement, claim, screen };
            let (request, outcome) = self.shared.shared_steps.step(request, &mut self.in_flight).await;
            (unsettled.settlement, screen) = (request.settlement, request.screen);
            if let Some(step) = outcome {
                return (screen, step);
            }
        }
        let source = match &unsettled.resend {
            Some(ids) if !stopping => Source::Manifest(ids),
            Some(_) | None => claim.source,
        };
        let claim = Claim { source, ..claim };
        let step =
            self.shared.outbox.step(self.fence, &unsettled.settlement, claim, |event| screen.screen(event)).await;
        (screen, step)
    }

    /// Publishes a batch and says what has to be settled, and how many events Kafka would not take yet. When the permit
    /// ends, what is to be settled is only what was acknowledged.
    async fn publish(&mut self, batch: Batch<Record>) -> (Settlement, u64) {
        let metrics = self.shared.metrics.clone();
        metrics.batch_events.observe(batch.events.len() as f64);
        let (mut records, mut ids) = (Vec::with_capacity(batch.events.len()), Vec::with_capacity(batch.events.len()));
        for Claimed { id, record } in batch.events {
            ids.push(id);
            records.push(record);
        }
        let records = Arc::new(records);
        let started = monotonic();
        let deliveries = match &self.sender {
            Sender::AtLeastOnce(own) => {
                let deliveries = self.watched(self.publish_outside(own, &records), || self.brokers_up()).await;
                // Everything is acknowledged and nothing is settled: a test may crash here.
                drop(failpoint::reach(Point::CommitAfter));
                deliveries
            }
            Sender::ExactlyOnce(_) => self.publish_in_transaction((batch.seq, batch.tag), &records, &ids).await,
        };
        metrics.publish_duration.observe(monotonic().saturating_sub(started).as_secs_f64());
        if self.brokers_up() {
            self.shared.health.kafka_works();
        } else {
            self.shared.health.kafka_failed("no broker can be reached");
        }
        let stuck = deliveries.contains(&Delivery::Stuck);
        let (settlement, unsent) = self.account(&records, &ids, deliveries);
        if matches!(self.sender, Sender::ExactlyOnce(_)) && (!settlement.failed.is_empty() || stuck) {
            // The rest of the batch is as good as before, and is claimed again at once.
            return (settlement, 0);
        }
        if unsent > 0 && self.permit.holds() {
            tracing::warn!(
                shard = self.fence.shard,
                events = unsent,
                "Kafka did not acknowledge part of the batch; those events stay PENDING and will be resent"
            );
        }
        (settlement, unsent)
    }

    /// Publishes without a transaction: with those of other lanes what was claimed with them, alone the rest. Every
    /// batch is acknowledged before the next one, so who sends it changes no order.
    async fn publish_outside(&self, own: &Publisher, records: &Arc<Vec<Record>>) -> Vec<Delivery> {
        if let (Some(shared), Some(in_flight)) = (self.shared_publisher(), &self.in_flight) {
            let records = Arc::clone(records);
            let published = shared.publish_within(STUCK, records, self.permit.clone(), in_flight.group_size).await;
            if let Some(deliveries) = published {
                return deliveries;
            }
        }
        own.publish(Arc::clone(records), self.permit.clone(), 1).await
    }

    /// Unless it is stuck: a partition without a leader is for those to wait for who have something for it.
    fn shared_publisher(&self) -> Option<&Publisher> {
        self.shared.shared_steps.publisher().filter(|shared| shared.busy() < STUCK)
    }

    fn brokers_up(&self) -> bool {
        match &self.sender {
            Sender::AtLeastOnce(own) => {
                let shared = self.shared_publisher().filter(|_| self.in_flight.is_some());
                shared.unwrap_or(own).brokers_up()
            }
            Sender::ExactlyOnce(transactions) => transactions.brokers_up(),
        }
    }

    /// Waits for a batch, and says so while no broker can be reached: a batch may wait as long as Kafka is away.
    async fn watched<T>(&self, publishing: impl Future<Output = T>, brokers_up: impl Fn() -> bool) -> T {
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

    fn account(&self, records: &[Record], ids: &[i64], deliveries: Vec<Delivery>) -> (Settlement, u64) {
        let metrics = &self.shared.metrics;
        let now_ms = wall().as_millisecond();
        let mut settlement = Settlement { published: Vec::with_capacity(records.len()), ..Settlement::default() };
        let mut per_topic = PerTopic::new(metrics);
        let (mut unsent, mut stuck) = (0_u64, 0_u64);
        let (any_denied, mut written) = (self.shared.catalog.any_denied(), HashSet::new());
        for ((record, id), delivery) in records.iter().zip(ids.iter().copied()).zip(deliveries) {
            let acked = matches!(delivery, Delivery::Acked { .. });
            if acked && any_denied {
                written.insert(record.topic.as_str());
            }
            per_topic.count(&record.topic, acked.then(|| (now_ms - record.timestamp_ms) as f64 / 1_000.0));
            match delivery {
                Delivery::Acked { partition, offset } => {
                    settlement.published.push((id, Some((partition, offset))));
                }
                Delivery::Refused { class, reason } => {
                    let labels = FailureLabels { topic: metrics.topic_label(&record.topic), reason: class.as_str() };
                    metrics.publish_failures.get_or_create(&labels).inc();
                    self.shared.catalog.doubt(&record.topic);
                    settlement.failed.push(Failed {
                        id,
                        key: record.key.clone(),
                        class,
                        topic: Some(record.topic.clone()),
                        reason: format!("refused by Kafka: {reason}"),
                    });
                }
                // It stays PENDING, and the next claim sees what has become of its key.
                Delivery::Withheld => {}
                // The next claim holds its key.
                Delivery::Denied => {
                    let labels = FailureLabels { topic: metrics.topic_label(&record.topic), reason: "denied" };
                    metrics.publish_failures.get_or_create(&labels).inc();
                    self.shared.catalog.deny(&record.topic, true);
                }
                // The next claim holds its key.
                Delivery::Stuck => stuck += 1,
                Delivery::Unsent => unsent += 1,
            }
        }
        per_topic.flush();
        if stuck > 0 {
            let shard = self.fence.shard;
            tracing::info!(
                shard,
                events = stuck,
                "some partitions did not accept their part of the batch; those events wait for them"
            );
        }
        if !written.is_empty() {
            self.shared.catalog.written(written.into_iter());
        }
        if let Some(tap) = &self.shared.ack_tap {
            let ids: Vec<i64> = settlement.published.iter().map(|(id, _)| *id).collect();
            tap(&ids);
        }
        (settlement, unsent)
    }

    /// Waits until the shard has something to do. Cancel safe: nothing is claimed here.
    async fn wait_for_work(&mut self, stop: &CancellationToken) {
        (self.in_flight, self.publishing) = (None, None);
        if !self.asked_topics.is_empty() {
            let answered = self.shared.catalog.answered(&self.asked_topics);
            if tokio::time::timeout(KAFKA_RETRY, answered).await.is_ok() && self.awaits_topic {
                self.pause(KAFKA_RETRY, stop).await;
            }
            return;
        }
        // An idle lane moves `low_id` once more: everybody looks for work from there on, and would read dead rows that
        // nobody can remove again and again.
        let (shared, shard, unpassed) = (Arc::clone(&self.shared), self.fence.shard, self.unpassed);
        let waiting = async {
            tokio::select! {
                () = wakeup::wait(&shared.wakeup, shard, stop) => {}
                () = horizon::until_passed(&shared, unpassed, LOW_ID_INTERVAL) => {}
            }
        };
        match &mut self.sender {
            Sender::AtLeastOnce(_) => waiting.await,
            Sender::ExactlyOnce(transactions) => {
                tokio::select! {
                    () = waiting => {}
                    () = tokio::time::sleep(transactions.marker_rest()) => transactions.close(),
                }
            }
        }
    }

    /// Has the cluster asked about these topics. Who is asked about already stays so.
    fn ask(&mut self, unknown: HashSet<String>) {
        let now = monotonic();
        let mut asked = mem::take(&mut self.asked_topics);
        self.asked_topics = unknown
            .into_iter()
            .map(|topic| {
                let since = asked.remove(&topic).unwrap_or(now);
                (topic, since)
            })
            .collect();
        if !self.asked_topics.is_empty() {
            self.shared.catalog.ask(self.asked_topics.keys());
        }
    }

    /// Waits, but not for a stop that has come already: a lane that drains waits for PostgreSQL like any other.
    async fn pause(&self, wait: Duration, stop: &CancellationToken) {
        if stop.is_cancelled() {
            return tokio::time::sleep(wait).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
