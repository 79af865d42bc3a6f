//! `health`: asks the admin server of a running instance.

use super::{Context, Result};
use crate::cli::HealthArgs;
use crate::config::Needs;
use crate::operations::health::{self, Question, Target};
use crate::output;

pub(super) async fn run(context: &Context, args: &HealthArgs) -> Result<()> {
    let target = match &args.url {
        Some(url) => Target::from_url(url)?,
        // Without a URL only the address is needed, but settings that do not load would mislead.
        None => Target::from_listen(context.settings(Needs::NOTHING)?.admin.listen)?,
    };
    let question = if args.ready { Question::Ready } else { Question::Live };
    let answer = health::ask(&target, question, args.timeout).await?;
    output::one(context.format(), &answer, || match answer.checks.trim_end() {
        "" => format!("{}\n", answer.status),
        checks => format!("{}\n", checks.lines().map(output::printable).collect::<Vec<_>>().join("\n")),
    })?;
    Ok(answer.verdict()?)
}
