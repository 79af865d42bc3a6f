//! Events as they are reported. The names of the fields are those of the columns and are public.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::db::StoredTime;
use crate::error::{Code, Error, Result};
use crate::event::EventStatus;
use crate::outbox::inspect::events::{Details, Hold, Summary};

/// An event without its payload. It lists the fields of [`Summary`] again, because these names are public: what is read
/// may change, what is printed may not.
#[derive(Debug, Clone, Serialize)]
pub struct EventLine {
    pub id: i64,
    pub event_id: String,
    pub status: EventStatus,
    pub topic: Option<String>,
    pub key: Option<String>,
    pub event_type: String,
    pub event_version: i32,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub correlation_id: Option<String>,
    pub retry_count: i32,
    pub last_error: Option<String>,
    pub created_at: StoredTime,
    pub available_at: Option<StoredTime>,
    pub published_at: Option<StoredTime>,
    pub published_partition: Option<i32>,
    pub published_offset: Option<i64>,
}

impl From<Summary> for EventLine {
    fn from(event: Summary) -> Self {
        Self {
            id: event.id,
            event_id: event.event_id.to_string(),
            status: event.status,
            topic: event.topic,
            key: event.key,
            event_type: event.event_type,
            event_version: event.event_version,
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id,
            correlation_id: event.correlation_id,
            retry_count: event.retry_count,
            last_error: event.last_error,
            created_at: event.created_at,
            available_at: event.available_at,
            published_at: event.published_at,
            published_partition: event.published_partition,
            published_offset: event.published_offset,
        }
    }
}

/// An event with its payload and everything that is known of it.
#[derive(Serialize)]
pub struct EventDetails {
    #[serde(flatten)]
    pub line: EventLine,
    pub causation_id: Option<String>,
    pub source: Option<String>,
    pub traceparent: Option<String>,
    pub shard: i16,
    /// JSON as PostgreSQL printed it, so that no digit of a number is lost on the way; so is `payload`.
    pub headers: Option<Box<RawValue>>,
    pub payload: Option<Box<RawValue>>,
    pub payload_raw_base64: Option<String>,
    #[serde(skip)]
    pub payload_raw: Option<Vec<u8>>,
    /// What is too large to be shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<&'static str>,
    pub hold: Option<HoldLine>,
}

/// Why the events of a key wait.
#[derive(Debug, Clone, Serialize)]
pub struct HoldLine {
    pub first_id: i64,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub since: StoredTime,
    pub release_at: Option<StoredTime>,
}

impl EventDetails {
    pub fn new(event: Details) -> Result<Self> {
        Ok(Self {
            line: EventLine::from(event.summary),
            causation_id: event.causation_id,
            source: event.source,
            traceparent: event.traceparent,
            shard: event.shard,
            headers: event.headers.map(raw).transpose()?,
            payload: event.payload.map(raw).transpose()?,
            payload_raw_base64: event.payload_base64,
            payload_raw: event.payload_raw,
            omitted: [("payload", event.payload_omitted), ("headers", event.headers_omitted)]
                .into_iter()
                .filter_map(|(column, omitted)| omitted.then_some(column))
                .collect(),
            hold: event.hold.map(HoldLine::from),
        })
    }

    /// Whether `column` was too large to be read.
    pub fn is_omitted(&self, column: &str) -> bool {
        self.omitted.contains(&column)
    }
}

impl From<Hold> for HoldLine {
    fn from(hold: Hold) -> Self {
        let Hold { first_id, reason, detail, since, release_at } = hold;
        Self { first_id, reason, detail, since, release_at }
    }
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json)
        .map_err(|error| Error::new(Code::Unexpected, "PostgreSQL printed JSON that does not parse").caused_by(error))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use uuid::Uuid;

    pub(crate) fn details() -> Details {
        Details {
            summary: Summary {
                id: 17,
                event_id: Uuid::nil(),
                status: EventStatus::Held,
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
        let text = serde_json::to_string(&EventDetails::new(details()).unwrap()).unwrap();
        assert!(text.contains(r#""created_at":"2026-05-01T12:00:00.25Z""#), "{text}");
        assert!(text.contains(r#""payload":{"price": 12345678901234567890.10}"#), "{text}");
        assert!(text.contains(r#""hold":{"first_id":11,"reason":"failed""#), "{text}");
    }

    #[test]
    fn a_list_never_holds_a_payload() {
        let text = serde_json::to_string(&[EventLine::from(details().summary)]).unwrap();
        assert!(!text.contains("payload") && !text.contains("price"), "{text}");
    }
}
