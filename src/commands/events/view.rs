//! Events as tables and blocks of text.

use crate::event::{EventStatus, HoldReason, UnknownReason};
use crate::operations::events::{EventDetails, EventLine, HoldLine, SHOWN_BYTES};
use crate::output::{self, Align, Cell, Table, Tone};

/// Characters of a key and of an error in a table; JSON has them whole.
const KEY_WIDTH: usize = 40;
const ERROR_WIDTH: usize = 60;

pub(super) fn table(events: &[EventLine]) -> String {
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
            Cell::new(event.status.as_str()).tone(tone(event.status)),
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

fn tone(status: EventStatus) -> Tone {
    match status {
        EventStatus::Pending => Tone::Plain,
        EventStatus::Published => Tone::Good,
        EventStatus::Failed => Tone::Bad,
        EventStatus::Held => Tone::Warning,
        EventStatus::Discarded => Tone::Faint,
    }
}

/// Each event as a block of lines, a blank line between them.
pub(super) fn blocks(events: &[EventDetails]) -> String {
    events.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(event: &EventDetails) -> String {
    let mut block = Block::default();
    let line = &event.line;
    block.field("id", Some(line.id));
    block.field("event_id", Some(&line.event_id));
    block.field("status", Some(line.status.as_str()));
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
    block.field(
        "headers",
        event.headers.as_ref().map(|json| json.get()).or(event.is_omitted("headers").then_some(&*too_large)),
    );
    block.payload(event);
    block.text
}

fn hold_text(hold: &HoldLine, id: i64) -> String {
    let cause = match (hold.reason.parse(), hold.first_id == id) {
        (Ok(HoldReason::Partition), _) => {
            format!("because {}", hold.detail.as_deref().unwrap_or("its partition does not accept records"))
        }
        (Ok(HoldReason::NoTopic), _) => "because the topic does not exist".to_owned(),
        (Ok(HoldReason::Denied), _) => "because Kafka denies the relay access to the topic".to_owned(),
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

    fn payload(&mut self, event: &EventDetails) {
        let lines =
            |text: &str| text.lines().map(|line| format!("  {}\n", output::printable(line))).collect::<String>();
        let (kind, body) = match (&event.payload, &event.payload_raw) {
            (None, None) if event.is_omitted("payload") => {
                (format!("more than {SHOWN_BYTES} bytes, not shown"), String::new())
            }
            (Some(json), _) => ("JSON".to_owned(), lines(&output::indented(json.get()))),
            (None, Some(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => (format!("{} bytes, text", bytes.len()), lines(text)),
                Err(_) => {
                    let base64 = event.payload_raw_base64.as_deref().unwrap_or_default();
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
    use crate::operations::events::tests::details;

    #[test]
    fn a_table_never_holds_a_payload() {
        assert!(!table(&[EventLine::from(details().summary)]).contains("price"));
    }

    #[test]
    fn a_block_says_why_the_event_waits_and_cannot_steer_the_terminal() {
        let text = block(&EventDetails::new(details()).unwrap());
        assert!(text.contains("because event 11 failed; until somebody decides"), "{text}");
        assert!(text.contains(r"OrderPaid\u{1b}[2J"), "{text}");
        assert!(text.contains("\n      \"price\": 12345678901234567890.10\n"), "{text}");
    }
}
