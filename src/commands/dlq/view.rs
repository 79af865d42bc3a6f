//! Dead letters as tables, blocks of text and JSON. The names of the JSON fields are public.

use serde::Serialize;
use serde_json::{Value, json};

use super::letter::DeadLetter;
use crate::outbox::dead_letters::redrive::State;
use crate::output::{self, Align, Cell, Table, Tone};

/// Characters of a message in a table; JSON has it whole.
const MESSAGE_WIDTH: usize = 60;

#[derive(Debug, Serialize)]
pub(super) struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    original_topic: Option<String>,
    exception_class: Option<String>,
    exception_message: Option<String>,
    failed_at: Option<String>,
    retry_count: Option<i64>,
    consumer_group: Option<String>,
    outbox_id: Option<i64>,
    event_id: String,
    state: &'static str,
    /// The row that is published in its stead.
    redriven_as: Option<i64>,
}

impl Line {
    pub(super) fn new(letter: &DeadLetter, state: State) -> Self {
        let own = |name: &str| letter.header(name).map(str::to_owned);
        Self {
            topic: letter.place.topic.clone(),
            partition: letter.place.partition,
            offset: letter.place.offset,
            original_topic: own("original_topic"),
            exception_class: own("exception_class"),
            exception_message: own("exception_message"),
            failed_at: letter.failed().map(|at| at.to_string()),
            retry_count: letter.header("retry_count").and_then(|text| text.parse().ok()),
            consumer_group: own("consumer_group"),
            outbox_id: letter.outbox_id(),
            event_id: letter.event_id().to_string(),
            state: word(state),
            redriven_as: match state {
                State::Redriven(row) => row,
                State::Waiting { .. } | State::Discarded | State::UnknownRow => None,
            },
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waiting { .. } => "waiting",
        State::Redriven(_) => "redriven",
        State::Discarded => "discarded",
        State::UnknownRow => "unknown-row",
    }
}

pub(super) fn table(lines: &[Line]) -> String {
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

/// A dead letter with its key, headers and value. What is not text stands as `{"hex": "…"}`.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    line: Line,
    timestamp_ms: Option<i64>,
    key: Value,
    /// `[[name, value], …]` as in the record, repeated names too. A name is text or bytes like a value.
    headers: Vec<(Value, Value)>,
    value: Value,
}

impl Whole {
    pub(super) fn new(letter: &DeadLetter, state: State) -> Self {
        let record = &letter.record;
        Self {
            line: Line::new(letter, state),
            timestamp_ms: record.timestamp_ms,
            key: bytes(record.key.as_deref()),
            headers: record.headers.iter().map(|(name, value)| (bytes(Some(name)), bytes(value.as_deref()))).collect(),
            value: bytes(record.value.as_deref()),
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

/// Each dead letter as a block of lines, a blank line between them.
pub(super) fn blocks(letters: &[Whole]) -> String {
    letters.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(letter: &Whole) -> String {
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

#[cfg(test)]
mod tests {
    use super::super::letter::tests::letter;
    use super::*;

    #[test]
    fn a_list_never_holds_a_payload_and_cannot_steer_the_terminal() {
        let mut found = letter(&[("original_topic", "t\x1b[2J"), ("exception_message", "bad")]);
        found.record.value = Some(b"secret".to_vec());
        let line = Line::new(&found, State::UnknownRow);
        assert!(!serde_json::to_string(&line).unwrap().contains("secret"));
        let table = anstream::adapter::strip_str(&table(&[line])).to_string();
        assert!(table.contains("t\\u{1b}[2J") && !table.contains("secret"), "{table}");
    }

    #[test]
    fn everything_is_shown_and_bytes_that_are_no_text_too() {
        let mut found = letter(&[("a", "1"), ("a", "2")]);
        found.record.value = Some(vec![0, 0xff]);
        let whole = Whole::new(&found, State::Redriven(Some(9)));
        let json = serde_json::to_value(&whole).unwrap();
        assert_eq!(
            (&json["value"], &json["redriven_as"], &json["key"]),
            (&json!({"hex": "00ff"}), &json!(9), &json!("k"))
        );
        assert_eq!(json["headers"], json!([["a", "1"], ["a", "2"]]));
        assert!(block(&whole).contains("header            a: 2"), "{}", block(&whole));
    }
}
