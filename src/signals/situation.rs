//! The names of the situations, and what each means for readiness and thresholds.

use std::time::Duration;

use serde::{Serialize, Serializer};

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $part:literal, $sentence:literal;)+) => {
        /// Something that is waited for. The code is part of the public interface.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Situation {
            $($(#[$doc])* $name,)+
        }

        impl Situation {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// In JSON, and as a label of metrics.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// Whose situation it is: `consumer` or `relay`.
            pub fn part(self) -> &'static str {
                match self { $(Self::$name => $part,)+ }
            }

            /// In words, when nothing more is known.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }
        }
    };
}

situations! {
    NotJoined = "not-joined", "consumer", "the consumer is joining its group";
    GroupRefused = "group-refused", "consumer", "Kafka does not admit the consumer to its group";
    KafkaRefused = "kafka-refused", "consumer", "Kafka refuses the consumer";
    KafkaAway = "kafka-away", "consumer", "Kafka does not answer";
    PostgresAway = "postgres-away", "consumer", "PostgreSQL does not answer";
    MissingTopic = "missing-topic", "consumer", "the topic does not exist";
    NoLeader = "no-leader", "consumer", "the partition has no leader";
    Unmeasured = "unmeasured", "consumer", "Kafka does not report the start and end of the partition";
    OpenTransaction = "open-transaction", "consumer", "another producer's transaction is open";
    Locked = "locked", "consumer", "a fold waits for a lock";
    SlowFold = "slow-fold", "consumer", "a fold takes long";
    ProjectionRefused = "projection-refused", "consumer", "PostgreSQL rejects a projection";
    Stopped = "position-stopped", "consumer", "the partition waits for a decision about its position";
    TakenElsewhere = "taken-elsewhere", "consumer", "another instance took over the partition";
    /// Only reported from outside: the consumer itself knows why.
    Stalled = "stalled", "consumer", "there are records to fold, but the position does not advance";
    NoMember = "no-member", "consumer", "the group has no member";
    Paused = "paused", "relay", "publishing is paused";
    Resharding = "resharding", "relay", "the number of shards is being changed";
    NoOwner = "no-owner", "relay", "no instance owns the shard";
    NoRelay = "no-relay", "relay", "no relay is running";
    BoundTooHigh = "bound-too-high", "relay", "pending events of the shard are not counted: its scan bound is above the last id";
    RowSecurity = "row-security", "relay", "row-level security hides rows from this role, so pending events are not counted";
    TopicUnavailable = "topic-unavailable", "relay", "keys wait for a topic that is missing or denied";
    PartitionUnavailable = "partition-unavailable", "relay", "keys wait for a partition that does not accept records";
    ClockSkew = "clock-skew", "relay", "the clocks of this host and PostgreSQL differ";
}

/// How long a broker may take to elect a leader, or a producer to commit, before it is worth a line.
const ORDINARY: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(10);
/// As long as acknowledgements and folds may take.
const LONG: Duration = Duration::from_secs(30);

impl Situation {
    /// How long it may last before it is shown and logged: producers do open transactions, and leases do end.
    pub fn shown_after(self) -> Duration {
        match self {
            Self::OpenTransaction | Self::NoLeader | Self::Unmeasured | Self::TakenElsewhere => ORDINARY,
            Self::NoOwner | Self::NoRelay | Self::NoMember | Self::Stalled => SHORT,
            Self::NotJoined
            | Self::GroupRefused
            | Self::KafkaRefused
            | Self::KafkaAway
            | Self::PostgresAway
            | Self::MissingTopic
            | Self::Locked
            | Self::SlowFold
            | Self::ProjectionRefused
            | Self::Stopped
            | Self::Paused
            | Self::Resharding
            | Self::BoundTooHigh
            | Self::RowSecurity
            | Self::TopicUnavailable
            | Self::PartitionUnavailable
            | Self::ClockSkew => Duration::ZERO,
        }
    }

    /// How long it may last before the process is not ready; `None`: it never makes it so.
    pub fn unready_after(self) -> Option<Duration> {
        match self {
            Self::NotJoined
            | Self::GroupRefused
            | Self::KafkaRefused
            | Self::KafkaAway
            | Self::PostgresAway
            | Self::MissingTopic
            | Self::Locked
            | Self::SlowFold
            | Self::ProjectionRefused
            | Self::Stopped
            | Self::RowSecurity => Some(Duration::ZERO),
            Self::NoLeader | Self::Unmeasured => Some(SHORT),
            Self::OpenTransaction | Self::BoundTooHigh => Some(LONG),
            // What an operator has decided, what others do, and what costs only the keys concerned.
            Self::TakenElsewhere
            | Self::Stalled
            | Self::NoMember
            | Self::Paused
            | Self::Resharding
            | Self::NoOwner
            | Self::NoRelay
            | Self::TopicUnavailable
            | Self::PartitionUnavailable
            | Self::ClockSkew => None,
        }
    }

    /// Whether `/readyz?verbose` already has its own note about it.
    pub(super) fn has_note(self) -> bool {
        matches!(self, Self::Paused | Self::Resharding)
    }

    /// Whether `lag` does not know how much waits, or knows that it will not go on by itself: then it fails whatever
    /// the threshold is.
    pub fn fails_threshold(self) -> bool {
        match self {
            Self::GroupRefused
            | Self::KafkaRefused
            | Self::KafkaAway
            | Self::PostgresAway
            | Self::MissingTopic
            | Self::NoLeader
            | Self::Unmeasured
            | Self::Stopped
            | Self::BoundTooHigh
            | Self::RowSecurity => true,
            Self::NotJoined
            | Self::OpenTransaction
            | Self::Locked
            | Self::SlowFold
            | Self::ProjectionRefused
            | Self::TakenElsewhere
            | Self::Stalled
            | Self::NoMember
            | Self::Paused
            | Self::Resharding
            | Self::NoOwner
            | Self::NoRelay
            | Self::TopicUnavailable
            | Self::PartitionUnavailable
            | Self::ClockSkew => false,
        }
    }
}

impl Serialize for Situation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_situation_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Situation::ALL.iter().map(|situation| situation.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Situation::ALL.len());
    }

    #[test]
    fn what_makes_a_process_unready_is_shown_before() {
        for situation in Situation::ALL {
            assert!(situation.unready_after().is_none_or(|after| after >= situation.shown_after()), "{situation:?}");
        }
    }
}
