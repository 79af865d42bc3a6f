//! Why a key waits, by name.

use std::str::FromStr;

/// As the constraint of `outbox_held_keys` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// An event of it failed, and somebody has to decide.
    Failed,
    /// An event of it failed and is tried again.
    Retry,
    /// An event of it is not due yet.
    Delayed,
    /// Its topic is paused.
    Paused,
    /// Its topic does not exist.
    NoTopic,
    /// Kafka does not let the relay write to its topic.
    Denied,
    /// Its partition takes no records.
    Partition,
}

impl HoldReason {
    pub const ALL: [Self; 7] =
        [Self::Failed, Self::Retry, Self::Delayed, Self::Paused, Self::NoTopic, Self::Denied, Self::Partition];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Retry => "retry",
            Self::Delayed => "delayed",
            Self::Paused => "paused",
            Self::NoTopic => "no-topic",
            Self::Denied => "denied",
            Self::Partition => "partition",
        }
    }
}

/// No key is held for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown hold reason")]
pub struct UnknownReason;

impl FromStr for HoldReason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name).ok_or(UnknownReason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last migration that says which there are.
    const CONSTRAINT: &str = include_str!("../../migrations/V10__partitions.sql");

    #[test]
    fn the_table_takes_each_reason_and_no_other() {
        let names = HoldReason::ALL.map(|reason| format!("'{}'", reason.as_str())).join(", ");
        assert!(CONSTRAINT.contains(&format!("check (reason in ({names}))")), "{names}");
        assert!(HoldReason::ALL.into_iter().all(|reason| reason.as_str().parse() == Ok(reason)));
        assert_eq!("none".parse::<HoldReason>(), Err(UnknownReason));
    }
}
