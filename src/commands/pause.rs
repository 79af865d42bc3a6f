//! `pause` and `resume`.

use serde::Serialize;

use super::{Context, Result, admin_pool, author};
use crate::broker::is_topic_name;
use crate::cli::PauseArgs;
use crate::config::Needs;
use crate::db::{DbError, Pool};
use crate::error::{Code, Error};
use crate::outbox::pauses::{self, EVERYTHING, Pause};
use crate::output::{self, Align, Cell, Table};

/// A pause in force, for `pause`, `resume`, `lag` and `top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PauseLine {
    /// `*`: everything.
    pub(super) topic: String,
    pub(super) paused_at: String,
    pub(super) by: String,
    pub(super) reason: Option<String>,
}

impl From<Pause> for PauseLine {
    fn from(pause: Pause) -> Self {
        Self { topic: pause.topic, paused_at: pause.paused_at.to_string(), by: pause.actor, reason: pause.reason }
    }
}

/// The pauses in force, by topic.
pub(super) async fn in_force(pool: &Pool) -> Result<Vec<PauseLine>, DbError> {
    Ok(pauses::list(pool).await?.into_iter().map(PauseLine::from).collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Pause,
    Resume,
}

pub(super) async fn run(context: &Context, args: &PauseArgs, change: Change) -> Result<()> {
    let topic = args.topic.as_deref().unwrap_or(EVERYTHING);
    // A pause that was made by hand may have any name, and is resumed like the others.
    if change == Change::Pause && args.topic.as_deref().is_some_and(|topic| !is_topic_name(topic)) {
        return Err(Error::new(Code::Usage, "not a topic name")
            .hint("Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`; without --topic everything is meant")
            .into());
    }
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let what = if topic == EVERYTHING { "everything".into() } else { output::printable(topic) };
    let there = pauses::list(&pool).await?.iter().any(|pause| pause.topic == topic);
    let done = match (change, there) {
        (Change::Pause, true) => format!("{what} was paused already"),
        (Change::Resume, false) => {
            return Err(Error::new(Code::NotFound, format!("{what} is not paused"))
                .hint("outbox-relay pause --dry-run lists what is; a single topic is resumed with --topic")
                .into());
        }
        (Change::Pause, false) if args.dry_run => format!("would pause {what}"),
        (Change::Resume, true) if args.dry_run => format!("would resume {what}"),
        (Change::Pause, false) => {
            pauses::pause(&pool, topic, &author(args.reason.clone())).await?;
            format!("{what} is paused, on every instance within about a second")
        }
        (Change::Resume, true) => {
            pauses::resume(&pool, topic, &author(args.reason.clone())).await?;
            format!("{what} goes on, on every instance within about two seconds")
        }
    };
    let lines = in_force(&pool).await?;
    output::data(context.format(), &lines, &lines, || table(&lines))?;
    output::note(&done);
    Ok(())
}

pub(super) fn table(lines: &[PauseLine]) -> String {
    if lines.is_empty() {
        return "nothing is paused\n".to_owned();
    }
    let mut table =
        Table::new(&[("PAUSED", Align::Left), ("SINCE", Align::Left), ("BY", Align::Left), ("REASON", Align::Left)]);
    for line in lines {
        table.row([
            Cell::new(&line.topic),
            Cell::new(&line.paused_at),
            Cell::new(&line.by),
            Cell::new(line.reason.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}
