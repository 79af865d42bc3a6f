//! Flags of `adopt`.

use clap::Args;

use super::Consent;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay adopt --moved --dry-run          print what would be done
  outbox-relay adopt --moved --reason 'pg_upgrade to 17'
  outbox-relay adopt --copy --yes               in a staging database that was restored from production

A relay stops with status 78 on a database that is not the one it last ran on. A copy would publish the original's events again and
interfere with its work in Kafka. Use --moved after restoring a backup, pg_upgrade or a move to another server, once the original is
stopped for good. Use --copy for a database that exists beside the original; on the same Kafka it also needs a different run.deployment.
A promoted standby needs neither.")]
#[group(id = "adoption", required = true, multiple = false, args = ["moved", "copy"])]
pub struct AdoptArgs {
    /// The original is gone: continue with its identity, its batches in flight and its markers
    #[arg(long)]
    pub moved: bool,

    /// The original is still in use: take a new identity, with nothing in flight
    #[arg(long)]
    pub copy: bool,

    #[command(flatten)]
    pub consent: Consent,
}
