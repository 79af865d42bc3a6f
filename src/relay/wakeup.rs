//! Wakes idle lanes: one cheap query for all idle shards of this instance, frequent after work and rare when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Lanes;
use crate::event::ShardId;

/// A look that takes longer makes this instance unready: nobody knows what waits.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// The lanes that wait.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    idle: Mutex<HashMap<ShardId, Arc<Notify>>>,
    /// A lane became idle, so it had work a moment ago: look again soon.
    changed: Notify,
}

impl Wakeup {
    fn idle(&self) -> MutexGuard<'_, HashMap<ShardId, Arc<Notify>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, shards: &[ShardId]) {
        let idle = self.idle();
        for shard in shards {
            if let Some(lane) = idle.get(shard) {
                lane.notify_one();
            }
        }
    }
}

/// A lane that waits is in the list as long as it does, however its wait ends.
struct Idle<'a> {
    wakeup: &'a Wakeup,
    shard: ShardId,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.wakeup.idle().remove(&self.shard);
    }
}

/// Waits until the shard has something to do, or `stop`. Cancel safe.
pub(super) async fn wait(wakeup: &Wakeup, shard: ShardId, stop: &CancellationToken) {
    let woken = Arc::new(Notify::new());
    wakeup.idle().insert(shard, Arc::clone(&woken));
    let _idle = Idle { wakeup, shard };
    wakeup.changed.notify_one();
    tokio::select! {
        () = stop.cancelled() => {}
        () = woken.notified() => {}
    }
}

/// Looks for work of idle lanes until `stop`. While PostgreSQL is away the lanes are left alone.
pub(super) async fn run(lanes: &Lanes, poll_min: Duration, poll_max: Duration, stop: CancellationToken) {
    let wakeup = &lanes.wakeup;
    let mut wait = poll_min;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
            // Not at once: what a lane has just drained is refilled by writers that need a moment too.
            () = wakeup.changed.notified(), if wait > poll_min => {
                wait = poll_min;
                continue;
            }
        }
        let idle: Vec<ShardId> = wakeup.idle().keys().copied().collect();
        if idle.is_empty() {
            wakeup.changed.notified().await_or(&stop).await;
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
                wakeup.wake(&due);
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
                wakeup.wake(&idle);
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
