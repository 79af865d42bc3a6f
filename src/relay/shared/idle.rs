//! The lanes that wait for work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::event::ShardId;

/// The lanes that wait.
#[derive(Debug, Default)]
pub(in crate::relay) struct IdleLanes {
    idle: Mutex<HashMap<ShardId, Arc<Notify>>>,
    /// A lane became idle, so it had work a moment ago: look again soon.
    changed: Notify,
}

impl IdleLanes {
    fn idle(&self) -> MutexGuard<'_, HashMap<ShardId, Arc<Notify>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They have something to do.
    pub(in crate::relay) fn wake(&self, shards: &[ShardId]) {
        let idle = self.idle();
        for shard in shards {
            if let Some(lane) = idle.get(shard) {
                lane.notify_one();
            }
        }
    }

    pub(in crate::relay) fn shards(&self) -> Vec<ShardId> {
        self.idle().keys().copied().collect()
    }

    /// Until another lane becomes idle. Cancel safe.
    pub(in crate::relay) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the shard has something to do, or `stop`. Cancel safe.
    pub(in crate::relay) async fn wait(&self, shard: ShardId, stop: &CancellationToken) {
        let woken = Arc::new(Notify::new());
        self.idle().insert(shard, Arc::clone(&woken));
        let _idle = Idle { lanes: self, shard };
        self.changed.notify_one();
        tokio::select! {
            () = stop.cancelled() => {}
            () = woken.notified() => {}
        }
    }
}

/// A lane that waits is in the list as long as it does, however its wait ends.
struct Idle<'a> {
    lanes: &'a IdleLanes,
    shard: ShardId,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.lanes.idle().remove(&self.shard);
    }
}
