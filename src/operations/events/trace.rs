//! The history of an event, from its row to the consumers that handled it.

use serde::Serialize;
use uuid::Uuid;

use super::{EventRef, Result};
use crate::db::{Pool, StoredTime};
use crate::error::{Code, Error};
use crate::outbox::inspect::events::{self, Filter, Page};
use crate::outbox::inspect::trace::{self, Happening};

/// Events of one correlation id that are traced at once.
pub const MOST_EVENTS: u32 = 100;

/// What to trace.
#[derive(Debug, Clone)]
pub enum Subject {
    Event(EventRef),
    Correlation(String),
}

/// What has happened, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Traced {
    pub lines: Vec<TraceLine>,
    /// Events that were traced.
    #[serde(skip)]
    pub events: usize,
}

#[derive(Debug, Serialize)]
pub struct TraceLine {
    pub at: StoredTime,
    pub event_id: String,
    pub what: String,
    pub row: Option<i64>,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub details: Option<String>,
}

pub async fn trace(pool: &Pool, subject: &Subject) -> Result<Traced> {
    let ids = wanted(pool, subject).await?;
    let happenings = trace::trace(pool, &ids).await?;
    if happenings.is_empty() {
        return Err(Error::new(Code::NotFound, "no such event is known")
            .hint("outbox-relay events ls lists what is there; finished rows are deleted after [cleanup] published_older_than")
            .into());
    }
    Ok(Traced { lines: happenings.into_iter().map(TraceLine::from).collect(), events: ids.len() })
}

async fn wanted(pool: &Pool, subject: &Subject) -> Result<Vec<Uuid>> {
    Ok(match subject {
        Subject::Event(EventRef::EventId(id)) => vec![*id],
        Subject::Event(EventRef::Id(id)) => {
            events::by_id(pool, *id).await?.iter().map(|row| row.summary.event_id).collect()
        }
        Subject::Correlation(id) => {
            let filter = Filter { correlation_id: Some(id.clone()), ..Filter::default() };
            let page = Page { after: None, oldest_first: true, limit: MOST_EVENTS };
            events::list(pool, &filter, page).await?.iter().map(|event| event.event_id).collect()
        }
    })
}

impl Traced {
    /// Whether the correlation id may have more events than were traced.
    pub fn is_cut(&self) -> bool {
        self.events == MOST_EVENTS as usize
    }
}

impl From<Happening> for TraceLine {
    fn from(happening: Happening) -> Self {
        Self {
            at: happening.at,
            event_id: happening.event_id.to_string(),
            what: happening.what,
            row: happening.row,
            topic: happening.topic,
            partition: happening.partition,
            offset: happening.offset,
            details: happening.details,
        }
    }
}
