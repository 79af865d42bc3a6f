//! Ends the process when a stop takes longer than `run.shutdown_timeout`, whatever it is that hangs.
//!
//! On a thread of its own, with its own runtime: a runtime whose threads are all stuck (a full log pipe, a library that
//! blocks) neither hears a signal nor sees a timer fire.

use std::process;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::signals::ignores_hangup;
use crate::error::{Code, Error, Result};
use crate::stderr;
use crate::supervisor;

/// The others have as long to notice a signal by themselves.
const HEARD: Duration = Duration::from_millis(500);
/// Before the end of `run.shutdown_timeout`, and at most a twentieth of it: the time that ending takes.
const MARGIN: Duration = Duration::from_millis(250);
/// Longest wait for the last line to be written.
const LAST_LINE: Duration = Duration::from_millis(100);

/// Watches over a stop, however it begins: by a signal, or because `stop` is cancelled when a part fails. Ends with the
/// process.
pub(super) fn start(stop: CancellationToken, shutdown_timeout: Duration) -> Result<()> {
    let failed = |error| Error::new(Code::Unexpected, "cannot watch over the stop").caused_by(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let watch = move || runtime.block_on(until_the_end(stop, shutdown_timeout));
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map_err(failed)?;
    Ok(())
}

async fn until_the_end(stop: CancellationToken, shutdown_timeout: Duration) {
    asked(&stop).await;
    let left = shutdown_timeout - MARGIN.min(shutdown_timeout / 20);
    let heard = HEARD.min(left);
    tokio::time::sleep(heard).await;
    stop.cancel();
    tokio::time::sleep(left - heard).await;
    tracing::warn!(
        "shutdown did not finish within run.shutdown_timeout; events in flight stay PENDING and the leases will expire"
    );
    stderr::flush(LAST_LINE);
    process::exit(supervisor::failure_status().unwrap_or_default());
}

/// Returns when the process is to stop. Where a signal cannot be listened for, the token still tells.
async fn asked(stop: &CancellationToken) {
    let signalled = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = signalled(SignalKind::terminate()) => {}
        () = signalled(SignalKind::interrupt()) => {}
        () = signalled(SignalKind::hangup()), if !ignores_hangup() => {}
    }
}
