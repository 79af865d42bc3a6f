//! `adopt`.

use clap::Args;

use super::Consent;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay adopt --moved --dry-run          say what would be done
  outbox-relay adopt --moved --reason 'pg_upgrade to 17'
  outbox-relay adopt --copy --yes               in a staging database that was restored from production

A relay stops with status 78 on a database that is not the one it last ran on: a copy would publish the original's events again, and take
part in its work in Kafka. --moved is for a restored backup, pg_upgrade, or another server, with the original stopped for good. --copy is for
a database that lives on beside the original; on the same Kafka it also needs another run.deployment. A standby that was promoted needs
neither.")]
#[group(id = "adoption", required = true, multiple = false, args = ["moved", "copy"])]
pub struct AdoptArgs {
    /// The original is gone: go on with its name, its batches in flight and its markers
    #[arg(long)]
    pub moved: bool,

    /// The original lives on: take a new name, with nothing in flight
    #[arg(long)]
    pub copy: bool,

    #[command(flatten)]
    pub consent: Consent,
}
