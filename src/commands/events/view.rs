//! Events as tables, blocks of text and JSON. The names of the JSON fields are those of the columns and are public.

use serde::Serialize;
use serde_json::value::RawValue;

use super::indent::indented;
use crate::error::{Code, Error, Result};
use crate::event::{HoldReason, UnknownReason};
use crate::outbox::inspect::events::{Details, Hold, SHOWN_BYTES, Summary};
use crate::output::{self, Align, Cell, Table, Tone};

/// Characters of a key and of an error in a table; JSON has them whole.
const KEY_WIDTH: usize = 40;
const ERROR_WIDTH: usize = 60;

#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    id: i64,
    event_id: String,
    status: &'a str,
    topic: Option<&'a str>,
    key: Option<&'a str>,
    event_type: &'a str,
    event_version: i32,
    aggregate_type: Option<&'a str>,
    aggregate_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
    retry_count: i32,
    last_error: Option<&'a str>,
    created_at: String,
    available_at: Option<String>,
    published_at: Option<String>,
    published_partition: Option<i32>,
    published_offset: Option<i64>,
}

impl<'a> Line<'a> {
    pub(super) fn new(event: &'a Summary) -> Self {
        Self {
            id: event.id,
            event_id: event.event_id.to_string(),
            status: &event.status,
            topic: event.topic.as_deref(),
            key: event.key.as_deref(),
            event_type: &event.event_type,
            event_version: event.event_version,
            aggregate_type: event.aggregate_type.as_deref(),
            aggregate_id: event.aggregate_id.as_deref(),
            correlation_id: event.correlation_id.as_deref(),
            retry_count: event.retry_count,
            last_error: event.last_error.as_deref(),
            created_at: event.created_at.to_string(),
            available_at: event.available_at.map(|at| at.to_string()),
            published_at: event.published_at.map(|at| at.to_string()),
            published_partition: event.published_partition,
            published_offset: event.published_offset,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Whole<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    causation_id: Option<&'a str>,
    source: Option<&'a str>,
    traceparent: Option<&'a str>,
    shard: i16,
    headers: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    payload_raw_base64: Option<&'a str>,
    /// What is too large to be shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    omitted: Vec<&'static str>,
    hold: Option<HoldJson<'a>>,
}

#[derive(Debug, Serialize)]
struct HoldJson<'a> {
    first_id: i64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    since: String,
    release_at: Option<String>,
}

impl<'a> Whole<'a> {
    pub(super) fn new(event: &'a Details) -> Result<Self> {
        let hold = |hold: &'a Hold| HoldJson {
            first_id: hold.first_id,
            reason: &hold.reason,
            detail: hold.detail.as_deref(),
            since: hold.since.to_string(),
            release_at: hold.release_at.map(|at| at.to_string()),
        };
        Ok(Self {
            line: Line::new(&event.summary),
            causation_id: event.causation_id.as_deref(),
            source: event.source.as_deref(),
            traceparent: event.traceparent.as_deref(),
            shard: event.shard,
            headers: event.headers.as_deref().map(raw).transpose()?,
            payload: event.payload.as_deref().map(raw).transpose()?,
            payload_raw_base64: event.payload_base64.as_deref(),
            omitted: [("payload", event.payload_omitted), ("headers", event.headers_omitted)]
                .into_iter()
                .filter_map(|(column, omitted)| omitted.then_some(column))
                .collect(),
            hold: event.hold.as_ref().map(hold),
        })
    }
}

/// JSON as PostgreSQL printed it, so that no digit of a number is lost on the way.
fn raw(json: &str) -> Result<&RawValue> {
    serde_json::from_str(json)
        .map_err(|error| Error::new(Code::Unexpected, "PostgreSQL printed JSON that does not parse").caused_by(error))
}

pub(super) fn table(events: &[Summary]) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("STATUS", Align::Left),
        ("TOPIC", Align::Left),
        ("KEY", Align::Left),
        ("TYPE", Align::Left),
        ("CREATED", Align::Left),
        ("RETRIES", Align::Right),
        ("ERROR", Align::Left),
    ]);
    for event in events {
        table.row([
            Cell::new(event.id),
            Cell::new(&event.status).tone(tone(&event.status)),
            Cell::optional(event.topic.as_deref()),
            Cell::optional(event.key.as_deref().map(|key| output::shortened(key, KEY_WIDTH))),
            Cell::new(&event.event_type),
            Cell::new(event.created_at.to_seconds()),
            Cell::new(event.retry_count),
            Cell::new(output::shortened(event.last_error.as_deref().unwrap_or_default(), ERROR_WIDTH)),
        ]);
    }
    table.render()
}

fn tone(status: &str) -> Tone {
    match status {
        "PUBLISHED" => Tone::Good,
        "FAILED" => Tone::Bad,
        "HELD" => Tone::Warning,
        "DISCARDED" => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// Each event as a block of lines, a blank line between them.
pub(super) fn blocks(events: &[Details]) -> String {
    events.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(event: &Details) -> String {
    let mut block = Block::default();
    let line = &event.summary;
    block.field("id", Some(line.id));
    block.field("event_id", Some(line.event_id));
    block.field("status", Some(&line.status));
    block.field("topic", line.topic.as_deref());
    block.field("key", line.key.as_deref());
    block.field("shard", Some(event.shard));
    block.field("event_type", Some(&line.event_type));
    block.field("event_version", Some(line.event_version));
    block.field("aggregate_type", line.aggregate_type.as_deref());
    block.field("aggregate_id", line.aggregate_id.as_deref());
    block.field("correlation_id", line.correlation_id.as_deref());
    block.field("causation_id", event.causation_id.as_deref());
    block.field("source", event.source.as_deref());
    block.field("traceparent", event.traceparent.as_deref());
    block.field("created_at", Some(line.created_at));
    block.field("available_at", line.available_at);
    block.field("published_at", line.published_at);
    if let (Some(partition), Some(offset)) = (line.published_partition, line.published_offset) {
        block.field("published as", Some(format!("partition {partition}, offset {offset}")));
    }
    block.field("retry_count", (line.retry_count > 0).then_some(line.retry_count));
    block.field("last_error", line.last_error.as_deref());
    if let Some(hold) = &event.hold {
        block.field("key held", Some(hold_text(hold, line.id)));
    }
    let too_large = format!("more than {SHOWN_BYTES} bytes, not shown");
    block.field("headers", event.headers.as_deref().or(event.headers_omitted.then_some(&*too_large)));
    block.payload(event);
    block.text
}

fn hold_text(hold: &Hold, id: i64) -> String {
    let cause = match (hold.reason.parse(), hold.first_id == id) {
        (Ok(HoldReason::Partition), _) => {
            format!("because {}", hold.detail.as_deref().unwrap_or("its partition takes no records"))
        }
        (Ok(HoldReason::NoTopic), _) => "because the topic does not exist".to_owned(),
        (Ok(HoldReason::Denied), _) => "because Kafka does not let the relay write to the topic".to_owned(),
        (Ok(HoldReason::Paused), _) => "because the topic is paused".to_owned(),
        (Ok(HoldReason::Delayed), true) => "until this event is due".to_owned(),
        (Ok(HoldReason::Delayed), false) => format!("until event {} is due", hold.first_id),
        (Ok(HoldReason::Failed | HoldReason::Retry), true) => "because this event failed".to_owned(),
        (Ok(HoldReason::Failed | HoldReason::Retry), false) => format!("because event {} failed", hold.first_id),
        (Err(UnknownReason), _) => format!("for a reason that this version does not know ({})", hold.reason),
    };
    let until = hold.release_at.map_or_else(|| "until somebody decides".to_owned(), |at| format!("until {at}"));
    format!("since {}, {cause}; {until}", hold.since)
}

#[derive(Default)]
struct Block {
    text: String,
}

impl Block {
    /// An absent value takes no line.
    fn field(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.text.push_str(&format!("{name:<15} {}\n", output::printable(&value.to_string())));
        }
    }

    fn payload(&mut self, event: &Details) {
        let lines =
            |text: &str| text.lines().map(|line| format!("  {}\n", output::printable(line))).collect::<String>();
        let (kind, body) = match (&event.payload, &event.payload_raw) {
            (None, None) if event.payload_omitted => {
                (format!("more than {SHOWN_BYTES} bytes, not shown"), String::new())
            }
            (Some(json), _) => ("JSON".to_owned(), lines(&indented(json))),
            (None, Some(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => (format!("{} bytes, text", bytes.len()), lines(text)),
                Err(_) => {
                    let base64 = event.payload_base64.as_deref().unwrap_or_default();
                    (format!("{} bytes, not text; in base64", bytes.len()), lines(base64))
                }
            },
            (None, None) => ("none: a tombstone".to_owned(), String::new()),
        };
        self.field("payload", Some(kind));
        self.text.push_str(&body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn event() -> Details {
        Details {
            summary: Summary {
                id: 17,
                event_id: Uuid::nil(),
                status: "HELD".to_owned(),
                topic: Some("order-events".to_owned()),
                key: Some("order-42".to_owned()),
                event_type: "OrderPaid\x1b[2J".to_owned(),
                event_version: 1,
                aggregate_type: None,
                aggregate_id: Some("order-42".to_owned()),
                correlation_id: None,
                retry_count: 0,
                last_error: None,
                created_at: "2026-05-01T12:00:00.25Z".parse::<jiff::Timestamp>().unwrap().into(),
                available_at: None,
                published_at: None,
                published_partition: None,
                published_offset: None,
            },
            causation_id: None,
            source: None,
            traceparent: None,
            shard: 6,
            payload: Some(r#"{"price": 12345678901234567890.10}"#.to_owned()),
            payload_raw: None,
            payload_base64: None,
            payload_omitted: false,
            headers: None,
            headers_omitted: false,
            hold: Some(Hold {
                first_id: 11,
                reason: "failed".to_owned(),
                detail: None,
                since: "2026-05-01T12:00:00Z".parse::<jiff::Timestamp>().unwrap().into(),
                release_at: None,
            }),
        }
    }

    #[test]
    fn json_has_times_in_utc_and_every_digit_of_the_payload() {
        let event = event();
        let text = serde_json::to_string(&Whole::new(&event).unwrap()).unwrap();
        assert!(text.contains(r#""created_at":"2026-05-01T12:00:00.25Z""#), "{text}");
        assert!(text.contains(r#""payload":{"price": 12345678901234567890.10}"#), "{text}");
        assert!(text.contains(r#""hold":{"first_id":11,"reason":"failed""#), "{text}");
    }

    #[test]
    fn a_list_never_holds_a_payload() {
        let event = event();
        let line = Line::new(&event.summary);
        let text = serde_json::to_string(&[line]).unwrap();
        assert!(!text.contains("payload") && !text.contains("price"), "{text}");
        assert!(!table(&[event.summary]).contains("price"));
    }

    #[test]
    fn a_block_says_why_the_event_waits_and_cannot_steer_the_terminal() {
        let text = block(&event());
        assert!(text.contains("because event 11 failed; until somebody decides"), "{text}");
        assert!(text.contains(r"OrderPaid\u{1b}[2J"), "{text}");
        assert!(text.contains("\n      \"price\": 12345678901234567890.10\n"), "{text}");
    }
}
