//! `events retry` and `events discard`.

use tokio_util::sync::CancellationToken;

use super::super::{Context, Result, author};
use super::filter;
use crate::cli::RedoArgs;
use crate::commands::confirm::confirmed;
use crate::commands::progress::Shown;
use crate::db::Pool;
use crate::event::EventStatus;
use crate::operations::events::{self, Action, Chosen, Report, Unchanged};
use crate::output::{self, Align, Cell, Table};

/// Refusals that are told one by one; JSON has them all.
const REFUSALS_SHOWN: usize = 20;

pub(super) async fn run(context: &Context, pool: &Pool, args: &RedoArgs, action: Action) -> Result<()> {
    let chosen = Chosen {
        events: args.events.clone(),
        filter: filter(&args.filter, &args.status),
        class: args.class.clone(),
        all: args.all,
    };
    let plan = events::plan(pool, &chosen, action).await?;
    let consent = &args.consent;
    let report = if consent.dry_run {
        plan.preview()
    } else {
        // Whoever names each event has decided.
        let question = format!("{} {} events?", plan.verb(), plan.matched());
        if args.events.is_empty() && !confirmed(consent.yes, &question)? {
            return Ok(());
        }
        let author = author(consent.reason.clone());
        plan.run(pool, &author, &Shown::default(), &CancellationToken::new()).await?
    };
    output::one(context.format(), &report, || table(&report))?;
    output::note(match (consent.dry_run, action) {
        (true, _) => "nothing was changed",
        (false, Action::Retry) => "the relays publish them as soon as they look, in order",
        (false, Action::Discard) => "they will never be published; the events behind them continue",
    });
    if report.by_outcome > 0 {
        output::note(&format!(
            "{} rows cannot be changed: outbox_outcomes says that they are DISCARDED, and so do all commands",
            report.by_outcome
        ));
    }
    for refusal in report.refused.iter().take(REFUSALS_SHOWN) {
        output::note(&format!("event {}: {}", refusal.id, refusal.reason));
    }
    Ok(report.verdict()?)
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&[("STATUS", Align::Left), ("TOPIC", Align::Left), ("EVENTS", Align::Right)]);
    for group in &report.by_topic {
        let topic = group.topic.as_deref().unwrap_or("(by routing)");
        table.row([Cell::new(group.status), Cell::new(topic), Cell::new(group.events)]);
    }
    let done = if report.dry_run {
        format!("would {}", report.action)
    } else {
        format!("{}: {}", report.action, report.changed)
    };
    format!("{}{done}{}\n", table.render(), left_alone(report))
}

/// What was not done, and why. Empty when everything was.
fn left_alone(report: &Report) -> String {
    let refused = match report.refused.len() {
        0 => String::new(),
        events => format!(", refused by the table: {events}"),
    };
    let unchanged = report.unchanged.iter().map(|Unchanged { status, events }| {
        format!(", already {}: {events}", status.map_or("deleted", EventStatus::as_str))
    });
    std::iter::once(refused).chain(unchanged).collect()
}
