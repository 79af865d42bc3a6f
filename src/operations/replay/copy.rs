//! The copies themselves, at a rate, through outages of PostgreSQL.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::report::Outcome;
use super::{count_of, resume_command, stopped};
use crate::clock::monotonic;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Result};
use crate::outbox::replay::{self, Pace, Portion, Replay};
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
    pub(super) author: Author,
    pub(super) ignore_retention: bool,
}

impl Run {
    pub fn id(&self) -> Uuid {
        self.replay.id
    }

    /// Makes the copies that are left, portion by portion, at the rate.
    pub async fn copy(mut self, pool: &Pool, progress: &dyn Progress, stop: &CancellationToken) -> Result<Outcome> {
        let replay = &mut self.replay;
        let resume = resume_command(replay.id, self.ignore_retention);
        let rate = replay.rate.and_then(|rate| u32::try_from(rate).ok());
        let mut pace = Pace::new(rate.map_or(PORTION, |rate| (rate / PORTIONS_PER_SECOND).max(1)));
        let step = |replay: &Replay| Step::new("copied", count_of(replay.copied), count_of(replay.matched));
        progress.report(step(replay));
        let (mut due, mut outage, mut backoff) = (monotonic(), None, Backoff::for_connection());
        let mut refused = Refused::default();
        while !replay.finished {
            // A rate is an average, but a pause is not made up for: the copies of a minute do not come in one second.
            due = due.max(monotonic().saturating_sub(Duration::from_secs(1)));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped(Some(resume)).into()),
                () = tokio::time::sleep(due.saturating_sub(monotonic())) => {}
            }
            let before = replay.copied;
            let portion = match replay::portion(pool, replay, self.runner, &mut pace, &self.author).await {
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
                Portion::Taken => return Err(taken(replay.id).into()),
                Portion::Refused { id, reason } => refused.add(id, &reason, &resume, progress)?,
                Portion::Done => refused.in_a_row = 0,
            }
            if let Some(rate) = rate {
                due += Duration::from_secs_f64((replay.copied - before) as f64 / f64::from(rate));
            }
            progress.report(step(replay));
        }
        Ok(Outcome::new(replay, refused.all))
    }
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
            .hint(format!("the cause is a constraint or a trigger of yours; fix it, then {resume}"))
            .into())
    }
}
