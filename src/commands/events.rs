//! `events`: lists events, shows single ones, and tries failed ones again or gives them up.
//!
//! A list never holds payloads; `show` prints them, because the operator asked for that one event.

mod indent;
mod retry_discard;
mod trace;
mod view;

use super::{Context, Result, admin_pool};
use crate::cli::{EventFilter, EventRef, EventsCommand, EventsLsArgs, When};
use crate::config::Needs;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::event::EventStatus;
use crate::outbox::inspect::events::{self, Details, Filter, Moment, Page};
use crate::outbox::retry_discard::Action;
use crate::output;

pub(super) async fn run(context: &Context, command: &EventsCommand) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    match command {
        EventsCommand::Ls(args) => ls(context, &pool, args).await,
        EventsCommand::Show { events } => show(context, &pool, events).await,
        EventsCommand::Trace(args) => trace::run(context, &pool, args).await,
        EventsCommand::Retry(args) => retry_discard::run(context, &pool, args, Action::Retry).await,
        EventsCommand::Discard(args) => retry_discard::run(context, &pool, args, Action::Discard).await,
    }
}

async fn ls(context: &Context, pool: &Pool, args: &EventsLsArgs) -> Result<()> {
    let page = Page { after: args.after, oldest_first: args.oldest_first, limit: args.limit };
    let found = events::list(pool, &Filter { id: args.id, ..filter(&args.filter, &args.status) }, page).await?;
    // A full page: there may be more.
    let next = (found.len() == args.limit as usize).then(|| found.last().map(|event| event.id)).flatten();
    let lines: Vec<view::Line<'_>> = found.iter().map(view::Line::new).collect();
    output::data(context.format(), &lines, &lines, || view::table(&found))?;
    if found.is_empty() {
        output::note("no event matches");
    } else if let Some(next) = next {
        output::note(&format!("there may be more: add --after {next}"));
    }
    Ok(())
}

fn moment(when: Option<When>) -> Moment {
    match when {
        None => Moment::Any,
        Some(When::At(at)) => Moment::At(at),
        Some(When::Ago(ago)) => Moment::Ago(ago),
    }
}

/// The conditions of the command line, on events in some states (none: any).
fn filter(args: &EventFilter, status: &[EventStatus]) -> Filter {
    Filter {
        id: None,
        event_id: args.event_id,
        key: args.key.clone(),
        status: status.to_vec(),
        topic: args.topic.clone(),
        event_type: args.event_type.clone(),
        aggregate_type: args.aggregate_type.clone(),
        aggregate_id: args.aggregate_id.clone(),
        correlation_id: args.correlation_id.clone(),
        since: moment(args.since),
        until: moment(args.until),
    }
}

async fn show(context: &Context, pool: &Pool, wanted: &[EventRef]) -> Result<()> {
    let mut found: Vec<Details> = Vec::new();
    let mut missing = Vec::new();
    for event in wanted {
        let rows = match event {
            EventRef::Id(id) => events::by_id(pool, *id).await?,
            EventRef::EventId(id) => events::by_event_id(pool, *id).await?,
        };
        if rows.is_empty() {
            missing.push(event.to_string());
        }
        found.extend(rows);
    }
    let whole = found.iter().map(view::Whole::new).collect::<Result<Vec<_>, Error>>()?;
    if !whole.is_empty() {
        output::data(context.format(), &whole, &whole, || view::blocks(&found))?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, format!("no event {}", missing.join(", ")))
        .hint("outbox-relay events ls lists what is there")
        .into())
}
