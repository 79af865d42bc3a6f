//! FAILED and HELD events: tried again, or given up.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Action, EventRef, Filter, rows};
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::event::EventStatus;
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Result};
use crate::outbox::retry_discard::{self, Found, Selection};

/// Which events. Those that are named, or else all that match.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    pub events: Vec<EventRef>,
    /// With its states; FAILED events where it names none.
    pub filter: Filter,
    pub class: Option<String>,
    /// Every FAILED event, when nothing else narrows it down.
    pub all: bool,
}

/// The events that fit, and what is to be done with them.
#[derive(Debug)]
pub struct Plan {
    action: Action,
    found: Found,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    pub action: &'static str,
    pub dry_run: bool,
    /// Events that fit.
    pub matched: usize,
    /// Events that were changed: more than fit where another failed event held the key, fewer where something else was
    /// faster.
    pub changed: u64,
    /// Of these: events that were given up although the table does not let their rows be changed. `outbox_outcomes`
    /// says so.
    pub by_outcome: u64,
    /// Events that the table does not let be changed.
    pub refused: Vec<Refusal>,
    /// Events that matched and were in another state when their turn came, by that state.
    pub unchanged: Vec<Unchanged>,
    pub by_topic: Vec<Group>,
}

#[derive(Debug, Serialize)]
pub struct Refusal {
    pub id: i64,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Unchanged {
    /// `null`: the row is gone.
    pub status: Option<EventStatus>,
    pub events: u64,
}

#[derive(Debug, Serialize)]
pub struct Group {
    pub status: EventStatus,
    pub topic: Option<String>,
    pub events: u64,
}

/// Looks for the events. Changes nothing.
pub async fn plan(pool: &Pool, chosen: &Chosen, action: Action) -> Result<Plan> {
    let found = retry_discard::find(pool, &selection(pool, chosen).await?).await?;
    if found.ids.is_empty() {
        return Err(Error::new(Code::NotFound, "no FAILED event matches")
            .hint("outbox-relay events ls --status failed,held lists what is there; --status names other states than failed")
            .into());
    }
    Ok(Plan { action, found })
}

impl Plan {
    /// `retry` or `discard`.
    pub fn verb(&self) -> &'static str {
        match self.action {
            Action::Retry => "retry",
            Action::Discard => "discard",
        }
    }

    pub fn matched(&self) -> usize {
        self.found.ids.len()
    }

    /// What a run would do.
    pub fn preview(&self) -> Report {
        self.report(true)
    }

    /// A stop takes effect between two portions; what they changed stays.
    pub async fn run(
        &self,
        pool: &Pool,
        author: &Author,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<Report> {
        let total = self.matched() as u64;
        let step = |done| progress.report(Step::new("events", done, total));
        step(0);
        let acted = retry_discard::act(pool, &self.found.ids, self.action, author, |behind| {
            step(behind as u64);
            !stop.is_cancelled()
        });
        let acted = acted.await?;
        let states = retry_discard::states(pool, &acted.unchanged).await?.into_iter();
        Ok(Report {
            unchanged: states.map(|(status, events)| Unchanged { status, events }).collect(),
            changed: acted.changed,
            by_outcome: acted.by_outcome,
            refused: acted.refused.iter().map(|no| Refusal { id: no.item, reason: no.reason() }).collect(),
            ..self.report(false)
        })
    }

    fn report(&self, dry_run: bool) -> Report {
        let counts = self.found.counts.iter();
        Report {
            action: self.verb(),
            dry_run,
            matched: self.matched(),
            changed: 0,
            by_outcome: 0,
            refused: Vec::new(),
            unchanged: Vec::new(),
            by_topic: counts
                .map(|((status, topic), events)| Group { status: *status, topic: topic.clone(), events: *events })
                .collect(),
        }
    }
}

impl Report {
    /// Errors: some events were refused, or somebody else was faster.
    pub fn verdict(&self) -> Result<(), Error> {
        let code = if self.changed > 0 { Code::PartlyDone } else { Code::CheckNotMet };
        let overtaken: u64 = self.unchanged.iter().map(|unchanged| unchanged.events).sum();
        if self.refused.is_empty() && overtaken > 0 {
            let message = format!("{overtaken} of {} events were no longer FAILED or HELD", self.matched);
            return Err(Error::new(code, message)
                .hint("a relay or another command was faster; outbox-relay events show ID says what became of them"));
        }
        if self.refused.is_empty() {
            return Ok(());
        }
        Err(Error::new(code, format!("the table outbox_events rejects changes to {} events", self.refused.len()))
            .hint("a constraint or a trigger of yours does; the SQLSTATE says of what kind. They stay as they were"))
    }
}

/// The states of events that somebody can decide about.
const UNSETTLED: [EventStatus; 2] = [EventStatus::Failed, EventStatus::Held];

async fn selection(pool: &Pool, chosen: &Chosen) -> Result<Selection> {
    let status = &chosen.filter.status;
    if let Some(other) = status.iter().find(|status| !UNSETTLED.contains(status)) {
        return Err(Error::new(Code::Usage, format!("{} events cannot be retried or discarded", other.as_str()))
            .hint("only FAILED and HELD events can; to publish a PUBLISHED event again use `outbox-relay replay`")
            .into());
    }
    if !chosen.events.is_empty() {
        let filter = Filter { status: UNSETTLED.to_vec(), ..Filter::default() };
        return Ok(Selection { ids: Some(named(pool, &chosen.events).await?), filter, class: None });
    }
    let narrow = chosen.filter.narrows() || chosen.class.is_some() || !status.is_empty();
    if !narrow && !chosen.all {
        return Err(Error::new(Code::Usage, "which events?")
            .hint("name ids, add filters such as --topic or --class, or say --all for every FAILED event")
            .into());
    }
    let mut filter = chosen.filter.clone();
    if filter.status.is_empty() {
        filter.status = vec![EventStatus::Failed];
    }
    Ok(Selection { ids: None, filter, class: chosen.class.clone() })
}

/// The ids of named events. All of them must be there and may be retried; else nothing is done.
async fn named(pool: &Pool, wanted: &[EventRef]) -> Result<Vec<i64>> {
    let (mut ids, mut missing, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for event in wanted {
        let rows = rows(pool, event).await?;
        let before = ids.len();
        let may = rows.iter().filter(|row| UNSETTLED.contains(&row.summary.status));
        ids.extend(may.map(|row| row.summary.id));
        match rows.first() {
            None => missing.push(event.to_string()),
            Some(row) if ids.len() == before => refused.push(format!("{event} is {}", row.summary.status)),
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no event {}", missing.join(", ")))
            .hint("outbox-relay events ls lists what is there; nothing was changed")
            .into());
    }
    if !refused.is_empty() {
        return Err(Error::new(Code::CheckNotMet, format!("only FAILED and HELD events can be retried or discarded; {}", refused.join(", ")))
            .hint("to publish a PUBLISHED event again use `outbox-relay replay`; a PENDING event is still to be published; nothing was changed")
            .into());
    }
    Ok(ids)
}
