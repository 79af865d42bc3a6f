//! Dead letters as they are reported. The names of the fields are public.

use serde::Serialize;
use serde_json::{Value, json};

use super::letter::DeadLetter;
use crate::outbox::dead_letters::redrive::State;

/// A dead letter without its value.
#[derive(Debug, Serialize)]
pub struct LetterLine {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub original_topic: Option<String>,
    pub exception_class: Option<String>,
    pub exception_message: Option<String>,
    pub failed_at: Option<String>,
    pub retry_count: Option<i64>,
    pub consumer_group: Option<String>,
    pub outbox_id: Option<i64>,
    pub event_id: String,
    pub state: &'static str,
    /// The row that is published in its stead.
    pub redriven_as: Option<i64>,
}

impl LetterLine {
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

/// A dead letter with its key, headers and value. What is not text stands as `{"hex": "…"}`.
#[derive(Debug, Serialize)]
pub struct WholeLetter {
    #[serde(flatten)]
    pub line: LetterLine,
    pub timestamp_ms: Option<i64>,
    pub key: Value,
    /// `[[name, value], …]` as in the record, repeated names too. A name is text or bytes like a value.
    pub headers: Vec<(Value, Value)>,
    pub value: Value,
}

impl WholeLetter {
    pub(super) fn new(letter: &DeadLetter, state: State) -> Self {
        let record = &letter.record;
        Self {
            line: LetterLine::new(letter, state),
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

#[cfg(test)]
pub(crate) mod tests {
    use super::super::letter::tests::letter;
    use super::*;

    /// A line that would steer a terminal, of a letter whose value is secret.
    pub(crate) fn line() -> LetterLine {
        let mut found = letter(&[("original_topic", "t\x1b[2J"), ("exception_message", "bad")]);
        found.record.value = Some(b"secret".to_vec());
        LetterLine::new(&found, State::UnknownRow)
    }

    /// One with a header that occurs twice and a value that is no text.
    pub(crate) fn whole() -> WholeLetter {
        let mut found = letter(&[("a", "1"), ("a", "2")]);
        found.record.value = Some(vec![0, 0xff]);
        WholeLetter::new(&found, State::Redriven(Some(9)))
    }

    #[test]
    fn a_list_never_holds_a_payload() {
        assert!(!serde_json::to_string(&line()).unwrap().contains("secret"));
    }

    #[test]
    fn bytes_that_are_no_text_are_reported_too() {
        let json = serde_json::to_value(whole()).unwrap();
        assert_eq!(
            (&json["value"], &json["redriven_as"], &json["key"]),
            (&json!({"hex": "00ff"}), &json!(9), &json!("k"))
        );
        assert_eq!(json["headers"], json!([["a", "1"], ["a", "2"]]));
    }
}
