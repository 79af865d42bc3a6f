//! Flags of `consumer`.

use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::operate::Consent;
use super::values;

pub use crate::operations::consumer::positions::WantedOffset;

#[derive(Debug, Subcommand)]
pub enum ConsumerCommand {
    /// Positions of consumer groups, and what stopped them
    #[command(subcommand)]
    Positions(PositionsCommand),
    /// Events that could not be folded
    #[command(subcommand)]
    Parked(ParkedCommand),
}

#[derive(Debug, Subcommand)]
pub enum PositionsCommand {
    /// List the position of each group in each partition, and which partitions are stopped
    Ls(PositionsLsArgs),
    /// Move a group to another offset, or to the positions of another group
    Set(Box<PositionsSetArgs>),
    /// Accept the log as it is now and let stopped partitions resume
    Accept(Box<PositionsAcceptArgs>),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer positions ls
  outbox-relay consumer positions ls --group metrics --topic order-events -o json

STATE is ok, or the reason why the partition is stopped: records-lost (Kafka deleted records before they were read), ahead-of-log (the log
ends before the position), topic-recreated, other-cluster, moved-by-hand (next_offset was changed while the partition was being read),
other-group (other groups have read this topic, but this one has not).")]
pub struct PositionsLsArgs {
    /// Only this group [default: all]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// Only this topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer positions set --topic order-events --partition 2 --offset 1500
  outbox-relay consumer positions set --topic order-events --partition 2 --offset earliest --yes
  outbox-relay consumer positions set --from-group old-name      after consumer.group was renamed

The running consumer continues from there within seconds. Events that it has already handled change nothing when they are read again; events
that the new offset skips are not folded. --from-group moves the positions, handled events and parked events of another group to this one:
stop the other group's consumer first.")]
pub struct PositionsSetArgs {
    /// The topic
    #[arg(long, value_name = "NAME", required_unless_present = "from_group")]
    pub topic: Option<String>,

    /// The partition
    #[arg(long, value_name = "N", required_unless_present = "from_group", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,

    /// The next offset to read, or earliest, or latest
    #[arg(long, value_name = "OFFSET", required_unless_present = "from_group", value_parser = offset)]
    pub offset: Option<WantedOffset>,

    /// Take over everything from this group
    #[arg(long, value_name = "NAME", conflicts_with_all = ["topic", "partition", "offset"])]
    pub from_group: Option<String>,

    /// The group [default: consumer.group]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer positions accept --topic order-events --dry-run
  outbox-relay consumer positions accept --topic order-events --partition 2 --yes

Partitions whose records are gone or whose topic was recreated are read from the beginning of the log; events that were already handled
change nothing. A position that was changed by hand is accepted as it is. --dry-run prints where each partition would resume.")]
pub struct PositionsAcceptArgs {
    /// The topic
    #[arg(long, value_name = "NAME")]
    pub topic: String,

    /// Only this partition [default: all stopped partitions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,

    /// The group [default: consumer.group]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    #[command(flatten)]
    pub consent: Consent,
}

fn offset(text: &str) -> Result<WantedOffset, String> {
    match text {
        "earliest" => Ok(WantedOffset::Earliest),
        "latest" => Ok(WantedOffset::Latest),
        _ => match text.parse() {
            Ok(at) if at >= 0 => Ok(WantedOffset::At(at)),
            Ok(_) | Err(_) => Err("not an offset: a number from 0 on, earliest, or latest".to_owned()),
        },
    }
}

#[derive(Debug, Subcommand)]
pub enum ParkedCommand {
    /// List parked events, most recently parked first
    Ls(Box<ParkedLsArgs>),
    /// Show parked events in full, including key and payload
    Show {
        /// Event id, as listed by `consumer parked ls`
        #[arg(required = true, value_name = "EVENT_ID")]
        events: Vec<Uuid>,
    },
    /// Fold parked events again, after the cause was fixed, and wait for the outcome
    Release(Box<ParkedReleaseArgs>),
    /// Give up parked events; they are kept as a record
    Discard(Box<ParkedDecideArgs>),
}

/// Which parked events.
#[derive(Debug, Clone, Default, Args)]
pub struct ParkedFilter {
    /// Only the events with these ids
    #[arg(long, value_name = "EVENT_ID", value_delimiter = ',')]
    pub id: Vec<Uuid>,

    /// Only events that this projection could not fold
    #[arg(long, value_name = "NAME")]
    pub projection: Option<String>,

    /// Only this event type
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,

    /// Only events of this topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,

    /// Only events whose record has this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// Only events whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,

    /// Only events of this group [default: consumer.group]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer parked ls
  outbox-relay consumer parked ls --type OrderCreatedEvent --error quantity -o ndjson --limit 10000

All filters must match. The payload is not listed; `consumer parked show EVENT_ID` prints it.")]
pub struct ParkedLsArgs {
    #[command(flatten)]
    pub filter: ParkedFilter,

    /// Include discarded events
    #[arg(long)]
    pub discarded: bool,

    /// Maximum number of events to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer parked release --type OrderCreatedEvent --dry-run
  outbox-relay consumer parked release --error 'relation \"totals\"' --yes
  outbox-relay consumer parked release --all --yes --no-wait

A released event is folded by the running consumer that reads its partition, in partition order, at most once. Later events of its key have
been folded in the meantime. An event that still cannot be folded is parked again with the new reason.

Exits 0 if all were folded, and 5 if some were parked again or were not folded within --timeout. Those stay released; Ctrl-C does not undo
a release.")]
pub struct ParkedReleaseArgs {
    #[command(flatten)]
    pub which: ParkedDecideArgs,

    /// Maximum time to wait for the outcome
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = values::duration)]
    pub timeout: Duration,

    /// Do not wait for the outcome
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay consumer parked discard --id 0198f2c4-0000-7000-8000-000000000001 --reason 'test data'
  outbox-relay consumer parked discard --type TestEvent --yes

A discarded event is never folded. A released event that has not been folded yet can still be discarded.")]
pub struct ParkedDecideArgs {
    #[command(flatten)]
    pub filter: ParkedFilter,

    /// All parked events
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub consent: Consent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_number_or_an_end_of_the_log() {
        assert_eq!(offset("17"), Ok(WantedOffset::At(17)));
        assert_eq!(offset("earliest"), Ok(WantedOffset::Earliest));
        for text in ["", "-1", "first", "9999999999999999999"] {
            assert!(offset(text).is_err(), "{text}");
        }
    }
}
