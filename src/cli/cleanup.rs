//! Flags of `cleanup`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::operate::Consent;
use super::values;

/// What can be deleted: states of events, and the consumer's record of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Finished {
    /// Published events, by the time of the acknowledgement
    Published,
    /// Failed events that block no other event, by the time of the failure
    Failed,
    /// Discarded events, by the time of the failure
    Discarded,
    /// Entries of event_handled, by the time the consumer handled the event
    Handled,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay cleanup --older-than 7d --dry-run
  outbox-relay cleanup --older-than 7d
  outbox-relay cleanup --older-than 30d --status failed,discarded --yes

Rows are deleted in small batches with pauses, and deleting waits for replicas that are behind (cleanup.max_replica_lag). Ctrl-C stops
after the current batch with status 5; run the command again to continue. Events that are waiting (PENDING, HELD) are never deleted, nor
is a failed event whose key is held: retry or discard it first. `run` does all of this on a schedule; see [cleanup] in the settings.")]
pub struct CleanupArgs {
    /// Minimum age of the rows to delete, for example 7d or 12h; 0s for all
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub older_than: Duration,

    /// Which rows to delete
    #[arg(
        long,
        value_name = "STATUS",
        value_enum,
        ignore_case = true,
        value_delimiter = ',',
        default_value = "published"
    )]
    pub status: Vec<Finished>,

    /// Maximum number of rows to delete
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    #[command(flatten)]
    pub consent: Consent,
}

/// An age that PostgreSQL can subtract from the current time.
fn age(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
    match values::duration(text)? {
        age if age > LONGEST => Err("at most 36600d".to_owned()),
        age => Ok(age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_duration_of_at_most_a_century() {
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        for text in ["", "7", "-7d", "yesterday", "36601d", "2026-05-01"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
