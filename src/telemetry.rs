//! Logs: text on a terminal, JSON elsewhere, always on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};
use crate::error::{Code, Error, Result};

/// How much more or less than the settings say, from `-v` and `-q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// What the settings say.
    Configured,
    Debug,
    Trace,
    Errors,
    Nothing,
}

impl Verbosity {
    /// From the number of `-v` and of `-q`.
    pub fn from_flags(verbose: u8, quiet: u8) -> Self {
        match (verbose, quiet) {
            (0, 0) => Self::Configured,
            (1, 0) => Self::Debug,
            (_, 0) => Self::Trace,
            (_, 1) => Self::Errors,
            (_, _) => Self::Nothing,
        }
    }
}

/// Installs the subscriber. Errors: [`Code::ConfigInvalid`] for a filter that does not parse.
pub fn init(settings: &TelemetryConfig, verbosity: Verbosity) -> Result<()> {
    let filter = EnvFilter::try_new(directives(&settings.log_filter, verbosity)).map_err(|error| {
        Error::new(Code::ConfigInvalid, "telemetry.log_filter does not parse")
            .caused_by(error)
            .hint("for example: info,outbox_relay::relay=debug")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = match settings.log_format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let installed = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        // As `--color`, NO_COLOR and the terminal have it.
        let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
        builder.with_ansi(colour).with_target(false).try_init()
    };
    installed.map_err(|error| Error::new(Code::Unexpected, "logging is already set up").caused_by(error))
}

/// Logs of a command that prints and ends: warnings as text, so that a table is not lost among log lines.
pub fn init_for_command(verbosity: Verbosity) -> Result<()> {
    let settings = TelemetryConfig { log_format: LogFormat::Text, log_filter: "warn".to_owned() };
    init(&settings, verbosity)
}

fn directives(configured: &str, verbosity: Verbosity) -> String {
    // rdkafka and librdkafka log each lost connection; we report the state of the broker ourselves. tokio_postgres logs the
    // parameters of statements on `debug`, which are keys and payloads, and on `info` what the server remarks, as that a table is there.
    const LIBRARIES: &str = "rdkafka=off,librdkafka=off,tokio_postgres=warn";
    match verbosity {
        Verbosity::Configured => format!("{LIBRARIES},{configured}"),
        Verbosity::Debug => format!("{LIBRARIES},{configured},outbox_relay=debug"),
        Verbosity::Trace => {
            format!("rdkafka=debug,librdkafka=debug,tokio_postgres=info,{configured},outbox_relay=trace")
        }
        Verbosity::Errors => format!("{LIBRARIES},error"),
        Verbosity::Nothing => "off".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verbosity_is_a_filter() {
        for (verbose, quiet) in [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (0, 2)] {
            let text = directives("info,outbox_relay::relay=debug", Verbosity::from_flags(verbose, quiet));
            assert!(EnvFilter::try_new(&text).is_ok(), "{text}");
        }
    }
}
