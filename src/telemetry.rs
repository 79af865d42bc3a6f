//! Logs: text on a terminal, JSON elsewhere, always on stderr.
//!
//! Invariant: neither logging nor reporting a panic blocks or fails (`stderr.rs`).

mod repeats;

use std::backtrace::BacktraceStatus;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetryConfig};
use crate::error::{Code, Error, Result};
use crate::stderr;
use repeats::Repeats;

/// Of the subscriber that was installed.
static REPEATS: OnceLock<Repeats> = OnceLock::new();

/// Maximum wait at the end for a standard error that nobody reads.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

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
    let repeats = Repeats::default();
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr::Line::default).log_internal_errors(false);
    let json = match settings.log_format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter).with(repeats.clone());
    let installed = if json {
        let layer = layer.json().flatten_event(true).with_current_span(false).with_span_list(false);
        registry.with(layer).try_init()
    } else {
        // As `--color`, NO_COLOR and the terminal have it.
        let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
        registry.with(layer.with_ansi(colour).with_target(false)).try_init()
    };
    installed.map_err(|error| Error::new(Code::Unexpected, "logging is already set up").caused_by(error))?;
    let told = REPEATS.get_or_init(|| repeats).clone();
    let telling = move || {
        loop {
            std::thread::sleep(repeats::LOOK);
            told.tell(false);
        }
    };
    // Without the thread the first of each line is still there.
    drop(std::thread::Builder::new().name("log-repeats".to_owned()).spawn(telling));
    Ok(())
}

/// Logs what is still to be told, and waits a moment until it is written.
pub fn finish() {
    if let Some(repeats) = REPEATS.get() {
        repeats.tell(true);
    }
    stderr::flush(FLUSH_TIMEOUT);
}

/// Reports panics through the log's way to standard error, which cannot block, and without the values that they quote.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let said = panic.payload_as_str().map(without_values).unwrap_or_default();
        let trace = std::backtrace::Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured { format!("{trace}") } else { String::new() };
        let line = format!("thread '{}' panicked at {place}: {said}\n{trace}", thread.name().unwrap_or("unnamed"));
        stderr::write(line.into_bytes());
        stderr::flush(FLUSH_TIMEOUT);
    }));
}

/// What stands before the first value that is quoted: text that is cut, or an error with its fields.
fn without_values(message: &str) -> &str {
    message.find(['"', '`', '\'', '[', '{']).map_or(message, |at| &message[..at]).trim_end()
}

/// Logs of a command that prints and ends: warnings as text, so that a table is not lost among log lines.
pub fn init_for_command(verbosity: Verbosity) -> Result<()> {
    let settings = TelemetryConfig { log_format: LogFormat::Text, log_filter: "warn".to_owned() };
    init(&settings, verbosity)
}

fn directives(configured: &str, verbosity: Verbosity) -> String {
    // rdkafka and librdkafka log each lost connection; we report the state of the broker ourselves. tokio_postgres logs
    // the parameters of statements on `debug`, which are keys and payloads, and on `info` what the server remarks, as
    // that a table is there.
    const LIBRARIES: &str = "rdkafka=off,librdkafka=off,tokio_postgres=warn";
    match verbosity {
        Verbosity::Configured => format!("{LIBRARIES},{configured}"),
        Verbosity::Debug => format!("{LIBRARIES},{configured},outbox_relay=debug"),
        Verbosity::Trace => {
            format!("rdkafka=debug,librdkafka=debug,tokio_postgres=warn,{configured},outbox_relay=trace")
        }
        Verbosity::Errors => format!("{LIBRARIES},error"),
        Verbosity::Nothing => "off".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_without_what_it_quotes() {
        assert_eq!(
            without_values("byte index 1 is not a char boundary; it is inside 'é' of `secret`"),
            "byte index 1 is not a char boundary; it is inside"
        );
        assert_eq!(without_values("taken only once: Error { value: \"secret\" }"), "taken only once: Error");
    }

    #[test]
    fn every_verbosity_is_a_filter() {
        for (verbose, quiet) in [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (0, 2)] {
            let text = directives("info,outbox_relay::relay=debug", Verbosity::from_flags(verbose, quiet));
            assert!(EnvFilter::try_new(&text).is_ok(), "{text}");
        }
    }
}
