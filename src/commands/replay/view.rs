//! What `replay` prints.

use std::collections::BTreeMap;

use serde::Serialize;

use super::retention::Expired;
use crate::cli::ReplayArgs;
use crate::error::Result;
use crate::outbox::replay::{Group, Replay};
use crate::output::{self, Align, Cell, Format, Table};

/// Topics and types that are named before the question.
const GROUPS_SHOWN: usize = 10;

#[derive(Debug, Serialize)]
struct Counts<'a> {
    matched: i64,
    to_topic: Option<&'a str>,
    new_ids: bool,
    groups: &'a [Line<'a>],
    /// Of those that match: what Kafka would delete or refuse at once.
    expired: &'a [Expired],
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    /// `null`: the rows name no topic, routing decides.
    topic: Option<&'a str>,
    event_type: &'a str,
    events: i64,
}

/// By topic and event type.
fn lines(groups: &[Group]) -> Vec<Line<'_>> {
    let mut events: BTreeMap<(Option<&str>, &str), i64> = BTreeMap::new();
    for group in groups {
        *events.entry((group.topic.as_deref(), &group.event_type)).or_default() += group.events;
    }
    events.into_iter().map(|((topic, event_type), events)| Line { topic, event_type, events }).collect()
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    replay: String,
    matched: i64,
    copied: i64,
    finished: bool,
    to_topic: Option<&'a str>,
    new_ids: bool,
    upto_id: i64,
    last_id: i64,
}

/// What a dry run found, on standard output.
pub(super) fn counts(format: Format, groups: &[Group], expired: &[Expired], args: &ReplayArgs) -> Result<()> {
    let lines = lines(groups);
    let document = Counts {
        matched: lines.iter().map(|line| line.events).sum(),
        to_topic: args.to_topic.as_deref(),
        new_ids: args.new_ids,
        groups: &lines,
        expired,
    };
    output::data(format, &document, &lines, || table(&lines))
}

fn table(lines: &[Line<'_>]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("TOPIC", Align::Left), ("TYPE", Align::Left), ("EVENTS", Align::Right)]);
    for line in lines {
        table.row([Cell::optional(line.topic), Cell::new(line.event_type), Cell::new(line.events)]);
    }
    table.render()
}

/// The same in a few lines on standard error, before the question.
pub(super) fn note_counts(groups: &[Group], to_topic: Option<&str>) {
    let lines = lines(groups);
    let matched: i64 = lines.iter().map(|line| line.events).sum();
    let to = to_topic.map(|topic| format!(", all to {topic}")).unwrap_or_default();
    output::note(&output::printable(&format!("{matched} events match{to}")));
    for line in lines.iter().take(GROUPS_SHOWN) {
        let topic = line.topic.unwrap_or("(routed)");
        let text = format!("{:>10}  {topic}  {}", line.events, line.event_type);
        output::note(&output::printable(&text));
    }
    if lines.len() > GROUPS_SHOWN {
        output::note(&format!("            and {} more topics and types", lines.len() - GROUPS_SHOWN));
    }
}

/// How far a replay is.
pub(super) fn outcome(format: Format, replay: &Replay) -> Result<()> {
    let document = Outcome {
        replay: replay.id.to_string(),
        matched: replay.matched,
        copied: replay.copied,
        finished: replay.finished,
        to_topic: replay.to_topic.as_deref(),
        new_ids: replay.new_ids,
        upto_id: replay.upto_id,
        last_id: replay.last_id,
    };
    output::one(format, &document, || {
        let mut table = Table::new(&[
            ("REPLAY", Align::Left),
            ("MATCHED", Align::Right),
            ("COPIED", Align::Right),
            ("FINISHED", Align::Left),
        ]);
        table.row([
            Cell::new(replay.id),
            Cell::new(replay.matched),
            Cell::new(replay.copied),
            Cell::new(if replay.finished { "yes" } else { "no" }),
        ]);
        table.render()
    })
}
