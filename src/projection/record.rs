//! A Kafka record as the consumer holds it, and which event it is.
//!
//! Pure: no Kafka, no PostgreSQL. What a header means is decided here and nowhere else.
//! Invariant: a record that is delivered again gets the same event id again, whichever group or instance reads it, and
//! two different records get the same id only if their producer says so in a header.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::ser::{Serialize, SerializeMap, Serializer};
use uuid::Uuid;

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Name and value of each header, in the order of the record, repeated names too. Both are bytes: any producer may
/// choose them.
pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// One record, copied out of the Kafka client. `Debug` shows no content.
#[derive(Clone)]
pub struct Record {
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
    pub recorded_at: Option<Timestamp>,
    pub event: EventHead,
}

/// What the headers say about the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHead {
    pub id: Uuid,
    pub event_type: Option<String>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    /// 1 when the record does not say.
    pub version: i32,
    /// `ce_time`, else the timestamp of the record.
    pub time: Option<Timestamp>,
    pub correlation_id: Option<String>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("offset", &self.offset).field("id", &self.event.id).finish_non_exhaustive()
    }
}

impl Record {
    /// `timestamp_ms`: as Kafka has it, milliseconds since 1970.
    pub fn new(
        topic: &str,
        partition: i32,
        offset: i64,
        timestamp_ms: Option<i64>,
        headers: Headers,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> Self {
        let recorded_at =
            timestamp_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).filter(|at| is_storable(*at));
        let found = Found::read(&headers);
        let event = EventHead {
            id: found.id().unwrap_or_else(|| position_id(topic, partition, offset, timestamp_ms)),
            event_type: found.text(Field::EventType),
            aggregate_type: found.text(Field::AggregateType),
            aggregate_id: found.text(Field::AggregateId),
            version: found.text(Field::Version).and_then(|text| text.trim().parse().ok()).unwrap_or(1),
            time: found
                .text(Field::Time)
                .and_then(|text| text.trim().parse().ok())
                .filter(|at| is_storable(*at))
                .or(recorded_at),
            correlation_id: found.text(Field::CorrelationId),
        };
        Self { offset, key, value, headers, recorded_at, event }
    }

    /// Bytes that the record takes in memory, about.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 48);
        size_of::<Self>()
            + self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + headers.sum::<usize>()
    }

    /// The value as JSON text, `None` for a tombstone. Errors: why it is not JSON; the text holds none of the value.
    pub fn json(&self) -> Result<Option<&str>, String> {
        let Some(value) = &self.value else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| "the value is not JSON: it is not UTF-8".to_owned())?;
        // `IgnoredAny` is read without recursion, so depth is left for PostgreSQL to judge.
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| format!("the value is not JSON: line {} column {}", error.line(), error.column()))?;
        Ok(Some(text))
    }

    /// The key as text. Bytes that are not text look as PostgreSQL prints a bytea: `\x0aff`.
    pub fn key_text(&self) -> Option<String> {
        self.key.as_deref().map(|key| text_or_hex(key).into_owned())
    }

    /// The headers as a JSON object. Of a repeated name PostgreSQL keeps the last. A name that is not text looks like
    /// such a key.
    pub fn headers_object(&self) -> String {
        struct Object<'a>(&'a Headers);
        impl Serialize for Object<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (name, value) in self.0 {
                    map.serialize_entry(&text_or_hex(name), &TextOrHex { bytes: value.as_deref(), ascii: false })?;
                }
                map.end()
            }
        }
        serde_json::to_string(&Object(&self.headers)).expect("strings always serialize")
    }

    /// The headers as a JSON list of `[name, value]`, so that none is lost and each byte is known.
    /// `ascii`: what is no ASCII counts as bytes too, for a database whose encoding lacks it.
    pub fn headers_list(&self, ascii: bool) -> String {
        let shown = |bytes| TextOrHex { bytes, ascii };
        let list: Vec<_> =
            self.headers.iter().map(|(name, value)| (shown(Some(name.as_slice())), shown(value.as_deref()))).collect();
        serde_json::to_string(&list).expect("strings always serialize")
    }
}

/// Text as it is, null as null, anything else as `{"hex": "…"}`.
struct TextOrHex<'a> {
    bytes: Option<&'a [u8]>,
    ascii: bool,
}

impl Serialize for TextOrHex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.bytes {
            None => serializer.serialize_none(),
            Some(bytes) => match plain_text(bytes).filter(|text| !self.ascii || text.is_ascii()) {
                Some(text) => serializer.serialize_str(text),
                None => {
                    let mut map = serializer.serialize_map(Some(1))?;
                    map.serialize_entry("hex", &hex(bytes))?;
                    map.end()
                }
            },
        }
    }
}

/// Whether PostgreSQL knows the time: it begins in 4714 BC.
fn is_storable(time: Timestamp) -> bool {
    time.as_millisecond() >= -210_866_803_200_000
}

/// UTF-8 without NUL, which no text in PostgreSQL may hold.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The text, or the bytes as PostgreSQL prints a bytea.
fn text_or_hex(bytes: &[u8]) -> Cow<'_, str> {
    match plain_text(bytes) {
        Some(text) => text.into(),
        None => format!("\\x{}", hex(bytes)).into(),
    }
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

/// Id of a record whose producer gives none. The timestamp is part of it so that a topic that was deleted and made
/// again does not repeat ids.
fn position_id(topic: &str, partition: i32, offset: i64, timestamp_ms: Option<i64>) -> Uuid {
    let name = format!("outbox-relay:record:{topic}:{partition}:{offset}:{}", timestamp_ms.unwrap_or(-1));
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

#[derive(Debug, Clone, Copy)]
enum Field {
    EventType,
    AggregateType,
    AggregateId,
    Version,
    Time,
    CorrelationId,
    Source,
}

/// What the headers hold: per field the value of the best name, and per id header its text.
#[derive(Default)]
struct Found<'a> {
    fields: [Option<(u8, &'a [u8])>; 7],
    ids: [Option<&'a [u8]>; 4],
}

impl<'a> Found<'a> {
    fn read(headers: &'a Headers) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let Some(value) = value.as_deref() else { continue };
            if let Some(rank) = id_rank(name) {
                found.ids[rank] = Some(value);
            } else if let Some((field, rank)) = field_rank(name) {
                let slot = &mut found.fields[field as usize];
                // Of two names the better one counts, of one name the last.
                if slot.is_none_or(|(best, _)| rank <= best) {
                    *slot = Some((rank, value));
                }
            }
        }
        found
    }

    /// Text of a field. Empty counts as absent; what is not UTF-8 is replaced, because a name has to be shown somehow.
    fn text(&self, field: Field) -> Option<String> {
        let (_, value) = self.fields[field as usize]?;
        let text = String::from_utf8_lossy(value);
        if text.is_empty() { None } else { Some(without_nul(&text).into_owned()) }
    }

    /// The best header that is a UUID. A `ce_id` that is none still names the event, together with `ce_source`: that is
    /// what CloudEvents promises. Other text under `id` or `eventId` may be anything, an order number even, and taking
    /// it for the identity of the event could drop events as repeats.
    fn id(&self) -> Option<Uuid> {
        self.ids.iter().enumerate().find_map(|(rank, value)| {
            let text = std::str::from_utf8((*value)?).ok()?.trim();
            if let Ok(id) = Uuid::try_parse(text) {
                return Some(id);
            }
            let source = self.text(Field::Source)?;
            (rank == CE_ID && !text.is_empty()).then(|| {
                Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("outbox-relay:cloudevent:{source}\n{text}").as_bytes())
            })
        })
    }
}

const CE_ID: usize = 1;

fn id_rank(name: &[u8]) -> Option<usize> {
    match name {
        b"outbox-event-id" => Some(0),
        b"ce_id" => Some(CE_ID),
        b"id" => Some(2),
        b"eventId" => Some(3),
        _ => None,
    }
}

fn field_rank(name: &[u8]) -> Option<(Field, u8)> {
    Some(match name {
        b"ce_type" => (Field::EventType, 0),
        b"eventType" => (Field::EventType, 1),
        b"event_type" => (Field::EventType, 2),
        b"type" => (Field::EventType, 3),
        b"ce_aggregatetype" => (Field::AggregateType, 0),
        b"aggregateType" => (Field::AggregateType, 1),
        b"aggregate-type" => (Field::AggregateType, 2),
        b"aggregate_type" => (Field::AggregateType, 3),
        b"ce_subject" => (Field::AggregateId, 0),
        b"aggregateId" => (Field::AggregateId, 1),
        b"aggregate-id" => (Field::AggregateId, 2),
        b"aggregate_id" => (Field::AggregateId, 3),
        b"ce_eventversion" => (Field::Version, 0),
        b"eventVersion" => (Field::Version, 1),
        b"event-version" => (Field::Version, 2),
        b"event_version" => (Field::Version, 3),
        b"ce_time" => (Field::Time, 0),
        b"correlation-id" => (Field::CorrelationId, 0),
        b"correlationId" => (Field::CorrelationId, 1),
        b"ce_correlationid" => (Field::CorrelationId, 2),
        b"ce_source" => (Field::Source, 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0192f0a0-0000-7000-8000-000000000001";
    const OTHER: &str = "0192f0a0-0000-7000-8000-000000000002";

    fn record(headers: &[(&str, &str)]) -> Record {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
        Record::new("orders", 3, 17, Some(1_700_000_000_000), headers.collect(), None, None)
    }

    fn valued(value: &[u8]) -> Record {
        Record::new("orders", 0, 0, None, Vec::new(), Some(value.to_vec()), Some(value.to_vec()))
    }

    #[test]
    fn the_best_id_header_names_the_event_whatever_their_order() {
        for headers in [
            [("id", OTHER), ("ce_id", OTHER), ("outbox-event-id", ID)],
            [("outbox-event-id", ID), ("ce_id", OTHER), ("eventId", OTHER)],
            [("outbox-event-id", "not a uuid"), ("ce_id", ID), ("eventId", OTHER)],
            [("x", OTHER), ("eventId", OTHER), ("id", ID)],
        ] {
            assert_eq!(record(&headers).event.id.to_string(), ID, "{headers:?}");
        }
    }

    #[test]
    fn a_record_without_id_is_named_by_where_it_lies() {
        let id = record(&[]).event.id;
        assert_eq!(id, record(&[("id", "4711")]).event.id, "text that is no id is not taken for one");
        let at = |partition, offset, time| Record::new("orders", partition, offset, time, vec![], None, None).event.id;
        let time = Some(1_700_000_000_000);
        assert_eq!(id, at(3, 17, time));
        for other in [at(3, 18, time), at(4, 17, time), at(3, 17, None)] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_cloudevents_id_that_is_no_uuid_counts_together_with_its_source() {
        let id = |source, id| record(&[("ce_id", id), ("ce_source", source)]).event.id;
        assert_eq!(id("/shop", "a-1"), id("/shop", "a-1"));
        assert_ne!(id("/shop", "a-1"), id("/shop", "a-2"));
        assert_ne!(id("/shop", "a-1"), id("/till", "a-1"));
        assert_eq!(record(&[("ce_id", "a-1")]).event.id, record(&[]).event.id, "without a source it names nothing");
    }

    #[test]
    fn the_head_is_read_from_the_headers_of_each_profile() {
        let event = record(&[
            ("type", "Wrong"),
            ("ce_type", "LikeAddedEvent"),
            ("ce_aggregatetype", "Product"),
            ("ce_subject", "4711"),
            ("ce_eventversion", "12"),
            ("ce_time", "2031-05-04T09:12:44.5Z"),
            ("correlation-id", "flow-1"),
        ])
        .event;
        assert_eq!(event.event_type.as_deref(), Some("LikeAddedEvent"));
        assert_eq!(event.aggregate_type.as_deref(), Some("Product"));
        assert_eq!(event.aggregate_id.as_deref(), Some("4711"));
        assert_eq!(event.version, 12);
        assert_eq!(event.time.unwrap().to_string(), "2031-05-04T09:12:44.5Z");
        assert_eq!(event.correlation_id.as_deref(), Some("flow-1"));
        for name in ["eventType", "event_type", "type"] {
            assert_eq!(record(&[(name, "X")]).event.event_type.as_deref(), Some("X"), "{name}");
        }
    }

    #[test]
    fn what_the_headers_do_not_say_has_a_default() {
        let event = record(&[("ce_type", ""), ("ce_eventversion", "many"), ("ce_time", "yesterday")]).event;
        assert_eq!((event.event_type, event.version), (None, 1));
        assert_eq!(event.time.unwrap().as_millisecond(), 1_700_000_000_000, "the timestamp of the record");
    }

    #[test]
    fn the_last_of_a_repeated_header_counts() {
        assert_eq!(record(&[("type", "First"), ("type", "Last")]).event.event_type.as_deref(), Some("Last"));
    }

    #[test]
    fn only_json_is_json() {
        assert_eq!(valued(b"{\"a\": [1, null]}").json(), Ok(Some("{\"a\": [1, null]}")));
        assert_eq!(record(&[]).json(), Ok(None), "a tombstone");
        for bad in [&b"\x00\x00\x00\x00\x07avro"[..], b"", b"{\"secret\": ", b"{} {}", b"\xff"] {
            let reason = valued(bad).json().unwrap_err();
            assert!(reason.starts_with("the value is not JSON") && !reason.contains("secret"), "{reason}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(valued(deep.as_bytes()).json().is_ok(), "depth is not judged here, and must not overflow the stack");
    }

    #[test]
    fn nothing_that_reaches_postgresql_as_text_holds_a_nul() {
        let headers = vec![
            (b"a\0b".to_vec(), Some(b"x\0y".to_vec())),
            (b"type".to_vec(), Some(b"T\0\xff".to_vec())),
            (b"caf\xe9".to_vec(), None),
        ];
        let record = Record::new("t", 0, 0, None, headers, Some(b"k\0".to_vec()), None);
        assert_eq!(record.event.event_type.as_deref(), Some("T\u{fffd}\u{fffd}"));
        assert_eq!(record.key_text().as_deref(), Some("\\x6b00"));
        let expected = r#"[[{"hex":"610062"},{"hex":"780079"}],["type",{"hex":"5400ff"}],[{"hex":"636166e9"},null]]"#;
        assert_eq!(record.headers_list(false), expected);
        let expected = r#"{"\\x610062":{"hex":"780079"},"type":{"hex":"5400ff"},"\\x636166e9":null}"#;
        assert_eq!(record.headers_object(), expected);
    }

    #[test]
    fn every_byte_is_known_where_ascii_alone_can_be_kept() {
        let headers =
            vec![("naïve".as_bytes().to_vec(), Some("€".as_bytes().to_vec())), (b"a".to_vec(), Some(b"b".to_vec()))];
        let record = Record::new("t", 0, 0, None, headers, None, None);
        assert_eq!(record.headers_list(false), r#"[["naïve","€"],["a","b"]]"#);
        assert_eq!(record.headers_list(true), r#"[[{"hex":"6e61c3af7665"},{"hex":"e282ac"}],["a","b"]]"#);
    }

    #[test]
    fn times_that_postgresql_does_not_know_are_none() {
        let time = |ms| Record::new("t", 0, 0, Some(ms), vec![], None, None).recorded_at;
        for ms in [i64::MAX, i64::MIN, -377_705_000_000_000, -210_866_803_200_001] {
            assert_eq!(time(ms), None, "{ms}");
        }
        for ms in [0, 1, -2, -210_866_803_200_000, 253_402_000_000_000] {
            assert_eq!(time(ms).map(Timestamp::as_millisecond), Some(ms));
        }
        let said = record(&[("ce_time", "-009998-01-01T00:00:00Z")]).event.time.expect("that of the record");
        assert_eq!(said.as_millisecond(), 1_700_000_000_000);
    }

    #[test]
    fn debug_shows_no_content() {
        let text = format!("{:?}", valued(b"{\"card\": 4111}"));
        assert!(!text.contains("4111"), "{text}");
    }
}
