//! Why an event failed, by name.

use std::fmt;
use std::str::FromStr;

/// The class of a refused event: of the relay's own checks, or of Kafka's answer (`broker::failure`). The first word of
/// `last_error`, the label of a metric, and what a `[[retry.rule]]` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    NoTopic,
    InvalidTopic,
    TopicNotAllowed,
    UnknownTopic,
    TooLarge,
    KeyTooLong,
    InvalidHeaders,
    InvalidRecord,
    InvalidTimestamp,
    PolicyViolation,
    UnsupportedFormat,
    /// PostgreSQL cannot read the row.
    Unreadable,
    /// The row refuses to be changed.
    Unchangeable,
}

impl FailureClass {
    pub const ALL: [Self; 13] = [
        Self::NoTopic,
        Self::InvalidTopic,
        Self::TopicNotAllowed,
        Self::UnknownTopic,
        Self::TooLarge,
        Self::KeyTooLong,
        Self::InvalidHeaders,
        Self::InvalidRecord,
        Self::InvalidTimestamp,
        Self::PolicyViolation,
        Self::UnsupportedFormat,
        Self::Unreadable,
        Self::Unchangeable,
    ];

    /// The public name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoTopic => "no-topic",
            Self::InvalidTopic => "invalid-topic",
            Self::TopicNotAllowed => "topic-not-allowed",
            Self::UnknownTopic => "unknown-topic",
            Self::TooLarge => "too-large",
            Self::KeyTooLong => "key-too-long",
            Self::InvalidHeaders => "invalid-headers",
            Self::InvalidRecord => "invalid-record",
            Self::InvalidTimestamp => "invalid-timestamp",
            Self::PolicyViolation => "policy-violation",
            Self::UnsupportedFormat => "unsupported-format",
            Self::Unreadable => "unreadable",
            Self::Unchangeable => "unchangeable",
        }
    }

    /// All names, in the order of [`FailureClass::ALL`].
    pub fn names() -> [&'static str; Self::ALL.len()] {
        Self::ALL.map(Self::as_str)
    }

    /// Whether a second attempt could end differently: by a topic that is created, a policy that is changed.
    pub const fn is_worth_another_attempt(self) -> bool {
        match self {
            Self::UnknownTopic | Self::PolicyViolation => true,
            Self::NoTopic
            | Self::InvalidTopic
            | Self::TopicNotAllowed
            | Self::TooLarge
            | Self::KeyTooLong
            | Self::InvalidHeaders
            | Self::InvalidRecord
            | Self::InvalidTimestamp
            | Self::UnsupportedFormat
            | Self::Unreadable
            | Self::Unchangeable => false,
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No class has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown failure class")]
pub struct UnknownClass;

impl FromStr for FailureClass {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.as_str() == name).ok_or(UnknownClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_name() {
        for class in FailureClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        assert_eq!("none".parse::<FailureClass>(), Err(UnknownClass));
    }
}
