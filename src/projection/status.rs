//! Whether the consumer is ready, and why not: what `/readyz` asks.

use crate::health::{Check, Notes};
use crate::metrics::Metrics;
use crate::signals::{Board, Source, Wait};

/// Shared between the consumer and whoever reports it. Cheap to clone. Not ready until the consumer has joined its
/// group; an instance that got no partition is ready.
#[derive(Debug, Clone)]
pub struct ConsumerStatus {
    board: Board,
}

impl ConsumerStatus {
    pub fn new(metrics: Metrics) -> Self {
        let board = Board::new("consumer", metrics);
        board.not_running("the consumer has not started");
        Self { board }
    }

    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    /// Every reason why it is not ready, `; ` between them. `None` when it is.
    pub fn reason(&self) -> Option<String> {
        self.board.reason()
    }

    /// From now on the check says what [`ConsumerStatus::reason`] says, and the notes what else is waited for.
    pub fn report_to(&self, check: Check, notes: Notes) {
        self.board.report_to(Some(check), notes);
    }

    /// For whoever looks at the cluster beside the consumer.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Returns whether that is news.
    pub(super) fn not_running(&self, reason: &str) -> bool {
        self.board.not_running(reason)
    }

    /// It runs, and this is all that it waits for now.
    pub(super) fn report(&self, waits: Vec<Wait>) {
        self.board.report(Source::Work, waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Situation;

    #[test]
    fn it_is_ready_when_it_runs_and_waits_for_nothing() {
        let status = ConsumerStatus::new(Metrics::new());
        let reader = status.clone();
        assert!(!reader.is_ready(), "it has not started");
        status.report(vec![Wait::new(Situation::NotJoined)]);
        assert!(!reader.is_ready(), "it has not joined");
        let wait = |detail| Wait::new(Situation::Stopped).because(detail).of_partition("orders", 1);
        status.report(vec![wait("a"), wait("b")]);
        let reason = reader.reason().expect("a reason");
        assert!(reason.starts_with("orders/1: a; b (position-stopped since "), "{reason}");
        status.report(Vec::new());
        assert!(reader.is_ready() && reader.reason().is_none());
        status.not_running("stopped");
        assert_eq!(reader.reason().as_deref(), Some("stopped"));
    }
}
