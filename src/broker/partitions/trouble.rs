//! Why a partition does not accept records, in words and as the label of a metric.

use std::fmt;

use rdkafka::error::RDKafkaErrorCode;

/// Why a partition does not accept records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    NoLeader,
    /// Fewer replicas are in sync than `min.insync.replicas` asks for.
    UnderReplicated,
    /// Its leader is known and does not acknowledge.
    Silent,
    /// Attempts repeatedly end with this error.
    Refusing(RDKafkaErrorCode),
}

impl Trouble {
    /// For a metric.
    pub const STATES: [&'static str; 4] = ["no-leader", "under-replicated", "silent", "refusing"];

    pub fn state(self) -> &'static str {
        match self {
            Self::NoLeader => "no-leader",
            Self::UnderReplicated => "under-replicated",
            Self::Silent => "silent",
            Self::Refusing(_) => "refusing",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("has no leader"),
            Self::UnderReplicated => f.write_str("has fewer in-sync replicas than min.insync.replicas"),
            Self::Silent => f.write_str("does not acknowledge records"),
            Self::Refusing(code) => write!(f, "refuses records: {code}"),
        }
    }
}

/// A partition that currently accepts no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    pub topic: String,
    pub partition: i32,
    pub trouble: Trouble,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {} {}", self.partition, self.topic, self.trouble)
    }
}
