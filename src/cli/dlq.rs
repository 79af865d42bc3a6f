//! Flags of `dlq`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::operate::Consent;
use super::values::{self, Place, When};

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List dead letters, most recent failure first
    Ls(Box<DlqLsArgs>),
    /// Show dead letters in full, including key and payload
    Show {
        #[arg(required = true, value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place)]
        /// Position of the dead letter, as listed by `dlq ls`
        places: Vec<Place>,
    },
    /// Send dead letters back to their original topic
    Redrive(Box<DlqRedriveArgs>),
    /// Delete dead letters from Kafka, starting at the beginning of each partition
    Purge(Box<DlqPurgeArgs>),
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub struct LetterFilter {
    /// Only dead letters of these original topics
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Only this error class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Only events that failed at or after this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<When>,

    /// Only events that failed before this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub until: Option<When>,

    /// Dead-letter topics to read [default: those of all topics that the outbox and the consumer know]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub dlq: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay dlq ls
  outbox-relay dlq ls --topic order-events --class too-large --since 2h -o ndjson

States: waiting (its row is FAILED), redriven (it was sent back, or its row was retried), discarded (its row was discarded),
unknown-row (no row in the outbox: a consumer wrote it, or the row was cleaned up). The payload is not listed.")]
pub struct DlqLsArgs {
    #[command(flatten)]
    pub filter: LetterFilter,

    /// Maximum number of dead letters to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay dlq redrive --topic order-events --dry-run
  outbox-relay dlq redrive --topic order-events --class too-large --rate 50 --reason \"limit raised\"
  outbox-relay dlq redrive order-events-dlq/0/17 order-events-dlq/2/4 --yes

A FAILED row becomes PENDING again with 0 attempts. For a dead letter without a row, a new row with the same event_id is inserted.
A dead letter is sent back once: the command may be repeated, killed halfway or run twice at once, and it skips those already sent back.")]
pub struct DlqRedriveArgs {
    /// Only these dead letters
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place, conflicts_with_all = ["topic", "class", "since", "until", "dlq"])]
    pub places: Vec<Place>,

    #[command(flatten)]
    pub filter: LetterFilter,

    /// Dead letters per second [default: unlimited]
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
  outbox-relay dlq purge order-events-dlq/0/17 --yes        everything up to and including this offset

Kafka deletes only from the beginning of a partition, so a purge stops before the first dead letter that does not match. It is refused
if any of the dead letters to delete is still waiting, unless --force is given.")]
pub struct DlqPurgeArgs {
    /// Everything in the partition up to and including this dead letter
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", value_parser = values::place, conflicts_with_all = ["topic", "older_than"])]
    pub places: Vec<Place>,

    /// Dead letters of these original topics
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Dead letters of events that failed longer ago than this
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub older_than: Option<Duration>,

    /// Also delete dead letters that are still waiting
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub consent: Consent,
}
