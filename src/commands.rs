//! The commands, one file each. A command loads the settings it needs, does its work through the other modules, and prints
//! through `output`.
//!
//! Invariant: data goes to standard output in the form asked for, and nothing else does.

mod check;
mod completions;
mod config;
mod demo;
mod events;
mod health;
mod init;
mod lag;
mod man;
mod migrate;
mod run;
mod seams;

use crate::cli::{Cli, Command, Global};
use crate::config::Config;
use crate::db::{Database, Pool, Role};
use crate::error::Result;
use crate::output::Format;
use crate::telemetry::{self, Verbosity};

/// What every command gets: the global flags, and the way to the settings.
#[derive(Debug)]
pub struct Context {
    global: Global,
}

impl Context {
    /// The settings, checked. Errors: [`Code::ConfigInvalid`](crate::error::Code::ConfigInvalid) with all problems.
    pub fn settings(&self) -> Result<Config> {
        seams::load_settings(self.global.config.as_deref(), &self.global.set)
    }

    pub fn format(&self) -> Format {
        self.global.output
    }

    pub fn verbosity(&self) -> Verbosity {
        Verbosity::from_flags(self.global.verbose, self.global.quiet)
    }
}

/// Runs the command of a parsed command line.
pub async fn run(cli: Cli) -> Result<()> {
    let context = Context { global: cli.global };
    if !matches!(cli.command, Command::Run(_)) {
        telemetry::init_for_command(context.verbosity())?;
    }
    // Boxed, so that the largest command does not decide how much stack the others take.
    match cli.command {
        Command::Run(args) => Box::pin(run::run(&context, &args)).await,
        Command::Demo(args) => Box::pin(demo::run(&context, args)).await,
        Command::Init(args) => init::run(&args),
        Command::Migrate(command) => Box::pin(migrate::run(&context, &command)).await,
        Command::Check => Box::pin(check::run(&context)).await,
        Command::Health(args) => Box::pin(health::run(&context, &args)).await,
        Command::Events(command) => Box::pin(events::run(&context, &command)).await,
        Command::Lag(args) => Box::pin(lag::run(&context, &args)).await,
        Command::Config(command) => config::run(&context, &command),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Connections of one command.
fn admin_pool(settings: &Config) -> Result<Pool> {
    Ok(Database::new(&settings.database)?.pool(Role::Admin, 2))
}
