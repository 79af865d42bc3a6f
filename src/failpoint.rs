//! Places where tests make a process crash, fail or hang. All names are listed here.
//!
//! Requires the feature `failpoints`, which a release build rejects: see the check at the end of this file. Tests set
//! `FAILPOINTS`, for example `commit.after=3*off->1*return(kill)->off`; the grammar is that of the crate `fail`.

mod fault;

use std::time::Duration;

pub use fault::{Fault, fault};

/// A step between two of which a crash makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The shard is ours in PostgreSQL; nothing was done with it.
    LeaseAcquired,
    /// The former owner's producer is fenced in Kafka.
    FenceDone,
    /// The marker is known.
    MarkerRead,
    /// What becomes of the batch in flight is decided, and not written.
    Resolved,
    /// The batch in hand is settled and the next one claimed, before the commit in PostgreSQL.
    StepBeforeCommit,
    /// The same, after the commit.
    StepAfterCommit,
    /// Before the first record of a batch.
    ProduceFirst,
    /// Before the record in the middle of a batch.
    ProduceMid,
    /// All records and the marker are in an open transaction.
    OffsetsSent,
    /// Before the commit in Kafka.
    CommitBefore,
    /// After the commit in Kafka, or after the last acknowledgement in at-least-once delivery: nothing is settled yet.
    CommitAfter,
    /// The thread of the consumer begins another turn.
    ConsumerTurn,
    /// The consumer has folded a batch, before its commit.
    FoldBeforeCommit,
    /// The same, after its commit.
    FoldAfterCommit,
    /// The stop was asked for; lanes still have batches in hand.
    ShutdownDraining,
}

impl Point {
    pub const ALL: &[Self] = &[
        Self::LeaseAcquired,
        Self::FenceDone,
        Self::MarkerRead,
        Self::Resolved,
        Self::StepBeforeCommit,
        Self::StepAfterCommit,
        Self::ProduceFirst,
        Self::ProduceMid,
        Self::OffsetsSent,
        Self::CommitBefore,
        Self::CommitAfter,
        Self::ConsumerTurn,
        Self::FoldBeforeCommit,
        Self::FoldAfterCommit,
        Self::ShutdownDraining,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::LeaseAcquired => "lease.acquired",
            Self::FenceDone => "fence.done",
            Self::MarkerRead => "marker.read",
            Self::Resolved => "resolved",
            Self::StepBeforeCommit => "step.before_commit",
            Self::StepAfterCommit => "step.after_commit",
            Self::ProduceFirst => "produce.first",
            Self::ProduceMid => "produce.mid",
            Self::OffsetsSent => "offsets.sent",
            Self::CommitBefore => "commit.before",
            Self::CommitAfter => "commit.after",
            Self::ConsumerTurn => "consumer.turn",
            Self::FoldBeforeCommit => "fold.before_commit",
            Self::FoldAfterCommit => "fold.after_commit",
            Self::ShutdownDraining => "shutdown.draining",
        }
    }
}

/// Passes a point. Errors: the test asked for one.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_: Point) -> Result<(), String> {
    Ok(())
}

/// Passes a point. `return(kill)` ends the process at once, as SIGKILL does: nothing is flushed but the log, nothing is
/// told. `return(MS)` blocks the thread for so many milliseconds. `return(panic)` panics, and `return(error)` is an
/// error here. Each leaves a line in the log.
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) -> Result<(), String> {
    let Some(action) = fail::eval(point.name(), Option::unwrap_or_default) else { return Ok(()) };
    tracing::warn!(point = point.name(), action, "a test acts here");
    // The line tells the test that the point was reached, and lines wait for a thread of their own.
    crate::stderr::flush(Duration::from_secs(1));
    match action.parse() {
        Ok(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
        Err(_) if action == "kill" => std::process::abort(),
        Err(_) if action == "panic" => panic!("the test panics at {}", point.name()),
        Err(_) => return Err(format!("the test fails {}", point.name())),
    }
    Ok(())
}

/// How long a part of the process may be silent: `limit`, or less where a test says so.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn part_silence(limit: Duration) -> Duration {
    limit
}

/// How long a part of the process may be silent: `limit`, or less where a test says so with
/// `FAILPOINTS=part.silence=return(SECONDS)`.
#[cfg(feature = "failpoints")]
pub fn part_silence(limit: Duration) -> Duration {
    let shorter = fail::eval("part.silence", |seconds| seconds.and_then(|seconds| seconds.parse().ok()));
    shorter.flatten().map_or(limit, Duration::from_secs)
}

/// Reads `FAILPOINTS`. What it returns must live as long as the points should act.
#[cfg(feature = "failpoints")]
pub fn set_up() -> impl Drop {
    fail::FailScenario::setup()
}

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints crash the process on request: they must not be in a release build");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names_of_their_own() {
        let names: std::collections::HashSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
