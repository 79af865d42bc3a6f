//! The gauges of what waits. Counting costs time on a large backlog, so the pauses are a hundred times as long as the count.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Lanes;
use crate::clock::monotonic;
use crate::db::Pool;
use crate::metrics::StateLabel;
use crate::outbox::backlog;

const PAUSE_MIN: Duration = Duration::from_secs(5);

pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let started = monotonic();
        if let Ok(backlog) = backlog::count(&pool).await {
            lanes.metrics.pending_events.set(backlog.pending);
            lanes.metrics.failed_events.set(backlog.failed);
            lanes.metrics.held_events.set(backlog.held);
            lanes.metrics.oldest_pending_age_seconds.set(backlog.oldest_age_seconds.unwrap_or(0.0));
        }
        let (used, idle, max) = lanes.outbox.pool_usage();
        for (state, count) in [("used", used), ("idle", idle), ("max", max)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            lanes.metrics.db_pool_connections.get_or_create(&StateLabel { state }).set(count);
        }
        pause = (monotonic().saturating_sub(started) * 100).max(PAUSE_MIN);
    }
}
