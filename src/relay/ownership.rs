//! Which shards this instance owns: heartbeat, renewal, fair share, takeover, hand-over.
//!
//! One loop owns all of it; lanes are told by tokens and answer by ending. Ownership is decided by the database's
//! clock; this process only subtracts a margin by its own monotonic clock, so that it stops before its lease ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::lane::{Ended, Lane};
use super::permits::{permit_end, permit_length};
use super::shared::Lanes;
use super::shared_step::SharedSteps;
use super::takeover::Disagreement;
use crate::clock::{Permit, monotonic};
use crate::db::DbError;
use crate::error::{Code, Error, Result};
use crate::event::ShardId;
use crate::failpoint::{self, Point};
use crate::health::Heartbeat;
use crate::metrics::ShardLabel;
use crate::outbox::Fence;
use crate::outbox::home::{self, Standing};
use crate::outbox::leases::{Acquired, Census, Leases};

/// Maximum time between two looks at which instances are alive and which shards are free: how fast a hand-over is.
const TICK_MAX: Duration = Duration::from_secs(1);

/// The same where a dead instance is noticed by its lost session: two looks and the takeover fit into two seconds.
const EARLY_TICK: Duration = Duration::from_millis(400);

/// Shown while no shard can be had.
const RESHARDING: &str = "the number of shards is being changed, and nothing is published until that is finished: \
                          outbox-relay shards ls shows whether the command is at work";

struct Owned {
    epoch: i64,
    permit: Permit,
    stop: CancellationToken,
    /// The lane has settled what a former owner left in flight.
    resolved: Arc<AtomicBool>,
}

pub(super) struct Owner {
    lanes: Arc<Lanes>,
    shared_steps: Arc<SharedSteps>,
    leases: Leases,
    heartbeat: Heartbeat,
    lease: Duration,
    shutdown_timeout: Duration,
    owned: HashMap<ShardId, Owned>,
    running: JoinSet<(ShardId, i64, Ended)>,
    renewed: Duration,
}

impl Owner {
    pub(super) fn new(
        lanes: Arc<Lanes>,
        shared_steps: Arc<SharedSteps>,
        leases: Leases,
        heartbeat: Heartbeat,
        lease: Duration,
        shutdown_timeout: Duration,
    ) -> Self {
        Self {
            lanes,
            shared_steps,
            leases,
            heartbeat,
            lease,
            shutdown_timeout,
            owned: HashMap::new(),
            running: JoinSet::new(),
            renewed: Duration::ZERO,
        }
    }

    /// Runs until `stop`, then drains. Errors: fenced.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let tick = (if self.leases.is_early() { EARLY_TICK } else { TICK_MAX }).min(self.lease / 5);
        let fenced = loop {
            self.heartbeat.beat();
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(ended) = self.running.join_next() => {
                    if let Some(error) = self.lane_ended(ended).await {
                        break Some(error);
                    }
                    continue;
                }
                () = tokio::time::sleep(if self.renewed.is_zero() { Duration::ZERO } else { tick }) => {}
            }
            match self.tick().await {
                Ok(None) => {}
                Ok(Some(error)) => break Some(error),
                Err(error) => {
                    self.lanes.health.postgres_failed(&error);
                    tracing::warn!(error = %error.chain(), "could not renew the leases");
                    // Nothing is known; retry with the next tick. Lanes end on their own when their permits expire.
                    self.renewed = self.renewed.max(Duration::from_nanos(1));
                }
            }
        };
        self.drain(fenced.is_some()).await;
        fenced.map_or(Ok(()), Err)
    }

    /// One look: renew our leases, send a heartbeat, give up surplus shards, take free ones.
    async fn tick(&mut self) -> Result<Option<Error>, DbError> {
        if let Some(error) = self.renew().await? {
            return Ok(Some(error));
        }
        let census = self.leases.heartbeat().await?;
        self.lanes.health.postgres_works();
        let share = fair_share(census);
        let note = census.resharding.then(|| RESHARDING.to_owned());
        self.lanes.health.resharding.set(note.into_iter().collect());
        if census.resharding {
            return self.give_way(census).await;
        }
        let draining = self.owned.values().filter(|owned| owned.stop.is_cancelled()).count();
        let active = self.owned.len() - draining;
        if active > share {
            self.give_up(active - share);
        } else if active < share && (census.free > 0 || census.dead > 0) {
            if let Some(error) = self.stray().await? {
                return Ok(Some(error));
            }
            let asked = monotonic();
            for acquired in self.leases.acquire(share - active).await? {
                self.start_lane(acquired, asked);
            }
        }
        Ok(None)
    }

    /// The number of shards is about to change: takes shards that have a batch in flight that nobody settles, and gives
    /// up all others.
    async fn give_way(&mut self, census: Census) -> Result<Option<Error>, DbError> {
        for (shard, owned) in &self.owned {
            if owned.resolved.load(Atomic::Acquire) && !owned.stop.is_cancelled() {
                tracing::info!(shard, "giving up the shard: the number of shards is about to change");
                owned.stop.cancel();
            }
        }
        if census.free > 0 || census.dead > 0 {
            if let Some(error) = self.stray().await? {
                return Ok(Some(error));
            }
            let asked = monotonic();
            for acquired in self.leases.acquire(census.shards).await? {
                self.start_lane(acquired, asked);
            }
        }
        Ok(None)
    }

    /// Before a shard is taken, and therefore before another producer is fenced for it: ends this process if this is
    /// not the database it started with.
    async fn stray(&self) -> Result<Option<Error>, DbError> {
        Ok(match self.leases.standing().await? {
            Standing::Home | Standing::New(_) => None,
            Standing::Away { home, here } => Some(home::away(&home, &here)),
        })
    }

    /// Renews each lease at least three times in its length, unless its lane has done so. A shard that belongs to
    /// somebody else ends this process; one whose row is locked is asked for again with the next tick.
    async fn renew(&mut self) -> Result<Option<Error>, DbError> {
        self.renewed = self.renewed.max(Duration::from_nanos(1));
        let fresh = permit_length(self.lease).saturating_sub(self.lease / 4);
        let due = self.owned.iter().filter(|(_, owned)| owned.permit.remaining() <= fresh);
        let mine: Vec<(ShardId, i64)> = due.map(|(shard, owned)| (*shard, owned.epoch)).collect();
        if mine.is_empty() {
            return Ok(None);
        }
        let asked = monotonic();
        let renewal = self.leases.renew(&mine).await?;
        for owned in renewal.renewed.iter().filter_map(|shard| self.owned.get(shard)) {
            owned.permit.extend(permit_end(asked, self.lease));
        }
        let lost = mine.iter().find(|(shard, _)| renewal.is_lost(*shard));
        Ok(lost.map(|(shard, epoch)| fenced(*shard, *epoch)))
    }

    fn start_lane(&mut self, acquired: Acquired, asked: Duration) {
        let Acquired { shard, epoch, batch_ids, taken_over } = acquired;
        if let Err(reason) = failpoint::reach(Point::LeaseAcquired) {
            return tracing::error!(shard, reason, "could not start a lane");
        }
        let fence = Fence { shard, owner: self.leases.instance(), epoch };
        let permit = Permit::new(permit_end(asked, self.lease));
        let stop = CancellationToken::new();
        let lane = match Lane::new(fence, permit.clone(), Arc::clone(&self.lanes), Arc::clone(&self.shared_steps)) {
            Ok(lane) => lane,
            // The lease expires, and an instance with threads to spare takes the shard.
            Err(error) => return tracing::error!(shard, error = %error, "could not start a lane"),
        };
        let in_flight = batch_ids.as_ref().map_or(0, Vec::len);
        let resolved = Arc::new(AtomicBool::new(batch_ids.is_none()));
        tracing::info!(shard, epoch, taken_over, in_flight, "shard acquired");
        self.owned.insert(shard, Owned { epoch, permit, stop: stop.clone(), resolved: Arc::clone(&resolved) });
        self.running.spawn(async move { (shard, epoch, lane.run(batch_ids, &resolved, stop).await) });
        self.publish_owned();
    }

    /// Asks the lanes of some shards to drain; the leases are released when they have.
    fn give_up(&mut self, count: usize) {
        let mut shards: Vec<ShardId> =
            self.owned.iter().filter(|(_, owned)| !owned.stop.is_cancelled()).map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        for shard in shards.into_iter().rev().take(count) {
            tracing::info!(shard, "giving up the shard to another instance");
            self.owned[&shard].stop.cancel();
        }
    }

    /// A lane has ended. `Some` is the end of this process.
    async fn lane_ended(&mut self, joined: Result<(ShardId, i64, Ended), tokio::task::JoinError>) -> Option<Error> {
        let (shard, epoch, ended) = match joined {
            Ok(ended) => ended,
            // The message may quote data; the report of the panic says where it was.
            Err(_) => return Some(Error::new(Code::Unexpected, "a lane panicked")),
        };
        let owned = self.owned.remove(&shard);
        self.lanes.health.lane_ended(shard);
        self.publish_owned();
        match ended {
            Ended::Drained => {
                self.release(shard, epoch).await;
                None
            }
            Ended::Disagree(disagreement) => {
                self.release(shard, epoch).await;
                Some(disagree(shard, disagreement))
            }
            Ended::LostLease => {
                drop(owned);
                // Still ours according to the database? Then only our permit expired (PostgreSQL was away), nobody took
                // the shard, and it can be taken again like any other.
                match self.leases.renew(&[(shard, epoch)]).await {
                    Ok(renewal) if renewal.is_lost(shard) => Some(fenced(shard, epoch)),
                    Ok(renewal) if !renewal.locked.is_empty() => {
                        tracing::warn!(
                            shard,
                            "another session holds a lock on the shard's row; the shard will be acquired again when the lock is released"
                        );
                        None
                    }
                    Ok(_) => {
                        tracing::warn!(
                            shard,
                            "the lease expired while PostgreSQL was unavailable; acquiring the shard again"
                        );
                        self.release(shard, epoch).await;
                        None
                    }
                    Err(_) => None,
                }
            }
        }
    }

    async fn release(&self, shard: ShardId, epoch: i64) {
        if let Err(error) = self.leases.release(shard, epoch).await {
            tracing::warn!(shard, error = %error.chain(), "could not release the lease; it will expire");
        }
    }

    /// Stops every lane, waits for them, releases the leases. After the timeout, what is in flight is abandoned and
    /// stays PENDING with its manifest.
    async fn drain(mut self, lost: bool) {
        for owned in self.owned.values() {
            owned.stop.cancel();
            if lost {
                owned.permit.end();
            }
        }
        let begun = tokio::time::Instant::now();
        let (deadline, end) = (begun + self.shutdown_timeout.mul_f64(0.7), begun + self.shutdown_timeout.mul_f64(0.8));
        let mut given_up = false;
        while !self.running.is_empty() {
            self.heartbeat.beat();
            // Renewed to the end: a lane that drains slowly must not lose its shard because of that.
            if let Err(error) = self.renew().await {
                tracing::debug!(error = %error.chain(), "could not renew the leases while draining");
            }
            tokio::select! {
                Some(joined) = self.running.join_next() => {
                    drop(self.lane_ended(joined).await);
                }
                () = tokio::time::sleep_until(deadline), if !given_up => {
                    tracing::warn!(shards = self.running.len(), "some events in flight were not acknowledged in time; they stay PENDING");
                    for owned in self.owned.values() {
                        owned.permit.end();
                    }
                    given_up = true;
                }
                () = tokio::time::sleep_until(end), if given_up => {
                    // They wait for PostgreSQL. Others get their shards when the leases run out.
                    self.running.abort_all();
                    break;
                }
                () = tokio::time::sleep(self.lease / 4) => {}
            }
        }
        if let Err(error) = self.leases.leave().await {
            tracing::debug!(error = %error.chain(), "could not remove this instance from the list of instances");
        }
    }

    fn publish_owned(&self) {
        let mut shards: Vec<ShardId> = self.owned.keys().copied().collect();
        shards.sort_unstable();
        for shard in self.lanes.owned_shards() {
            if !shards.contains(&shard) {
                self.lanes.metrics.lease_held.get_or_create(&ShardLabel { shard: i64::from(shard) }).set(0);
            }
        }
        for shard in &shards {
            self.lanes.metrics.lease_held.get_or_create(&ShardLabel { shard: i64::from(*shard) }).set(1);
        }
        self.lanes.set_owned(shards);
    }
}

/// Maximum number of shards that one live instance should own.
fn fair_share(census: Census) -> usize {
    census.shards.div_ceil(census.live.max(1))
}

fn fenced(shard: ShardId, epoch: i64) -> Error {
    Error::new(Code::Fenced, format!("another instance took over shard {shard} (our epoch was {epoch})"))
        .hint("this process was stopped or cut off for longer than relay.lease; its supervisor should start it again")
}

fn disagree(shard: ShardId, disagreement: Disagreement) -> Error {
    Error::new(Code::HistoriesDisagree, format!("shard {shard}: {disagreement}"))
        .hint("nothing was sent or marked; find out which side lost data, then see docs/operations/exactly-once.md; outbox-relay recover compares both")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fair_shares_cover_all_shards_and_differ_by_one_batch_at_most(shards in 1_usize..200, live in 1_usize..50) {
            let share = fair_share(Census { live, shards, ..Census::default() });
            prop_assert!(share * live >= shards, "every shard has somebody who may take it");
            prop_assert!((share - 1) * live < shards, "nobody may take more than needed");
        }

        #[test]
        fn a_permit_ends_before_its_lease(asked_ms in 0_u64..1_000_000, lease_ms in 1_000_u64..600_000) {
            let (asked, lease) = (Duration::from_millis(asked_ms), Duration::from_millis(lease_ms));
            let end = permit_end(asked, lease);
            prop_assert!(end < asked + lease && end > asked);
        }
    }
}
