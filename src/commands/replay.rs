//! `replay`: appends copies of published events to the outbox, resumable.

mod view;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::confirm::{can_ask, confirmed};
use super::progress::Shown;
use super::signals::Signals;
use super::{Context, Failure, Result, author};
use crate::cli::{Consent, ReplayArgs};
use crate::config::{Config, Needs};
use crate::db::Pool;
use crate::error::Code;
use crate::operations::replay::{self, Request, Run};
use crate::output;

/// A replay that is to be continued.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) id: Uuid,
    pub(super) ignore_retention: bool,
    /// Another rate from now on.
    pub(super) rate: Option<i32>,
    pub(super) reason: Option<String>,
    pub(super) dry_run: bool,
    /// Also if a process is at work on it.
    pub(super) take_over: bool,
}

pub(super) async fn run(context: &Context, args: &ReplayArgs) -> Result<()> {
    if let Some(id) = args.resume {
        let Consent { dry_run, reason, .. } = args.consent.clone();
        let (ignore_retention, rate) = (args.ignore_retention, args.rate);
        return resume(context, Resume { id, ignore_retention, rate, reason, dry_run, take_over: true }).await;
    }
    let settings = context.settings(Needs::DATABASE)?;
    if !args.consent.dry_run {
        can_ask(args.consent.yes)?;
    }
    let pool = replay::pool(&settings)?;
    let (signals, stop, mut begun) = (Signals::listen(), CancellationToken::new(), None);
    let work = begin(context, args, &settings, &pool, &mut begun, &stop);
    let outcome = signals.run(Box::pin(work), &stop).await;
    ended(outcome, begun)
}

/// Continues a replay that was begun by this or another process.
pub(super) async fn resume(context: &Context, how: Resume) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let pool = replay::pool(&settings)?;
    let (signals, stop, mut begun) = (Signals::listen(), CancellationToken::new(), None);
    let work = resume_it(context, how, &settings, &pool, &mut begun, &stop);
    let outcome = signals.run(Box::pin(work), &stop).await;
    ended(outcome, begun)
}

/// Whatever ended it, it can continue once it has begun.
fn ended(outcome: Option<Result<()>>, begun: Option<String>) -> Result<()> {
    match (outcome, begun) {
        (Some(outcome), None) => outcome,
        (Some(outcome), Some(resume)) => outcome.map_err(|failure| with_resume(failure, resume)),
        (None, resume) => Err(replay::stopped(resume).into()),
    }
}

fn request(args: &ReplayArgs) -> Request {
    Request {
        ids: args.id.clone(),
        from: args.from,
        to: args.to,
        topic: args.topic.clone(),
        event_type: args.event_type.clone(),
        aggregate_type: args.aggregate_type.clone(),
        aggregate_id: args.aggregate_id.clone(),
        key: args.key.clone(),
        to_topic: args.to_topic.clone(),
        new_ids: args.new_ids,
        rate: args.rate,
        again: args.again,
        ignore_retention: args.ignore_retention,
    }
}

async fn begin(
    context: &Context,
    args: &ReplayArgs,
    settings: &Config,
    pool: &Pool,
    begun: &mut Option<String>,
    stop: &CancellationToken,
) -> Result<()> {
    let consent = &args.consent;
    let progress = Shown::default();
    let plan =
        replay::plan(replay::Context { settings, pool, progress: &progress, stop }, request(args), consent.dry_run)
            .await?;
    drop(progress);
    let counts = plan.counts();
    if consent.dry_run {
        view::counts(context.format(), counts)?;
    }
    plan.finds_some()?;
    if !consent.dry_run {
        view::note_counts(&counts.groups, counts.to_topic.as_deref());
    }
    view::note_expired(&counts.expired);
    plan.may_run()?;
    if consent.dry_run || !confirmed(consent.yes, "Append these copies to the outbox?")? {
        return Ok(());
    }
    let run = plan.begin(pool, author(consent.reason.clone()), &Shown::default()).await?;
    *begun = Some(run.resume_hint());
    output::note(&format!("replay {}", run.id()));
    copy(context, pool, run, stop).await
}

async fn resume_it(
    context: &Context,
    how: Resume,
    settings: &Config,
    pool: &Pool,
    begun: &mut Option<String>,
    stop: &CancellationToken,
) -> Result<()> {
    let (found, author) = (replay::find(pool, how.id).await?, author(how.reason));
    if found.is_finished() {
        output::note("it is finished already");
        if !how.dry_run {
            found.end_job(pool, &author).await?;
        }
        let outcome = found.outcome();
        view::outcome(context.format(), &outcome)?;
        return Ok(outcome.verdict()?);
    }
    let progress = Shown::default();
    let with = replay::Context { settings, pool, progress: &progress, stop };
    let rest = found.plan(with, how.ignore_retention).await?;
    drop(progress);
    if how.dry_run {
        let outcome = rest.outcome();
        view::note_counts(&rest.groups, outcome.to_topic.as_deref());
        view::outcome(context.format(), &outcome)?;
    }
    view::note_expired(&rest.expired);
    rest.may_run()?;
    if how.dry_run {
        return Ok(());
    }
    let Some(run) = rest.take(pool, how.rate, author, how.take_over, &Shown::default()).await? else {
        output::note("it was finished a moment ago");
        return Ok(());
    };
    *begun = Some(run.resume_hint());
    copy(context, pool, run, stop).await
}

async fn copy(context: &Context, pool: &Pool, run: Run, stop: &CancellationToken) -> Result<()> {
    let outcome = run.copy(pool, &Shown::default(), stop).await?;
    view::outcome(context.format(), &outcome)?;
    Ok(outcome.verdict()?)
}

/// The same failure, with the way to continue.
fn with_resume(failure: Failure, resume: String) -> Failure {
    match failure {
        Failure::Error(error) if error.code() == Code::PartlyDone => error.into(),
        Failure::Error(error) => {
            let hint = error.hint_text().map(|hint| format!("{hint}\n{resume}"));
            error.hint(hint.unwrap_or(resume)).into()
        }
        settings @ Failure::Settings(_) => settings,
    }
}
