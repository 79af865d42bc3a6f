//! Finished rows deleted on request, as the schedule does it, with a count before.
//!
//! It may run beside the schedule and beside itself: what another one has locked is passed over. What it was asked for
//! stands in `outbox_audit` before the first row goes, and what came of it when it ends; if it was killed in between,
//! only the first is there.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::{Progress, Step};
use super::{Author, Result};
use crate::cleanup::Chunks;
use crate::cleanup::worker::{self, Walk, Worker};
use crate::config::Config;
use crate::db::{Database, DbError, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::audit;
use crate::outbox::cleanup::{Ages, Session, Tally, Window};

/// Rows that one statement counts: large enough to be quick, small enough for every statement_timeout.
const COUNTED: u32 = 20_000;
/// The same in pages of event_handled.
const COUNTED_PAGES: u64 = 512;

/// What can be deleted: states of events, and the consumer's record of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Published,
    Failed,
    Discarded,
    /// Entries of event_handled.
    Handled,
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
}

/// What was deleted.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub lines: Vec<Line>,
    #[serde(skip)]
    failed: Option<Error>,
}

/// Counts what there is to delete. Changes nothing.
pub async fn plan(settings: &Config, request: Request, progress: &dyn Progress) -> Result<Plan> {
    let pool = Database::of(settings)?.pool(Role::Cleanup, 1);
    let session = Session::open(&pool).await?;
    let found = count(&session, &request, progress).await?;
    Ok(Plan { request, session, found })
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
        self.report(Tally::default(), None)
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
        let record = Record { pool: super::pool(settings)?, author: author.clone(), run: Uuid::new_v4() };
        record.write("cleanup", asked(&self.request, &self.found)).await?;
        let tally = &mut deleted.0;
        let outcome = delete(&self.session, settings, &self.request, &self.found, stop, progress, tally).await;
        let (deleted, interrupted) = (*tally, stop.is_cancelled());
        let ended = match (&outcome, interrupted) {
            (Ok(()), false) => "done",
            (Ok(()), true) => "interrupted",
            (Err(_), _) => "failed",
        };
        let recorded = record.write("cleanup ended", json!({ "deleted": counts(deleted), "outcome": ended })).await;
        let failed = match outcome {
            Err(error) if deleted.total() > 0 => Some(partly("failed on the way", deleted).caused_by(explained(error))),
            Err(error) => Some(explained(error)),
            Ok(()) if interrupted => Some(partly("interrupted", deleted)),
            Ok(()) => recorded.err().map(Error::from),
        };
        Ok(self.report(deleted, failed))
    }

    fn report(&self, deleted: Tally, failed: Option<Error>) -> Report {
        Report { lines: lines(&self.request, &self.found, deleted), failed }
    }
}

/// What a run has deleted so far.
#[derive(Debug, Default)]
pub struct Deleted(Tally);

impl Deleted {
    /// The error of a run that was dropped.
    pub fn interrupted(&self) -> Error {
        partly("interrupted in the middle of a batch; PostgreSQL rolls that batch back", self.0)
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
    let step = |done| progress.report(Step::new("rows deleted", done, total));
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
    Ok(())
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
        "found": counts(found.rows),
    })
}

fn counts(tally: Tally) -> Value {
    json!({
        "published": tally.published,
        "discarded": tally.discarded,
        "failed": tally.failed,
        "handled": tally.handled,
    })
}

fn partly(why: &str, deleted: Tally) -> Error {
    Error::new(Code::PartlyDone, format!("{why}: {} rows were deleted", deleted.total())).hint("run it again to go on")
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
    let line = |status, name, found, kept, deleted| {
        request.status.contains(&status).then_some(Line { status: name, found, kept, deleted })
    };
    let rows = found.rows;
    [
        line(Finished::Published, "published", rows.published, 0, deleted.published),
        line(Finished::Discarded, "discarded", rows.discarded, 0, deleted.discarded),
        line(Finished::Failed, "failed", rows.failed, found.kept, deleted.failed),
        line(Finished::Handled, "handled", rows.handled, 0, deleted.handled),
    ]
    .into_iter()
    .flatten()
    .collect()
}
