//! The long-lived tasks of a process: what ends them, and what their end means.
//!
//! `tokio::spawn` is called here and nowhere else, so that no task can fail unseen.

use std::future::Future;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};

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

    /// Waits until every task has ended. Returns the first error; a panic is an error.
    pub async fn wait(mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(joined) = self.tasks.join_next().await {
            let ended = match joined {
                Ok((name, Ok(()))) => {
                    tracing::debug!(task = name, "ended");
                    Ok(())
                }
                Ok((name, Err(error))) => {
                    tracing::error!(task = name, code = error.code().as_str(), error = %error.chain(), "failed");
                    Err(error)
                }
                Err(join) => Err(Error::new(Code::Unexpected, "a task panicked").caused_by(join)),
            };
            // A task that ends without being told to is as bad as one that fails: nobody does its work any more.
            self.stop.cancel();
            if outcome.is_ok() {
                outcome = ended;
            }
        }
        outcome
    }
}

/// Starts a task that ends by itself and whose failure the owner learns in another way (a closed connection, a closed
/// channel).
pub fn detach(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tracing::trace!(task = name, "started");
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    drop(tokio::spawn(task));
}

/// As [`detach`], for who has to be able to abort it: the pools, whose connections end with their last user.
pub fn detach_abortable(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tracing::trace!(task = name, "started");
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    tokio::spawn(task)
}
