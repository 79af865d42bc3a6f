//! Looks at everything a relay depends on, and says of each finding what it means and what to do.
//!
//! Reads only. The facts come from `outbox::inspect` and `broker::admin`; what they mean is decided here, by pure
//! functions, so that a test needs no server that is set up wrongly.

mod finding;
mod group;
mod kafka;
mod postgres;

use super::Result;
use crate::config::Config;
pub use finding::{Finding, Level, Part, Report};

/// Errors: settings with which nothing can be asked.
pub async fn run(settings: &Config) -> Result<Report> {
    let mut findings = Vec::new();
    let topics = postgres::look(settings, &mut findings).await?;
    kafka::look(settings, &topics, &mut findings).await?;
    Ok(Report::new(findings))
}
