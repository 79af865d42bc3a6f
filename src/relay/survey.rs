//! Work that reads many rows: the gauges of the backlog, and the sweep below the scan bound.
//!
//! Both are slow while an open transaction keeps dead rows from being removed. The pauses are therefore a hundred times
//! as long as the last run, and nothing waits for them. A backlog is only counted in part: 400,000 rows took half a
//! second of PostgreSQL, and as long again if their pages could not be marked all-visible, so the gauge for a backlog
//! of millions would be minutes old.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Lanes;
use crate::clock::monotonic;
use crate::db::Pool;
use crate::measure::outbox;
use crate::metrics::{Metrics, StateLabel};
use crate::outbox::{backlog, barrier, outcomes};
use crate::signals::{Situation, Source, Wait};

const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A figure that nobody has renewed for so long is not shown any more: the pause, and a look that takes its time.
const BELIEVED: Duration = Duration::from_secs(700);
/// After a look that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(15);
/// Rows that wait in a shard are counted up to here, and estimated beyond.
const COUNTED: u32 = 10_000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks for held events whose key was changed, and how much longer than such a look that is at least.
const STRAYS_INTERVAL: Duration = Duration::from_secs(5);
const STRAYS_SHARE: u32 = 20;

pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, stop: CancellationToken) {
    // Side by side: counting a large backlog must not keep a stray event waiting.
    tokio::join!(count_and_sweep(&lanes, &pool, &stop), look_for_strays(&lanes, &pool, &stop));
    // Nobody counts any more.
    forget(&lanes.metrics);
    lanes.health.board.report(Source::Watch, Vec::new());
}

async fn look_for_strays(lanes: &Lanes, pool: &Pool, stop: &CancellationToken) {
    let mut pause = STRAYS_INTERVAL;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let started = monotonic();
        adopt_strays(lanes, pool).await;
        pause = (monotonic().saturating_sub(started) * STRAYS_SHARE).max(STRAYS_INTERVAL);
    }
}

async fn count_and_sweep(lanes: &Lanes, pool: &Pool, stop: &CancellationToken) {
    let mut swept = monotonic();
    let mut pause = Duration::ZERO;
    let mut mended = 0;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let started = monotonic();
        let counted = count(lanes, pool).await;
        if started.saturating_sub(swept) >= SWEEP_INTERVAL {
            swept = started;
            sweep(lanes, pool).await;
            mended = mend(pool, mended).await;
        }
        pause = match counted {
            true => (monotonic().saturating_sub(started) * 100).clamp(PAUSE_MIN, PAUSE_MAX),
            // How long a server has been silent says nothing of what a look costs.
            false => FAILED_PAUSE,
        };
    }
}

/// Returns whether it could be counted.
async fn count(lanes: &Lanes, pool: &Pool) -> bool {
    let metrics = &lanes.metrics;
    let waits = outbox::waits(pool, lanes.lease).await;
    // A part of what waits would look like all of it.
    let is_hidden = |wait: &Wait| matches!(wait.situation, Situation::BoundTooHigh | Situation::RowSecurity);
    let hidden = waits.as_ref().is_ok_and(|waits| waits.iter().any(is_hidden));
    if let Ok(waits) = waits {
        lanes.health.board.report(Source::Watch, waits);
    }
    let counted = backlog::count(pool, COUNTED).await;
    let worked = counted.is_ok();
    match counted {
        Ok(backlog) if !hidden => {
            metrics.pending_events.set_for(BELIEVED, backlog.pending);
            metrics.failed_events.set_for(BELIEVED, backlog.failed);
            metrics.held_events.set_for(BELIEVED, backlog.held);
            metrics.oldest_pending_age_seconds.set_for(BELIEVED, backlog.oldest_age_seconds.unwrap_or(0.0));
        }
        Ok(_) => forget(metrics),
        Err(error) => {
            tracing::debug!(error = %error.chain(), "could not count the backlog; its gauges are absent");
            forget(metrics);
        }
    }
    let (used, idle, max) = lanes.outbox.pool_usage();
    for (state, count) in [("used", used), ("idle", idle), ("max", max)] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        metrics.db_pool_connections.get_or_create(&StateLabel { state }).set(count);
    }
    worked
}

fn forget(metrics: &Metrics) {
    metrics.pending_events.unknown();
    metrics.failed_events.unknown();
    metrics.held_events.unknown();
    metrics.oldest_pending_age_seconds.unknown();
}

/// Checks the scan bound: nothing may wait below it.
async fn sweep(lanes: &Lanes, pool: &Pool) {
    match barrier::sweep(pool, &lanes.owned_shards(), lanes.instance, lanes.horizon().server).await {
        Ok(found) => {
            for (shard, id) in found {
                lanes.metrics.sweep_found_below_watermark.inc();
                tracing::error!(
                    shard,
                    id,
                    "found a pending event below the scan bound; it will be claimed now. Please report this as a bug"
                );
            }
        }
        Err(error) => tracing::debug!(error = %error.chain(), "could not check for events below the scan bound"),
    }
}

/// Rows that refused to be changed may have been mended; the outcomes of some are written to them, from the id `after`
/// on. Returns where to go on.
async fn mend(pool: &Pool, after: i64) -> i64 {
    let mended = outcomes::mend(pool, after).await;
    if let Err(error) = outcomes::forget(pool).await {
        tracing::debug!(sqlstate = ?error.sqlstate(), "could not remove outcomes of finished events");
    }
    mended.unwrap_or_else(|error| {
        tracing::debug!(sqlstate = ?error.sqlstate(), "could not write outcomes to their rows");
        0
    })
}

/// Events whose key was changed while they waited.
async fn adopt_strays(lanes: &Lanes, pool: &Pool) {
    match barrier::sweep_strays(pool, &lanes.owned_shards()).await {
        Ok(found) => {
            for (shard, id) in found {
                tracing::info!(shard, id, "the key of a held event changed; releasing the event under its new key");
            }
        }
        Err(error) => {
            tracing::debug!(error = %error.chain(), "could not look for held events without a held key")
        }
    }
}
