//! What `replay` prints.

use std::time::Duration;

use crate::error::Result;
use crate::operations::replay::{Counts, Expired, GroupLine, Outcome};
use crate::output::{self, Align, Cell, Format, Table};

/// Topics and types that are named before the question.
const GROUPS_SHOWN: usize = 10;

/// What a dry run found, on standard output.
pub(super) fn counts(format: Format, counts: &Counts) -> Result<()> {
    output::data(format, counts, &counts.groups, || table(&counts.groups))
}

fn table(lines: &[GroupLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("TOPIC", Align::Left), ("TYPE", Align::Left), ("EVENTS", Align::Right)]);
    for line in lines {
        table.row([Cell::optional(line.topic.as_deref()), Cell::new(&line.event_type), Cell::new(line.events)]);
    }
    table.render()
}

/// The same in a few lines on standard error, before the question.
pub(super) fn note_counts(lines: &[GroupLine], to_topic: Option<&str>) {
    let matched: i64 = lines.iter().map(|line| line.events).sum();
    let to = to_topic.map(|topic| format!(", all to {topic}")).unwrap_or_default();
    output::note(&output::printable(&format!("{matched} events match{to}")));
    for line in lines.iter().take(GROUPS_SHOWN) {
        let topic = line.topic.as_deref().unwrap_or("(routed)");
        let text = format!("{:>10}  {topic}  {}", line.events, line.event_type);
        output::note(&output::printable(&text));
    }
    if lines.len() > GROUPS_SHOWN {
        output::note(&format!("            and {} more topics and types", lines.len() - GROUPS_SHOWN));
    }
}

/// What Kafka would not keep.
pub(super) fn note_expired(expired: &[Expired]) {
    for line in expired {
        let age = output::age(Duration::from_secs(line.max_age_seconds.unsigned_abs()));
        output::note(&output::printable(&format!(
            "{:>10}  {}: older than {age}, which is the oldest that this topic keeps",
            line.events, line.topic
        )));
    }
}

/// How far a replay is.
pub(super) fn outcome(format: Format, outcome: &Outcome) -> Result<()> {
    output::one(format, outcome, || {
        let mut table = Table::new(&[
            ("REPLAY", Align::Left),
            ("MATCHED", Align::Right),
            ("COPIED", Align::Right),
            ("FINISHED", Align::Left),
        ]);
        table.row([
            Cell::new(&outcome.replay),
            Cell::new(outcome.matched),
            Cell::new(outcome.copied),
            Cell::new(if outcome.finished { "yes" } else { "no" }),
        ]);
        table.render()
    })
}
