//! A record of a dead-letter topic, read: why it failed, where it was meant to go, and the event that can be made of
//! it.

use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::broker::reader::Found;
use crate::outbox::dead_letters::redrive::{Letter, NewEvent, Place};

/// Headers that were added when the event failed; not part of the event.
const ADDED: &[&str] = &[
    "original_topic",
    "original_partition",
    "original_offset",
    "exception_class",
    "exception_message",
    "failed_at",
    "retry_count",
    "consumer_group",
];
/// For records whose headers do not tell: the profile `plain` has no header for it.
const UNKNOWN_TYPE: &str = "unknown";

/// A dead letter.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) place: Place,
    pub(super) record: Found,
}

impl DeadLetter {
    pub(super) fn read(record: Found) -> Self {
        let place = Place { topic: record.topic.clone(), partition: record.partition, offset: record.offset };
        Self { place, record }
    }

    /// As the command line names it.
    pub(super) fn name(&self) -> String {
        format!("{}/{}/{}", self.place.topic, self.place.partition, self.place.offset)
    }

    /// A list does not need it, and many of them take memory.
    pub(super) fn drop_value(&mut self) {
        self.record.value = None;
    }

    /// The text of a header; of one that occurs twice, the last.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.record.headers.iter().rev().find(|(known, _)| known == name.as_bytes());
        found.and_then(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
    }

    pub(super) fn original_topic(&self) -> Option<&str> {
        self.header("original_topic")
    }

    pub(super) fn class(&self) -> Option<&str> {
        self.header("exception_class")
    }

    /// When it failed; of a record that does not say so, its timestamp.
    pub(super) fn failed(&self) -> Option<Timestamp> {
        let said = self.header("failed_at").and_then(|text| text.parse().ok());
        said.or_else(|| Timestamp::from_millisecond(self.record.timestamp_ms?).ok())
    }

    /// The row of the outbox that the event came from.
    pub(super) fn outbox_id(&self) -> Option<i64> {
        self.header("outbox-id")?.parse().ok()
    }

    /// From the headers, else made from where the record lies, so that it is the same each time.
    pub(super) fn event_id(&self) -> Uuid {
        let said = |name| self.header(name).and_then(|text| Uuid::parse_str(text).ok());
        said("outbox-event-id")
            .or_else(|| said("ce_id"))
            .unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_URL, self.name().as_bytes()))
    }

    pub(super) fn to_letter(&self) -> Letter {
        Letter {
            place: self.place.clone(),
            event_id: self.event_id(),
            failed_at: self.header("failed_at").map(str::to_owned),
            // What a consumer could not handle was published, and its row says so for ever.
            row_id: self.outbox_id().filter(|_| self.header("consumer_group").is_none()),
        }
    }

    /// The event as a new row, or why there can be none. The value goes as it is, byte for byte.
    pub(super) fn to_event(&self) -> Result<NewEvent, String> {
        let topic = self.original_topic().ok_or("it has no header original_topic")?.to_owned();
        let key = self.record.key.clone().map(String::from_utf8).transpose();
        let key = key.map_err(|_| "its key is not UTF-8, and the outbox has text keys")?;
        let own = |name: &str| self.header(name).map(str::to_owned);
        Ok(NewEvent {
            topic,
            value: self.record.value.clone(),
            headers: self.own_headers()?,
            aggregate_type: own("ce_aggregatetype"),
            // Without a key the aggregate would become one.
            aggregate_id: own("ce_subject").filter(|_| key.is_some()),
            key,
            event_type: own("ce_type").unwrap_or_else(|| UNKNOWN_TYPE.to_owned()),
            event_version: self.header("ce_eventversion").and_then(|text| text.parse().ok()).unwrap_or(1),
            correlation_id: own("correlation-id"),
            causation_id: own("causation-id"),
            source: own("ce_source"),
            traceparent: own("traceparent"),
            created_at: Timestamp::from_millisecond(self.record.timestamp_ms.unwrap_or(0))
                .unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    /// The headers of the event, without those of the failure and those that the relay writes itself.
    fn own_headers(&self) -> Result<Option<Value>, String> {
        let mut own = Map::new();
        for (name, value) in &self.record.headers {
            let Some(name) = plain_text(name) else {
                return Err(format!("its header {} has a name that is not text", name.escape_ascii()));
            };
            if ADDED.contains(&name) || name.starts_with("outbox-") {
                continue;
            }
            let text = value.as_deref().and_then(plain_text);
            let text = text.ok_or_else(|| format!("its header {name} is not text, and the outbox has text headers"))?;
            if own.insert(name.to_owned(), Value::from(text)).is_some() {
                return Err(format!("its header {name} occurs twice, and the outbox has each name once"));
            }
        }
        Ok((!own.is_empty()).then_some(Value::Object(own)))
    }
}

/// UTF-8 without NUL, which no text in PostgreSQL may hold.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn letter(headers: &[(&str, &str)]) -> DeadLetter {
        DeadLetter::read(Found {
            topic: "orders-dlq".to_owned(),
            partition: 2,
            offset: 17,
            timestamp_ms: Some(1_000),
            key: Some(b"k".to_vec()),
            value: Some(b"{ }".to_vec()),
            headers: headers
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
                .collect(),
        })
    }

    const WHOLE: &[(&str, &str)] = &[
        ("outbox-id", "7"),
        ("outbox-event-id", "0198f2c4-0000-7000-8000-000000000001"),
        ("tenant", "a"),
        ("ce_type", "OrderPaid"),
        ("original_topic", "orders"),
        ("exception_class", "too-large"),
        ("failed_at", "2026-05-01T12:00:00Z"),
    ];

    #[test]
    fn a_dead_letter_of_a_row_and_one_of_a_consumer_are_told_apart() {
        let of_row = letter(WHOLE).to_letter();
        assert_eq!(
            (of_row.row_id, of_row.event_id.to_string().as_str()),
            (Some(7), "0198f2c4-0000-7000-8000-000000000001")
        );
        let of_consumer = letter(&[WHOLE, &[("consumer_group", "g")]].concat()).to_letter();
        assert_eq!((of_consumer.row_id, of_consumer.event_id), (None, of_row.event_id));
        // Nothing says which event it is: the same each time, and another at another place.
        assert_eq!(letter(&[]).event_id(), letter(&[]).event_id());
    }

    #[test]
    fn the_event_has_its_own_headers_and_not_those_of_the_failure() {
        let event = letter(WHOLE).to_event().unwrap();
        assert_eq!(event.headers, Some(serde_json::json!({"tenant": "a", "ce_type": "OrderPaid"})));
        assert_eq!(
            (event.topic.as_str(), event.event_type.as_str(), event.key.as_deref()),
            ("orders", "OrderPaid", Some("k"))
        );
        assert_eq!(event.value.as_deref(), Some(&b"{ }"[..]));
    }

    #[test]
    fn what_no_row_can_hold_is_refused_with_the_reason() {
        assert!(letter(&[]).to_event().err().unwrap().contains("original_topic"));
        let twice = letter(&[("original_topic", "t"), ("a", "1"), ("a", "2")]);
        assert!(twice.to_event().err().unwrap().contains("twice"));
        let mut bytes = letter(&[("original_topic", "t")]);
        bytes.record.headers.push((b"b".to_vec(), Some(vec![0xff])));
        assert!(bytes.to_event().err().unwrap().contains("header b"));
        for name in [&b"caf\xe9"[..], b"a\0b", b"outbox-\xff"] {
            let mut foreign = letter(&[("original_topic", "t")]);
            foreign.record.headers.push((name.to_vec(), Some(b"1".to_vec())));
            assert!(foreign.to_event().err().unwrap().contains("has a name that is not text"));
        }
        let mut key = letter(&[("original_topic", "t")]);
        key.record.key = Some(vec![0xff]);
        assert!(key.to_event().err().unwrap().contains("key"));
    }

    #[test]
    fn a_record_without_a_key_gets_none_from_its_subject() {
        let mut event = letter(&[("original_topic", "t"), ("ce_subject", "42")]);
        assert_eq!(event.to_event().unwrap().aggregate_id.as_deref(), Some("42"));
        event.record.key = None;
        assert_eq!((event.to_event().unwrap().aggregate_id, event.to_event().unwrap().key), (None, None));
    }
}
