//! What becomes of parked events that were released: the running consumer folds them, or parks them again.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::clock::monotonic;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::Result;
use crate::operations::progress::{Progress, Step};
use crate::projection::decisions::parked::{self, State};

/// Events that are asked for at once.
const ASKED_TOGETHER: usize = 10_000;
/// Least time between two looks. The consumer itself looks every two seconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Outcome {
    folded: u64,
    parked_again: u64,
    /// Given up meanwhile.
    discarded: u64,
    /// Not folded within the time.
    waiting: u64,
}

/// Waits until each of these events was folded or parked again, but no longer than `limit`.
pub(super) async fn wait(
    pool: &Pool,
    group: &str,
    mut ids: Vec<Uuid>,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let (end, all) = (monotonic() + limit, ids.len() as u64);
    let mut outcome = Outcome::default();
    let step = |done| progress.report(Step::new("folded again", done, all));
    step(0);
    while !ids.is_empty() {
        let begin = monotonic();
        match look(pool, group, &ids, &mut outcome).await {
            Ok(open) => ids = open,
            // The events are released all the same.
            Err(error) if error.is_unavailable() && monotonic() < end => {
                tracing::warn!(error = %error.chain(), "PostgreSQL does not respond; retrying");
            }
            Err(error) => return Err(error.into()),
        }
        step(all - ids.len() as u64);
        if ids.is_empty() || monotonic() >= end {
            break;
        }
        // A look at many events must not be all that the server does.
        let pause = LOOK_EVERY.max((monotonic() - begin) * 4);
        tokio::time::sleep(pause.min(end.saturating_sub(monotonic()))).await;
    }
    outcome.waiting = ids.len() as u64;
    Ok(outcome)
}

/// Counts those that have left, and returns the others.
async fn look(pool: &Pool, group: &str, ids: &[Uuid], outcome: &mut Outcome) -> Result<Vec<Uuid>, crate::db::DbError> {
    let (mut open, mut left) = (Vec::new(), Outcome::default());
    for part in ids.chunks(ASKED_TOGETHER) {
        let fates = parked::fates(pool, group, part).await?;
        left.folded += part.len().saturating_sub(fates.len()) as u64;
        for (id, state) in fates {
            match state {
                State::Releasing => open.push(id),
                State::Parked => left.parked_again += 1,
                State::Discarded => left.discarded += 1,
            }
        }
    }
    outcome.folded += left.folded;
    outcome.parked_again += left.parked_again;
    outcome.discarded += left.discarded;
    Ok(open)
}

impl Outcome {
    pub fn describe(self) -> String {
        let counts = [
            (self.folded, "folded"),
            (self.parked_again, "parked again"),
            (self.discarded, "discarded"),
            (self.waiting, "not folded yet"),
        ];
        let some: Vec<String> =
            counts.iter().filter(|(events, _)| *events > 0).map(|(events, what)| format!("{events} {what}")).collect();
        some.join(", ")
    }

    /// Errors: [`Code::PartlyDone`] unless all were folded or given up.
    pub(super) fn expect_all(self, group: &str) -> Result<(), Error> {
        if self.waiting > 0 {
            let message = format!("{} released events are not folded yet", self.waiting);
            return Err(Error::new(Code::PartlyDone, message).hint(format!(
                "they stay released, and a running consumer of group {group} folds them once it reads their partitions: \
                 outbox-relay consumer positions ls shows what is stopped. --timeout waits longer"
            )));
        }
        if self.parked_again > 0 {
            return Err(Error::new(Code::PartlyDone, format!("{} events were parked again", self.parked_again))
                .hint("outbox-relay consumer parked ls shows the new reasons; corrected SQL takes effect after the consumer is restarted"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_folded_or_given_up_is_done() {
        let outcome = Outcome { folded: 2, discarded: 1, ..Outcome::default() };
        assert_eq!(outcome.describe(), "2 folded, 1 discarded");
        assert!(outcome.expect_all("g").is_ok());
        let again = Outcome { parked_again: 1, ..outcome };
        assert_eq!(again.expect_all("g").unwrap_err().code(), Code::PartlyDone);
        let waiting = Outcome { waiting: 3, ..again };
        assert!(waiting.expect_all("g").unwrap_err().to_string().contains("3 released events"));
    }
}
