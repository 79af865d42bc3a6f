//! What became of an event, by name.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The states of a row, as the CHECK constraint of the table has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Published => "PUBLISHED",
            Self::Failed => "FAILED",
            Self::Held => "HELD",
            Self::Discarded => "DISCARDED",
        }
    }
}

/// By name: reports are sorted by it.
impl Ord for EventStatus {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for EventStatus {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EventStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EventStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// No event has this status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown status")]
pub struct UnknownStatus;

impl FromStr for EventStatus {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == name).ok_or(UnknownStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The migration that says which there are.
    const CONSTRAINT: &str = include_str!("../../migrations/V1__outbox.sql");

    #[test]
    fn the_table_takes_each_status() {
        let known = CONSTRAINT.lines().find(|line| line.contains("check (status in (")).expect("the constraint");
        for status in EventStatus::ALL {
            assert!(known.contains(&format!("'{status}'")), "{status} is not in {known}");
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!(known.matches('\'').count(), 2 * EventStatus::ALL.len(), "{known}");
        assert_eq!("SENT".parse::<EventStatus>(), Err(UnknownStatus));
    }
}
