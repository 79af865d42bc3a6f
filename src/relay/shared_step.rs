//! Lanes with little work take shared steps: one PostgreSQL commit and one walk to Kafka for a few events of each lane.
//!
//! A commit waits for the disk and a request for its response, whatever they contain, so eight lanes with five events
//! each would keep a machine busy with nothing else. Lanes that have sent their batches together take their next step
//! together as well, with any lanes that have joined meanwhile. A lane with more work goes alone, concurrently, and so
//! does one that would keep the others waiting. Not used in exactly-once delivery, where each shard has its own Kafka
//! transactions: those dominate the time, and running them all at once takes longer than one after the other.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::screen::Screen;
use crate::broker::Record;
use crate::broker::publisher::Publisher;
use crate::event::OutboxEvent;
use crate::outbox::{Claim, Fence, Limits, Outcome, Part, PgOutbox, Settlement, Step};

/// Number of events that counts as few. A lane claims at most this many in a shared step; a lane that had more goes
/// alone next time.
pub(super) const SHARED_ROWS_MAX: u32 = 200;
/// Maximum number of lanes in one shared step. They split the byte budget of a single batch.
const LANES: usize = 16;

/// How long the next step waits for the batches of the last one: no longer than an uninvolved lane can tolerate.
const GROUP_WAIT: Duration = Duration::from_millis(50);

/// A batch from a shared step is in flight. A lane that is finished with it takes its next step, or drops this.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Number of batches claimed with it, including its own.
    pub(super) group_size: usize,
    _until_dropped: Sender<Infallible>,
}

/// The step of one lane, which gets it back whatever happens to it.
pub(super) struct Request {
    pub(super) fence: Fence,
    pub(super) settlement: Settlement,
    pub(super) claim: Claim<'static>,
    pub(super) screen: Screen,
}

struct Waiting {
    request: Request,
    answer: oneshot::Sender<Answer>,
}

struct Answer {
    request: Request,
    outcome: Outcome<Step<Record>>,
    in_flight: Option<InFlight>,
}

/// Waiting steps, consumed by [`run`].
pub(super) struct Steps(Receiver<Waiting>);

/// Where lanes meet.
pub(super) struct SharedSteps {
    steps: Sender<Waiting>,
    /// Sends the batches of all lanes. `None`: each lane goes alone.
    publisher: Option<Publisher>,
    turns: Arc<Semaphore>,
}

impl SharedSteps {
    pub(super) fn new(publisher: Option<Publisher>) -> (Self, Steps) {
        let (steps, waiting) = channel(LANES);
        (Self { steps, publisher, turns: Arc::new(Semaphore::new(LANES)) }, Steps(waiting))
    }

    /// A permit to have a batch in flight that was claimed here; bounds memory. First come, first served; never closed.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Takes a step together with other lanes; [`run`] must be running as long as lanes are. `in_flight` is that of the
    /// batch that this step settles, and becomes that of the batch that it claims. Not cancel safe: a step whose future
    /// is dropped is still taken.
    pub(super) async fn step(
        &self,
        request: Request,
        in_flight: &mut Option<InFlight>,
    ) -> (Request, Outcome<Step<Record>>) {
        let (answer, answered) = oneshot::channel();
        drop(self.steps.send(Waiting { request, answer }).await);
        *in_flight = None;
        let answer = answered.await.expect("`run` ends after the last lane");
        *in_flight = answer.in_flight;
        (answer.request, answer.outcome)
    }

    pub(super) fn publisher(&self) -> Option<&Publisher> {
        self.publisher.as_ref()
    }

    /// The share of a batch that one lane may claim.
    pub(super) fn limits(batch: Limits) -> Limits {
        let few = NonZeroU32::new(SHARED_ROWS_MAX).unwrap_or(batch.rows);
        Limits { rows: few.min(batch.rows), bytes: batch.bytes / LANES as u64, ..batch }
    }
}

/// Takes waiting steps until `stop`, which must come after the last lane has ended.
pub(super) async fn run(outbox: &PgOutbox, mut steps: Steps, stop: CancellationToken) {
    let mut waiting: Vec<Waiting> = Vec::with_capacity(LANES);
    loop {
        if waiting.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                first = steps.0.recv() => waiting.extend(first),
            }
        }
        while let Some(next) = (waiting.len() < LANES).then(|| steps.0.try_recv().ok()).flatten() {
            waiting.push(next);
        }
        let (alive, mut landed) = channel(1);
        let taken = take(outbox, &mut waiting).await;
        let has_batch = |outcome: &Outcome<_>| matches!(outcome, Outcome::Done(Step { batch: Some(_), .. }));
        let batches = taken.iter().filter(|(_, outcome)| has_batch(outcome)).count();
        for (Waiting { request, answer }, outcome) in taken {
            let waited_for = has_batch(&outcome);
            let in_flight = waited_for.then(|| InFlight { group_size: batches, _until_dropped: alive.clone() });
            // A lane that is gone has no use for it.
            drop(answer.send(Answer { request, outcome, in_flight }));
        }
        drop(alive);
        let patience = tokio::time::sleep(GROUP_WAIT);
        tokio::pin!(patience);
        while waiting.len() < LANES {
            tokio::select! {
                biased;
                next = steps.0.recv() => waiting.extend(next),
                _ = landed.recv() => break,
                () = &mut patience => break,
            }
        }
    }
}

/// One step for all waiting lanes.
async fn take(outbox: &PgOutbox, waiting: &mut Vec<Waiting>) -> Vec<(Waiting, Outcome<Step<Record>>)> {
    let mut parts: Vec<_> = waiting
        .iter_mut()
        .map(|Waiting { request: Request { fence, settlement, claim, screen }, .. }| Part {
            fence: *fence,
            settlement,
            claim: *claim,
            screen: |event: &OutboxEvent<'_>| screen.screen(event),
        })
        .collect();
    let outcomes = outbox.step_together(&mut parts).await;
    drop(parts);
    waiting.drain(..).zip(outcomes).collect()
}
