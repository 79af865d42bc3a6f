//! Flags of `shards set`.

use std::time::Duration;

use clap::Args;

use super::operate::Consent;
use super::values;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay shards set 16 --dry-run
  outbox-relay shards set 16 --yes --reason 'four instances'

Shards are what instances share: more of them than instances that are to have work, and as few as that allows. Nothing is published
from the moment on at which the first instance has given its shards up until all events that wait are moved: seconds, and some twenty
for a million of them. Applications go on inserting. Order per key and what is promised of delivery hold. If the command is killed, the same
command goes on where it was. It needs the role that owns the schema.")]
pub struct ShardsSetArgs {
    /// Number of shards
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32767))]
    pub count: u16,

    /// How long to wait for instances to give their shards up, and for writers; nothing is changed when it is over
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    pub timeout: Duration,

    #[command(flatten)]
    pub consent: Consent,
}
