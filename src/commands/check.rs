//! `check`: looks at everything a relay depends on, and says of each finding what it means and what to do.
//!
//! Reads only. The facts come from `outbox::inspect` and `broker::admin`; what they mean is decided here, by pure
//! functions, so that a test needs no server that is set up wrongly.

mod finding;
mod group;
mod kafka;
mod postgres;

use super::{Context, Result};
use crate::config::Needs;
use crate::error::{Code, Error};
use finding::Level;

pub(super) async fn run(context: &Context) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let mut findings = Vec::new();
    let topics = postgres::look(&settings, &mut findings).await?;
    kafka::look(&settings, &topics, &mut findings).await?;
    finding::print(context.format(), &findings)?;

    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if problems == 0 {
        return Ok(());
    }
    // A server that is away is another matter than one that is set up wrongly.
    let away = findings.iter().filter(|finding| finding.check.ends_with(".connection"));
    let code = away.filter_map(|finding| finding.unreachable).next().unwrap_or(Code::CheckNotMet);
    Err(Error::new(code, format!("{problems} problem(s), {warnings} warning(s)")).into())
}
