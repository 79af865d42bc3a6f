//! `events trace`: the history of an event, from its row to the consumers that handled it.

use serde::Serialize;
use uuid::Uuid;

use super::super::{Context, Result};
use crate::cli::{EventRef, EventsTraceArgs};
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::outbox::inspect::events::{self, Filter, Page};
use crate::outbox::inspect::trace::{self, Happening};
use crate::output::{self, Align, Cell, Table, Tone};

/// Events of one correlation id that are traced at once.
const MOST_EVENTS: u32 = 100;
const DETAILS_WIDTH: usize = 80;

#[derive(Debug, Serialize)]
struct Line<'a> {
    at: String,
    event_id: String,
    what: &'a str,
    row: Option<i64>,
    topic: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
    details: Option<&'a str>,
}

pub(super) async fn run(context: &Context, pool: &Pool, args: &EventsTraceArgs) -> Result<()> {
    let ids = wanted(pool, args).await?;
    let happenings = trace::trace(pool, &ids).await?;
    if happenings.is_empty() {
        return Err(Error::new(Code::NotFound, "nothing is known of such an event")
            .hint("outbox-relay events ls lists what is there; finished rows are deleted after [cleanup] published_older_than")
            .into());
    }
    let lines: Vec<Line<'_>> = happenings.iter().map(line).collect();
    output::data(context.format(), &lines, &lines, || table(&happenings, ids.len() > 1))?;
    Ok(())
}

async fn wanted(pool: &Pool, args: &EventsTraceArgs) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    match (&args.event, &args.correlation_id) {
        (Some(EventRef::EventId(id)), _) => ids.push(*id),
        (Some(EventRef::Id(id)), _) => {
            ids.extend(events::by_id(pool, *id).await?.iter().map(|row| row.summary.event_id))
        }
        (None, correlation_id) => {
            let filter = Filter { correlation_id: correlation_id.clone(), ..Filter::default() };
            let page = Page { after: None, oldest_first: true, limit: MOST_EVENTS };
            ids.extend(events::list(pool, &filter, page).await?.iter().map(|event| event.event_id));
            if ids.len() == MOST_EVENTS as usize {
                output::note(&format!("only the first {MOST_EVENTS} events of this correlation id are traced"));
            }
        }
    }
    Ok(ids)
}

fn line(happening: &Happening) -> Line<'_> {
    Line {
        at: happening.at.to_string(),
        event_id: happening.event_id.to_string(),
        what: &happening.what,
        row: happening.row,
        topic: happening.topic.as_deref(),
        partition: happening.partition,
        offset: happening.offset,
        details: happening.details.as_deref(),
    }
}

fn table(happenings: &[Happening], several: bool) -> String {
    let mut columns = vec![
        ("AT", Align::Left),
        ("WHAT", Align::Left),
        ("ROW", Align::Right),
        ("WHERE", Align::Left),
        ("DETAILS", Align::Left),
    ];
    if several {
        columns.insert(1, ("EVENT_ID", Align::Left));
    }
    let mut table = Table::new(&columns);
    for happening in happenings {
        let tone = match happening.what.as_str() {
            "published" | "handled" => Tone::Good,
            "failed" | "parked" => Tone::Bad,
            "held" | "discarded" => Tone::Warning,
            _ => Tone::Plain,
        };
        let topic = happening.topic.as_deref().map(output::printable).unwrap_or_default();
        let place = match (happening.partition, happening.offset) {
            (Some(partition), Some(offset)) => format!("{topic}/{partition}/{offset}"),
            _ => topic.into_owned(),
        };
        let details = output::printable(happening.details.as_deref().unwrap_or_default());
        let mut cells = vec![
            Cell::new(happening.at),
            Cell::new(&happening.what).tone(tone),
            Cell::optional(happening.row),
            Cell::new(place),
            Cell::new(output::shortened(&details, DETAILS_WIDTH)),
        ];
        if several {
            cells.insert(1, Cell::new(happening.event_id));
        }
        table.row(cells);
    }
    table.render()
}
