//! A use case that runs as a job: signs of life, requests to cancel, and the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::monotonic;
use crate::db::{DbError, Pool};
use crate::error::{Code, Error};
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Result};
use crate::outbox::jobs::{self, Beat, End, Ending, Handle, Part, Recordable};
use crate::retry::Backoff;
use crate::text::printable;

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// How long PostgreSQL is waited for when the job ends. A job whose end is not recorded stalls, and can be resumed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A use case under way. It hears the progress, and passes it on.
pub struct Recording<'a> {
    pool: &'a Pool,
    /// `None`: nothing is recorded, since the role may not.
    job: Option<Handle>,
    author: &'a Author,
    progress: &'a dyn Progress,
    stop: &'a CancellationToken,
    /// The transactions of the work record its progress.
    in_portions: bool,
    parts: Mutex<Vec<Part>>,
    lost: AtomicBool,
}

impl<'a> Recording<'a> {
    /// Whether the role may record jobs. If not, says so: the work can be done all the same.
    pub async fn is_possible(pool: &Pool, progress: &dyn Progress) -> Result<bool> {
        let why = match jobs::recordable(pool).await? {
            Recordable::Yes => return Ok(true),
            Recordable::NoTable => "there is no table outbox_jobs yet; run: outbox-relay migrate up",
            Recordable::NoGrants => "the role lacks select, insert and update on outbox_jobs; see docs/roles.sql",
        };
        progress.remark(&format!("this run is not recorded as a job: {why}"));
        Ok(false)
    }

    /// Progress is recorded once a second.
    pub fn new(
        pool: &'a Pool,
        job: Option<Handle>,
        author: &'a Author,
        progress: &'a dyn Progress,
        stop: &'a CancellationToken,
    ) -> Self {
        let (parts, lost) = (Mutex::default(), AtomicBool::new(false));
        Self { pool, job, author, progress, stop, in_portions: false, parts, lost }
    }

    /// Progress is recorded by the transactions of the work.
    #[must_use]
    pub fn in_portions(self) -> Self {
        Self { in_portions: true, ..self }
    }

    /// Runs `work` to its end while the lease of the job is renewed. A request to cancel becomes a stop. When the job
    /// is lost, the work is dropped where it is.
    pub async fn run<T, E: From<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let Some(job) = self.job else { return work.await };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.beats(job) => Err(self.lost().into()),
        }
    }

    /// Returns when the job is lost.
    async fn beats(&self, job: Handle) {
        let mut told = false;
        loop {
            tokio::time::sleep(BEAT).await;
            let parts = (!self.in_portions).then(|| self.parts());
            match jobs::beat(self.pool, job, parts.as_deref()).await {
                Ok(Beat::Ours) => {}
                Ok(Beat::Cancelling { by }) => {
                    if !told {
                        self.progress.remark(&format!("job {} was cancelled by {}; stopping", job.id, printable(&by)));
                    }
                    told = true;
                    self.stop.cancel();
                }
                Ok(Beat::Lost) => return,
                Err(error) => {
                    tracing::debug!(job = %job.id, error = %error.chain(), "could not renew the lease of the job; retrying");
                }
            }
        }
    }

    /// The error of a process that has lost its job. From now on nothing more is recorded.
    pub fn lost(&self) -> Error {
        self.lost.store(true, Ordering::Relaxed);
        let id = self.job.map(|job| job.id).unwrap_or_default();
        Error::new(
            Code::PartlyDone,
            format!("another process has resumed job {id}, or it was cancelled while this one did not respond"),
        )
        .hint(format!("nothing more is changed here; to see how far it is run: outbox-relay jobs show {id}"))
    }

    /// Records how it ended, with `result` if no portion has recorded that.
    pub async fn end(&self, error: Option<&Error>, result: Option<Value>) {
        let Some(job) = self.job.filter(|_| !self.lost.load(Ordering::Relaxed)) else { return };
        let stopped = self.stop.is_cancelled();
        let ending = match error {
            None => Ending::Done,
            Some(error) if stopped && matches!(error.code(), Code::PartlyDone | Code::CheckNotMet) => {
                Ending::Cancelled { by: &self.author.actor }
            }
            Some(error) => {
                Ending::Failed { code: error.code().as_str(), error: error.chain(), hint: error.hint_text() }
            }
        };
        let parts = (!self.in_portions).then(|| self.parts());
        let end = End { ending, parts: parts.as_deref(), result };
        if let Err(error) = self.write_end(job, &end).await {
            self.progress.remark(&format!(
                "the end of job {} could not be recorded; it will be shown as stalled: {}",
                job.id,
                error.chain()
            ));
        }
    }

    async fn write_end(&self, job: Handle, end: &End<'_>) -> Result<(), DbError> {
        let (until, mut backoff) = (monotonic() + PATIENCE, Backoff::for_connection());
        loop {
            match jobs::end(self.pool, job, end).await {
                Err(error) if error.is_unavailable() && monotonic() < until => {
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                outcome => return outcome.map(|_| ()),
            }
        }
    }

    pub fn id(&self) -> Option<Uuid> {
        self.job.map(|job| job.id)
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Recording<'_> {
    fn report(&self, step: Step) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Part { what: step.what.to_owned(), done: step.done, total: step.total };
        match parts.iter_mut().find(|part| part.what == step.what) {
            Some(part) => *part = now,
            None => parts.push(now),
        }
        drop(parts);
        self.progress.report(step);
    }

    fn remark(&self, text: &str) {
        self.progress.remark(text);
    }
}
