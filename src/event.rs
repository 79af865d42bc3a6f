//! An event as the outbox holds it.

use std::fmt;
use std::time::SystemTime;

use uuid::Uuid;

/// Number of a shard, 0 to the number of shards less one.
pub type ShardId = i16;

/// A row of `outbox_events` that a lane has claimed.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    pub id: i64,
    pub event_id: Uuid,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub event_type: String,
    pub topic: Option<String>,
    pub partition_key: Option<String>,
    pub payload: Payload,
    /// The JSON text of the `headers` column.
    pub headers: Option<String>,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    pub source: Option<String>,
    pub traceparent: Option<String>,
    pub retry_count: i32,
    /// Seconds until the event is due; `None` when it is due now.
    pub due_in_seconds: Option<f64>,
    pub created_at: SystemTime,
}

impl OutboxEvent {
    /// The key of the record: `partition_key`, else the aggregate, else none. Order is kept per key.
    pub fn key(&self) -> Option<&str> {
        self.partition_key.as_deref().or(self.aggregate_id.as_deref())
    }
}

/// What the record's value will be.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// `payload`, as PostgreSQL prints it.
    Json(Vec<u8>),
    /// `payload_raw`, byte for byte.
    Raw(Vec<u8>),
    /// Both columns null: a tombstone.
    Tombstone,
    /// Larger than a record may be, so it was not read. The size is in bytes.
    TooLarge(u64),
}

impl fmt::Debug for Payload {
    /// The kind and the size: payloads are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(bytes) => write!(f, "Json({} bytes)", bytes.len()),
            Self::Raw(bytes) => write!(f, "Raw({} bytes)", bytes.len()),
            Self::Tombstone => f.write_str("Tombstone"),
            Self::TooLarge(bytes) => write!(f, "TooLarge({bytes} bytes)"),
        }
    }
}

/// The states of a row, as the CHECK constraint of the table has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStatus {
    Pending,
    Published,
    Failed,
    Held,
    Discarded,
}

impl EventStatus {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Published, Self::Failed, Self::Held, Self::Discarded];

    /// The word in the `status` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Published => "PUBLISHED",
            Self::Failed => "FAILED",
            Self::Held => "HELD",
            Self::Discarded => "DISCARDED",
        }
    }
}
