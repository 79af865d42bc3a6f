//! Where a position comes from, and what it means.

use serde::Serialize;

use crate::projection::position::reason;

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Postgres,
    Kafka,
    /// The group has not read this partition.
    None,
}

/// What the position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    NotStarted,
    /// Kafka has deleted records that the group has not read.
    RecordsLost,
    /// The position is after the end: the topic was deleted and made again.
    AheadOfLog,
    /// The record before the position is another one, or the topic has another id.
    TopicRecreated,
    OtherCluster,
    /// The position was changed by hand while the partition was read.
    MovedByHand,
    /// Other groups have read the topic, and this one asks first.
    OtherGroup,
    /// For a reason that this version does not know.
    Stopped,
    /// Records of a transaction that is still open end what consumers of committed records get.
    OpenTransaction,
    /// Kafka does not say where the partition ends.
    Unknown,
}

impl State {
    /// Of a partition that is stopped in PostgreSQL.
    pub(super) fn of_stop(reason: &str) -> Self {
        match reason {
            reason::RECORDS_LOST => Self::RecordsLost,
            reason::AHEAD_OF_LOG => Self::AheadOfLog,
            reason::TOPIC_RECREATED => Self::TopicRecreated,
            reason::OTHER_CLUSTER => Self::OtherCluster,
            reason::MOVED => Self::MovedByHand,
            reason::OTHER_GROUP => Self::OtherGroup,
            _ => Self::Stopped,
        }
    }

    /// What an operator has to know of it; `None`: nothing is wrong.
    pub fn trouble(self) -> Option<&'static str> {
        match self {
            Self::Ok | Self::NotStarted | Self::OpenTransaction => None,
            Self::RecordsLost => Some("Kafka deleted records that the group had not read"),
            Self::AheadOfLog => Some("the position is past the end of the log: was the topic recreated?"),
            Self::TopicRecreated => Some("the topic was recreated"),
            Self::OtherCluster => Some("the topic is in a different cluster"),
            Self::MovedByHand => Some("the position was changed by hand"),
            Self::OtherGroup => Some("other groups have read this topic, and this group waits for a decision"),
            Self::Stopped => Some("it waits for a decision"),
            Self::Unknown => Some("Kafka does not report the end of the partition"),
        }
    }
}
