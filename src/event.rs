//! An event as the outbox holds it.

mod failure_class;
mod hold_reason;
mod place;
mod status;

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;

pub use failure_class::{FailureClass, UnknownClass};
pub use hold_reason::{HoldReason, UnknownReason};
pub use place::Place;
pub use status::{EventStatus, UnknownStatus};

/// Number of a shard, 0 to the number of shards less one.
pub type ShardId = i16;

/// A row of `outbox_events` that a lane has claimed. Borrows from the buffers of the connection: at a hundred thousand
/// rows a second, a copy of each text would cost more than all other work of the relay.
#[derive(Debug, Clone)]
pub struct OutboxEvent<'a> {
    pub id: i64,
    pub event_id: Uuid,
    pub event_type: &'a str,
    pub event_version: i32,
    pub aggregate_type: Option<&'a str>,
    pub aggregate_id: Option<&'a str>,
    pub topic: Option<&'a str>,
    /// The key of the record, by which order is kept: `partition_key`, else the aggregate id, else none. Of a key that
    /// is too long to be sent, its digest; `key_bytes` tells.
    pub key: Option<&'a str>,
    pub key_bytes: u32,
    /// Of a row that is larger than a record may be: its size, or less where measuring ended early. Its payload and
    /// headers were not read, and of long texts only the beginning. 0 of any other row.
    pub bytes: u64,
    pub payload: Payload<'a>,
    /// The JSON text of the `headers` column.
    pub headers: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
    pub causation_id: Option<&'a str>,
    pub source: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// Seconds until the event is due, by the clock of the database; `None` when it is due now.
    pub due_in_seconds: Option<f64>,
    pub created_at: Timestamp,
    /// The row is a copy that a replay made of this one.
    pub replay_of: Option<i64>,
    /// The row is the dead letter of this one.
    pub dead_letter_of: Option<i64>,
}

/// What the record's value will be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// `payload`, as PostgreSQL prints it.
    Json(&'a [u8]),
    /// `payload_raw`, byte for byte.
    Raw(&'a [u8]),
    /// Both columns null: a tombstone.
    Tombstone,
}

impl fmt::Debug for Payload<'_> {
    /// The kind and the size: payloads are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(bytes) => write!(f, "Json({} bytes)", bytes.len()),
            Self::Raw(bytes) => write!(f, "Raw({} bytes)", bytes.len()),
            Self::Tombstone => f.write_str("Tombstone"),
        }
    }
}
