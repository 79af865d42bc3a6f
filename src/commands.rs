//! The commands, one file each. A command loads the settings it needs, calls a use case of `operations`, and prints its
//! report through `output`.
//!
//! Invariant: data goes to standard output in the form asked for, and nothing else does.

mod adopt;
mod check;
mod cleanup;
mod completions;
mod config;
mod confirm;
mod consumer;
mod demo;
mod dlq;
mod events;
mod health;
mod init;
mod jobs;
mod lag;
mod man;
mod migrate;
mod pause;
mod progress;
mod recover;
mod replay;
mod run;
mod shards;
mod signals;
mod top;
mod watchdog;

use std::sync::LazyLock;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command, Global};
use crate::config::{Config, ConfigError, Loaded, Needs, Sources, user_of_shell};
use crate::db::{DbError, Pool};
use crate::error::{Error, Exit};
use crate::operations::{self, Author};
use crate::output::{self, Format};
use crate::telemetry::{self, Verbosity};

static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{}\nlibrdkafka {}", env!("CARGO_PKG_VERSION"), operations::librdkafka_version()));

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Prints its own report, with the lines of the file.
    Settings(Box<ConfigError>),
    Error(Error),
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Tells the user, on standard error.
    pub fn report(&self) {
        match self {
            Self::Settings(error) => output::note(error.render(true).trim_end()),
            Self::Error(error) => output::report(error),
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) => Exit::ConfigInvalid,
            Self::Error(error) => error.code().exit(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<operations::Failure> for Failure {
    fn from(failure: operations::Failure) -> Self {
        Self::Error(failure.into())
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        operations::Failure::from(error).into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Settings(Box::new(error))
    }
}

/// What every command gets: the global flags, and the way to the settings.
#[derive(Debug)]
pub struct Context {
    global: Global,
}

impl Context {
    /// The settings, checked. `needs` is what the command cannot do without.
    fn settings(&self, needs: Needs) -> Result<Config> {
        Ok(self.load(needs)?.config)
    }

    /// The settings with the source of each value.
    fn load(&self, needs: Needs) -> Result<Loaded, ConfigError> {
        let sources = Sources::of_process(self.global.config.as_deref());
        Config::load(&self.global.set.iter().fold(sources, |sources, pair| sources.with_set(pair)), needs)
    }

    pub fn format(&self) -> Format {
        self.global.output
    }

    pub fn verbosity(&self) -> Verbosity {
        Verbosity::from_flags(self.global.verbose, self.global.quiet)
    }
}

/// Parses the command line of this process. A usage error ends it with status 2, `--help` and `--version` with 0.
pub fn parse() -> Cli {
    let matches = Cli::command().long_version(LONG_VERSION.as_str()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Runs the command of a parsed command line.
pub async fn run(cli: Cli) -> Result<()> {
    signals::end_by_default()?;
    let context = Context { global: cli.global };
    // Logs would be written into the live view.
    let draws = matches!(&cli.command, Command::Top(args) if top::takes_the_screen(context.format(), args));
    if !draws && !matches!(cli.command, Command::Run(_)) {
        telemetry::init_for_command(context.verbosity())?;
    }
    // Boxed, so that the largest command does not decide how much stack the others take.
    match cli.command {
        Command::Run(args) => Box::pin(run::run(&context, &args)).await,
        Command::Demo(args) => Box::pin(demo::run(&context, args)).await,
        Command::Init(args) => Ok(init::run(&args)?),
        Command::Migrate(command) => Box::pin(migrate::run(&context, &command)).await,
        Command::Check => Box::pin(check::run(&context)).await,
        Command::Health(args) => Box::pin(health::run(&context, &args)).await,
        Command::Events(command) => Box::pin(events::run(&context, &command)).await,
        Command::Lag(args) => Box::pin(lag::run(&context, &args)).await,
        Command::Top(args) => Box::pin(top::run(&context, &args)).await,
        Command::Pause(args) => Box::pin(pause::run(&context, &args, operations::pause::Change::Pause)).await,
        Command::Resume(args) => Box::pin(pause::run(&context, &args, operations::pause::Change::Resume)).await,
        Command::Cleanup(args) => Box::pin(cleanup::run(&context, &args)).await,
        Command::Shards(command) => Box::pin(shards::run(&context, &command)).await,
        Command::Replay(args) => Box::pin(replay::run(&context, &args)).await,
        Command::Dlq(command) => Box::pin(dlq::run(&context, &command)).await,
        Command::Jobs(command) => Box::pin(jobs::run(&context, &command)).await,
        Command::Consumer(command) => Box::pin(consumer::run(&context, &command)).await,
        Command::Recover(args) => Box::pin(recover::run(&context, &args)).await,
        Command::Adopt(args) => Box::pin(adopt::run(&context, &args)).await,
        Command::Config(command) => config::run(&context, &command),
        Command::Completions(args) => Ok(completions::run(&args)?),
        Command::Man(args) => Ok(man::run(&args)?),
    }
}

/// Who runs this command, for `outbox_audit`: the user of the shell and the host, as far as the environment tells.
fn author(reason: Option<String>) -> Author {
    let user = user_of_shell().unwrap_or_else(|| "cli".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let actor = if host.trim().is_empty() { user } else { format!("{user}@{}", host.trim()) };
    Author { actor, reason }
}

/// Connections of one command.
fn admin_pool(settings: &Config) -> Result<Pool> {
    Ok(operations::pool(settings)?)
}
