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

Instances share the shards: use more shards than instances, but no more than needed. Nothing is published from the moment the first
instance gives up its shards until all waiting events are moved: seconds, or about twenty seconds for a million events. Applications
can keep inserting. Order per key and the delivery guarantee hold. If the command is killed, run it again and it continues where it
stopped. It needs the role that owns the schema.")]
pub struct ShardsSetArgs {
    /// Number of shards
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32767))]
    pub count: u16,

    /// How long to wait for writers and for instances to give up their shards; after that, nothing is changed
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    pub timeout: Duration,

    #[command(flatten)]
    pub consent: Consent,
}
