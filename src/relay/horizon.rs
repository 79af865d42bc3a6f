//! The loop that keeps the scan bound correct: it checks the lock barrier every second. In strict order, and with a
//! watermark, it checks more often, because events wait for the barrier or are listed until it advances.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Lanes;
use crate::config::{Ordering, Tracking};
use crate::db::Pool;
use crate::error::Code;
use crate::outbox::barrier::Barrier;
use crate::outbox::restart::{self, Restart};

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// In strict order an event waits for the next look, so this is a part of its latency. A look costs PostgreSQL 0.2 ms.
const STRICT_PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// While ids are drawn and the horizon is where the watermark ends: what is published ahead of it is written with every
/// batch.
const BUSY_PROBE_INTERVAL: Duration = Duration::from_millis(50);

pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, stop: CancellationToken) {
    let mut barrier = Barrier::new(pool.clone());
    // The first look is at once.
    let mut interval = Duration::ZERO;
    let mut faulty = false;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(interval) => {}
        }
        interval = interval.max(BUSY_PROBE_INTERVAL);
        match barrier.probe().await {
            Ok(horizon) => {
                let moved = horizon != lanes.horizon();
                match barrier.take_restart() {
                    Some(restart) if !begin_again(&lanes, &pool, restart).await => barrier.put_back(restart),
                    // Not before the bounds are reset: the sweep trusts bounds of the run that the horizon is of.
                    Some(_) | None => lanes.set_horizon(horizon),
                }
                match barrier.fault() {
                    None => lanes.health.ids.ok(),
                    Some((what, fix)) => {
                        lanes.health.ids.failing(format!("{what}; {fix}"));
                        if !faulty {
                            tracing::error!(
                                code = Code::IdsOutOfTurn.as_str(),
                                fix,
                                "{what}; the scan bound and the watermark do not advance until this is fixed"
                            );
                        }
                    }
                }
                faulty = barrier.fault().is_some();
                interval = match (lanes.ordering, lanes.tracking) {
                    (Ordering::Strict, _) => STRICT_PROBE_INTERVAL,
                    (Ordering::Key, Tracking::Watermark) if moved => BUSY_PROBE_INTERVAL,
                    (Ordering::Key, Tracking::Watermark) => (interval * 2).min(PROBE_INTERVAL),
                    (Ordering::Key, Tracking::Rows) => PROBE_INTERVAL,
                };
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), "could not read the lock barrier; the scan bound does not advance")
            }
        }
    }
}

/// Ids started over, so the bounds of the shards are reset. False if that was not possible.
async fn begin_again(lanes: &Lanes, pool: &Pool, restart: Restart) -> bool {
    match restart::begin_again(pool, lanes.instance, restart).await {
        Ok(shards) => {
            if !shards.is_empty() {
                tracing::warn!(
                    ?shards,
                    "the ids of outbox_events started over (truncate with restart identity, or a sequence set back); \
                     these shards scan from the first id again"
                );
            }
            true
        }
        Err(error) => {
            tracing::warn!(
                error = %error.chain(),
                "the ids of outbox_events started over, and the scan bounds of the shards could not be reset yet"
            );
            false
        }
    }
}

/// Waits until no row up to this id can appear any more; without an id, forever. Checks every `every`, but not
/// immediately. Cancel safe.
pub(super) async fn until_passed(lanes: &Lanes, id: Option<i64>, every: Duration) {
    let Some(id) = id else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        if lanes.horizon().id >= id {
            return;
        }
    }
}
