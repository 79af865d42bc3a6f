//! Jobs: long-running commands as `outbox_jobs` has them. Lists and cancels them, and says how one can be resumed.
//!
//! Resuming itself is up to the use case of each kind. A use case that runs as a job does so through [`Recording`].

mod recording;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::cleanup::{self, Paused};
use super::dlq::redrive;
use super::{Author, Result};
use crate::db::{Pool, StoredTime};
use crate::error::{Code, Error};
use crate::outbox::jobs::{self, Job, Part};
pub use crate::outbox::jobs::{Cancelled, Filter, Kind, State};
use crate::text::printable;
pub(super) use recording::Recording;

/// A job as it is reported. The names of the fields are public.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobLine {
    pub id: String,
    pub kind: String,
    pub state: String,
    /// The last sign of life of its process, if there has been none since for too long.
    pub stalled_since: Option<StoredTime>,
    /// Who started it.
    pub actor: String,
    pub reason: Option<String>,
    /// The process that works on it, or did last.
    pub run_by: String,
    pub cancelled_by: Option<String>,
    /// Grows with each resume.
    pub epoch: i64,
    pub arguments: Option<Value>,
    pub parts: Vec<Part>,
    pub result: Option<Value>,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub started_at: StoredTime,
    pub resumed_at: Option<StoredTime>,
    pub updated_at: StoredTime,
    pub ended_at: Option<StoredTime>,
    pub resumable: bool,
    pub not_resumable_because: Option<String>,
}

impl From<Job> for JobLine {
    fn from(job: Job) -> Self {
        let why = not_resumable(&job);
        Self {
            id: job.id.to_string(),
            kind: job.kind,
            stalled_since: (job.state == Some(State::Stalled)).then_some(job.updated_at),
            state: job.state_name,
            actor: job.actor,
            reason: job.reason,
            run_by: job.run_by,
            cancelled_by: job.cancelled_by,
            epoch: job.epoch,
            arguments: job.arguments,
            parts: job.parts,
            result: job.result,
            error_code: job.error_code,
            error: job.error,
            hint: job.hint,
            started_at: job.started_at,
            resumed_at: job.resumed_at,
            updated_at: job.updated_at,
            ended_at: job.ended_at,
            resumable: why.is_none(),
            not_resumable_because: why,
        }
    }
}

impl JobLine {
    /// Whether nothing will change any more unless somebody acts.
    pub fn is_at_rest(&self) -> bool {
        self.ended_at.is_some() || self.stalled_since.is_some()
    }
}

/// What is left to do of a job, by kind.
#[derive(Debug)]
pub enum Resumable {
    /// The rest is in `outbox_replays`.
    Replay {
        ignore_retention: bool,
    },
    Cleanup(Box<Paused>),
    Redrive(Box<redrive::Paused>),
    Reshard {
        shards: u16,
        timeout: Duration,
    },
}

/// The newest jobs first.
pub async fn list(pool: &Pool, filter: &Filter) -> Result<Vec<JobLine>> {
    Ok(jobs::list(pool, filter).await?.into_iter().map(JobLine::from).collect())
}

/// Errors: [`Code::NotFound`].
pub async fn show(pool: &Pool, id: Uuid) -> Result<JobLine> {
    Ok(find(pool, id).await?.into())
}

async fn find(pool: &Pool, id: Uuid) -> Result<Job> {
    let Some(job) = jobs::find(pool, id).await? else {
        return Err(Error::new(Code::NotFound, format!("there is no job {id}"))
            .hint("to list the jobs run: outbox-relay jobs ls; ended ones are deleted after cleanup.jobs_older_than")
            .into());
    };
    Ok(job)
}

/// Cancels a job. Returns it as it is then.
pub async fn cancel(pool: &Pool, id: Uuid, author: &Author) -> Result<(JobLine, Cancelled)> {
    let cancelled = jobs::cancel(pool, id, author).await?;
    Ok((show(pool, id).await?, cancelled))
}

/// How to resume a job. `None`: it is done. `take_over`: also if a process is at work on it.
///
/// Errors: [`Code::NotFound`], or [`Code::CheckNotMet`] with the reason why it cannot be resumed.
pub async fn resume(pool: &Pool, id: Uuid, take_over: bool) -> Result<Option<Resumable>> {
    let job = find(pool, id).await?;
    match job.state {
        Some(State::Done) => return Ok(None),
        Some(State::Running | State::Cancelling) if take_over => {}
        Some(State::Running | State::Cancelling | State::Stalled | State::Cancelled | State::Failed) | None => {
            if let Some(why) = not_resumable(&job) {
                return Err(refused(id, &why).into());
            }
        }
    }
    Ok(Some(rest(&job).map_err(|why| refused(id, &why))?))
}

fn refused(id: Uuid, why: &str) -> Error {
    Error::new(Code::CheckNotMet, format!("job {id} cannot be resumed: {why}"))
        .hint(format!("to see it run: outbox-relay jobs show {id}"))
}

/// A process is at work on the job.
pub(super) fn busy(id: Uuid) -> Error {
    refused(id, "a process is at work on it; cancel it first, or use --take-over")
}

fn not_resumable(job: &Job) -> Option<String> {
    let at_work = || {
        format!(
            "process `{}` is at work on it; cancel it first, or use --take-over; if that process is gone, the job is stalled 15 s after its last sign of life",
            printable(&job.run_by)
        )
    };
    match job.state {
        None => Some(FOREIGN.to_owned()),
        Some(State::Done) => Some("it is done".to_owned()),
        Some(State::Running | State::Cancelling) => Some(at_work()),
        Some(State::Stalled | State::Cancelled | State::Failed) => rest(job).err(),
    }
}

/// As many as `shards set` accepts.
const SHARDS_MAX: u16 = 32_767;
/// A longer one is no timeout of ours.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 86_400);

const FOREIGN: &str = "another version of outbox-relay has written it; resume it with that version";

/// Errors: why it cannot be resumed.
fn rest(job: &Job) -> std::result::Result<Resumable, String> {
    let foreign = || FOREIGN.to_owned();
    let arguments = job.arguments.as_ref().ok_or_else(foreign)?;
    match Kind::from_name(&job.kind).ok_or_else(foreign)? {
        Kind::Replay => {
            let ignore_retention = arguments["ignore_retention"].as_bool().unwrap_or(false);
            Ok(Resumable::Replay { ignore_retention })
        }
        Kind::Cleanup => {
            let paused = cleanup::paused(job.id, arguments, job.result.as_ref()).ok_or_else(foreign)?;
            Ok(Resumable::Cleanup(Box::new(paused)))
        }
        Kind::Redrive => {
            let (cursor, result) = (job.cursor.as_ref(), job.result.as_ref());
            let paused = redrive::paused(job.id, arguments, cursor, result).ok_or_else(foreign)?;
            Ok(Resumable::Redrive(Box::new(paused)))
        }
        Kind::Reshard => {
            let shards = arguments["shards"].as_u64().and_then(|shards| u16::try_from(shards).ok());
            let seconds = arguments["timeout_seconds"].as_f64();
            let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let shards = shards.filter(|shards| (1..=SHARDS_MAX).contains(shards)).ok_or_else(foreign)?;
            let timeout = timeout.filter(|timeout| *timeout <= TIMEOUT_MAX).ok_or_else(foreign)?;
            Ok(Resumable::Reshard { shards, timeout })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(kind: &str, state: State, arguments: Value) -> Job {
        let now = StoredTime::from(jiff::Timestamp::UNIX_EPOCH);
        Job {
            id: Uuid::nil(),
            kind: kind.to_owned(),
            state: Some(state),
            state_name: state.as_str().to_owned(),
            actor: "me".to_owned(),
            reason: None,
            run_by: "me process 7".to_owned(),
            cancelled_by: None,
            epoch: 1,
            arguments: Some(arguments),
            parts: Vec::new(),
            cursor: None,
            result: None,
            error_code: None,
            error: None,
            hint: None,
            started_at: now,
            resumed_at: None,
            updated_at: now,
            ended_at: None,
        }
    }

    #[test]
    fn a_job_says_why_it_cannot_be_resumed() {
        let why = |kind, state, arguments| JobLine::from(job(kind, state, arguments)).not_resumable_because;
        let shards = json!({ "shards": 4, "timeout_seconds": 120.0 });
        assert_eq!(why("reshard", State::Failed, shards.clone()), None);
        assert_eq!(why("replay", State::Stalled, json!({})), None);
        for (kind, state, arguments, says) in [
            ("reshard", State::Done, shards.clone(), "done"),
            ("reshard", State::Running, shards, "me process 7"),
            ("reshard", State::Failed, json!({ "shards": 0, "timeout_seconds": 1e300 }), "another version"),
            ("cleanup", State::Failed, json!([]), "another version"),
            ("redrive", State::Cancelled, json!(null), "another version"),
            ("rebuild", State::Stalled, json!({}), "another version"),
        ] {
            let why = why(kind, state, arguments).unwrap_or_default();
            assert!(why.contains(says), "{kind}: {why}");
        }
    }
}
