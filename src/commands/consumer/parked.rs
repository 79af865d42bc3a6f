//! `consumer parked`.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::decider;
use super::release::{self, Outcome};
use crate::cli::{ParkedCommand, ParkedDecideArgs, ParkedFilter, ParkedLsArgs, ParkedReleaseArgs};
use crate::commands::confirm::confirmed;
use crate::commands::{Context, Result, admin_pool};
use crate::config::Needs;
use crate::error::{Code, Error};
use crate::output::{self, Align, Cell, Table, Tone};
use crate::projection::decisions::parked::{self, Decision, Filter, Parked, State, Unchanged, Whole};

/// Most events that a dry run counts.
const COUNTED: i64 = 10_000_000;

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

#[derive(Debug, Serialize)]
struct Line<'a> {
    group: &'a str,
    event_id: String,
    event_type: Option<&'a str>,
    topic: &'a str,
    partition: i32,
    offset: i64,
    /// `null`: no projection of the group has folded it.
    projection: Option<&'a str>,
    state: &'static str,
    attempts: i32,
    parked_at: String,
    error: &'a str,
}

impl<'a> From<&'a Parked> for Line<'a> {
    fn from(parked: &'a Parked) -> Self {
        Self {
            group: &parked.group,
            event_id: parked.event_id.to_string(),
            event_type: parked.event_type.as_deref(),
            topic: &parked.topic,
            partition: parked.partition,
            offset: parked.offset,
            projection: parked.projection.as_deref(),
            state: parked.state.as_str(),
            attempts: parked.attempts,
            parked_at: parked.parked_at.to_string(),
            error: &parked.error,
        }
    }
}

async fn ls(context: &Context, args: &ParkedLsArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let filter = filter(&args.filter, &settings.consumer.group);
    let found = parked::list(&admin_pool(&settings)?, &filter, args.discarded, i64::from(args.limit)).await?;
    let lines: Vec<Line<'_>> = found.iter().map(Line::from).collect();
    output::data(context.format(), &lines, &lines, || table(&found))?;
    if lines.is_empty() {
        output::note("no parked event matches");
    } else if lines.len() == args.limit as usize {
        output::note("there may be more: --limit, or a filter");
    }
    Ok(())
}

fn table(found: &[Parked]) -> String {
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
            State::Parked => Tone::Warning,
            State::Releasing => Tone::Plain,
            State::Discarded => Tone::Faint,
        };
        table.row([
            Cell::new(event.event_id),
            Cell::new(output::printable(event.event_type.as_deref().unwrap_or_default())),
            Cell::new(format!("{}/{}/{}", event.topic, event.partition, event.offset)),
            Cell::new(event.state.as_str()).tone(tone),
            Cell::new(event.attempts),
            Cell::new(event.parked_at.to_seconds()),
            Cell::new(output::printable(&event.error)),
        ]);
    }
    table.render()
}

#[derive(Debug, Serialize)]
struct Full<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    recorded_at: Option<String>,
    key: Value,
    /// `[[name, value], …]` as in the record, repeated names too.
    headers: &'a Value,
    value: Value,
}

impl<'a> From<&'a Whole> for Full<'a> {
    fn from(whole: &'a Whole) -> Self {
        Self {
            line: Line::from(&whole.parked),
            recorded_at: whole.recorded_at.map(|at| at.to_string()),
            key: bytes(whole.key.as_deref()),
            headers: &whole.headers,
            value: bytes(whole.value.as_deref()),
        }
    }
}

fn bytes(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

async fn show(context: &Context, wanted: &[Uuid]) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let found = parked::show(&pool, None, wanted).await?;
    let whole: Vec<Full<'_>> = found.iter().map(Full::from).collect();
    if !whole.is_empty() {
        output::data(context.format(), &whole, &whole, || whole.iter().map(block).collect::<Vec<_>>().join("\n"))?;
    }
    let missing: Vec<String> = wanted
        .iter()
        .filter(|id| !found.iter().any(|whole| whole.parked.event_id == **id))
        .map(Uuid::to_string)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, format!("no parked event {}", missing.join(", ")))
        .hint("outbox-relay consumer parked ls lists what is there")
        .into())
}

fn block(full: &Full<'_>) -> String {
    let line = &full.line;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = [
        ("event id", line.event_id.clone()),
        ("event type", line.event_type.unwrap_or_default().to_owned()),
        ("place", format!("{}/{}/{}", line.topic, line.partition, line.offset)),
        ("group", line.group.to_owned()),
        ("state", line.state.to_owned()),
        ("tried", line.attempts.to_string()),
        ("parked", line.parked_at.clone()),
        ("reason", line.error.to_owned()),
        ("recorded", full.recorded_at.clone().unwrap_or_default()),
        ("key", text(&full.key)),
        ("headers", full.headers.to_string()),
        ("value", text(&full.value)),
    ];
    fields.iter().map(|(name, value)| format!("{name:<12} {}\n", output::printable(value))).collect()
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Report {
    action: &'static str,
    dry_run: bool,
    matched: u64,
    changed: u64,
    /// Events that matched and were left as they are, by what had become of them.
    unchanged: Unchanged,
    /// `null` where nobody has waited for it.
    outcome: Option<Outcome>,
}

/// `release`: released, and else discarded.
async fn decide(context: &Context, args: &ParkedDecideArgs, release: Option<&ParkedReleaseArgs>) -> Result<()> {
    let decision = if release.is_some() { Decision::Release } else { Decision::Discard };
    let settings = context.settings(Needs::DATABASE)?;
    let group = args.filter.group.as_ref().unwrap_or(&settings.consumer.group);
    let (filter, verb) = (filter(&args.filter, &settings.consumer.group), decision.as_str());
    if !filter.narrows() && !args.all {
        return Err(Error::new(Code::Usage, "which events?")
            .hint("name them by --id, add filters such as --type or --topic, or say --all for every parked event")
            .into());
    }
    let pool = admin_pool(&settings)?;
    let found = parked::list(&pool, &filter, false, COUNTED).await?;
    let undecided = found.iter().filter(|event| decision == Decision::Discard || event.state == State::Parked);
    let matched = undecided.count() as u64;
    if matched == 0 {
        return Err(Error::new(Code::NotFound, "no parked event matches")
            .hint("outbox-relay consumer parked ls lists what is there; what was given up stays so")
            .into());
    }
    let mut report = Report {
        action: verb,
        dry_run: args.consent.dry_run,
        matched,
        changed: 0,
        unchanged: Unchanged::default(),
        outcome: None,
    };
    if !args.consent.dry_run {
        // Whoever names each event has decided.
        let named = !args.filter.id.is_empty();
        if !named && !confirmed(args.consent.yes, &format!("{verb} {matched} parked events?"))? {
            return Ok(());
        }
        let decided = parked::decide(&pool, &filter, decision, &decider(args.consent.reason.clone())).await?;
        (report.changed, report.unchanged) = (decided.ids.len() as u64, decided.unchanged);
        if let Some(release) = release.filter(|release| !release.no_wait) {
            report.outcome = Some(release::wait(&pool, group, decided.ids, release.timeout).await?);
        }
    }
    output::one(context.format(), &report, || table_of(&report))?;
    match (report.dry_run, decision) {
        (true, _) => output::note("nothing was changed"),
        (false, Decision::Release) if report.outcome.is_none() => {
            output::note("the consumer that reads their partitions folds them within a few seconds");
        }
        (false, Decision::Release) => {}
        (false, Decision::Discard) => output::note("they are never folded, and stay listed with --discarded"),
    }
    if let Some(outcome) = report.outcome {
        outcome.expect_all(group)?;
    }
    if !report.dry_run && report.changed < matched {
        let left = matched - report.changed;
        let mut message = format!("{left} of {matched} events that matched were left as they are");
        let why = report.unchanged.describe();
        if !why.is_empty() {
            message.push_str(&format!(": {why}"));
        }
        return Err(Error::new(Code::PartlyDone, message)
            .hint("somebody else has decided about them a moment ago; outbox-relay consumer parked ls tells")
            .into());
    }
    Ok(())
}

fn table_of(report: &Report) -> String {
    let Report { action, changed, matched, .. } = report;
    let left = match report.unchanged.describe() {
        why if why.is_empty() => why,
        why => format!("left as they are: {why}\n"),
    };
    match report.outcome {
        _ if report.dry_run => format!("would {action} {matched} parked events\n"),
        None => format!("{action}: {changed} parked events\n{left}"),
        Some(outcome) => format!("{action}: {changed} parked events: {}\n{left}", outcome.describe()),
    }
}
