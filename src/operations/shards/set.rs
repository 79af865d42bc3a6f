//! Another number of shards while applications insert and instances are at work. Runs as a job; what to do next is
//! known from the outbox itself.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::admin::Admin;
use crate::clock::monotonic;
use crate::config::{Config, Delivery};
use crate::db::Pool;
use crate::error::{self, Code, Error};
use crate::operations::jobs::Recording;
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Result};
use crate::outbox::backlog;
use crate::outbox::jobs::{self, Handle, Kind};
use crate::outbox::resharding::{Busy, Moved, Session, State};
use crate::relay::progress as markers;
use crate::text::printable;

/// Between two looks whether instances have given their shards up.
const LOOK: Duration = Duration::from_millis(100);
/// Between two attempts to keep writers out, so that the others get through meanwhile.
const WRITERS_PAUSE: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    pub from: i32,
    pub shards: i32,
    pub dry_run: bool,
    /// Events that wait or failed, and would be looked at; `null` unless it is a dry run.
    pub waiting: Option<i64>,
    /// Events that wait or failed, and stand in another shard now. After a command that was killed: only those it had
    /// not moved.
    pub moved: u64,
    /// Events whose rows refuse to be moved. Those that waited have failed, or wait behind another one of their key.
    pub refused: Vec<Refusal>,
    /// The id for `jobs`; `null` when this run is not recorded.
    pub job: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Refusal {
    pub id: i64,
    pub reason: String,
}

/// How the part ended that can be taken back.
enum Prepared {
    Changed,
    Stopped,
}

/// A change of the number of shards. While it exists, no other one can begin.
pub struct Plan {
    session: Session,
    state: State,
    shards: i32,
    resumes: bool,
    /// The job that this continues, if it was named.
    job: Option<Uuid>,
}

/// Asks how many shards there are. Changes nothing.
pub async fn plan(pool: &Pool, shards: u16) -> Result<Plan> {
    let shards = i32::from(shards);
    let Some(session) = Session::open(pool).await? else {
        return Err(Error::new(Code::CheckNotMet, "another command is changing the number of shards")
            .hint("wait until it has ended")
            .into());
    };
    let state = session.state().await?;
    let plan = Plan { resumes: resumes(state, shards)?, session, state, shards, job: None };
    if !plan.is_done() && !state.may_change {
        return Err(Error::new(Code::PostgresDenied, "this role does not own outbox_shard_count()")
            .hint("run it with the role that ran: outbox-relay migrate up")
            .into());
    }
    Ok(plan)
}

impl Plan {
    /// Continues this job.
    #[must_use]
    pub fn of_job(self, id: Uuid) -> Self {
        Self { job: Some(id), ..self }
    }

    /// How many shards there are.
    pub fn from(&self) -> i32 {
        self.state.shards
    }

    /// How many there shall be.
    pub fn shards(&self) -> i32 {
        self.shards
    }

    /// Whether there are as many already.
    pub fn is_done(&self) -> bool {
        self.state.shards == self.shards && self.state.wanted.is_none()
    }

    /// What a run would do.
    pub async fn preview(&self, pool: &Pool) -> Result<Report> {
        let waits = backlog::count(pool, u32::MAX).await?;
        let waiting = Some(waits.pending + waits.held + waits.failed);
        Ok(Report { waiting, ..self.nothing(true) })
    }

    /// The report of what was done already.
    pub fn nothing(&self, dry_run: bool) -> Report {
        let (from, shards) = (self.state.shards, self.shards);
        Report { from, shards, dry_run, waiting: None, moved: 0, refused: Vec::new(), job: None }
    }

    /// In exactly-once delivery each shard has its marker in a partition of its own, which Kafka is asked for.
    pub fn needs_kafka(&self, settings: &Config) -> bool {
        settings.relay.delivery == Delivery::ExactlyOnce || self.state.marked
    }

    /// What has to be there before. After it, [`Plan::run`] may be interrupted at any moment, and the change can be
    /// finished.
    pub async fn prepare(&mut self, settings: &Config) -> Result<()> {
        if self.needs_kafka(settings) {
            let topic = markers::name_of(&settings.run.deployment);
            let wanted = usize::try_from(self.shards).unwrap_or(0);
            markers::ensure_topic(&topic, &Admin::new(&settings.kafka)?, wanted).await?;
        }
        Ok(self.session.try_move().await?)
    }

    /// Changes the number of shards and moves the events that wait. `timeout` limits the wait for instances and for
    /// open transactions. A stop takes effect only before the change itself; then nothing was changed.
    pub async fn run(
        &mut self,
        pool: &Pool,
        timeout: Duration,
        author: &Author,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<Report, Error> {
        let job = self.begin(pool, timeout, author, progress).await?;
        let recording = Recording::new(pool, job, author, progress, stop);
        let outcome = recording.run(Box::pin(self.change(timeout, author, &recording, stop))).await;
        match outcome {
            Ok(report) => {
                let result = json!({
                    "from": report.from, "shards": report.shards, "moved": report.moved, "refused": report.refused.len(),
                });
                recording.end(report.verdict().err().as_ref(), Some(result)).await;
                Ok(Report { job: recording.id().map(|id| id.to_string()), ..report })
            }
            Err(error) => {
                recording.end(Some(&error), None).await;
                Err(error)
            }
        }
    }

    /// Begins the job, or resumes the one that asked for the same. The lock of the session says that no other process
    /// is at work on it. `None`: nothing is recorded.
    async fn begin(
        &self,
        pool: &Pool,
        timeout: Duration,
        author: &Author,
        progress: &dyn Progress,
    ) -> Result<Option<Handle>> {
        if !Recording::is_possible(pool, progress).await? {
            return Ok(None);
        }
        let earlier = match self.job {
            Some(id) => Some(id),
            None if self.resumes => jobs::unfinished(pool, Kind::Reshard, &json!({ "shards": self.shards })).await?,
            None => None,
        };
        if let Some(id) = earlier
            && let Some(job) = jobs::resume(pool, jobs::Take { id, author, take_over: true }).await?
        {
            return Ok(Some(job));
        }
        let arguments = json!({ "shards": self.shards, "timeout_seconds": timeout.as_secs_f64() });
        let new = jobs::New { id: Uuid::now_v7(), kind: Kind::Reshard, arguments, parts: Vec::new(), cursor: None };
        Ok(Some(jobs::begin(pool, &new, author).await?))
    }

    async fn change(
        &mut self,
        timeout: Duration,
        author: &Author,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<Report, Error> {
        let (session, shards) = (&mut self.session, self.shards);
        if self.resumes {
            progress.remark("continuing where the last command was interrupted");
        } else if let Prepared::Stopped = prepare(session, shards, monotonic() + timeout, progress, stop).await? {
            return Err(Error::new(Code::CheckNotMet, "interrupted; nothing was changed"));
        }
        let finish = async {
            let moved = move_events(session, progress).await?;
            session.finish(shards, &moved, author).await?;
            Ok(moved)
        };
        let moved: Moved = finish.await.map_err(|error| unfinished(error, shards))?;
        let refused = moved.refused.iter().map(|no| Refusal { id: no.item, reason: no.reason() }).collect();
        Ok(Report { moved: moved.events, refused, ..self.nothing(false) })
    }

    /// Ends the job of a change that is done, and whose process died just before it could do so itself.
    pub async fn end_job(&self, pool: &Pool, author: &Author) -> Result<()> {
        if jobs::recordable(pool).await? != jobs::Recordable::Yes {
            return Ok(());
        }
        if let Some(id) = self.job
            && let Some(job) = jobs::resume(pool, jobs::Take { id, author, take_over: true }).await?
        {
            jobs::end(pool, job, &jobs::End { ending: jobs::Ending::Done, parts: None, result: None }).await?;
        }
        Ok(())
    }
}

impl Report {
    /// Errors: some events were refused.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the number of shards was changed, and the table outbox_events refuses to let {} events be moved",
            self.refused.len()
        );
        Err(Error::new(Code::PartlyDone, message).hint(
            "a constraint or a trigger of yours does; the SQLSTATE says of what kind. Those that waited are FAILED, \
                 and later events of their keys wait: mend the rows, then run: outbox-relay events retry",
        ))
    }
}

/// The run was dropped in the middle.
pub fn interrupted(shards: i32) -> Error {
    unfinished(Error::new(Code::PartlyDone, "interrupted"), shards)
}

/// Whether an interrupted command is to be finished.
fn resumes(state: State, shards: i32) -> error::Result<bool> {
    match state.wanted {
        Some(wanted) if wanted == state.shards && wanted != shards => Err(Error::new(
            Code::Usage,
            format!("a change to {wanted} shards was interrupted, and is to be finished first"),
        )
        .hint(format!("run: outbox-relay shards set {wanted}"))),
        wanted => Ok(wanted == Some(state.shards)),
    }
}

/// Everything up to the change itself: instances give up their shards, writers are kept out for a moment. When it does
/// not come so far, all is given back.
async fn prepare(
    session: &mut Session,
    shards: i32,
    deadline: Duration,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> error::Result<Prepared> {
    let outcome = drain_and_change(session, shards, deadline, progress, stop).await;
    if !matches!(outcome, Ok(Prepared::Changed))
        && let Err(error) = session.abandon().await
    {
        // Whether the change took effect is not known.
        return Err(unfinished(outcome.err().unwrap_or_else(|| error.into()), shards));
    }
    outcome
}

async fn drain_and_change(
    session: &mut Session,
    shards: i32,
    deadline: Duration,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> error::Result<Prepared> {
    session.announce(shards).await?;
    progress.remark("waiting for instances to finish their batches");
    loop {
        let busy = session.take().await?;
        if busy.is_empty() {
            break;
        }
        if stop.is_cancelled() {
            return Ok(Prepared::Stopped);
        }
        if monotonic() > deadline {
            return Err(still_at_work(&busy));
        }
        tokio::time::sleep(LOOK).await;
    }
    loop {
        match session.change(shards).await {
            Ok(()) => return Ok(Prepared::Changed),
            Err(error) if error.is_lock_timeout() => {}
            Err(error) => return Err(error.into()),
        }
        if stop.is_cancelled() {
            return Ok(Prepared::Stopped);
        }
        let writers = session.open_writers().await?;
        if monotonic() > deadline {
            let message = format!("{writers} transactions that insert events stay open; nothing was changed");
            return Err(Error::new(Code::CheckNotMet, message)
                .hint("pg_stat_activity shows them by xact_start; end what hangs, or wait longer with --timeout"));
        }
        progress.remark(&format!("waiting for {writers} open transactions that insert events"));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(WRITERS_PAUSE) => {}
        }
    }
}

fn still_at_work(busy: &[Busy]) -> Error {
    let list = |owned: bool| {
        let of: Vec<String> = busy
            .iter()
            .filter(|shard| shard.owner.is_some() == owned)
            .map(|shard| match &shard.owner {
                Some(owner) => format!("{} ({})", shard.shard, printable(owner)),
                None => format!("{} ({} events in flight)", shard.shard, shard.in_flight),
            })
            .collect();
        of.join(", ")
    };
    if busy.iter().any(|shard| shard.owner.is_some()) {
        let message = format!("shards that were not given up in time: {}; nothing was changed", list(true));
        return Error::new(Code::CheckNotMet, message)
            .hint("the instance waits for Kafka, or is of a version that knows no shards set: stop it, or wait longer with --timeout");
    }
    let message = format!("shards whose batch in flight nobody settles: {}; nothing was changed", list(false));
    Error::new(Code::CheckNotMet, message)
        .hint("an instance has died in the middle of a batch: let one run, and resume what is paused, so that it is sent again")
}

async fn move_events(session: &mut Session, progress: &dyn Progress) -> error::Result<Moved> {
    let (mut moved, shards) = session.move_failed().await?;
    let total = shards.len() as u64;
    let step = |done| progress.report(Step::new("shards looked through", done, total));
    step(0);
    for (done, shard) in (1..).zip(shards) {
        moved.add(session.move_waiting(shard).await?);
        step(done);
    }
    Ok(moved)
}

/// From the change on, and when it is not known whether it took effect, the command has to be finished.
fn unfinished(error: Error, shards: i32) -> Error {
    Error::new(
        error.code(),
        "the change was interrupted; nothing is lost, and nothing is published until it is finished",
    )
    .caused_by(error)
    .hint(format!("run it again: outbox-relay shards set {shards}"))
}
