//! The copies themselves, at a rate, through outages of PostgreSQL.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::report::Outcome;
use super::{count_of, resume_command};
use crate::clock::monotonic;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::jobs::Recording;
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Result};
use crate::outbox::jobs::Handle;
use crate::outbox::replay::{self, By, Pace, Portion, Replay};
use crate::retry::Backoff;

/// Most copies of one transaction when there is no rate.
const PORTION: u32 = 5_000;
/// How long PostgreSQL is waited for in the middle: a restart or a failover. A guess.
const PATIENCE: Duration = Duration::from_secs(60);
/// Portions in a second when there is one, so that the copies come evenly.
const PORTIONS_PER_SECOND: u32 = 5;

/// Refusals that are told one by one.
const REFUSALS_SHOWN: u64 = 20;
/// Refusals one after the other after which a replay ends: something refuses every copy. A guess.
const REFUSALS_IN_A_ROW: u32 = 100;

/// A replay under way: this process makes its copies.
#[derive(Debug)]
pub struct Run {
    pub(super) replay: Replay,
    pub(super) runner: Uuid,
    /// `None` where it is not recorded as a job.
    pub(super) job: Option<Handle>,
    pub(super) author: Author,
    pub(super) ignore_retention: bool,
}

impl Run {
    pub fn id(&self) -> Uuid {
        self.replay.id
    }

    /// How to continue when it has ended early.
    pub fn resume_hint(&self) -> String {
        let (id, own) = (self.replay.id, resume_command(self.replay.id, self.ignore_retention));
        match self.job {
            Some(_) => format!("resume with: outbox-relay jobs resume {id}\n         or: {own}"),
            None => format!("continue with: {own}"),
        }
    }

    /// Makes the copies that are left, portion by portion, at the rate.
    pub async fn copy(self, pool: &Pool, progress: &dyn Progress, stop: &CancellationToken) -> Result<Outcome> {
        let (author, hint) = (self.author.clone(), self.resume_hint());
        let recording = Recording::new(pool, self.job, &author, progress, stop).in_portions();
        let outcome = recording.run(Box::pin(self.copy_all(pool, &recording, stop, &hint))).await;
        match outcome {
            Ok(outcome) => {
                recording.end(outcome.verdict().err().as_ref(), None).await;
                Ok(outcome)
            }
            Err(failure) => {
                let error = Error::from(failure);
                recording.end(Some(&error), None).await;
                Err(error.into())
            }
        }
    }

    async fn copy_all(
        self,
        pool: &Pool,
        recording: &Recording<'_>,
        stop: &CancellationToken,
        resume: &str,
    ) -> Result<Outcome> {
        let Self { mut replay, runner, job, author, .. } = self;
        let (replay, by) = (&mut replay, By { runner, job, author: &author });
        let rate = replay.rate.and_then(|rate| u32::try_from(rate).ok());
        let mut pace = Pace::new(rate.map_or(PORTION, |rate| (rate / PORTIONS_PER_SECOND).max(1)));
        let step = |replay: &Replay| Step::new("copied", count_of(replay.copied), count_of(replay.matched));
        recording.report(step(replay));
        let (mut due, mut outage, mut backoff) = (monotonic(), None, Backoff::for_connection());
        let mut refused = Refused::default();
        while !replay.finished {
            // A rate is an average, but a pause is not made up for: the copies of a minute do not come in one second.
            due = due.max(monotonic().saturating_sub(Duration::from_secs(1)));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped_at(replay, job.is_some(), resume).into()),
                () = tokio::time::sleep(due.saturating_sub(monotonic())) => {}
            }
            let before = replay.copied;
            let portion = match replay::portion(pool, replay, by, &mut pace).await {
                Err(error) if error.is_unavailable() && monotonic() < *outage.get_or_insert(monotonic() + PATIENCE) => {
                    tracing::warn!(error = %error.chain(), "PostgreSQL does not respond; retrying");
                    due = monotonic() + backoff.next_wait();
                    continue;
                }
                other => other?,
            };
            outage = None;
            backoff.reset();
            match portion {
                Portion::Taken if job.is_some() => return Err(recording.lost().into()),
                Portion::Taken => return Err(taken(replay.id).into()),
                Portion::Refused { id, reason } => refused.add(id, &reason, resume, recording)?,
                Portion::Done => refused.in_a_row = 0,
            }
            if let Some(rate) = rate {
                due += Duration::from_secs_f64((replay.copied - before) as f64 / f64::from(rate));
            }
            recording.report(step(replay));
        }
        Ok(Outcome::new(replay, refused.all, job.is_some()))
    }
}

fn stopped_at(replay: &Replay, recorded: bool, resume: &str) -> Error {
    let what = if recorded { "job" } else { "replay" };
    let message = format!("{what} {} stopped after {} of {} copies", replay.id, replay.copied, replay.matched);
    Error::new(Code::PartlyDone, message).hint(resume)
}

fn taken(id: Uuid) -> Error {
    Error::new(Code::PartlyDone, format!("another process has resumed replay {id}"))
        .hint("it continues there; nothing is copied twice")
}

/// Events of which the table takes no copy.
#[derive(Default)]
struct Refused {
    all: u64,
    in_a_row: u32,
}

impl Refused {
    /// Errors: so many in a row that it is no fault of theirs.
    fn add(&mut self, id: i64, reason: &str, resume: &str, progress: &dyn Progress) -> Result<()> {
        (self.all, self.in_a_row) = (self.all + 1, self.in_a_row + 1);
        if self.all <= REFUSALS_SHOWN {
            progress.remark(&format!("event {id} is not copied: {reason}"));
        }
        if self.in_a_row < REFUSALS_IN_A_ROW {
            return Ok(());
        }
        Err(Error::new(Code::PartlyDone, format!("the table outbox_events rejects every copy: {reason}"))
            .hint(format!("the cause is a constraint or a trigger of yours; fix it\n{resume}"))
            .into())
    }
}
