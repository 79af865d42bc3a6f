//! `cleanup`: deletes finished rows by hand, as `run` does by schedule, with a count before and a bar while it works.

use tokio_util::sync::CancellationToken;

use super::confirm::confirmed;
use super::progress::Shown;
use super::signals::Signals;
use super::{Context, Result, author};
use crate::cli::{self, CleanupArgs};
use crate::config::{Config, Needs};
use crate::db::Database;
use crate::operations::cleanup::{self, Deleted, Finished, Paused, Plan, Report, Request};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, args: &CleanupArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let plan = cleanup::plan(&settings, request(args), &Shown::default()).await?;
    if plan.kept() > 0 {
        output::note(&format!(
            "{} failed row(s) of that age stay: their key is held, or their dead letter is still to be written; \
             outbox-relay events ls --status failed lists them",
            plan.kept()
        ));
    }
    if plan.lets_repeats_through(&settings) {
        output::note(
            "events can still be replayed, or read again from their topic, after their entry in event_handled is gone: projections would count them twice",
        );
    }
    if args.consent.dry_run || plan.is_empty() {
        print(context, &plan.preview())?;
        output::note(if args.consent.dry_run { "nothing was deleted" } else { "there is nothing to delete" });
        return Ok(());
    }
    let place = Database::of(&settings)?.describe();
    if !confirmed(args.consent.yes, &format!("Delete {} rows of {place}?", plan.rows()))? {
        return Ok(());
    }
    carry_out(context, &settings, &plan, args.consent.reason.clone()).await
}

/// Continues a job that has stopped in the middle.
pub(super) async fn resume(context: &Context, paused: Paused, reason: Option<String>) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let plan = cleanup::plan_rest(&settings, paused, &Shown::default()).await?;
    carry_out(context, &settings, &plan, reason).await
}

async fn carry_out(context: &Context, settings: &Config, plan: &Plan, reason: Option<String>) -> Result<()> {
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let (author, progress, mut deleted) = (author(reason), Shown::default(), Deleted::default());
    let work = plan.run(settings, &author, &progress, &stop, &mut deleted);
    let Some(outcome) = signals.run(Box::pin(work), &stop).await else { return Err(deleted.interrupted().into()) };
    drop(progress);
    let report = outcome?;
    print(context, &report)?;
    if let Some(job) = report.job {
        output::note(&format!("job {job}"));
    }
    Ok(report.verdict()?)
}

fn request(args: &CleanupArgs) -> Request {
    let status = args.status.iter().map(|status| match status {
        cli::Finished::Published => Finished::Published,
        cli::Finished::Failed => Finished::Failed,
        cli::Finished::Discarded => Finished::Discarded,
        cli::Finished::Handled => Finished::Handled,
    });
    Request { older_than: args.older_than, status: status.collect(), limit: args.limit }
}

fn print(context: &Context, report: &Report) -> Result<()> {
    output::data(context.format(), report, &report.lines, || {
        let mut table = Table::new(&[
            ("STATUS", Align::Left),
            ("FOUND", Align::Right),
            ("KEPT", Align::Right),
            ("DELETED", Align::Right),
        ]);
        for line in &report.lines {
            let kept = Cell::new(line.kept).tone(if line.kept > 0 { Tone::Warning } else { Tone::Faint });
            table.row([Cell::new(line.status), Cell::new(line.found), kept, Cell::new(line.deleted)]);
        }
        table.render()
    })?;
    Ok(())
}
