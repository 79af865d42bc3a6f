//! `consumer parked`.

use serde_json::Value;
use uuid::Uuid;

use crate::cli::{ParkedCommand, ParkedDecideArgs, ParkedFilter, ParkedLsArgs, ParkedReleaseArgs};
use crate::commands::confirm::confirmed;
use crate::commands::progress::Shown;
use crate::commands::{Context, Result, admin_pool, author};
use crate::config::Needs;
use crate::operations::consumer::parked::{self, Decision, Filter, ParkedLine, ParkedRecord, Report};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, command: &ParkedCommand) -> Result<()> {
    match command {
        ParkedCommand::Ls(args) => ls(context, args).await,
        ParkedCommand::Show { events } => show(context, events).await,
        ParkedCommand::Release(args) => decide(context, &args.which, Some(args)).await,
        ParkedCommand::Discard(args) => decide(context, args, None).await,
    }
}

fn filter(args: &ParkedFilter, own_group: &str) -> Filter {
    Filter {
        group: Some(args.group.clone().unwrap_or_else(|| own_group.to_owned())),
        ids: args.id.clone(),
        projection: args.projection.clone(),
        event_type: args.event_type.clone(),
        topic: args.topic.clone(),
        key: args.key.clone(),
        error: args.error.clone(),
    }
}

async fn ls(context: &Context, args: &ParkedLsArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let filter = filter(&args.filter, &settings.consumer.group);
    let listed = parked::list(&admin_pool(&settings)?, &filter, args.discarded, args.limit).await?;
    output::data(context.format(), &listed, &listed.events, || table(&listed.events))?;
    if listed.events.is_empty() {
        output::note("no parked event matches");
    } else if listed.is_full {
        output::note("there may be more: --limit, or a filter");
    }
    Ok(())
}

fn table(found: &[ParkedLine]) -> String {
    let mut table = Table::new(&[
        ("EVENT ID", Align::Left),
        ("TYPE", Align::Left),
        ("PLACE", Align::Left),
        ("STATE", Align::Left),
        ("TRIED", Align::Right),
        ("PARKED", Align::Left),
        ("REASON", Align::Left),
    ]);
    for event in found {
        let tone = match event.state {
            "parked" => Tone::Warning,
            "discarded" => Tone::Faint,
            _ => Tone::Plain,
        };
        table.row([
            Cell::new(&event.event_id),
            Cell::new(output::printable(event.event_type.as_deref().unwrap_or_default())),
            Cell::new(format!("{}/{}/{}", event.topic, event.partition, event.offset)),
            Cell::new(event.state).tone(tone),
            Cell::new(event.attempts),
            Cell::new(event.parked_at.to_seconds()),
            Cell::new(output::printable(&event.error)),
        ]);
    }
    table.render()
}

async fn show(context: &Context, wanted: &[Uuid]) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let shown = parked::show(&pool, wanted).await?;
    if !shown.events.is_empty() {
        let blocks = || shown.events.iter().map(block).collect::<Vec<_>>().join("\n");
        output::data(context.format(), &shown, &shown.events, blocks)?;
    }
    Ok(shown.verdict()?)
}

fn block(full: &ParkedRecord) -> String {
    let line = &full.line;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = [
        ("event id", line.event_id.clone()),
        ("event type", line.event_type.clone().unwrap_or_default()),
        ("place", format!("{}/{}/{}", line.topic, line.partition, line.offset)),
        ("group", line.group.clone()),
        ("state", line.state.to_owned()),
        ("tried", line.attempts.to_string()),
        ("parked", line.parked_at.to_string()),
        ("reason", line.error.clone()),
        ("recorded", full.recorded_at.map(|at| at.to_string()).unwrap_or_default()),
        ("key", text(&full.key)),
        ("headers", full.headers.to_string()),
        ("value", text(&full.value)),
    ];
    fields.iter().map(|(name, value)| format!("{name:<12} {}\n", output::printable(value))).collect()
}

/// `release`: released, and else discarded.
async fn decide(context: &Context, args: &ParkedDecideArgs, release: Option<&ParkedReleaseArgs>) -> Result<()> {
    let decision = if release.is_some() { Decision::Release } else { Decision::Discard };
    let settings = context.settings(Needs::DATABASE)?;
    let pool = admin_pool(&settings)?;
    let plan = parked::plan(&pool, filter(&args.filter, &settings.consumer.group), decision, args.all).await?;
    let report = if args.consent.dry_run {
        plan.preview()
    } else {
        // Whoever names each event has decided.
        let named = !args.filter.id.is_empty();
        let question = format!("{} {} parked events?", plan.verb(), plan.matched());
        if !named && !confirmed(args.consent.yes, &question)? {
            return Ok(());
        }
        let wait = release.filter(|release| !release.no_wait).map(|release| release.timeout);
        plan.run(&pool, wait, &author(args.consent.reason.clone()), &Shown::default()).await?
    };
    output::one(context.format(), &report, || table_of(&report))?;
    match (report.dry_run, decision) {
        (true, _) => output::note("nothing was changed"),
        (false, Decision::Release) if report.outcome.is_none() => {
            output::note("the consumer that reads their partitions folds them within a few seconds");
        }
        (false, Decision::Release) => {}
        (false, Decision::Discard) => output::note("they are never folded, and stay listed with --discarded"),
    }
    Ok(report.verdict()?)
}

fn table_of(report: &Report) -> String {
    let Report { action, changed, matched, .. } = report;
    match report.outcome {
        _ if report.dry_run => format!("would {action} {matched} parked events\n"),
        None => format!("{action}: {changed} parked events\n"),
        Some(outcome) => format!("{action}: {changed} parked events: {}\n", outcome.describe()),
    }
}
