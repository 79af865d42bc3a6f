//! Logs: text on a terminal, JSON elsewhere, always on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};
use crate::error::{Code, Error, Result};

/// Installs the subscriber. Errors: [`Code::ConfigInvalid`] for a filter that does not parse.
pub fn init(settings: &TelemetryConfig) -> Result<()> {
    // rdkafka and librdkafka log each lost connection; we report the state of the broker ourselves.
    let directives = format!("rdkafka=off,librdkafka=off,{}", settings.log_filter);
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        Error::new(Code::ConfigInvalid, "telemetry.log_filter does not parse").caused_by(error).hint("for example: info,outbox_relay::relay=debug")
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
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colour).with_target(false).try_init()
    };
    installed.map_err(|error| Error::new(Code::Unexpected, "logging is already set up").caused_by(error))
}
