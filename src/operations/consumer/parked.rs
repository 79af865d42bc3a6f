//! What the consumer could not fold: listing it, having it folded again, giving it up.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::decider;
use super::release::{self, Outcome};
use crate::db::{Pool, StoredTime};
use crate::error::{Code, Error};
use crate::operations::{Author, Progress, Result};
use crate::projection::decisions::parked::{self, Parked, State, Unchanged, Whole};

pub use crate::projection::decisions::parked::{Decision, Filter};

/// Most events that a plan counts.
const COUNTED: i64 = 10_000_000;

/// A parked event without what is in it.
#[derive(Debug, Serialize)]
pub struct ParkedLine {
    pub group: String,
    pub event_id: String,
    pub event_type: Option<String>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// `null`: no projection of the group has folded it.
    pub projection: Option<String>,
    pub state: &'static str,
    pub attempts: i32,
    pub parked_at: StoredTime,
    pub error: String,
}

impl From<Parked> for ParkedLine {
    fn from(parked: Parked) -> Self {
        Self {
            group: parked.group,
            event_id: parked.event_id.to_string(),
            event_type: parked.event_type,
            topic: parked.topic,
            partition: parked.partition,
            offset: parked.offset,
            projection: parked.projection,
            state: parked.state.as_str(),
            attempts: parked.attempts,
            parked_at: parked.parked_at,
            error: parked.error,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listed {
    pub events: Vec<ParkedLine>,
    /// As many as were asked for: there may be more.
    #[serde(skip)]
    pub is_full: bool,
}

/// The parked events that match, with those that were given up or without.
pub async fn list(pool: &Pool, filter: &Filter, discarded: bool, limit: u32) -> Result<Listed> {
    let found = parked::list(pool, filter, discarded, i64::from(limit)).await?;
    let is_full = found.len() == limit as usize;
    Ok(Listed { events: found.into_iter().map(ParkedLine::from).collect(), is_full })
}

/// A parked event with everything that is in it.
#[derive(Debug, Serialize)]
pub struct ParkedRecord {
    #[serde(flatten)]
    pub line: ParkedLine,
    pub recorded_at: Option<StoredTime>,
    pub key: Value,
    /// `[[name, value], …]` as in the record, repeated names too.
    pub headers: Value,
    pub value: Value,
}

impl From<Whole> for ParkedRecord {
    fn from(whole: Whole) -> Self {
        Self {
            line: ParkedLine::from(whole.parked),
            recorded_at: whole.recorded_at,
            key: bytes(whole.key.as_deref()),
            headers: whole.headers,
            value: bytes(whole.value.as_deref()),
        }
    }
}

fn bytes(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Shown {
    pub events: Vec<ParkedRecord>,
    #[serde(skip)]
    missing: Vec<String>,
}

/// These events, in the order of their places.
pub async fn show(pool: &Pool, wanted: &[Uuid]) -> Result<Shown> {
    let found = parked::show(pool, None, wanted).await?;
    let missing = wanted
        .iter()
        .filter(|id| !found.iter().any(|whole| whole.parked.event_id == **id))
        .map(Uuid::to_string)
        .collect();
    Ok(Shown { events: found.into_iter().map(ParkedRecord::from).collect(), missing })
}

impl Shown {
    /// Errors: [`Code::NotFound`] with the events that are not parked.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::NotFound, format!("no parked event {}", self.missing.join(", ")))
            .hint("outbox-relay consumer parked ls lists what is there"))
    }
}

/// What is to be decided about how many events.
#[derive(Debug)]
pub struct Plan {
    filter: Filter,
    decision: Decision,
    matched: u64,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    pub action: &'static str,
    pub dry_run: bool,
    pub matched: u64,
    pub changed: u64,
    /// Events that matched and were left as they are, by what had become of them.
    pub unchanged: Unchanged,
    /// `null` where nobody has waited for it.
    pub outcome: Option<Outcome>,
    #[serde(skip)]
    group: String,
}

/// Looks for the events; the filter names their group. `all`: also when nothing else narrows it down.
pub async fn plan(pool: &Pool, filter: Filter, decision: Decision, all: bool) -> Result<Plan> {
    if !filter.narrows() && !all {
        return Err(Error::new(Code::Usage, "which events?")
            .hint("name them by --id, add filters such as --type or --topic, or say --all for every parked event")
            .into());
    }
    let found = parked::list(pool, &filter, false, COUNTED).await?;
    let undecided = found.iter().filter(|event| decision == Decision::Discard || event.state == State::Parked);
    let matched = undecided.count() as u64;
    if matched == 0 {
        return Err(Error::new(Code::NotFound, "no parked event matches")
            .hint("outbox-relay consumer parked ls lists what is there; what was given up stays so")
            .into());
    }
    Ok(Plan { filter, decision, matched })
}

impl Plan {
    pub fn matched(&self) -> u64 {
        self.matched
    }

    /// `release` or `discard`.
    pub fn verb(&self) -> &'static str {
        self.decision.as_str()
    }

    /// What a run would do.
    pub fn preview(&self) -> Report {
        self.report(true)
    }

    /// `wait`: how long to wait for the consumer to fold what was released.
    pub async fn run(
        &self,
        pool: &Pool,
        wait: Option<Duration>,
        author: &Author,
        progress: &dyn Progress,
    ) -> Result<Report> {
        let mut report = self.report(false);
        let decided = parked::decide(pool, &self.filter, self.decision, &decider(author)).await?;
        (report.changed, report.unchanged) = (decided.ids.len() as u64, decided.unchanged);
        if let (Some(limit), Decision::Release) = (wait, self.decision) {
            report.outcome = Some(release::wait(pool, &report.group, decided.ids, limit, progress).await?);
        }
        Ok(report)
    }

    fn report(&self, dry_run: bool) -> Report {
        let group = self.filter.group.clone().unwrap_or_default();
        let (changed, unchanged) = (0, Unchanged::default());
        Report { action: self.verb(), dry_run, matched: self.matched, changed, unchanged, outcome: None, group }
    }
}

impl Report {
    /// Errors: [`Code::PartlyDone`] when events were left as they are, or were not folded.
    pub fn verdict(&self) -> Result<(), Error> {
        if let Some(outcome) = self.outcome {
            outcome.expect_all(&self.group)?;
        }
        if self.dry_run || self.changed >= self.matched {
            return Ok(());
        }
        let left = self.matched - self.changed;
        let mut message = format!("{left} of {} events that matched were left as they are", self.matched);
        let why = self.unchanged.describe();
        if !why.is_empty() {
            message.push_str(&format!(": {why}"));
        }
        Err(Error::new(Code::PartlyDone, message)
            .hint("someone else has just decided about them; see: outbox-relay consumer parked ls"))
    }
}
