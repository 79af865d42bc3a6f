//! Failed events: what an operator sees of them, and what may be done with them.

use crate::event::FailureClass;
use std::fmt;
use std::time::Duration;

/// An event that Kafka or our own checks refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failed {
    pub id: i64,
    /// `None`: the event has no key, or it is a dead letter; nothing waits for it.
    pub key: Option<String>,
    pub class: FailureClass,
    /// Where it would have gone, if that is known.
    pub topic: Option<String>,
    /// For `last_error`, behind the class: cause, and what to do.
    pub reason: String,
}

/// A failed event together with what its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedEvent<'a> {
    pub class: FailureClass,
    pub topic: Option<&'a str>,
    pub event_type: &'a str,
    /// The one that failed just now included.
    pub attempts: u32,
}

/// What becomes of a failed event and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureAction {
    /// Another attempt after this time; its key waits.
    Retry { after: Duration },
    /// FAILED, and its key waits until an operator decides.
    Hold,
    /// FAILED, its copy goes to this topic, and its key continues.
    DeadLetter { topic: String },
    /// FAILED, and its key continues.
    Skip,
}

/// Who decides. Pure, apart from chance: it is asked inside of a transaction.
pub trait FailurePolicy: fmt::Debug + Send + Sync {
    fn decide(&self, event: &FailedEvent<'_>) -> FailureAction;
}
