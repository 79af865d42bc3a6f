//! Values that several use cases take.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

/// An event: its row, or every row with its event_id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventRef {
    Id(i64),
    EventId(Uuid),
}

impl std::fmt::Display for EventRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::EventId(id) => id.fmt(f),
        }
    }
}

/// The position of a record in Kafka: `topic/partition/offset`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// A time or an age. Where the database sets the times to compare with, it resolves the age by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Timestamp),
    Ago(Duration),
}
