//! What `replay` prints.

use serde::Serialize;

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
    groups: &'a [Group],
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
pub(super) fn counts(
    format: Format,
    groups: &[Group],
    matched: i64,
    to_topic: Option<&str>,
    new_ids: bool,
) -> Result<()> {
    let document = Counts { matched, to_topic, new_ids, groups };
    output::data(format, &document, groups, || table(groups))
}

fn table(groups: &[Group]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("TOPIC", Align::Left), ("TYPE", Align::Left), ("EVENTS", Align::Right)]);
    for group in groups {
        table.row([Cell::optional(group.topic.as_deref()), Cell::new(&group.event_type), Cell::new(group.events)]);
    }
    table.render()
}

/// The same in a few lines on standard error, before the question.
pub(super) fn note_counts(groups: &[Group], matched: i64, to_topic: Option<&str>) {
    let to = to_topic.map(|topic| format!(", all to {topic}")).unwrap_or_default();
    output::note(&format!("{matched} events match{to}"));
    for group in groups.iter().take(GROUPS_SHOWN) {
        let topic = group.topic.as_deref().unwrap_or("(routed)");
        let line = format!("{:>10}  {topic}  {}", group.events, group.event_type);
        output::note(&output::printable(&line));
    }
    if groups.len() > GROUPS_SHOWN {
        output::note(&format!("            and {} more topics and types", groups.len() - GROUPS_SHOWN));
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
