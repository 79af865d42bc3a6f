//! Finished rows deleted on request, as the schedule does it, with a count before.
//!
//! It may run beside the schedule and beside itself: what another one has locked is passed over. It runs as a job. What
//! it was asked for is in `outbox_audit` before the first row is deleted, and the result when it ends; after a kill in
//! between, only the first is there.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::jobs::Recording;
use super::progress::{Progress, Step};
use super::{Author, Result};
use crate::cleanup::Chunks;
use crate::cleanup::worker::{self, Walk, Worker};
use crate::config::Config;
use crate::db::{Database, DbError, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::audit;
use crate::outbox::cleanup::{self, Ages, ROWS_DELETED, Session, Tally, Window};
use crate::outbox::jobs::{self, Handle, Kind};

/// Rows that one statement counts: large enough to be quick, small enough for every statement_timeout.
const COUNTED: u32 = 20_000;
/// The same in pages of event_handled.
const COUNTED_PAGES: u64 = 512;

/// The largest age that `--older-than` accepts.
pub const OLDEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// What can be deleted: states of events, and the consumer's record of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Published,
    Failed,
    Discarded,
    /// Entries of event_handled.
    Handled,
}

impl Finished {
    const ALL: [Self; 4] = [Self::Published, Self::Discarded, Self::Failed, Self::Handled];

    fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Handled => "handled",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|finished| finished.name() == name)
    }
}

#[derive(Debug, Clone)]
pub struct Request {
    pub older_than: Duration,
    pub status: Vec<Finished>,
    /// Most rows to delete.
    pub limit: Option<u64>,
}

/// What there is to delete.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    rows: Tally,
    /// FAILED rows of that age that stay.
    kept: u64,
    /// Later ids are not looked at.
    up_to: i64,
}

/// Rows of one state.
#[derive(Debug, Serialize)]
pub struct Line {
    pub status: &'static str,
    pub found: u64,
    /// Old enough, but something waits for them.
    pub kept: u64,
    pub deleted: u64,
}

/// The rows that are old enough, counted.
pub struct Plan {
    request: Request,
    session: Session,
    found: Found,
    /// The job that this continues.
    resumes: Option<Paused>,
}

/// A job that has stopped in the middle.
#[derive(Debug, Clone)]
pub struct Paused {
    job: Uuid,
    /// `limit` is that of the whole job.
    request: Request,
    deleted: Tally,
    /// Also if a process is at work on it.
    pub take_over: bool,
}

impl Paused {
    /// What is left of the request.
    fn rest(&self) -> Request {
        let limit = self.request.limit.map(|limit| limit.saturating_sub(self.deleted.total()));
        Request { limit, ..self.request.clone() }
    }
}

/// Reads the arguments and the result of a job. `None`: they are not what this version writes.
pub(super) fn paused(job: Uuid, arguments: &Value, result: Option<&Value>) -> Option<Paused> {
    let older_than = Duration::try_from_secs_f64(arguments["older_than_seconds"].as_f64()?).ok()?;
    let status = arguments["status"].as_array()?.iter().map(|name| Finished::from_name(name.as_str()?));
    let status: Vec<Finished> = status.collect::<Option<_>>()?;
    let limit = if arguments["limit"].is_null() { None } else { Some(arguments["limit"].as_u64()?) };
    if older_than > OLDEST || status.is_empty() {
        return None;
    }
    let request = Request { older_than, status, limit };
    let deleted = result.map(Tally::from_json).unwrap_or_default();
    Some(Paused { job, request, deleted, take_over: false })
}

/// What was deleted.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub lines: Vec<Line>,
    /// The job of this run, unless it was not recorded.
    #[serde(skip)]
    pub job: Option<Uuid>,
    #[serde(skip)]
    failed: Option<Error>,
}

/// Counts what there is to delete. Changes nothing.
pub async fn plan(settings: &Config, request: Request, progress: &dyn Progress) -> Result<Plan> {
    let pool = Database::of(settings)?.pool(Role::Cleanup, 1);
    let session = Session::open(&pool).await?;
    let found = count(&session, &request, progress).await?;
    Ok(Plan { request, session, found, resumes: None })
}

/// The same for what is left of a job.
pub async fn plan_rest(settings: &Config, paused: Paused, progress: &dyn Progress) -> Result<Plan> {
    let plan = plan(settings, paused.rest(), progress).await?;
    Ok(Plan { resumes: Some(paused), ..plan })
}

impl Plan {
    /// FAILED rows of that age that stay, because something waits for them.
    pub fn kept(&self) -> u64 {
        self.found.kept
    }

    /// Rows that a run would delete.
    pub fn rows(&self) -> u64 {
        self.found.rows.total().min(self.request.limit.unwrap_or(u64::MAX))
    }

    /// Whether there is nothing to delete, whatever the limit.
    pub fn is_empty(&self) -> bool {
        self.found.rows.total() == 0
    }

    /// Whether an event that is delivered again would be folded again: the consumer tells it by its entry.
    pub fn lets_repeats_through(&self, settings: &Config) -> bool {
        let kept = settings.cleanup.published_older_than.age();
        self.request.status.contains(&Finished::Handled) && kept.is_none_or(|kept| self.request.older_than < kept)
    }

    /// What a run would do.
    pub fn preview(&self) -> Report {
        self.report(Tally::default(), None, None)
    }

    /// Deletes batch by batch. A stop ends it after the batch in hand. The report says what was deleted, even when it
    /// failed on the way. Whoever drops this in the middle finds in `deleted` what went before.
    pub async fn run(
        &self,
        settings: &Config,
        author: &Author,
        progress: &dyn Progress,
        stop: &CancellationToken,
        deleted: &mut Deleted,
    ) -> Result<Report> {
        let pool = super::pool(settings)?;
        let (job, before) = self.begin(&pool, author, progress).await?;
        let id = job.map(|job| job.id);
        let record = Record { pool: pool.clone(), author: author.clone(), run: id.unwrap_or_else(Uuid::new_v4) };
        let recording = Recording::new(&pool, job, author, progress, stop).in_portions();
        if let Err(failure) = record.write("cleanup", asked(&self.request, &self.found)).await {
            let error = Error::from(failure);
            recording.end(Some(&error), None).await;
            return Err(error.into());
        }
        if let Some(job) = job {
            let total = before.total().saturating_add(self.rows());
            self.session.record(cleanup::Record { job, total, deleted: before });
        }
        let (session, request, found) = (&self.session, &self.request, &self.found);
        let tally = &mut deleted.0;
        let work = async {
            delete(session, settings, request, found, stop, &recording, tally).await?;
            if session.is_lost() { Err(recording.lost().into()) } else { Ok::<_, Stop>(()) }
        };
        let outcome = recording.run(Box::pin(work)).await;
        let (deleted, interrupted) = (*tally, stop.is_cancelled());
        let ended = match (&outcome, interrupted) {
            (Ok(()), false) => "done",
            (Ok(()), true) => "interrupted",
            (Err(_), _) => "failed",
        };
        let recorded = record.write("cleanup ended", json!({ "deleted": deleted.to_json(), "outcome": ended })).await;
        let failed = match outcome {
            Err(Stop::Failed(error)) if deleted.total() > 0 => {
                Some(partly("failed on the way", deleted, id).caused_by(explained(error)))
            }
            Err(Stop::Failed(error)) => Some(explained(error)),
            Err(Stop::Lost(error)) => Some(error),
            Ok(()) if interrupted => Some(partly("interrupted", deleted, id)),
            Ok(()) => recorded.err().map(Error::from),
        };
        recording.end(failed.as_ref(), Some((before + deleted).to_json())).await;
        Ok(self.report(deleted, id, failed))
    }

    /// Begins or resumes the job. Returns it, unless nothing is recorded, and what it has deleted before.
    async fn begin(&self, pool: &Pool, author: &Author, progress: &dyn Progress) -> Result<(Option<Handle>, Tally)> {
        if let Some(paused) = &self.resumes {
            let take = jobs::Take { id: paused.job, author, take_over: paused.take_over };
            let job = jobs::resume(pool, take).await?.ok_or_else(|| super::jobs::busy(paused.job))?;
            return Ok((Some(job), paused.deleted));
        }
        if !Recording::is_possible(pool, progress).await? {
            return Ok((None, Tally::default()));
        }
        let arguments = json!({
            "older_than_seconds": self.request.older_than.as_secs_f64(),
            "status": self.request.status.iter().map(|status| status.name()).collect::<Vec<_>>(),
            "limit": self.request.limit,
        });
        let (id, kind) = (Uuid::now_v7(), Kind::Cleanup);
        let part = jobs::Part { what: ROWS_DELETED.to_owned(), done: 0, total: self.rows() };
        let new = jobs::New { id, kind, arguments, parts: vec![part], cursor: None };
        Ok((Some(jobs::begin(pool, &new, author).await?), Tally::default()))
    }

    fn report(&self, deleted: Tally, job: Option<Uuid>, failed: Option<Error>) -> Report {
        Report { lines: lines(&self.request, &self.found, deleted), job, failed }
    }
}

/// Why the work ended early.
enum Stop {
    Failed(DbError),
    /// Another process has the job.
    Lost(Error),
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Failed(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

/// What a run has deleted so far.
#[derive(Debug, Default)]
pub struct Deleted(Tally);

impl Deleted {
    /// The error of a run that was dropped.
    pub fn interrupted(&self) -> Error {
        partly("interrupted in the middle of a batch; PostgreSQL rolls that batch back", self.0, None)
    }
}

impl Report {
    /// Errors: it was stopped, or failed on the way.
    pub fn verdict(self) -> Result<(), Error> {
        self.failed.map_or(Ok(()), Err)
    }
}

async fn count(session: &Session, request: &Request, progress: &dyn Progress) -> Result<Found> {
    let mut found = Found { up_to: session.last_id().await?, ..Found::default() };
    let ids = u64::try_from(found.up_to).unwrap_or(0);
    let ages = ages(request);
    let window = |after| Window { after, up_to: found.up_to, rows: COUNTED };
    if ages != Ages::default() {
        let mut after = Some(0);
        while let Some(id) = after {
            progress.report(Step::new("ids looked at", u64::try_from(id).unwrap_or(0), ids));
            let looked = session.count_finished(window(id), ages).await?;
            found.rows += looked.deleted;
            after = looked.last_id;
        }
    }
    if request.status.contains(&Finished::Failed) {
        let mut after = Some(0);
        while let Some(id) = after {
            let (looked, kept) = session.count_failed(window(id), request.older_than).await?;
            found.rows += looked.deleted;
            found.kept += kept;
            after = looked.last_id;
        }
    }
    if request.status.contains(&Finished::Handled) {
        let pages = session.handled_extent().await?.pages;
        let step = |done| progress.report(Step::new("pages of event_handled checked", done, pages));
        step(0);
        let mut first = 0;
        while first < pages {
            let handled = session.count_handled(first..first + COUNTED_PAGES, request.older_than).await?;
            first += COUNTED_PAGES;
            found.rows += Tally { handled, ..Tally::default() };
            step(first.min(pages));
        }
    }
    Ok(found)
}

async fn delete(
    session: &Session,
    settings: &Config,
    request: &Request,
    found: &Found,
    stop: &CancellationToken,
    progress: &dyn Progress,
    deleted: &mut Tally,
) -> Result<(), DbError> {
    let total = found.rows.total().min(request.limit.unwrap_or(u64::MAX));
    let step = |done| progress.report(Step::new(ROWS_DELETED, done, total));
    step(0);
    let mut worker = Worker::for_command(session, &settings.cleanup, stop.clone());
    if let Some(limit) = request.limit {
        worker = worker.at_most(limit);
    }
    let mut tell = |some: Tally| {
        *deleted += some;
        step(deleted.total());
    };
    let ages = ages(request);
    if ages != Ages::default() {
        worker.finished(Walk { after: 0, up_to: found.up_to, to_the_end: true }, ages, &mut tell).await?;
    }
    if request.status.contains(&Finished::Failed) {
        worker.failed(found.up_to, request.older_than, &mut tell).await?;
    }
    if request.status.contains(&Finished::Handled) {
        worker.handled(&mut Chunks::default(), request.older_than, &mut tell).await?;
    }
    worker.doubt().map_or(Ok(()), Err)
}

fn ages(request: &Request) -> Ages {
    let age = |status| request.status.contains(&status).then_some(request.older_than);
    Ages { published: age(Finished::Published), discarded: age(Finished::Discarded) }
}

/// Writes to `outbox_audit`.
struct Record {
    pool: Pool,
    author: Author,
    /// Joins what was asked for and what came of it.
    run: Uuid,
}

impl Record {
    async fn write(&self, action: &str, mut details: Value) -> Result<()> {
        details["run"] = self.run.to_string().into();
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        audit::record(&tx, &self.author, action, &details).await.map_err(explained)?;
        tx.commit().await?;
        connection.done();
        Ok(())
    }
}

fn asked(request: &Request, found: &Found) -> Value {
    json!({
        "older_than_seconds": request.older_than.as_secs(),
        "status": lines(request, found, Tally::default()).iter().map(|line| line.status).collect::<Vec<_>>(),
        "limit": request.limit,
        "found": found.rows.to_json(),
    })
}

fn partly(why: &str, deleted: Tally, job: Option<Uuid>) -> Error {
    let hint = match job {
        Some(id) => format!("run it again to continue, or: outbox-relay jobs resume {id}"),
        None => "run it again to continue".to_owned(),
    };
    Error::new(Code::PartlyDone, format!("{why}: {} rows were deleted", deleted.total())).hint(hint)
}

/// A missing grant and a slow disk have remedies of their own.
fn explained(error: DbError) -> Error {
    if error.is_denied() {
        let cause: Error = error.into();
        return Error::new(Code::PostgresStatement, cause.chain())
            .hint("cleanup needs delete on outbox_events and event_handled, and insert on outbox_audit: see the grants in docs/roles.sql");
    }
    if worker::is_timeout(&error) {
        return Error::new(Code::PostgresStatement, "a batch took longer than database.statement_timeout")
            .hint("wait longer, with --set database.statement_timeout=10m, or make batches smaller, with --set cleanup.batch_rows=100");
    }
    error.into()
}

fn lines(request: &Request, found: &Found, deleted: Tally) -> Vec<Line> {
    let line = |status: Finished, found, kept, deleted| {
        request.status.contains(&status).then_some(Line { status: status.name(), found, kept, deleted })
    };
    let rows = found.rows;
    [
        line(Finished::Published, rows.published, 0, deleted.published),
        line(Finished::Discarded, rows.discarded, 0, deleted.discarded),
        line(Finished::Failed, rows.failed, found.kept, deleted.failed),
        line(Finished::Handled, rows.handled, 0, deleted.handled),
    ]
    .into_iter()
    .flatten()
    .collect()
}
