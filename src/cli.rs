//! The command line as types: every command, flag and help text. Does no work.
//!
//! Invariant: a command is listed here only once it works. The help, the completions and the man pages are generated
//! from these types, so they list exactly what exists.

mod adopt;
mod cleanup;
mod consumer;
mod dlq;
mod jobs;
mod operate;
mod replay;
mod shards;
mod top;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::event::EventStatus;
use crate::output::{Colour, Format};
pub use adopt::AdoptArgs;
pub use cleanup::{CleanupArgs, Finished};
pub use consumer::{
    ConsumerCommand, ParkedCommand, ParkedDecideArgs, ParkedFilter, ParkedLsArgs, ParkedReleaseArgs,
    PositionsAcceptArgs, PositionsCommand, PositionsLsArgs, PositionsSetArgs, WantedOffset,
};
pub use dlq::{DlqCommand, DlqLsArgs, DlqPurgeArgs, DlqRedriveArgs, LetterFilter};
pub use jobs::{JobsCancelArgs, JobsCommand, JobsLsArgs, JobsResumeArgs, JobsShowArgs};
pub use operate::{Consent, EventFilter, EventsTraceArgs, PauseArgs, RedoArgs};
pub use replay::ReplayArgs;
pub use shards::ShardsSetArgs;
pub use top::TopArgs;
pub use values::{EventRef, Part, Place, When};

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  unexpected failure
   2  wrong usage
   3  configuration invalid
   4  PostgreSQL or Kafka not reachable
   5  partly done
   6  a check failed, a threshold was exceeded, or the requested item does not exist
  75  another instance took over
  78  PostgreSQL and Kafka disagree: an operator must decide

Every setting in relay.toml can also be given as OUTBOX_RELAY_<SECTION>__<KEY> or as --set section.key=value;
DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS work too. `outbox-relay config show` prints where each value came from.";

/// Publishes rows of a transactional outbox in PostgreSQL to Apache Kafka, strictly in order per key, and folds the
/// events into projections.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, max_term_width = 110)]
#[command(after_help = "Start with: outbox-relay demo", after_long_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command accepts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Settings file [env: OUTBOX_RELAY_CONFIG] [default: relay.toml or /etc/outbox-relay/relay.toml, if present]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Override one setting, for example --set relay.batch_rows=500 (repeatable)
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,

    /// Output format
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// When to use colour; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,

    /// Log more: -v debug, -vv trace
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log less: -q errors, -qq nothing
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay, the consumer and the admin server, as configured
    Run(RunArgs),
    /// Try it out: a private PostgreSQL, an in-process Kafka and a stream of events
    Demo(DemoArgs),
    /// Write a commented relay.toml
    Init(InitArgs),
    /// Create or update the database schema
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Check connections, grants, schema and topics; explain the cause and fix of each finding
    #[command(visible_alias = "doctor")]
    Check,
    /// Ask the running instance whether it is alive, for container health checks
    Health(HealthArgs),
    /// Inspect events in the outbox; retry or discard failed ones
    #[command(subcommand)]
    Events(EventsCommand),
    /// Show the backlog of the outbox and the lag of the consumer, per partition
    Lag(LagArgs),
    /// Watch the outbox: a live view, or one JSON snapshot per line
    Top(TopArgs),
    /// Stop publishing everything, or one topic, until `resume`
    Pause(PauseArgs),
    /// Resume publishing
    Resume(PauseArgs),
    /// Delete old, finished events
    Cleanup(CleanupArgs),
    /// Show the shards and the instances that own them
    #[command(subcommand)]
    Shards(ShardsCommand),
    /// Publish events again: copies are appended behind the pending events
    Replay(Box<ReplayArgs>),
    /// Inspect dead letters, send them back, delete them
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// List, cancel and resume long-running commands, wherever they were started
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Inspect and decide on consumer positions and on events that could not be folded
    #[command(subcommand)]
    Consumer(ConsumerCommand),
    /// After exit status 78: compare PostgreSQL and Kafka for each shard, and let shards resume
    Recover(RecoverArgs),
    /// Accept that the database was moved or copied
    Adopt(AdoptArgs),
    /// Show, validate and document the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one per command
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay run
  outbox-relay run --only relay,admin
  outbox-relay run --set admin.listen=0.0.0.0:8080

On SIGTERM or SIGINT, run finishes the current batch, releases its shards and exits 0. A second signal exits at once.")]
pub struct RunArgs {
    /// Run only these parts, regardless of what the settings enable
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay demo
  outbox-relay demo --for 20s --rate 5000

Existing data is not touched: PostgreSQL runs from the binaries found on this machine, in a temporary directory.
With --for, the exit status is 0 only if every event arrived and the projection is correct.")]
pub struct DemoArgs {
    /// Stop after this long, for example 20s; without it, Ctrl-C stops the demo
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    pub duration: Option<Duration>,

    /// Events to insert per second
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,

    /// Number of relays that share the work
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub instances: u16,

    /// Keep the directory with the database when the demo ends
    #[arg(long)]
    pub keep: bool,

    /// Use this Kafka instead of the in-process one; the demo creates its own topics there and removes them
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,

    /// Seed for the generated events; the same seed gives the same events
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay init
  outbox-relay init --path /etc/outbox-relay/relay.toml
  outbox-relay init --dry-run | less")]
pub struct InitArgs {
    /// Where to write the file
    #[arg(long, value_name = "FILE", default_value = "relay.toml")]
    pub path: PathBuf,

    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,

    /// Print the file instead of writing it
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Bring the schema up to date; safe to run from many instances at once
    Up {
        /// Print what would be applied without applying it
        #[arg(long)]
        dry_run: bool,
        /// Make outbox_events a partitioned table, so that old partitions can be dropped; works while it is in use
        #[arg(long)]
        partitioned: bool,
    },
    /// Show which migrations are applied; exits 6 if any are pending
    Status,
    /// Print the SQL of all migrations, to apply it yourself
    Sql {
        /// Only migrations after this one, for an existing outbox (7 if it was created by version 0.1)
        #[arg(long, value_name = "VERSION")]
        after: Option<i32>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay health                  is the process alive (GET /livez)
  outbox-relay health --ready          can it do its work (GET /readyz)
  outbox-relay health --url http://relay:8080")]
pub struct HealthArgs {
    /// Check readiness instead of liveness
    #[arg(long)]
    pub ready: bool,

    /// Base address of the admin server [default: http:// and admin.listen]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// Maximum time to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = values::duration)]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// List events, newest first
    Ls(Box<EventsLsArgs>),
    /// Show everything known about events, including the payload
    Show {
        /// Row id or event_id
        #[arg(required = true, value_name = "ID|EVENT_ID", value_parser = values::event_ref)]
        events: Vec<EventRef>,
    },
    /// Show the history of an event: rows, attempts, copies, position in Kafka, consumers
    Trace(EventsTraceArgs),
    /// Retry FAILED or HELD events, with a full set of attempts
    Retry(Box<RedoArgs>),
    /// Give up FAILED or HELD events for good; the events behind them continue
    Discard(Box<RedoArgs>),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay events ls --status failed,held
  outbox-relay events ls --key order-42 --oldest-first
  outbox-relay events ls --topic order-events --since 2h
  outbox-relay events ls --since 2026-05-01T00:00:00Z --until 2026-05-02T00:00:00Z -o ndjson --limit 100000

All filters must match. Times are RFC 3339, a date (midnight UTC), or an age: 15m, 2h, 7d.
The payload is not listed; `events show ID` prints it.")]
pub struct EventsLsArgs {
    /// Only the row with this id
    #[arg(long, value_name = "ID")]
    pub id: Option<i64>,

    /// Only events with these statuses
    #[arg(long, value_name = "STATUS", value_enum, ignore_case = true, value_delimiter = ',')]
    pub status: Vec<EventStatus>,

    #[command(flatten)]
    pub filter: EventFilter,

    /// Maximum number of events to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,

    /// Continue after this id: the last one of the previous page
    #[arg(long, value_name = "ID")]
    pub after: Option<i64>,

    /// List the oldest events first
    #[arg(long)]
    pub oldest_first: bool,
}

#[derive(Debug, Subcommand)]
pub enum ShardsCommand {
    /// List the shards: owner, lease, batch in flight, held keys
    Ls,
    /// Change the number of shards: instances finish their batches, pending events are moved, instances continue
    Set(ShardsSetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay lag
  outbox-relay lag --fail-over 10000 -o json     for a monitoring check: exits 6 above the threshold
  outbox-relay lag --fail-over-age 5m            the same, by age

Exits 0 if nothing exceeds a threshold, 6 if something does, and 4 if PostgreSQL or Kafka does not respond.")]
pub struct LagArgs {
    /// Consumer group [default: consumer.group]
    #[arg(long)]
    pub group: Option<String>,

    /// Exit 6 if more than N events wait in the outbox (PENDING and HELD), or if the group is more than N records
    /// behind, has a position that Kafka no longer has, or reads a topic or partition whose end is unknown
    #[arg(long, value_name = "N")]
    pub fail_over: Option<u64>,

    /// Exit 6 if the oldest PENDING event has waited longer than this, for example 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub fail_over_age: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay recover                          compare manifests and markers; exits 6 if a shard cannot resume
  outbox-relay recover --scan                   also search Kafka for the rows that were in flight
  outbox-relay recover --scan --apply           mark the rows that were found and let the shards resume
  outbox-relay recover --from-kafka --since 2026-05-01T00:00:00Z --apply     the same for every PENDING row

Stop every relay first. Only shards whose histories disagree are changed. A row is marked PUBLISHED only if its record was
found; the others stay PENDING, and the next relay publishes them. Every change is recorded in outbox_audit.")]
pub struct RecoverArgs {
    /// Only this shard
    #[arg(long, value_name = "N")]
    pub shard: Option<i16>,

    /// Search Kafka for the rows of the batch in flight
    #[arg(long)]
    pub scan: bool,

    /// Search Kafka for every PENDING row: after restoring a backup, or after a failover that lost commits
    #[arg(long, conflicts_with = "scan")]
    pub from_kafka: bool,

    /// Read topics from this time on [default: one minute before the oldest row]
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<When>,

    /// Topics to read [default: the topics that the rows name]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Mark the rows that were found, and let the shards resume
    #[arg(long)]
    pub apply: bool,

    /// Reason, recorded in outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the values in effect and where each came from; secrets are masked
    Show,
    /// Print the JSON Schema for relay.toml, for editors
    Schema,
    /// Check the settings without connecting to anything; exits 3 if there are problems
    Validate,
    /// Print the settings reference as Markdown
    Reference,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay completions bash > /etc/bash_completion.d/outbox-relay
  outbox-relay completions zsh > ~/.zfunc/_outbox-relay")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay man | man -l -
  outbox-relay man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write one page per command into this directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_a_help_text() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no text", command.get_name());
            for arg in command.get_arguments().filter(|arg| arg.get_id() != "shell") {
                assert!(arg.get_help().is_some(), "{} {} has no text", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        command.get_subcommands().filter(|command| command.get_name() != "help").for_each(check);
    }

    #[test]
    fn global_flags_work_after_the_command() {
        let cli =
            Cli::try_parse_from(["outbox-relay", "events", "ls", "-o", "ndjson", "--set", "a.b=1", "--set", "c.d=2"]);
        let global = cli.unwrap().global;
        assert_eq!((global.output, global.set.len()), (Format::Ndjson, 2));
    }

    #[test]
    fn a_list_of_states_is_read_in_any_case() {
        let cli = Cli::try_parse_from(["outbox-relay", "events", "ls", "--status", "FAILED,held"]).unwrap();
        let Command::Events(EventsCommand::Ls(args)) = cli.command else { panic!("not events ls: {cli:?}") };
        assert_eq!(args.status, [EventStatus::Failed, EventStatus::Held]);
    }
}
