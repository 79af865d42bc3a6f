//! What the cluster has said of a topic, and what a lane may assume because of it.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::super::admin::Timestamps;

/// What a lane may assume of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Never asked for, or the answer is older than the attempt that it would blame:
    /// [`TopicCatalog::ask`](super::TopicCatalog::ask).
    Unknown,
    Exists(Limits),
    /// Does not exist, but may soon: wait this long.
    Awaited(Duration),
    /// Kafka denies us access: its events wait.
    Denied,
    /// Has not existed for longer than the grace, nor a moment ago.
    Missing,
}

/// What a topic accepts, if the broker reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `max.message.bytes`.
    pub max_message_bytes: Option<u64>,
    pub timestamps: Timestamps,
    /// It does not accept records without a key.
    pub compacted: bool,
    /// When the cluster said so.
    pub asked: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fact {
    Denied {
        /// When Kafka last said so.
        asked: Duration,
        /// The client may see the topic, so only an event can find out whether it may write by now.
        visible: bool,
    },
    Exists(Limits),
    Missing {
        since: Duration,
        /// When the cluster last said so.
        asked: Duration,
        /// It was asked for by name: a topic that this client may not see is missing in the list of all, too.
        by_name: bool,
    },
}

/// A fact, and when it was last needed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) fact: Fact,
    /// In monotonic milliseconds.
    pub(super) used: AtomicU64,
}

impl Fact {
    pub(super) fn asked(&self) -> Duration {
        match self {
            Self::Denied { asked, .. } | Self::Missing { asked, .. } => *asked,
            Self::Exists(limits) => limits.asked,
        }
    }
}

impl Limits {
    /// Whether this may blame an event. `asked_at`: as of [`TopicCatalog::look_up`](super::TopicCatalog::look_up).
    pub fn is_fresh(&self, asked_at: Option<Duration>) -> bool {
        is_fresh(self.asked, asked_at)
    }
}

/// An answer blames no event that did not exist when it was requested: its topic may have been created or changed in
/// the meantime.
pub(super) fn is_fresh(asked: Duration, asked_at: Option<Duration>) -> bool {
    asked_at.is_some_and(|at| asked >= at)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
