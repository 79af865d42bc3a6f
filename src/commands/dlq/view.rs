//! Dead letters as tables and blocks of text.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::operations::dlq::purge::Part;
use crate::operations::dlq::redrive::Line;
use crate::operations::dlq::{LetterLine, WholeLetter};
use crate::output::{self, Align, Cell, Table, Tone};

/// Characters of a message in a table; JSON has it whole.
const MESSAGE_WIDTH: usize = 60;

pub(super) fn letters(lines: &[LetterLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("DEAD LETTER", Align::Left),
        ("TOPIC", Align::Left),
        ("CLASS", Align::Left),
        ("FAILED", Align::Left),
        ("RETRIES", Align::Right),
        ("OUTBOX ID", Align::Right),
        ("EVENT ID", Align::Left),
        ("STATE", Align::Left),
        ("MESSAGE", Align::Left),
    ]);
    for line in lines {
        let tone = match line.state {
            "waiting" | "unknown-row" => Tone::Warning,
            "redriven" => Tone::Good,
            _ => Tone::Faint,
        };
        table.row([
            Cell::new(format!("{}/{}/{}", line.topic, line.partition, line.offset)),
            Cell::optional(line.original_topic.as_deref()),
            Cell::optional(line.exception_class.as_deref()),
            Cell::optional(line.failed_at.as_deref()),
            Cell::optional(line.retry_count),
            Cell::optional(line.outbox_id),
            Cell::new(&line.event_id),
            Cell::new(line.state).tone(tone),
            Cell::new(output::shortened(line.exception_message.as_deref().unwrap_or_default(), MESSAGE_WIDTH)),
        ]);
    }
    table.render()
}

/// Each dead letter as a block of lines, a blank line between them.
pub(super) fn blocks(letters: &[WholeLetter]) -> String {
    letters.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(letter: &WholeLetter) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<17} {}\n", output::printable(&value)));
        }
    };
    let line = &letter.line;
    field("dead letter", Some(format!("{}/{}/{}", line.topic, line.partition, line.offset)));
    field("state", Some(line.state.to_owned()));
    field("redriven as", line.redriven_as.map(|row| row.to_string()));
    field("original topic", line.original_topic.clone());
    field("class", line.exception_class.clone());
    field("message", line.exception_message.clone());
    field("failed at", line.failed_at.clone());
    field("retry count", line.retry_count.map(|count| count.to_string()));
    field("consumer group", line.consumer_group.clone());
    field("outbox id", line.outbox_id.map(|id| id.to_string()));
    field("event_id", Some(line.event_id.clone()));
    field("key", shown(&letter.key));
    for (name, value) in &letter.headers {
        let (name, value) = (shown(name).unwrap_or_default(), shown(value).unwrap_or_default());
        field("header", Some(format!("{name}: {value}")));
    }
    field("value", Some(shown(&letter.value).unwrap_or_else(|| "none: a tombstone".to_owned())));
    text
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Counts by topic and outcome; JSON has every dead letter.
pub(super) fn redriven(lines: &[Line]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in lines {
        *counts.entry((line.original_topic.as_deref().unwrap_or("-"), line.outcome)).or_default() += 1;
    }
    let mut table = Table::new(&[("TOPIC", Align::Left), ("OUTCOME", Align::Left), ("DEAD LETTERS", Align::Right)]);
    for ((topic, outcome), count) in counts {
        let tone = match outcome {
            "refused" => Tone::Bad,
            "left-alone" => Tone::Faint,
            _ => Tone::Good,
        };
        table.row([Cell::new(topic), Cell::new(outcome).tone(tone), Cell::new(count)]);
    }
    table.render()
}

pub(super) fn parts(parts: &[Part]) -> String {
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("FROM", Align::Right),
        ("TO", Align::Right),
        ("DEAD LETTERS", Align::Right),
        ("WAITING", Align::Right),
        ("UNKNOWN ROW", Align::Right),
        ("REDRIVEN", Align::Right),
        ("DISCARDED", Align::Right),
    ]);
    let warn = |count: u64| Cell::new(count).tone(if count > 0 { Tone::Warning } else { Tone::Plain });
    for part in parts {
        table.row([
            Cell::new(&part.topic),
            Cell::new(part.partition),
            Cell::new(part.from),
            Cell::new(part.to),
            Cell::new(part.dead_letters),
            warn(part.waiting),
            warn(part.unknown_row),
            Cell::new(part.redriven),
            Cell::new(part.discarded),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::dlq::tests::{line, whole};

    #[test]
    fn a_table_never_holds_a_payload_and_cannot_steer_the_terminal() {
        let table = anstream::adapter::strip_str(&letters(&[line()])).to_string();
        assert!(table.contains("t\\u{1b}[2J") && !table.contains("secret"), "{table}");
    }

    #[test]
    fn a_block_shows_headers_that_occur_twice() {
        let text = block(&whole());
        assert!(text.contains("header            a: 2"), "{text}");
    }
}
