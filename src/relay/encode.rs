//! An outbox event as a Kafka record: key, value, headers, timestamp, and the checks that need no broker.
//!
//! Pure. A row that cannot become a record gets a reason that says what to change; its own text is part of the reason
//! only if it is a name (a topic, a header), never a payload, a key or a header value.

use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};

use super::routing::{Routing, RoutingError};
use crate::broker::{Headers, Record};
use crate::config::{HeaderProfile, HeadersConfig};
use crate::error::Result;
use crate::event::{FailureClass, OutboxEvent, Payload};

/// Longest key in bytes; `outbox_key_of` of the schema has the same figure. Kafka has no limit of its own, but keys are
/// kept in memory per held key and by compacting brokers; 32 KiB is far beyond any real key. A guess.
pub const KEY_BYTES_MAX: u32 = 32_768;

/// The earliest time of a record.
const EARLIEST: Timestamp = Timestamp::constant(0, 1_000_000);

/// Why an event cannot be a record. The text goes to `last_error`, behind the class.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error(transparent)]
    Routing(#[from] RoutingError),
    #[error("the event takes at least {bytes} bytes; relay.max_record_bytes allows {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the key has {bytes} bytes; {KEY_BYTES_MAX} are allowed")]
    KeyTooLong { bytes: u32 },
    #[error("the column headers must be a JSON object whose values are strings{}", .0.as_deref().map(|name| format!("; \"{name}\" is not")).unwrap_or_default())]
    Headers(Option<String>),
}

impl EncodeError {
    /// For the metric label.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Routing(RoutingError::NoTopic) => FailureClass::NoTopic,
            Self::Routing(RoutingError::Invalid(_) | RoutingError::Internal(_)) => FailureClass::InvalidTopic,
            Self::Routing(RoutingError::NotAllowed(_)) => FailureClass::TopicNotAllowed,
            Self::TooLarge { .. } => FailureClass::TooLarge,
            Self::KeyTooLong { .. } => FailureClass::KeyTooLong,
            Self::Headers(_) => FailureClass::InvalidHeaders,
        }
    }
}

/// Settings of the encoding, compiled.
#[derive(Debug)]
pub struct Encoder {
    routing: Routing,
    profile: HeaderProfile,
    default_source: String,
    record_bytes_max: u64,
}

impl Encoder {
    pub fn new(routing: Routing, headers: &HeadersConfig, deployment: &str, record_bytes_max: u64) -> Self {
        let default_source = headers.source.clone().unwrap_or_else(|| format!("/{deployment}"));
        Self { routing, profile: headers.profile, default_source, record_bytes_max }
    }

    /// Where an event goes; `None` if routing refuses it.
    pub fn topic(&self, event: &OutboxEvent<'_>) -> Option<String> {
        self.routing.topic(event).ok()
    }

    /// The record of an event.
    pub fn encode(&self, event: &OutboxEvent<'_>) -> Result<Record, EncodeError> {
        if event.key_bytes > KEY_BYTES_MAX {
            return Err(EncodeError::KeyTooLong { bytes: event.key_bytes });
        }
        let too_large = |bytes: u64| EncodeError::TooLarge { bytes, limit: self.record_bytes_max };
        if event.bytes > self.record_bytes_max {
            // The payload was not even read, nor all of a long topic.
            return Err(too_large(event.bytes));
        }
        let topic = self.routing.topic(event)?;
        let headers = self.headers(event)?;
        let value = match event.payload {
            Payload::Json(bytes) | Payload::Raw(bytes) => Some(bytes.to_vec()),
            Payload::Tombstone => None,
        };
        let record = Record {
            topic,
            key: event.key.map(str::to_owned),
            value,
            headers,
            timestamp_ms: time_of(event).as_millisecond(),
        };
        let size = record.size() as u64;
        if size > self.record_bytes_max {
            return Err(too_large(size));
        }
        Ok(record)
    }

    /// Ours that identify the record come first and cannot be replaced; the row's own come next and win over the rest.
    fn headers(&self, event: &OutboxEvent<'_>) -> Result<Headers, EncodeError> {
        let mut headers = Headers::with_capacity(16, 384);
        // A dead letter is found by the row that failed, which is the one that people know.
        let mut number = itoa(event.dead_letter_of.unwrap_or(event.id));
        headers.push("outbox-id", number.as_bytes());
        let mut buffer = uuid::Uuid::encode_buffer();
        let event_id = event.event_id.hyphenated().encode_lower(&mut buffer).as_bytes();
        headers.push("outbox-event-id", event_id);
        if let Some(original) = event.replay_of {
            headers.push("outbox-replay-of", itoa(original).as_bytes());
        }
        let mut own_names = false;
        if let Some(text) = event.headers {
            for (name, value) in own_headers(text)? {
                // Forwarding all headers of a consumed record is common; its identity is not that of the new one.
                if !name.starts_with("outbox-") {
                    headers.push(name, value.as_bytes());
                    own_names = true;
                }
            }
        }
        let mut standard = |name: &'static str, value: &[u8]| {
            if !own_names || !headers.contains(name) {
                headers.push(name, value);
            }
        };
        for (name, value) in [
            ("correlation-id", event.correlation_id),
            ("causation-id", event.causation_id),
            ("traceparent", event.traceparent),
        ] {
            if let Some(value) = value {
                standard(name, value.as_bytes());
            }
        }
        match self.profile {
            HeaderProfile::Plain => {}
            HeaderProfile::CloudEvents => {
                standard("ce_specversion", b"1.0");
                standard("ce_id", event_id);
                standard("ce_type", event.event_type.as_bytes());
                standard("ce_source", event.source.unwrap_or(&self.default_source).as_bytes());
                standard("ce_time", time_of(event).to_string().as_bytes());
                if let Some(subject) = event.aggregate_id {
                    standard("ce_subject", subject.as_bytes());
                }
                // Extension attributes of ours, for consumers that tell repeats by aggregate and version.
                if let Some(kind) = event.aggregate_type {
                    standard("ce_aggregatetype", kind.as_bytes());
                }
                number = itoa(i64::from(event.event_version));
                standard("ce_eventversion", number.as_bytes());
                match event.payload {
                    Payload::Json(_) => standard("content-type", b"application/json"),
                    Payload::Raw(_) => standard("content-type", b"application/octet-stream"),
                    Payload::Tombstone => {}
                }
            }
        }
        Ok(headers)
    }
}

/// When the event happened, as the record says it in its timestamp and in `ce_time`. Kafka knows no time before 1970,
/// and its client takes the first millisecond of 1970 for "none given".
fn time_of(event: &OutboxEvent<'_>) -> Timestamp {
    event.created_at.max(EARLIEST)
}

fn itoa(number: i64) -> String {
    number.to_string()
}

/// The column `headers`: an object of strings, in the order PostgreSQL keeps. The JSON value `null`, which ORMs write
/// where there are none, is as good as none.
fn own_headers(text: &str) -> Result<Vec<(String, String)>, EncodeError> {
    if text == "null" {
        return Ok(Vec::new());
    }
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Result<Vec<(String, String)>, String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut pairs, mut bad) = (Vec::new(), None);
            while let Some(name) = map.next_key::<String>()? {
                let value = map.next_value::<serde_json::Value>()?;
                match value.as_str() {
                    Some(value) => pairs.push((name, value.to_owned())),
                    None => bad = bad.or(Some(name)),
                }
            }
            Ok(bad.map_or(Ok(pairs), Err))
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    match serde::Deserializer::deserialize_map(&mut reader, Pairs) {
        Ok(Ok(pairs)) => Ok(pairs),
        Ok(Err(name)) => Err(EncodeError::Headers(Some(name.chars().take(80).flat_map(char::escape_debug).collect()))),
        Err(_) => Err(EncodeError::Headers(None)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::RoutingConfig;

    pub(crate) fn event() -> OutboxEvent<'static> {
        OutboxEvent {
            id: 42,
            event_id: "0198f2c4-0000-7000-8000-000000000001".parse().unwrap(),
            event_type: "OrderCreatedEvent",
            event_version: 3,
            aggregate_type: Some("Order"),
            aggregate_id: Some("90017"),
            topic: Some("order-events"),
            key: Some("90017"),
            key_bytes: 5,
            bytes: 100,
            payload: Payload::Json(b"{\"orderId\": 90017}"),
            headers: None,
            correlation_id: None,
            causation_id: None,
            source: None,
            traceparent: None,
            due_in_seconds: None,
            created_at: "2031-05-04T09:12:44.123456Z".parse().unwrap(),
            replay_of: None,
            dead_letter_of: None,
        }
    }

    fn encoder(profile: HeaderProfile) -> Encoder {
        let headers = HeadersConfig { profile, source: None };
        Encoder::new(Routing::new(&RoutingConfig::default()).unwrap(), &headers, "shop", 1_000)
    }

    fn shown(record: &Record) -> Vec<(String, String)> {
        record
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn json_null_is_no_headers() {
        let event = OutboxEvent { headers: Some("null"), ..event() };
        let plain = encoder(HeaderProfile::Plain).encode(&event).unwrap();
        let without = OutboxEvent { headers: None, ..event };
        assert_eq!(shown(&plain), shown(&encoder(HeaderProfile::Plain).encode(&without).unwrap()));
        let text = OutboxEvent { headers: Some("\"null\""), ..without };
        assert_eq!(encoder(HeaderProfile::Plain).encode(&text).unwrap_err(), EncodeError::Headers(None));
    }

    /// A timestamp of 0 is "now" for librdkafka.
    #[test]
    fn the_timestamp_and_ce_time_say_the_same_at_the_beginning_of_1970() {
        for created_at in ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.0005Z", "1969-12-31T23:59:59Z"] {
            let event = OutboxEvent { created_at: created_at.parse().unwrap(), ..event() };
            let record = encoder(HeaderProfile::CloudEvents).encode(&event).unwrap();
            assert_eq!(record.timestamp_ms, 1, "{created_at}");
            assert!(shown(&record).contains(&pair("ce_time", "1970-01-01T00:00:00.001Z")), "{created_at}");
        }
    }

    #[test]
    fn a_cloudevents_record_carries_the_whole_envelope() {
        let record = encoder(HeaderProfile::CloudEvents).encode(&event()).unwrap();
        assert_eq!(
            shown(&record),
            [
                pair("outbox-id", "42"),
                pair("outbox-event-id", "0198f2c4-0000-7000-8000-000000000001"),
                pair("ce_specversion", "1.0"),
                pair("ce_id", "0198f2c4-0000-7000-8000-000000000001"),
                pair("ce_type", "OrderCreatedEvent"),
                pair("ce_source", "/shop"),
                pair("ce_time", "2031-05-04T09:12:44.123456Z"),
                pair("ce_subject", "90017"),
                pair("ce_aggregatetype", "Order"),
                pair("ce_eventversion", "3"),
                pair("content-type", "application/json"),
            ]
        );
        assert_eq!(record.timestamp_ms, 1_935_652_364_123);
        assert_eq!(record.key.as_deref(), Some("90017"));
    }

    #[test]
    fn own_headers_win_over_the_profile_but_not_over_the_identity() {
        let mut event = event();
        event.headers = Some(r#"{"content-type": "application/avro", "outbox-id": "7", "tenant": "a"}"#);
        let headers = shown(&encoder(HeaderProfile::CloudEvents).encode(&event).unwrap());
        assert!(headers.contains(&pair("content-type", "application/avro")) && headers.contains(&pair("tenant", "a")));
        assert_eq!(headers.iter().filter(|(name, _)| name == "content-type" || name == "outbox-id").count(), 2);
        assert!(headers.contains(&pair("outbox-id", "42")));
    }

    #[test]
    fn a_copy_of_a_replay_names_the_row_it_was_made_from() {
        let mut event = event();
        (event.replay_of, event.headers) = (Some(7), Some(r#"{"outbox-replay-of": "1"}"#));
        let headers = shown(&encoder(HeaderProfile::Plain).encode(&event).unwrap());
        let expected = [
            pair("outbox-id", "42"),
            pair("outbox-event-id", "0198f2c4-0000-7000-8000-000000000001"),
            pair("outbox-replay-of", "7"),
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_dead_letter_carries_the_id_of_the_row_that_failed() {
        let mut event = event();
        event.dead_letter_of = Some(7);
        let headers = shown(&encoder(HeaderProfile::Plain).encode(&event).unwrap());
        assert_eq!(headers, [pair("outbox-id", "7"), pair("outbox-event-id", "0198f2c4-0000-7000-8000-000000000001")]);
    }

    #[test]
    fn the_plain_profile_adds_only_identity_and_trace() {
        let mut event = event();
        (event.correlation_id, event.traceparent) = (Some("c-1"), Some("00-ab-cd-01"));
        let names: Vec<String> =
            shown(&encoder(HeaderProfile::Plain).encode(&event).unwrap()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["outbox-id", "outbox-event-id", "correlation-id", "traceparent"]);
    }

    #[test]
    fn headers_that_are_not_an_object_of_strings_are_refused_and_named() {
        for (text, expected) in [
            ("[1]", None),
            ("\"x\"", None),
            (r#"{"a": "x", "n": 3}"#, Some("n")),
            (r#"{"o": {}}"#, Some("o")),
            (r#"{"z": null}"#, Some("z")),
        ] {
            let mut event = event();
            event.headers = Some(text);
            let refused = encoder(HeaderProfile::CloudEvents).encode(&event).unwrap_err();
            assert_eq!(refused, EncodeError::Headers(expected.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn limits_are_told_with_both_figures() {
        let mut large = event();
        large.payload = Payload::Raw(&[0; 900]);
        let error = encoder(HeaderProfile::CloudEvents).encode(&large).unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge { limit: 1_000, bytes: 1_001.. }), "{error}");
        let mut unread = event();
        unread.bytes = 5_000_000;
        assert_eq!(
            encoder(HeaderProfile::Plain).encode(&unread).unwrap_err(),
            EncodeError::TooLarge { bytes: 5_000_000, limit: 1_000 }
        );
        let mut long = event();
        long.key_bytes = 100_000;
        assert_eq!(
            encoder(HeaderProfile::Plain).encode(&long).unwrap_err(),
            EncodeError::KeyTooLong { bytes: 100_000 }
        );
    }

    #[test]
    fn a_tombstone_has_no_value_and_no_content_type() {
        let mut event = event();
        event.payload = Payload::Tombstone;
        let record = encoder(HeaderProfile::CloudEvents).encode(&event).unwrap();
        assert_eq!(record.value, None);
        assert!(!record.headers.contains("content-type"));
    }
}
