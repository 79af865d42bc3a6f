//! Flags of `jobs`.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::operations::jobs::{Kind, State};

#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    Ls(JobsLsArgs),
    /// Show a job: progress, who started it, how it ended, whether it can be resumed
    Show(JobsShowArgs),
    /// Stop a job after the portion under way, wherever its process runs
    Cancel(JobsCancelArgs),
    /// Continue a job that was cancelled, that failed, or whose process is gone
    Resume(JobsResumeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay jobs ls
  outbox-relay jobs ls --state running,stalled -o json
  outbox-relay jobs ls --kind replay --limit 5

Kinds: replay, cleanup, redrive (`dlq redrive`), reshard (`shards set`).
States: running, cancelling (its process is about to stop), stalled (its process has not been heard of for 15 seconds), cancelled, done,
failed. Ended jobs are deleted after cleanup.jobs_older_than.")]
pub struct JobsLsArgs {
    /// Only jobs in these states
    #[arg(long, value_name = "STATE", value_parser = state, value_delimiter = ',')]
    pub state: Vec<State>,

    /// Only jobs of these kinds
    #[arg(long, value_name = "KIND", value_parser = kind, value_delimiter = ',')]
    pub kind: Vec<Kind>,

    /// Maximum number of jobs to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay jobs show 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11
  outbox-relay jobs show 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11 --follow -o ndjson     one line per change

With --follow, the command ends when the job has ended or has stalled.")]
pub struct JobsShowArgs {
    /// Id of the job
    #[arg(value_name = "JOB")]
    pub id: Uuid,

    /// Wait until the job has ended or has stalled
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay jobs cancel 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11 --reason 'wrong topic'

The process that works on the job stops within about a second, after the portion under way, and ends with status 5. What it has done stays
done. A cancelled job can be resumed. `shards set` cannot be stopped once the number of shards has changed; it then completes.")]
pub struct JobsCancelArgs {
    /// Id of the job
    #[arg(value_name = "JOB")]
    pub id: Uuid,

    /// Print the job without cancelling it
    #[arg(long)]
    pub dry_run: bool,

    /// Reason, recorded in outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay jobs resume 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11
  outbox-relay jobs resume 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11 --rate 200

The job continues in this process, with the arguments it was started with; nothing is done twice. A former process that wakes up again
finds that the job was taken, changes nothing more and ends with status 5.")]
pub struct JobsResumeArgs {
    /// Id of the job
    #[arg(value_name = "JOB")]
    pub id: Uuid,

    /// Copies or dead letters per second from now on [default: as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    pub rate: Option<i32>,

    /// Take the job from a process that is still working on it
    #[arg(long)]
    pub take_over: bool,

    /// Print the job without resuming it; exits 6 if it cannot be resumed
    #[arg(long)]
    pub dry_run: bool,

    /// Reason, recorded in outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

fn state(text: &str) -> Result<State, String> {
    let known = || State::ALL.map(State::as_str).join(", ");
    State::ALL
        .into_iter()
        .find(|state| state.as_str() == text.to_ascii_lowercase())
        .ok_or_else(|| format!("possible values: {}", known()))
}

fn kind(text: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::from_name(&text.to_ascii_lowercase()).ok_or_else(|| format!("possible values: {}", known()))
}
