//! `dlq`: dead letters in Kafka, each with what the outbox knows of it.

mod view;

use tokio_util::sync::CancellationToken;

use super::confirm::{can_ask, confirmed};
use super::progress::Shown;
use super::signals::Signals;
use super::{Context, Result, admin_pool, author};
use crate::cli::{DlqCommand, DlqLsArgs, DlqPurgeArgs, DlqRedriveArgs, LetterFilter, Place};
use crate::config::{Config, Needs};
use crate::db::Pool;
use crate::operations::dlq::purge::{self, Part};
use crate::operations::dlq::redrive::{self, Paused, Plan, Redrive, Report};
use crate::operations::dlq::{self, Filter};
use crate::output;

/// Refusals that are told one by one; JSON has them all.
const REFUSALS_SHOWN: usize = 20;

pub(super) async fn run(context: &Context, command: &DlqCommand) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let pool = admin_pool(&settings)?;
    match command {
        DlqCommand::Ls(args) => ls(context, &settings, &pool, args).await,
        DlqCommand::Show { places } => show(context, &settings, &pool, places).await,
        DlqCommand::Redrive(args) => redrive(context, &settings, &pool, args).await,
        DlqCommand::Purge(args) => purge(context, &settings, &pool, args).await,
    }
}

fn filter(args: &LetterFilter) -> Filter {
    Filter {
        topic: args.topic.clone(),
        class: args.class.clone(),
        since: args.since,
        until: args.until,
        dlq: args.dlq.clone(),
    }
}

async fn ls(context: &Context, settings: &Config, pool: &Pool, args: &DlqLsArgs) -> Result<()> {
    let listed = dlq::list(settings, pool, &filter(&args.filter), args.limit as usize).await?;
    let (letters, matching) = (&listed.letters, listed.matching);
    output::data(context.format(), &listed, letters, || view::letters(letters))?;
    if matching == 0 {
        output::note("no dead letter matches");
    } else if matching > letters.len() as u64 {
        output::note(&format!(
            "{matching} dead letters match, the last {} are listed: --limit, --since",
            letters.len()
        ));
    }
    Ok(())
}

async fn show(context: &Context, settings: &Config, pool: &Pool, places: &[Place]) -> Result<()> {
    let shown = dlq::show(settings, pool, places).await?;
    if !shown.letters.is_empty() {
        output::data(context.format(), &shown, &shown.letters, || view::blocks(&shown.letters))?;
    }
    Ok(shown.verdict()?)
}

async fn redrive(context: &Context, settings: &Config, pool: &Pool, args: &DlqRedriveArgs) -> Result<()> {
    if !args.consent.dry_run {
        can_ask(args.consent.yes)?;
    }
    let request = redrive::Request { places: args.places.clone(), filter: filter(&args.filter), rate: args.rate };
    let mut redrive = Redrive::new(settings, pool, &request).await?;
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let work = Box::pin(async {
        let plan = redrive.plan().await?;
        tell(&plan);
        if args.consent.dry_run || plan.to_do() == 0 {
            return print_redriven(context, &plan.report(args.consent.dry_run));
        }
        for (topic, count) in plan.by_topic() {
            output::note(&output::printable(&format!("{count:>10}  {topic}")));
        }
        if !confirmed(args.consent.yes, &format!("Send {} dead letters back?", plan.to_do()))? {
            return Ok(());
        }
        let author = author(args.consent.reason.clone());
        let report = redrive.run(&plan, &author, &Shown::default(), &stop).await?;
        print_redriven(context, &report)
    });
    signals.run(work, &stop).await.unwrap_or_else(|| Err(redrive::stopped().into()))
}

/// Continues a job that has stopped in the middle.
pub(super) async fn resume(context: &Context, paused: Paused, reason: Option<String>) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let pool = admin_pool(&settings)?;
    let mut redrive = Redrive::rest_of(&settings, &pool, paused).await?;
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let work = Box::pin(async {
        let plan = redrive.plan().await?;
        tell(&plan);
        let report = redrive.run(&plan, &author(reason), &Shown::default(), &stop).await?;
        print_redriven(context, &report)
    });
    signals.run(work, &stop).await.unwrap_or_else(|| Err(redrive::stopped().into()))
}

/// Says what Kafka would not keep.
fn tell(plan: &Plan) {
    let events = plan.expired();
    if events > 0 {
        output::note(&format!(
            "{events} of these events are older than their topic keeps records (retention.ms): Kafka deletes or refuses them at once"
        ));
    }
}

fn print_redriven(context: &Context, report: &Report) -> Result<()> {
    output::data(context.format(), report, &report.letters, || view::redriven(&report.letters))?;
    let refused = report.letters.iter().filter(|line| line.outcome == "refused");
    for line in refused.take(REFUSALS_SHOWN) {
        let why = line.why.as_deref().unwrap_or_default();
        output::note(&output::printable(&format!("{}: {why}", line.name())));
    }
    Ok(report.verdict()?)
}

async fn purge(context: &Context, settings: &Config, pool: &Pool, args: &DlqPurgeArgs) -> Result<()> {
    let consent = &args.consent;
    if !consent.dry_run {
        can_ask(consent.yes)?;
    }
    let request = purge::Request {
        places: args.places.clone(),
        topic: args.topic.clone(),
        older_than: args.older_than,
        force: args.force,
    };
    let plan = purge::plan(settings, pool, &request).await?;
    let (total, undecided) = (plan.total(), plan.undecided());
    if consent.dry_run {
        print_parts(context, plan.parts())?;
        if undecided > 0 {
            output::note(&format!("{undecided} of them are still waiting: without --force nothing would be deleted"));
        }
        return Ok(());
    }
    if let Err(refused) = plan.may_run() {
        print_parts(context, plan.parts())?;
        return Err(refused.into());
    }
    let lost = if undecided > 0 { format!(", {undecided} of which never went back") } else { String::new() };
    if !confirmed(consent.yes, &format!("Delete {total} dead letters{lost}? Kafka cannot undo this."))? {
        return Ok(());
    }
    let report = plan.run(settings, pool, &author(consent.reason.clone()), &Shown::default()).await?;
    print_parts(context, &report.parts)?;
    Ok(report.verdict()?)
}

fn print_parts(context: &Context, parts: &[Part]) -> Result<()> {
    Ok(output::data(context.format(), parts, parts, || view::parts(parts))?)
}
