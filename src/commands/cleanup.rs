//! `cleanup`: deletes finished rows by hand, as `run` does by schedule, with a count before and a bar while it works.
//!
//! It may run beside the schedule and beside itself: what another one has locked is passed over. What it was asked for
//! stands in `outbox_audit` before the first row goes, and what came of it when it ends; if it was killed in between,
//! only the first is there.

use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::confirm::confirmed;
use super::signals::Signals;
use super::{Context, Result, admin_pool, author};
use crate::cleanup::Chunks;
use crate::cleanup::worker::{self, Walk, Worker};
use crate::cli::{CleanupArgs, Finished};
use crate::config::{Config, Needs};
use crate::db::{Database, DbError, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::audit::{self, Author};
use crate::outbox::cleanup::{Ages, Session, Tally, Window};
use crate::output::{self, Align, Cell, Progress, Table, Tone};

/// Rows that one statement counts: large enough to be quick, small enough for every statement_timeout.
const COUNTED: u32 = 20_000;
/// The same in pages of event_handled.
const COUNTED_PAGES: u64 = 512;

/// What there is to delete.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    rows: Tally,
    /// FAILED rows of that age that stay.
    kept: u64,
    /// Later ids are not looked at.
    up_to: i64,
}

#[derive(Debug, Serialize)]
struct Line {
    status: &'static str,
    found: u64,
    /// Old enough, but something waits for them.
    kept: u64,
    deleted: u64,
}

pub(super) async fn run(context: &Context, args: &CleanupArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let pool = Database::of(&settings)?.pool(Role::Cleanup, 1);
    let session = Session::open(&pool).await?;
    let found = count(&session, args).await?;
    if found.kept > 0 {
        output::note(&format!(
            "{} failed row(s) of that age stay: their key is held, or their dead letter is still to be written; \
             outbox-relay events ls --status failed lists them",
            found.kept
        ));
    }
    warn_of_repeats(&settings, args);
    if args.consent.dry_run || found.rows.total() == 0 {
        print(context, args, &found, Tally::default())?;
        output::note(if args.consent.dry_run { "nothing was deleted" } else { "there is nothing to delete" });
        return Ok(());
    }
    let rows = found.rows.total().min(args.limit.unwrap_or(u64::MAX));
    let place = Database::of(&settings)?.describe();
    if !confirmed(args.consent.yes, &format!("Delete {rows} rows of {place}?"))? {
        return Ok(());
    }

    let signals = Signals::listen();
    let stop = CancellationToken::new();
    let record =
        Record { pool: admin_pool(&settings)?, author: author(args.consent.reason.clone()), run: Uuid::new_v4() };
    record.write("cleanup", asked(args, &found)).await?;
    let mut deleted = Tally::default();
    let work = delete(&session, &settings, args, &found, &stop, &mut deleted);
    let Some(outcome) = signals.run(work, &stop).await else {
        return Err(partly("interrupted in the middle of a batch; PostgreSQL takes that batch back", deleted).into());
    };
    let interrupted = stop.is_cancelled();
    let ended = match (&outcome, interrupted) {
        (Ok(()), false) => "done",
        (Ok(()), true) => "interrupted",
        (Err(_), _) => "failed",
    };
    let recorded = record.write("cleanup ended", json!({ "deleted": counts(deleted), "outcome": ended })).await;
    print(context, args, &found, deleted)?;
    match outcome {
        Err(error) if deleted.total() > 0 => {
            Err(partly("failed on the way", deleted).caused_by(explained(error)).into())
        }
        Err(error) => Err(explained(error).into()),
        Ok(()) if interrupted => Err(partly("interrupted", deleted).into()),
        Ok(()) => recorded,
    }
}

/// The consumer tells an event that is delivered again by its entry.
fn warn_of_repeats(settings: &Config, args: &CleanupArgs) {
    let kept = settings.cleanup.published_older_than.age();
    if args.status.contains(&Finished::Handled) && kept.is_none_or(|kept| args.older_than < kept) {
        output::note(
            "events can still be replayed, or read again from their topic, after their entry in event_handled is gone: projections would count them twice",
        );
    }
}

async fn count(session: &Session, args: &CleanupArgs) -> Result<Found> {
    let mut found = Found { up_to: session.last_id().await?, ..Found::default() };
    let ids = u64::try_from(found.up_to).unwrap_or(0);
    let ages = ages(args);
    let window = |after| Window { after, up_to: found.up_to, rows: COUNTED };
    if ages != Ages::default() {
        let mut progress = Progress::new("ids looked at", 0, ids);
        let mut after = Some(0);
        while let Some(id) = after {
            progress.at(u64::try_from(id).unwrap_or(0));
            let looked = session.count_finished(window(id), ages).await?;
            found.rows += looked.deleted;
            after = looked.last_id;
        }
    }
    if args.status.contains(&Finished::Failed) {
        let mut after = Some(0);
        while let Some(id) = after {
            let (looked, kept) = session.count_failed(window(id), args.older_than).await?;
            found.rows += looked.deleted;
            found.kept += kept;
            after = looked.last_id;
        }
    }
    if args.status.contains(&Finished::Handled) {
        let pages = session.handled_extent().await?.pages;
        let mut progress = Progress::new("pages of event_handled looked at", 0, pages);
        let mut first = 0;
        while first < pages {
            let handled = session.count_handled(first..first + COUNTED_PAGES, args.older_than).await?;
            first += COUNTED_PAGES;
            found.rows += Tally { handled, ..Tally::default() };
            progress.at(first.min(pages));
        }
    }
    Ok(found)
}

async fn delete(
    session: &Session,
    settings: &Config,
    args: &CleanupArgs,
    found: &Found,
    stop: &CancellationToken,
    deleted: &mut Tally,
) -> Result<(), DbError> {
    let mut progress = Progress::new("rows deleted", 0, found.rows.total().min(args.limit.unwrap_or(u64::MAX)));
    let mut worker = Worker::for_command(session, &settings.cleanup, stop.clone());
    if let Some(limit) = args.limit {
        worker = worker.at_most(limit);
    }
    let mut tell = |some: Tally| {
        *deleted += some;
        progress.at(deleted.total());
    };
    let ages = ages(args);
    if ages != Ages::default() {
        worker.finished(Walk { after: 0, up_to: found.up_to, to_the_end: true }, ages, &mut tell).await?;
    }
    if args.status.contains(&Finished::Failed) {
        worker.failed(found.up_to, args.older_than, &mut tell).await?;
    }
    if args.status.contains(&Finished::Handled) {
        worker.handled(&mut Chunks::default(), args.older_than, &mut tell).await?;
    }
    Ok(())
}

fn ages(args: &CleanupArgs) -> Ages {
    let age = |status| args.status.contains(&status).then_some(args.older_than);
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

fn asked(args: &CleanupArgs, found: &Found) -> Value {
    json!({
        "older_than_seconds": args.older_than.as_secs(),
        "status": lines(args, found, Tally::default()).iter().map(|line| line.status).collect::<Vec<_>>(),
        "limit": args.limit,
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
            .hint("cleanup needs delete on outbox_events and event_handled, and insert on outbox_audit: docs/roles.sql has the grants");
    }
    if worker::is_timeout(&error) {
        return Error::new(Code::PostgresStatement, "a batch took longer than database.statement_timeout")
            .hint("wait longer, with --set database.statement_timeout=10m, or make batches smaller, with --set cleanup.batch_rows=100");
    }
    error.into()
}

fn lines(args: &CleanupArgs, found: &Found, deleted: Tally) -> Vec<Line> {
    let line = |status, name, found, kept, deleted| {
        args.status.contains(&status).then_some(Line { status: name, found, kept, deleted })
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

fn print(context: &Context, args: &CleanupArgs, found: &Found, deleted: Tally) -> Result<()> {
    let lines = lines(args, found, deleted);
    output::data(context.format(), &lines, &lines, || {
        let mut table = Table::new(&[
            ("STATUS", Align::Left),
            ("FOUND", Align::Right),
            ("KEPT", Align::Right),
            ("DELETED", Align::Right),
        ]);
        for line in &lines {
            let kept = Cell::new(line.kept).tone(if line.kept > 0 { Tone::Warning } else { Tone::Faint });
            table.row([Cell::new(line.status), Cell::new(line.found), kept, Cell::new(line.deleted)]);
        }
        table.render()
    })?;
    Ok(())
}
