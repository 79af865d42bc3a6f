//! The binary: parses the command line, runs one command, and turns its result into an exit status.

use std::process::ExitCode;

use outbox_relay::cli::Cli;
use outbox_relay::commands::{self, Result};
use outbox_relay::error::{Code, Error};
use outbox_relay::{output, telemetry};

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = outbox_relay::failpoint::set_up();
    telemetry::report_panics();
    // A usage error ends here, with exit status 2.
    let cli = commands::parse();
    output::set_colour(cli.global.color);
    let status = match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit() as u8)
        }
    };
    telemetry::finish();
    status
}

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Unexpected, "cannot start the runtime").caused_by(error))?;
    let outcome = runtime.block_on(commands::run(cli));
    // A thread that is still waiting for the network must not keep the process.
    runtime.shutdown_background();
    outcome
}
