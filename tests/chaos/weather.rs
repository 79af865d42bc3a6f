//! What a proxy may do to a connection: bad weather, and traps for single requests.

use std::time::Duration;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Delay(Duration),
    Throttle {
        bytes_per_second: u32,
    },
    /// Kept back, and delivered late.
    Hold,
    /// Gone for good. The connections concerned are reset afterwards.
    Swallow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Requests,
    Answers,
    Both,
}

/// A request that a proxy knows when it sees one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Of Kafka, by its api key.
    Kafka(i16),
    /// COMMIT, of PostgreSQL.
    Commit,
}

impl Request {
    pub const PRODUCE: Self = Self::Kafka(0);
    pub const INIT_PRODUCER_ID: Self = Self::Kafka(22);
    pub const ADD_PARTITIONS_TO_TXN: Self = Self::Kafka(24);
    pub const END_TXN: Self = Self::Kafka(26);
    pub const TXN_OFFSET_COMMIT: Self = Self::Kafka(28);
}
