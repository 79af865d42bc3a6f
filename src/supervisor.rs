//! The long-lived tasks of a process: what ends them, and what their end means.
//!
//! `tokio::spawn` is called only here, so that no task can fail unnoticed. What may fail without ending the process is
//! a [`Part`].

mod part;

use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};
pub use part::{Attempt, Part, Work};

/// Exit status of the first failure in this process; 0 when there was none.
static FAILURE: AtomicU8 = AtomicU8::new(0);

/// The status that this process should end with because a part has failed.
pub fn failure_status() -> Option<i32> {
    Some(FAILURE.load(Ordering::Relaxed)).filter(|status| *status != 0).map(i32::from)
}

/// Tasks that live as long as the process. The first failure, panic or unexpected end stops the others.
#[derive(Debug)]
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, Result<()>)>,
}

impl Supervisor {
    /// `stop` ends every task; it is cancelled by the first task that fails.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new() }
    }

    /// Starts a task. It returns when the stop token is cancelled, or with an error that ends the process.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// As [`Supervisor::wait_at_most`], for parts with limits of their own.
    pub async fn wait(self) -> Result<()> {
        self.wait_at_most(Duration::from_secs(60)).await
    }

    /// Waits until every task has ended, after the stop for `patience` at most; then those that are left are dropped
    /// where they are. Returns the first error; a panic is an error.
    pub async fn wait_at_most(mut self, patience: Duration) -> Result<()> {
        let stop = self.stop.clone();
        let cut = async {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        tokio::pin!(cut);
        let mut outcome = Ok(());
        loop {
            let joined = tokio::select! {
                biased;
                joined = self.tasks.join_next() => joined,
                () = &mut cut => {
                    tracing::warn!(
                        parts = self.tasks.len(),
                        "shutdown did not finish in time; events in flight stay PENDING and the leases will expire"
                    );
                    return outcome;
                }
            };
            let Some(joined) = joined else { return outcome };
            let ended = match joined {
                Ok((name, Ok(()))) => {
                    tracing::debug!(task = name, "ended");
                    Ok(())
                }
                Ok((name, Err(error))) => {
                    tracing::error!(task = name, code = error.code().as_str(), error = %error.chain(), "failed");
                    Err(error)
                }
                // What it says may quote data; the report of the panic says where it was.
                Err(_) => Err(Error::new(Code::Unexpected, "a task panicked")),
            };
            // A task that ends without being told to is as bad as one that fails: nobody does its work any more.
            self.stop.cancel();
            if outcome.is_ok() {
                if let Err(error) = &ended {
                    FAILURE.store(error.code().exit() as u8, Ordering::Relaxed);
                }
                outcome = ended;
            }
        }
    }
}

/// Starts a task that ends by itself and whose failure the owner learns in another way (a closed connection, a closed
/// channel).
pub fn detach(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    drop(detach_with_handle(name, task));
}

/// As [`detach`], for an owner that may end the task.
pub fn detach_with_handle(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tracing::trace!(task = name, "started");
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    tokio::spawn(task).abort_handle()
}
