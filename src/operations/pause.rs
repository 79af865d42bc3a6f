//! Pauses: what is not published until it is resumed.

use serde::Serialize;

use super::{Author, Result};
use crate::broker::is_topic_name;
use crate::db::{DbError, Pool};
use crate::error::{Code, Error};
use crate::outbox::pauses::{self, Pause};
use crate::text::printable;

pub use crate::outbox::pauses::EVERYTHING;

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PauseLine {
    /// `*`: everything.
    pub topic: String,
    pub paused_at: String,
    pub by: String,
    pub reason: Option<String>,
}

impl From<Pause> for PauseLine {
    fn from(pause: Pause) -> Self {
        Self { topic: pause.topic, paused_at: pause.paused_at.to_string(), by: pause.actor, reason: pause.reason }
    }
}

/// The pauses in force, by topic.
pub async fn in_force(pool: &Pool) -> Result<Vec<PauseLine>, DbError> {
    Ok(pauses::list(pool).await?.into_iter().map(PauseLine::from).collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Pause,
    Resume,
}

/// What is paused or resumed: one topic, or everything.
#[derive(Debug, Clone)]
pub struct Request {
    pub topic: String,
    pub change: Change,
    pub dry_run: bool,
}

impl Request {
    /// `topic`: `None` is everything. Errors: [`Code::Usage`] for the pause of what no topic is called.
    pub fn new(topic: Option<&str>, change: Change, dry_run: bool) -> Result<Self, Error> {
        // A pause that was made by hand may have any name, and is resumed like the others.
        if change == Change::Pause && topic.is_some_and(|topic| !is_topic_name(topic)) {
            return Err(Error::new(Code::Usage, "not a topic name").hint(
                "Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`; without --topic everything is meant",
            ));
        }
        Ok(Self { topic: topic.unwrap_or(EVERYTHING).to_owned(), change, dry_run })
    }

    /// What it is about, in words.
    pub fn subject(&self) -> String {
        if self.topic == EVERYTHING { "everything".to_owned() } else { printable(&self.topic).into_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    WasPaused,
    WouldPause,
    WouldResume,
    Paused,
    Resumed,
}

/// The pauses in force afterwards.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub pauses: Vec<PauseLine>,
    #[serde(skip)]
    pub outcome: Outcome,
}

/// Errors: [`Code::NotFound`] when what is to be resumed is not paused.
pub async fn run(pool: &Pool, request: &Request, author: &Author) -> Result<Report> {
    let topic = request.topic.as_str();
    let there = pauses::list(pool).await?.iter().any(|pause| pause.topic == topic);
    let outcome = match (request.change, there) {
        (Change::Pause, true) => Outcome::WasPaused,
        (Change::Resume, false) => {
            return Err(Error::new(Code::NotFound, format!("{} is not paused", request.subject()))
                .hint("to list what is paused run: outbox-relay pause --dry-run; to resume a single topic use --topic")
                .into());
        }
        (Change::Pause, false) if request.dry_run => Outcome::WouldPause,
        (Change::Resume, true) if request.dry_run => Outcome::WouldResume,
        (Change::Pause, false) => {
            pauses::pause(pool, topic, author).await?;
            Outcome::Paused
        }
        (Change::Resume, true) => {
            pauses::resume(pool, topic, author).await?;
            Outcome::Resumed
        }
    };
    Ok(Report { pauses: in_force(pool).await?, outcome })
}
