//! A loop that promises to report at regular intervals that it is alive.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock;

/// Handle of one loop.
#[derive(Debug)]
pub struct Heartbeat {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Heartbeat {
    pub fn beat(&self) {
        self.beat_at(clock::monotonic());
    }

    pub(super) fn beat_at(&self, now: Duration) {
        if let Some(beat) = self.shared.lock().heartbeats.get_mut(&self.id) {
            beat.state.last = now;
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.lock().heartbeats.remove(&self.id);
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    last: Duration,
    limit: Duration,
}

impl Pulse {
    pub(super) fn new(limit: Duration) -> Self {
        Self { last: clock::monotonic(), limit }
    }

    /// Errors: how long it has been silent, if that is longer than it promised.
    pub(super) fn at(self, now: Duration) -> Result<(), String> {
        let silent = now.saturating_sub(self.last);
        if silent <= self.limit {
            Ok(())
        } else {
            Err(format!("silent for {:.1} s, more than {:.1} s", silent.as_secs_f64(), self.limit.as_secs_f64()))
        }
    }

    /// Whether most of the promised time has passed without a beat.
    pub(super) fn is_late(self, now: Duration) -> bool {
        now.saturating_sub(self.last) > self.limit * 2 / 3
    }
}
