//! `events`: lists events, shows single ones, and tries failed ones again or gives them up.

mod retry_discard;
mod trace;
mod view;

use super::{Context, Result, admin_pool};
use crate::cli::{EventFilter, EventRef, EventsCommand, EventsLsArgs};
use crate::config::Needs;
use crate::db::Pool;
use crate::event::EventStatus;
use crate::operations::events::{self, Action, Filter, Moment, Page};
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
    let filter = Filter { id: args.id, ..filter(&args.filter, &args.status) };
    let listed = events::list(pool, &filter, page).await?;
    output::data(context.format(), &listed, &listed.events, || view::table(&listed.events))?;
    if listed.events.is_empty() {
        output::note("no event matches");
    } else if let Some(next) = listed.next {
        output::note(&format!("there may be more: add --after {next}"));
    }
    Ok(())
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
        since: Moment::from(args.since),
        until: Moment::from(args.until),
    }
}

async fn show(context: &Context, pool: &Pool, wanted: &[EventRef]) -> Result<()> {
    let shown = events::show(pool, wanted).await?;
    if !shown.events.is_empty() {
        output::data(context.format(), &shown, &shown.events, || view::blocks(&shown.events))?;
    }
    Ok(shown.verdict()?)
}
