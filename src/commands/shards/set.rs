//! `shards set`: another number of shards while applications insert and instances are at work.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::broker::admin::Admin;
use crate::cli::ShardsSetArgs;
use crate::clock::monotonic;
use crate::commands::confirm::confirmed;
use crate::commands::signals::Signals;
use crate::commands::{Context, Result, admin_pool, author};
use crate::config::{Config, Delivery, Needs};
use crate::error::{self, Code, Error};
use crate::outbox::backlog;
use crate::outbox::resharding::{Busy, Moved, Session, State};
use crate::output::{self, Progress};
use crate::relay::progress;

/// Between two looks whether instances have given their shards up.
const LOOK: Duration = Duration::from_millis(100);
/// Refusals that are told one by one; JSON has them all.
const REFUSALS_SHOWN: usize = 20;
/// Between two attempts to keep writers out, so that the others get through meanwhile.
const WRITERS_PAUSE: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    from: i32,
    shards: i32,
    dry_run: bool,
    /// Events that wait or failed, and would be looked at; `null` unless it is a dry run.
    waiting: Option<i64>,
    /// Events that wait or failed, and stand in another shard now. After a command that was killed: only those it had
    /// not moved.
    moved: u64,
    /// Events whose rows refuse to be moved. Those that waited have failed, or wait behind another one of their key.
    refused: Vec<Refusal>,
}

#[derive(Debug, Serialize)]
struct Refusal {
    id: i64,
    reason: String,
}

/// How the part ended that can be taken back.
enum Prepared {
    Changed,
    Stopped,
}

pub(super) async fn run(context: &Context, args: &ShardsSetArgs) -> Result<()> {
    let shards = i32::from(args.count);
    let settings = context.settings(Needs::DATABASE)?;
    let pool = admin_pool(&settings)?;
    let Some(mut session) = Session::open(&pool).await? else {
        return Err(Error::new(Code::CheckNotMet, "another command is changing the number of shards")
            .hint("wait until it has ended")
            .into());
    };
    let state = session.state().await?;
    let resumed = resumes(state, shards)?;
    if state.shards == shards && state.wanted.is_none() {
        output::note(&format!("the outbox has {shards} shards already"));
        return print(
            context,
            &Report {
                from: shards,
                shards,
                dry_run: args.consent.dry_run,
                waiting: None,
                moved: 0,
                refused: Vec::new(),
            },
        );
    }
    if !state.may_change {
        return Err(Error::new(Code::PostgresDenied, "this role does not own outbox_shard_count()")
            .hint("run it with the role that ran: outbox-relay migrate up")
            .into());
    }
    if args.consent.dry_run {
        let waits = backlog::count(&pool, u32::MAX).await?;
        let events = waits.pending + waits.held + waits.failed;
        output::note(&format!(
            "would spread keys over {shards} shards instead of {}, and look at {events} events that wait or failed; nothing was changed",
            state.shards
        ));
        let (from, waiting) = (state.shards, Some(events));
        return print(context, &Report { from, shards, dry_run: true, waiting, moved: 0, refused: Vec::new() });
    }
    let question =
        format!("Spread keys over {shards} shards instead of {}? Publishing pauses meanwhile.", state.shards);
    if !confirmed(args.consent.yes, &question)? {
        return Ok(());
    }
    keep_room_for_markers(context, &settings, state, args.count).await?;
    session.try_move().await?;

    let signals = Signals::listen();
    let stop = CancellationToken::new();
    let work = async {
        if resumed {
            output::note("going on where the last command was interrupted");
        } else if let Prepared::Stopped = prepare(&mut session, shards, args.timeout, &stop).await? {
            return Err(Error::new(Code::CheckNotMet, "interrupted; nothing was changed"));
        }
        let finish = async {
            let moved = move_events(&mut session).await?;
            session.finish(shards, &moved, &author(args.consent.reason.clone())).await?;
            Ok(moved)
        };
        finish.await.map_err(|error| unfinished(error, shards))
    };
    let Some(outcome) = signals.run(work, &stop).await else {
        return Err(unfinished(Error::new(Code::PartlyDone, "interrupted"), shards).into());
    };
    let moved = outcome?;
    output::note(&format!(
        "keys are spread over {shards} shards; set outbox.shards = {shards} where the settings are kept, for a new outbox"
    ));
    let refused = moved.refused.iter().map(|no| Refusal { id: no.item, reason: no.reason() }).collect();
    let report = Report { from: state.shards, shards, dry_run: false, waiting: None, moved: moved.events, refused };
    print(context, &report)?;
    refusals(&report.refused)
}

/// Errors: some events were refused.
fn refusals(refused: &[Refusal]) -> Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    for refusal in refused.iter().take(REFUSALS_SHOWN) {
        output::note(&format!("event {}: {}", refusal.id, refusal.reason));
    }
    let message = format!(
        "the number of shards was changed, and the table outbox_events refuses to let {} events be moved",
        refused.len()
    );
    Err(Error::new(Code::PartlyDone, message)
        .hint(
            "a constraint or a trigger of yours does; the SQLSTATE says of what kind. Those that waited are FAILED, \
             and later events of their keys wait: mend the rows, then run: outbox-relay events retry",
        )
        .into())
}

/// Whether an interrupted command is to be finished.
fn resumes(state: State, shards: i32) -> error::Result<bool> {
    match state.wanted {
        Some(wanted) if wanted == state.shards && wanted != shards => Err(Error::new(
            Code::Usage,
            format!("a change to {wanted} shards was interrupted, and is to be finished first"),
        )
        .hint(format!("run: outbox-relay shards set {wanted}"))),
        wanted => Ok(wanted == Some(state.shards)),
    }
}

/// In exactly-once delivery each shard has its marker in a partition of its own.
async fn keep_room_for_markers(context: &Context, settings: &Config, state: State, shards: u16) -> Result<()> {
    if settings.relay.delivery != Delivery::ExactlyOnce && !state.marked {
        return Ok(());
    }
    let settings = context.settings(Needs::BOTH)?;
    let topic = progress::name_of(&settings.run.deployment);
    progress::ensure_topic(&topic, &Admin::new(&settings.kafka)?, usize::from(shards)).await?;
    Ok(())
}

/// Everything up to the change itself: instances give up their shards, writers are kept out for a moment. When it does
/// not come so far, all is given back.
async fn prepare(
    session: &mut Session,
    shards: i32,
    timeout: Duration,
    stop: &CancellationToken,
) -> error::Result<Prepared> {
    let outcome = drain_and_change(session, shards, monotonic() + timeout, stop).await;
    if !matches!(outcome, Ok(Prepared::Changed))
        && let Err(error) = session.abandon().await
    {
        // Whether the change took effect is not known.
        return Err(unfinished(outcome.err().unwrap_or_else(|| error.into()), shards));
    }
    outcome
}

async fn drain_and_change(
    session: &mut Session,
    shards: i32,
    deadline: Duration,
    stop: &CancellationToken,
) -> error::Result<Prepared> {
    session.announce(shards).await?;
    output::note("waiting for instances to finish what is in flight");
    loop {
        let busy = session.take().await?;
        if busy.is_empty() {
            break;
        }
        if stop.is_cancelled() {
            return Ok(Prepared::Stopped);
        }
        if monotonic() > deadline {
            return Err(still_at_work(&busy));
        }
        tokio::time::sleep(LOOK).await;
    }
    loop {
        match session.change(shards).await {
            Ok(()) => return Ok(Prepared::Changed),
            Err(error) if error.is_lock_timeout() => {}
            Err(error) => return Err(error.into()),
        }
        if stop.is_cancelled() {
            return Ok(Prepared::Stopped);
        }
        let writers = session.open_writers().await?;
        if monotonic() > deadline {
            let message = format!("{writers} transactions that insert events stay open; nothing was changed");
            return Err(Error::new(Code::CheckNotMet, message)
                .hint("pg_stat_activity shows them by xact_start; end what hangs, or wait longer with --timeout"));
        }
        output::note(&format!("waiting for {writers} open transactions that insert events"));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(WRITERS_PAUSE) => {}
        }
    }
}

fn still_at_work(busy: &[Busy]) -> Error {
    let list = |owned: bool| {
        let of: Vec<String> = busy
            .iter()
            .filter(|shard| shard.owner.is_some() == owned)
            .map(|shard| match &shard.owner {
                Some(owner) => format!("{} ({})", shard.shard, output::printable(owner)),
                None => format!("{} ({} events in flight)", shard.shard, shard.in_flight),
            })
            .collect();
        of.join(", ")
    };
    if busy.iter().any(|shard| shard.owner.is_some()) {
        let message = format!("shards that were not given up in time: {}; nothing was changed", list(true));
        return Error::new(Code::CheckNotMet, message)
            .hint("the instance waits for Kafka, or is of a version that knows no shards set: stop it, or wait longer with --timeout");
    }
    let message = format!("shards whose batch in flight nobody settles: {}; nothing was changed", list(false));
    Error::new(Code::CheckNotMet, message)
        .hint("an instance has died in the middle of a batch: let one run, and resume what is paused, so that it is sent again")
}

async fn move_events(session: &mut Session) -> error::Result<Moved> {
    let (mut moved, shards) = session.move_failed().await?;
    let mut progress = Progress::new("shards looked through", 0, u64::try_from(shards.len()).unwrap_or(0));
    for (done, shard) in (1..).zip(shards) {
        moved.add(session.move_waiting(shard).await?);
        progress.at(done);
    }
    progress.clear();
    Ok(moved)
}

/// From the change on, and when it is not known whether it took effect, the command has to be finished.
fn unfinished(error: Error, shards: i32) -> Error {
    Error::new(
        error.code(),
        "the change was interrupted; nothing is lost, and nothing is published until it is finished",
    )
    .caused_by(error)
    .hint(format!("run it again: outbox-relay shards set {shards}"))
}

fn print(context: &Context, report: &Report) -> Result<()> {
    output::data(context.format(), report, std::slice::from_ref(report), || match report.dry_run {
        true => String::new(),
        false => format!("{} shards, {} events moved\n", report.shards, report.moved),
    })?;
    Ok(())
}
