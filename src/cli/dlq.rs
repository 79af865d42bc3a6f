//! Flags of `dlq`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::operate::Consent;
use super::values::{self, Place, When};

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List dead letters, those that failed last first
    Ls(Box<DlqLsArgs>),
    /// Show dead letters with everything that is in them, key and payload included
    Show {
        #[arg(required = true, value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place)]
        /// Where it lies, as `dlq ls` has it
        places: Vec<Place>,
    },
    /// Send dead letters back to the topic they were meant for
    Redrive(Box<DlqRedriveArgs>),
    /// Delete dead letters from Kafka, from the beginning of each partition on
    Purge(Box<DlqPurgeArgs>),
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub struct LetterFilter {
    /// Only those that were meant for these topics
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Only this class of error
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Only those that failed at or after this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<When>,

    /// Only those that failed before this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub until: Option<When>,

    /// Dead-letter topics to read [default: those of the topics that the outbox and the consumer know]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub dlq: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay dlq ls
  outbox-relay dlq ls --topic order-events --class too-large --since 2h -o ndjson

The state: waiting (its row is FAILED), redriven (it went back, or its row was tried again), discarded (its row was given up),
unknown-row (no row of the outbox: a consumer wrote it, or the row was cleaned up). The payload is not listed.")]
pub struct DlqLsArgs {
    #[command(flatten)]
    pub filter: LetterFilter,

    /// Most dead letters to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay dlq redrive --topic order-events --dry-run
  outbox-relay dlq redrive --topic order-events --class too-large --rate 50 --reason \"limit raised\"
  outbox-relay dlq redrive order-events-dlq/0/17 order-events-dlq/2/4 --yes

A row that is FAILED waits again, with its attempts at 0; of a dead letter without a row a new one is made, with the same event_id.
A dead letter goes back once: repeated, killed in the middle or run twice at the same time, the command leaves alone what went back.")]
pub struct DlqRedriveArgs {
    /// These dead letters alone
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place, conflicts_with_all = ["topic", "class", "since", "until", "dlq"])]
    pub places: Vec<Place>,

    #[command(flatten)]
    pub filter: LetterFilter,

    /// Dead letters per second [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,

    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["places", "topic", "older_than"]))]
#[command(after_help = "\
Examples:
  outbox-relay dlq purge --older-than 30d --dry-run
  outbox-relay dlq purge --topic order-events --older-than 7d --yes
  outbox-relay dlq purge order-events-dlq/0/17 --yes        everything up to this offset, itself included

Kafka deletes from the beginning of a partition on: a purge ends before the first dead letter that does not match. It refuses while
one of those it would delete is still waiting, unless --force.")]
pub struct DlqPurgeArgs {
    /// Everything in the partition up to this dead letter, itself included
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place, conflicts_with_all = ["topic", "older_than"])]
    pub places: Vec<Place>,

    /// Those that were meant for these topics
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Those that failed longer ago than this
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub older_than: Option<Duration>,

    /// Delete those too that are still waiting
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub consent: Consent,
}
