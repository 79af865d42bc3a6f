//! SIGTERM and SIGINT: the first asks for a stop, the second does not wait for it.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};

/// Both signals, listened to from the making on.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// To be made before the work begins, so that no signal meets the default action, which is to die at once.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::new(Code::Unexpected, "cannot listen for signals").caused_by(error))
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Runs `work` to its end. The first signal cancels `stop`; at the second the work is dropped where it is, and there
    /// is no outcome.
    pub(super) async fn run<T>(mut self, work: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
        let mut work = Box::pin(work);
        tokio::select! {
            outcome = &mut work => return Some(outcome),
            name = self.next() => {
                tracing::info!(signal = name, "stopping: what is in hand is finished; a second signal does not wait for it");
                stop.cancel();
            }
        }
        tokio::select! {
            outcome = &mut work => Some(outcome),
            name = self.next() => {
                tracing::warn!(signal = name, "second signal: not waiting");
                None
            }
        }
    }

    /// Cancel safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
