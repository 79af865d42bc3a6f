//! Kafka: records, publishing in order with acknowledgements, topic facts, client settings.
//!
//! Knows nothing of the outbox: it takes [`Record`]s and reports the result of each. `rdkafka` appears here, in
//! `projection/consumer.rs` and in the demo's in-process broker, nowhere else.

pub mod admin;
pub mod client_config;
pub(crate) mod ends;
pub mod failure;
pub(crate) mod partitions;
pub(crate) mod publisher;
pub mod raw;
pub mod reader;
pub(crate) mod reconnect;
pub(crate) mod request_size;
pub mod scan;
pub(crate) mod topics;
pub mod transaction;

mod batch;
mod call;
mod explore;
mod murmur2;
mod producer;

use crate::event::FailureClass;
use std::borrow::Cow;

/// One record to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub topic: String,
    pub key: Option<String>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl Record {
    /// Bytes of the record in an uncompressed batch, at most: Kafka's format 2 takes 61 for the batch, up to 35 for the
    /// record's own lengths and deltas, and up to 10 for the two lengths of each header.
    pub fn size(&self) -> usize {
        const BATCH: usize = 61;
        const RECORD: usize = 35;
        const HEADER: usize = 10;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER).sum();
        BATCH + RECORD + self.key.as_ref().map_or(0, String::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

/// Headers of a record, in order. All values stand in one buffer: a record has ten of them, and an allocation for each
/// would cost more than the rest of the record.
#[derive(Clone, Default, PartialEq)]
pub struct Headers {
    names: Vec<(Cow<'static, str>, u32)>,
    values: Vec<u8>,
}

impl Headers {
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        Self { names: Vec::with_capacity(headers), values: Vec::with_capacity(bytes) }
    }

    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: &[u8]) {
        self.values.extend_from_slice(value);
        let end = u32::try_from(self.values.len()).expect("headers are bounded by the size of a record");
        self.names.push((name.into(), end));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut start = 0;
        self.names.iter().map(move |(name, end)| {
            let end = *end as usize;
            let value = &self.values[start..end];
            start = end;
            (name.as_ref(), value)
        })
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known == name)
    }
}

impl std::fmt::Debug for Headers {
    /// The names alone: values may hold personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names.iter().map(|(name, _)| name)).finish()
    }
}

/// What Kafka accepts as the name of a topic. A row may hold any text, and the client must not be asked about one that
/// is no name: it returns no handle for it, and its binding panics.
pub fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// In the log, acknowledged by all in-sync replicas.
    Acked { partition: i32, offset: i64 },
    /// Kafka or the client refused this record for itself; sending it again as it is would be refused again.
    Refused { class: FailureClass, reason: String },
    /// Not sent, because an earlier record of its key was refused.
    Withheld,
    /// Not sent: this client may not write to the topic.
    Denied,
    /// Not acknowledged, because its partition takes no records now: [`Partitions`](partitions::Partitions) knows why.
    Stuck,
    /// Not acknowledged, for a reason that is not the record's. It may be in the log all the same if it was in flight.
    Unsent,
}

/// Version of the librdkafka that is linked in.
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
