//! SIGTERM, SIGINT and SIGHUP: the first asks for a stop, the second does not wait for it. Commands that do not listen
//! end at once.

use std::future::Future;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};
use crate::supervisor;
use crate::telemetry;

/// Where signals go while a command acts on them itself; empty while the process ends by default.
static LISTENERS: Mutex<Vec<Sender<Named>>> = Mutex::new(Vec::new());

fn listeners() -> MutexGuard<'static, Vec<Sender<Named>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A signal that ends a process, by its name and its number.
type Named = (&'static str, i32);

/// A command that acts on signals itself, from the making on.
#[derive(Debug)]
pub(super) struct Signals {
    told: Receiver<Named>,
}

#[derive(Debug)]
struct Heard {
    terminate: Signal,
    interrupt: Signal,
    /// `None` where whoever started us has it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Heard {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::new(Code::Unexpected, "cannot listen for signals").caused_by(error))
        };
        let hangup = if ignores_hangup() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, hangup })
    }

    /// Cancel safe.
    async fn next(&mut self) -> Named {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
            _ = hangup => ("SIGHUP", SignalKind::hangup().as_raw_value()),
        }
    }
}

/// Ends the process on a signal, unless a [`Signals`] listens. The kernel would do the same, but not for process 1,
/// which has no default actions; so in a container every command needs it. The status is that of a process which a
/// signal ended, as shells have it: 128 and its number.
///
/// This task alone takes signals from the system, so each of them either reaches a command or ends the process, and
/// never does both.
pub(super) fn end_by_default() -> Result<()> {
    let mut heard = Heard::new()?;
    supervisor::detach("signals", async move {
        loop {
            let signal = heard.next().await;
            let mut listeners = listeners();
            // A listener acts on two signals; what no longer finds room is more than it waits for.
            listeners.retain(|listener| !matches!(listener.try_send(signal), Err(TrySendError::Closed(_))));
            if listeners.is_empty() {
                telemetry::finish();
                process::exit(128 + signal.1);
            }
        }
    });
    Ok(())
}

impl Signals {
    /// To be made before the work begins, so that no signal ends it in the middle.
    pub(super) fn listen() -> Self {
        let (tell, told) = mpsc::channel(2);
        listeners().push(tell);
        Self { told }
    }

    async fn next(&mut self) -> Named {
        match self.told.recv().await {
            Some(signal) => signal,
            // The sender stands in `LISTENERS` for as long as we are here.
            None => std::future::pending().await,
        }
    }

    /// Runs `work` to its end. The first signal cancels `stop`; at the second the work is dropped where it is, and
    /// there is no outcome.
    pub(super) async fn run<T>(mut self, work: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
        let mut work = Box::pin(work);
        tokio::select! {
            outcome = &mut work => return Some(outcome),
            (name, _) = self.next() => {
                tracing::info!(signal = name, "stopping after the current work; send a second signal to stop at once");
                stop.cancel();
            }
        }
        tokio::select! {
            outcome = &mut work => Some(outcome),
            (name, _) = self.next() => {
                tracing::warn!(signal = name, "second signal received; stopping at once");
                None
            }
        }
    }
}

/// Whether this process was started with SIGHUP ignored.
pub(super) fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("SigIgn:")).is_some_and(is_first_bit_set)
}

/// Of a mask in hexadecimal. SIGHUP is signal 1.
fn is_first_bit_set(mask: &str) -> bool {
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_the_lowest_bit() {
        assert!(is_first_bit_set("\t0000000000001001"));
        assert!(!is_first_bit_set("\t0000000000001002"));
    }
}
