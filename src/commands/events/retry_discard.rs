//! `events retry` and `events discard`.

use serde::Serialize;

use super::super::{Context, Failure, Result, author};
use super::filter;
use crate::cli::{EventRef, RedoArgs};
use crate::commands::confirm::confirmed;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::event::EventStatus;
use crate::outbox::inspect::events::{self, Details, Filter};
use crate::outbox::retry_discard::{self, Action, Found, Selection};
use crate::output::{self, Align, Cell, Table};

/// Refusals that are told one by one; JSON has them all.
const REFUSALS_SHOWN: usize = 20;

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Report {
    action: &'static str,
    dry_run: bool,
    /// Events that fit.
    matched: usize,
    /// Events that were changed: more than fit where another failed event held the key, fewer where something else was
    /// faster.
    changed: u64,
    /// Of these: events that were given up although the table does not let their rows be changed. `outbox_outcomes`
    /// says so.
    by_outcome: u64,
    /// Events that the table does not let be changed.
    refused: Vec<Refusal>,
    /// Events that matched and were in another state when their turn came, by that state.
    unchanged: Vec<Unchanged>,
    by_topic: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Unchanged {
    /// `null`: the row is gone.
    status: Option<String>,
    events: u64,
}

#[derive(Debug, Serialize)]
struct Refusal {
    id: i64,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Group {
    status: String,
    topic: Option<String>,
    events: u64,
}

pub(super) async fn run(context: &Context, pool: &Pool, args: &RedoArgs, action: Action) -> Result<()> {
    let selection = selection(pool, args).await?;
    let found = retry_discard::find(pool, &selection).await?;
    if found.ids.is_empty() {
        return Err(Error::new(Code::NotFound, "no FAILED event matches")
            .hint("outbox-relay events ls --status failed,held lists what is there; --status names other states than failed")
            .into());
    }
    let (verb, consent) = (verb(action), &args.consent);
    let mut report = report(&found, action, consent.dry_run);
    if !consent.dry_run {
        // Whoever names each event has decided.
        if args.events.is_empty() && !confirmed(consent.yes, &format!("{verb} {} events?", found.ids.len()))? {
            return Ok(());
        }
        let author = author(consent.reason.clone());
        let mut progress = output::Progress::new("events", 0, found.ids.len() as u64);
        let acted = retry_discard::act(pool, &found.ids, action, &author, |behind| {
            progress.at(behind as u64);
            true
        });
        let acted = acted.await?;
        (report.changed, report.by_outcome) = (acted.changed, acted.by_outcome);
        report.refused =
            acted.refused.iter().map(|refused| Refusal { id: refused.item, reason: refused.reason() }).collect();
        let states = retry_discard::states(pool, &acted.unchanged).await?.into_iter();
        report.unchanged = states.map(|(status, events)| Unchanged { status, events }).collect();
    }
    output::one(context.format(), &report, || table(&report))?;
    output::note(match (consent.dry_run, action) {
        (true, _) => "nothing was changed",
        (false, Action::Retry) => "the relays publish them as soon as they look, in order",
        (false, Action::Discard) => "they are never published; what waited behind them goes on",
    });
    if report.by_outcome > 0 {
        output::note(&format!(
            "{} rows cannot be changed: outbox_outcomes says that they are DISCARDED, and so do all commands",
            report.by_outcome
        ));
    }
    refusals(&report)?;
    overtaken(&report)
}

/// Errors: some events were changed by somebody else before.
fn overtaken(report: &Report) -> Result<()> {
    let events: u64 = report.unchanged.iter().map(|unchanged| unchanged.events).sum();
    if events == 0 {
        return Ok(());
    }
    let code = if report.changed > 0 { Code::PartlyDone } else { Code::CheckNotMet };
    Err(Error::new(code, format!("{events} of {} events were no longer FAILED or HELD", report.matched))
        .hint("a relay or another command was faster; outbox-relay events show ID says what became of them")
        .into())
}

/// Errors: some events were refused.
fn refusals(report: &Report) -> Result<()> {
    if report.refused.is_empty() {
        return Ok(());
    }
    for refusal in report.refused.iter().take(REFUSALS_SHOWN) {
        output::note(&format!("event {}: {}", refusal.id, refusal.reason));
    }
    let code = if report.changed > 0 { Code::PartlyDone } else { Code::CheckNotMet };
    Err(Error::new(code, format!("the table outbox_events refuses to change {} events", report.refused.len()))
        .hint("a constraint or a trigger of yours does; the SQLSTATE says of what kind. They stay as they were")
        .into())
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Retry => "retry",
        Action::Discard => "discard",
    }
}

async fn selection(pool: &Pool, args: &RedoArgs) -> Result<Selection> {
    let both = [EventStatus::Failed, EventStatus::Held];
    if let Some(other) = args.status.iter().find(|status| !both.contains(status)) {
        return Err(Error::new(Code::Usage, format!("{} events cannot be retried or discarded", other.as_str()))
            .hint("only FAILED and HELD ones can; a PUBLISHED one is sent again by `outbox-relay replay`")
            .into());
    }
    if !args.events.is_empty() {
        let filter = Filter { status: both.to_vec(), ..Filter::default() };
        return Ok(Selection { ids: Some(named(pool, &args.events).await?), filter, class: None });
    }
    let failed = [EventStatus::Failed];
    let filter = filter(&args.filter, if args.status.is_empty() { &failed } else { &args.status });
    let narrow = filter.narrows() || args.class.is_some() || !args.status.is_empty();
    if !narrow && !args.all {
        return Err(Error::new(Code::Usage, "which events?")
            .hint("name ids, add filters such as --topic or --class, or say --all for every FAILED event")
            .into());
    }
    Ok(Selection { ids: None, filter, class: args.class.clone() })
}

/// The ids of named events. All of them must be there and may be retried; else nothing is done.
async fn named(pool: &Pool, wanted: &[EventRef]) -> Result<Vec<i64>> {
    let (mut ids, mut missing, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for event in wanted {
        let rows: Vec<Details> = match event {
            EventRef::Id(id) => events::by_id(pool, *id).await?,
            EventRef::EventId(id) => events::by_event_id(pool, *id).await?,
        };
        let may = |row: &&Details| matches!(row.summary.status.as_str(), "FAILED" | "HELD");
        let before = ids.len();
        ids.extend(rows.iter().filter(may).map(|row| row.summary.id));
        match rows.first() {
            None => missing.push(event.to_string()),
            Some(row) if ids.len() == before => refused.push(format!("{event} is {}", row.summary.status)),
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        return Err(Failure::from(
            Error::new(Code::NotFound, format!("no event {}", missing.join(", ")))
                .hint("outbox-relay events ls lists what is there; nothing was changed"),
        ));
    }
    if !refused.is_empty() {
        return Err(Error::new(Code::CheckNotMet, format!("only FAILED and HELD events can be retried or discarded; {}", refused.join(", ")))
            .hint("a PUBLISHED event is sent again by `outbox-relay replay`; a PENDING one is on its way; nothing was changed")
            .into());
    }
    Ok(ids)
}

fn report(found: &Found, action: Action, dry_run: bool) -> Report {
    let by_topic = found
        .counts
        .iter()
        .map(|((status, topic), events)| Group { status: status.clone(), topic: topic.clone(), events: *events })
        .collect();
    Report {
        action: verb(action),
        dry_run,
        matched: found.ids.len(),
        changed: 0,
        by_outcome: 0,
        refused: Vec::new(),
        unchanged: Vec::new(),
        by_topic,
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&[("STATUS", Align::Left), ("TOPIC", Align::Left), ("EVENTS", Align::Right)]);
    for group in &report.by_topic {
        let topic = group.topic.as_deref().unwrap_or("(by routing)");
        table.row([Cell::new(&group.status), Cell::new(topic), Cell::new(group.events)]);
    }
    let done = if report.dry_run {
        format!("would {}", report.action)
    } else {
        format!("{}: {}", report.action, report.changed)
    };
    format!("{}{done}{}\n", table.render(), left_alone(report))
}

/// What was not done, and why; empty when there is nothing of the kind.
fn left_alone(report: &Report) -> String {
    let mut text = String::new();
    if !report.refused.is_empty() {
        text.push_str(&format!(", refused by the table: {}", report.refused.len()));
    }
    for Unchanged { status, events } in &report.unchanged {
        text.push_str(&format!(", already {}: {events}", status.as_deref().unwrap_or("deleted")));
    }
    text
}
