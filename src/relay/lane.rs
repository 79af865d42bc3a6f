//! One lane: settles the batch in hand, claims the next one, publishes it in order, and starts again.
//!
//! Owns the order of events of its shard. Knows no SQL (`outbox`) and no librdkafka (`broker`). What comes next is
//! decided in `protocol.rs` alone; the files beside it carry it out.
//! Invariants: at most one batch is in flight per lane; a claimed batch runs to its settle and no branch of a `select!`
//! can drop it; a stop is not an attempt. `tests/it/ordering.rs` fails if order is lost.

mod accounting;
mod asking;
mod at_least_once;
mod counters;
mod exactly_once;
mod pace;
mod patience;
pub mod protocol;
mod stepping;
mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::horizon;
use super::shared::{Lanes, Sending};
use super::shared_step::{InFlight, SharedSteps};
use crate::broker::Record;
use crate::broker::publisher::Publisher;
use crate::clock::{Permit, monotonic};
use crate::failpoint::{self, Point};
use crate::health;
use crate::outbox::{Batch, Fence};
use crate::retry::Backoff;
use exactly_once::Transactions;
use pace::Pace;
pub(super) use protocol::Ended;
use protocol::{Around, Mode, Next, Protocol, Right, Safeguards, Wait};
use stepping::LOW_ID_INTERVAL;
use topics::Topics;

/// Longest wait for news of topics, and the wait after records that Kafka would not take yet.
const KAFKA_RETRY: Duration = Duration::from_millis(500);
/// Time between two looks whether a pause of everything is over.
const PAUSED_LOOK: Duration = Duration::from_millis(250);

/// How records go out.
enum Sender {
    AtLeastOnce(Publisher),
    ExactlyOnce(Transactions),
}

/// The right to have a batch in flight, until it is dropped. The semaphores are never closed.
struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct Lane {
    fence: Fence,
    permit: Permit,
    shared: Arc<Lanes>,
    shared_steps: Arc<SharedSteps>,
    sender: Sender,
    low_id_moved: Duration,
    /// Where rows are marked: the highest id that was claimed, as long as `low_id` has not passed it.
    unpassed: Option<i64>,
    /// Claimed by the last step, and to be published.
    claimed: Option<Batch<Record>>,
    /// Its batch is on its way with those of other lanes, and they wait for it.
    in_flight: Option<InFlight>,
    /// What rows of the last claim took on average.
    row_bytes: u64,
    pace: Pace,
    topics: Topics,
    backoff: Backoff,
    /// How long to wait after the last failure.
    retry_in: Duration,
    /// What keeps it, for `/readyz`: from the first attempt to the one that succeeds.
    stepping: Option<health::Wait>,
    publishing: Option<health::Wait>,
}

impl Lane {
    pub(super) fn new(
        fence: Fence,
        permit: Permit,
        shared: Arc<Lanes>,
        shared_steps: Arc<SharedSteps>,
    ) -> std::io::Result<Self> {
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
        Ok(Self {
            fence,
            permit,
            shared,
            shared_steps,
            sender,
            low_id_moved: monotonic(),
            unpassed: None,
            claimed: None,
            in_flight: None,
            row_bytes: 0,
            pace: Pace::default(),
            topics: Topics::default(),
            backoff: Backoff::for_connection(),
            retry_in: Duration::ZERO,
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
        let mode = match &self.shared.sending {
            Sending::AtLeastOnce(_) => Mode::AtLeastOnce,
            Sending::ExactlyOnce(_, installation) => Mode::ExactlyOnce(*installation),
        };
        let shares = self.shared_steps.publisher().is_some();
        let mut protocol = Protocol::new(mode, inherited, shares, Safeguards::ALL);
        // Held until the batch that a step claims is acknowledged. First come, first served, so lanes take turns.
        let mut turn: Option<Turn> = None;
        loop {
            let around = self.around(&stop, turn.is_some());
            match protocol.next(around) {
                Next::End(ended) => return ended,
                Next::Ask(ask) => self.ask(&mut protocol, ask).await,
                Next::Turn { small } => turn = Some(self.turn(small).await),
                Next::Step(intent) => {
                    if around.stopping && failpoint::reach(Point::ShutdownDraining).is_err() {
                        return Ended::Drained;
                    }
                    self.step(&mut protocol, intent).await;
                    turn = turn.filter(|_| self.claimed.is_some());
                    if protocol.is_resolved() {
                        resolved.store(true, Atomic::Release);
                    }
                }
                Next::Publish => {
                    self.publish(&mut protocol).await;
                    turn = None;
                }
                Next::Wait(wait) => {
                    turn = None;
                    self.wait(&mut protocol, wait, &stop).await;
                }
            }
        }
    }

    fn around(&self, stop: &CancellationToken, has_turn: bool) -> Around {
        let right = match (self.permit.holds(), self.permit.is_ended()) {
            (true, _) => Right::Holds,
            (false, true) => Right::Withdrawn,
            (false, false) => Right::Expired,
        };
        Around { right, stopping: stop.is_cancelled(), paused: self.shared.paused.everything(), has_turn }
    }

    async fn turn(&self, small: bool) -> Turn {
        let permit = match small {
            true => self.shared_steps.turn().await,
            false => Arc::clone(&self.shared.batches).acquire_owned().await.ok(),
        };
        Turn { _permit: permit }
    }

    async fn wait(&mut self, protocol: &mut Protocol, wait: Wait, stop: &CancellationToken) {
        match wait {
            Wait::Paused => {
                self.in_flight = None;
                (self.stepping, self.publishing) = (None, None);
                self.pause(PAUSED_LOOK, stop).await;
            }
            Wait::Work => self.wait_for_work(protocol, stop).await,
            Wait::Kafka => {
                self.in_flight = None;
                self.pause(KAFKA_RETRY, stop).await;
            }
            Wait::Retry => self.pause(self.retry_in, stop).await,
        }
    }

    /// Waits until the shard has something to do. Cancel safe: nothing is claimed here.
    async fn wait_for_work(&mut self, protocol: &mut Protocol, stop: &CancellationToken) {
        (self.in_flight, self.publishing) = (None, None);
        if let Some(answered) = self.topics.answered(&self.shared.catalog, KAFKA_RETRY).await {
            if answered && self.topics.awaited() {
                self.pause(KAFKA_RETRY, stop).await;
            }
            return;
        }
        // An idle lane moves `low_id` once more: everybody looks for work from there on, and would read dead rows that
        // nobody can remove again and again.
        let (shared, shard, unpassed) = (Arc::clone(&self.shared), self.fence.shard, self.unpassed);
        let waiting = async {
            tokio::select! {
                () = shared.idle.wait(shard, stop) => {}
                () = horizon::until_passed(&shared, unpassed, LOW_ID_INTERVAL) => {}
            }
        };
        match &self.sender {
            Sender::AtLeastOnce(_) => waiting.await,
            Sender::ExactlyOnce(transactions) => {
                tokio::select! {
                    () = waiting => {}
                    () = tokio::time::sleep(transactions.marker_rest()) => protocol.marker_due(),
                }
            }
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
