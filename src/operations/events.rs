//! Events: listing them, showing single ones, their history, and what is decided about those that failed or wait.
//!
//! A list never holds payloads; [`show`] reads them, because somebody asked for that one event.

mod report;
mod retry_discard;
mod trace;

use serde::Serialize;

use super::{EventRef, Result, When};
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::outbox::inspect::events::{self, Details};

pub use crate::outbox::inspect::events::{Filter, Moment, Page, SHOWN_BYTES};
pub use crate::outbox::retry_discard::Action;
#[cfg(test)]
pub(crate) use report::tests;
pub use report::{EventDetails, EventLine, HoldLine};
pub use retry_discard::{Chosen, Plan, Report, Unchanged, plan};
pub use trace::{Subject, TraceLine, Traced, trace};

/// One page of events.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listed {
    pub events: Vec<EventLine>,
    /// The page is full: what follows this id may match as well.
    #[serde(skip)]
    pub next: Option<i64>,
}

/// The events that match, without their payloads.
pub async fn list(pool: &Pool, filter: &Filter, page: Page) -> Result<Listed> {
    let found = events::list(pool, filter, page).await?;
    let next = (found.len() == page.limit as usize).then(|| found.last().map(|event| event.id)).flatten();
    Ok(Listed { events: found.into_iter().map(EventLine::from).collect(), next })
}

/// Events with everything that is known of them.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Shown {
    pub events: Vec<EventDetails>,
    #[serde(skip)]
    missing: Vec<String>,
}

/// The rows of these events, in the order asked for.
pub async fn show(pool: &Pool, wanted: &[EventRef]) -> Result<Shown> {
    let mut shown = Shown { events: Vec::new(), missing: Vec::new() };
    for event in wanted {
        let rows = rows(pool, event).await?;
        if rows.is_empty() {
            shown.missing.push(event.to_string());
        }
        for row in rows {
            shown.events.push(EventDetails::new(row)?);
        }
    }
    Ok(shown)
}

impl Shown {
    /// Errors: [`Code::NotFound`] with the events that are not there.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::NotFound, format!("no event {}", self.missing.join(", ")))
            .hint("to list events run: outbox-relay events ls"))
    }
}

async fn rows(pool: &Pool, event: &EventRef) -> Result<Vec<Details>> {
    Ok(match event {
        EventRef::Id(id) => events::by_id(pool, *id).await?,
        EventRef::EventId(id) => events::by_event_id(pool, *id).await?,
    })
}

impl From<Option<When>> for Moment {
    fn from(when: Option<When>) -> Self {
        match when {
            None => Self::Any,
            Some(When::At(at)) => Self::At(at),
            Some(When::Ago(ago)) => Self::Ago(ago),
        }
    }
}
