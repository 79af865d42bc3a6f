//! The schema: what is applied, and bringing it up to date.

use std::num::NonZeroU32;

use serde::Serialize;

use super::{Progress, Result};
use crate::config::Config;
use crate::db::Database;
use crate::error::{Code, Error};
use crate::migrations::{self, Facts, MigrationStatus, State};

pub use crate::migrations::sql;

/// A migration.
#[derive(Debug, Serialize)]
pub struct Line {
    pub version: i32,
    pub name: String,
    /// `null`: still to be applied.
    pub applied_on: Option<String>,
    /// `applied`, `pending`, `changed` or `unknown`.
    pub state: &'static str,
}

impl From<&MigrationStatus> for Line {
    fn from(known: &MigrationStatus) -> Self {
        Self {
            version: known.version,
            name: known.name.to_string(),
            applied_on: known.applied_on.clone(),
            state: match known.state {
                State::Applied => "applied",
                State::Pending => "pending",
                State::Changed => "changed",
                State::Unknown => "unknown",
            },
        }
    }
}

/// All migrations.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Status {
    pub lines: Vec<Line>,
    #[serde(skip)]
    trouble: Option<Error>,
}

pub async fn status(settings: &Config) -> Result<Status> {
    let all = migrations::status(&Database::of(settings)?).await?;
    Ok(Status { lines: all.iter().map(Line::from).collect(), trouble: migrations::trouble(&all) })
}

impl Status {
    /// Errors: migrations are missing, were changed, or are of another version.
    pub fn verdict(self) -> Result<(), Error> {
        if let Some(error) = self.trouble {
            return Err(error);
        }
        let missing = self.lines.iter().filter(|line| line.state == "pending").count();
        if missing == 0 {
            return Ok(());
        }
        Err(Error::new(Code::SchemaOutdated, format!("{missing} migration(s) are not applied"))
            .hint("run: outbox-relay migrate up"))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Applies nothing: tries it and takes it back.
    pub dry_run: bool,
    /// Makes outbox_events a partitioned table as well.
    pub partitioned: bool,
}

/// Applies what is missing. Returns what was applied, or would be; what was done besides is remarked.
pub async fn up(settings: &Config, request: Request, progress: &dyn Progress) -> Result<Vec<Line>> {
    let Request { dry_run, partitioned } = request;
    let database = Database::of(settings)?;
    let mut missing = migrations::status(&database).await?;
    let is_empty = missing.iter().all(|known| known.state == State::Pending);
    missing.retain(|migration| migration.state == State::Pending);
    if partitioned && missing.is_empty() {
        // Refuses what cannot be done before anything else is.
        migrations::partition_facts(&database).await?;
    }
    let (done, remark) = if dry_run {
        migrations::rehearse(&database).await?;
        (missing, "would apply")
    } else {
        (migrations::up(&database, settings.outbox.shards).await?, "applied")
    };
    if done.is_empty() {
        progress.remark(&format!("{}: the schema is up to date", database.describe()));
    } else {
        progress.remark(&format!("{}: {remark} {} migration(s)", database.describe(), done.len()));
    }
    if partitioned {
        let rows = settings.outbox.partition_rows;
        // Before the first migration there is nothing to look at.
        if dry_run && is_empty {
            progress.remark("would make outbox_events a partitioned table");
        } else if dry_run {
            progress.remark(&would(&migrations::partition_facts(&database).await?, rows));
        } else {
            let made = migrations::partition(&database, rows, &mut |line| progress.remark(line)).await?;
            let already = "outbox_events is partitioned already";
            progress.remark(if made { "outbox_events is partitioned now" } else { already });
        }
    }
    Ok(done.iter().map(Line::from).collect())
}

/// What a conversion would do.
fn would(facts: &Facts, rows: NonZeroU32) -> String {
    if facts.partitioned {
        return "outbox_events is partitioned already".to_owned();
    }
    let about = facts.rows.map_or_else(|| "an unknown number of".to_owned(), |rows| format!("about {rows}"));
    let begun = if facts.begun.is_some() { ", continuing an interrupted call" } else { "" };
    format!(
        "would make outbox_events, with {about} rows, the first partition of a new table{begun}: ids below {} or, once more are \
         drawn, below the next; further partitions have {rows} ids each. No row is moved",
        facts.first_upper(rows)
    )
}
