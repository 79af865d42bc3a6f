//! Wakes idle lanes: one cheap query for all idle shards of this instance, frequent after work and rare when idle.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Lanes;
use crate::event::ShardId;

/// A look that takes longer makes this instance unready: nobody knows what waits.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Looks for work of idle lanes until `stop`. While PostgreSQL is away the lanes are left alone.
pub(super) async fn run(lanes: &Lanes, poll_min: Duration, poll_max: Duration, stop: CancellationToken) {
    let idle_lanes = &lanes.idle;
    let mut wait = poll_min;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
            // Not at once: what a lane has just drained is refilled by writers that need a moment too.
            () = idle_lanes.changed(), if wait > poll_min => {
                wait = poll_min;
                continue;
            }
        }
        let idle: Vec<ShardId> = idle_lanes.shards();
        if idle.is_empty() {
            idle_lanes.changed().await_or(&stop).await;
            wait = poll_min;
            continue;
        }
        let waiting =
            lanes.health.waits.begin(None, "the search for work has been waiting for PostgreSQL", LOOK_PATIENCE);
        let due = lanes.outbox.due(&idle, lanes.ceiling(), lanes.horizon().id).await;
        drop(waiting);
        match due {
            Ok(due) if due.is_empty() => wait = (wait * 2).min(poll_max),
            Ok(due) => {
                idle_lanes.wake(&due);
                wait = poll_min;
            }
            // The lanes report the outage; this is only the look.
            Err(error) if error.is_unavailable() => {
                tracing::debug!(error = %error.chain(), "could not look for work for idle lanes");
                wait = poll_max;
            }
            // It may fail again and again, and lanes would wait forever: they look for themselves.
            Err(error) => {
                tracing::warn!(error = %error.chain(), "could not look for work for idle lanes; each lane polls for itself");
                idle_lanes.wake(&idle);
                wait = poll_max;
            }
        }
    }
}

/// A wait that a stop ends.
trait OrStop {
    async fn await_or(self, stop: &CancellationToken);
}

impl<F: Future<Output = ()>> OrStop for F {
    async fn await_or(self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self => {}
        }
    }
}
