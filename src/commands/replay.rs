//! `replay`: appends copies of published events to the outbox, resumable.

mod retention;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::confirm::{can_ask, confirmed};
use super::signals::Signals;
use super::{Context, Result, author};
use crate::broker::admin::Admin;
use crate::cli::{ReplayArgs, When};
use crate::clock::monotonic;
use crate::config::{Config, Needs};
use crate::db::{Database, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::audit::Author;
use crate::outbox::replay::{self, Bounds, Filter, Group, Named, Pace, Portion, Replay};
use crate::output::{self, Progress};
use crate::relay::routing::Routing;
use crate::retry::Backoff;
use retention::Plan;

/// Most copies of one transaction when there is no rate.
const PORTION: u32 = 5_000;
/// How long PostgreSQL is waited for in the middle: a restart or a failover. A guess.
const PATIENCE: Duration = Duration::from_secs(60);
/// Portions in a second when there is one, so that the copies come evenly.
const PORTIONS_PER_SECOND: u32 = 5;

pub(super) async fn run(context: &Context, args: &ReplayArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    if !args.consent.dry_run {
        can_ask(args.consent.yes || args.resume.is_some())?;
    }
    let pool = Database::of(&settings)?.pool_with_setup(Role::Admin, 2, replay::SESSION);
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let mut begun = None;
    let work = async {
        match args.resume {
            Some(id) => resume(context, args, &settings, &pool, id, &mut begun, &stop).await,
            None => begin(context, args, &settings, &pool, &mut begun, &stop).await,
        }
    };
    let outcome = signals.run(Box::pin(work), &stop).await;
    match (outcome, begun) {
        (Some(outcome), None) => outcome,
        (Some(outcome), Some(id)) => outcome.map_err(|failure| with_resume(failure, resume_command(id, args))),
        (None, begun) => Err(stopped(begun.map(|id| resume_command(id, args))).into()),
    }
}

async fn begin(
    context: &Context,
    args: &ReplayArgs,
    settings: &Config,
    pool: &Pool,
    begun: &mut Option<Uuid>,
    stop: &CancellationToken,
) -> Result<()> {
    check_topic(settings, args.to_topic.as_deref()).await?;
    let bounds = replay::begin(pool).await?;
    let filter = filter(args, bounds.now)?;
    if let Some(ids) = &filter.ids {
        check_ids(ids, &replay::named(pool, ids).await?)?;
    }
    if !args.consent.dry_run {
        refuse_without_grants(pool).await?;
        refuse_unfinished(args, &filter, &replay::show(pool, None).await?)?;
    }
    let first = filter.ids.as_ref().and_then(|ids| ids.first()).map_or(0, |first| first - 1);
    let Some(groups) = count(pool, &filter, first, bounds, stop).await? else { return Err(stopped(None).into()) };
    let matched: i64 = groups.iter().map(|group| group.events).sum();
    let plan = Plan { filter: &filter, to_topic: args.to_topic.as_deref(), after: first, bounds, groups: &groups };
    let Some(expired) = retention::expired(settings, pool, plan, stop).await? else {
        return Err(stopped(None).into());
    };
    if args.consent.dry_run {
        view::counts(context.format(), &groups, &expired, args)?;
    }
    if matched == 0 {
        return Err(Error::new(Code::NotFound, "no event matches")
            .hint("only PUBLISHED events are copied, and no copies of earlier replays; outbox-relay events ls takes the same filters")
            .into());
    }
    if args.consent.dry_run {
        return Ok(retention::tell(&expired, args.ignore_retention)?);
    }
    view::note_counts(&groups, args.to_topic.as_deref());
    retention::tell(&expired, args.ignore_retention)?;
    if !confirmed(args.consent.yes, "Append these copies to the outbox?")? {
        return Ok(());
    }
    let mut replay = Replay {
        id: Uuid::now_v7(),
        filter,
        readable: true,
        to_topic: args.to_topic.clone(),
        new_ids: args.new_ids,
        rate: args.rate,
        upto_id: bounds.upto_id,
        last_id: first,
        matched,
        copied: 0,
        created_at: bounds.now,
        finished: false,
    };
    let (runner, author) = (Uuid::new_v4(), author(args.consent.reason.clone()));
    replay::create(pool, &mut replay, runner, &author).await?;
    *begun = Some(replay.id);
    output::note(&format!("replay {}", replay.id));
    copy(context, args, pool, &mut replay, runner, &author, stop).await
}

async fn resume(
    context: &Context,
    args: &ReplayArgs,
    settings: &Config,
    pool: &Pool,
    id: Uuid,
    begun: &mut Option<Uuid>,
    stop: &CancellationToken,
) -> Result<()> {
    let Some(found) = replay::show(pool, Some(id)).await?.pop() else {
        let unfinished: Vec<String> =
            replay::show(pool, None).await?.iter().take(5).map(|replay| replay.id.to_string()).collect();
        let hint = match unfinished.is_empty() {
            true => "no replay is unfinished".to_owned(),
            false => format!("unfinished are: {}", unfinished.join(", ")),
        };
        return Err(Error::new(Code::NotFound, format!("there is no replay {id}")).hint(hint).into());
    };
    if !found.readable {
        return Err(Error::new(Code::CheckNotMet, format!("replay {id} was begun by another version"))
            .hint("resume it with that version, or begin it anew")
            .into());
    }
    if found.finished {
        output::note("it is finished already");
        view::outcome(context.format(), &found)?;
        return expect_all(&found, 0);
    }
    let left = Bounds { upto_id: found.upto_id, now: replay::begin(pool).await?.now };
    let Some(groups) = count(pool, &found.filter, found.last_id, left, stop).await? else {
        return Err(stopped(Some(resume_command(id, args))).into());
    };
    let to_topic = found.to_topic.as_deref();
    let plan = Plan { filter: &found.filter, to_topic, after: found.last_id, bounds: left, groups: &groups };
    let Some(expired) = retention::expired(settings, pool, plan, stop).await? else {
        return Err(stopped(Some(resume_command(id, args))).into());
    };
    if args.consent.dry_run {
        view::note_counts(&groups, to_topic);
        view::outcome(context.format(), &found)?;
    }
    retention::tell(&expired, args.ignore_retention)?;
    if args.consent.dry_run {
        return Ok(());
    }
    refuse_without_grants(pool).await?;
    let (runner, author) = (Uuid::new_v4(), author(args.consent.reason.clone()));
    let Some(mut replay) = replay::take(pool, id, runner, args.rate, &author).await? else {
        output::note("it has been finished a moment ago");
        return Ok(());
    };
    *begun = Some(id);
    copy(context, args, pool, &mut replay, runner, &author, stop).await
}

/// Refusals that are told one by one.
const REFUSALS_SHOWN: u64 = 20;
/// Refusals one after the other after which a replay ends: something refuses every copy. A guess.
const REFUSALS_IN_A_ROW: u32 = 100;

/// Makes the copies that are left, portion by portion, at the rate.
async fn copy(
    context: &Context,
    args: &ReplayArgs,
    pool: &Pool,
    replay: &mut Replay,
    runner: Uuid,
    author: &Author,
    stop: &CancellationToken,
) -> Result<()> {
    let rate = replay.rate.and_then(|rate| u32::try_from(rate).ok());
    let mut pace = Pace::new(rate.map_or(PORTION, |rate| (rate / PORTIONS_PER_SECOND).max(1)));
    let mut progress = Progress::new("copied", count_of(replay.copied), count_of(replay.matched));
    let (mut due, mut outage, mut backoff) = (monotonic(), None, Backoff::for_connection());
    let mut refused = Refused::default();
    while !replay.finished {
        // A rate is an average, but a pause is not made up for: the copies of a minute do not come in one second.
        due = due.max(monotonic().saturating_sub(Duration::from_secs(1)));
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                progress.clear();
                return Err(stopped(Some(resume_command(replay.id, args))).into());
            }
            () = tokio::time::sleep(due.saturating_sub(monotonic())) => {}
        }
        let before = replay.copied;
        let portion = match replay::portion(pool, replay, runner, &mut pace, author).await {
            Err(error) if error.is_unavailable() && monotonic() < *outage.get_or_insert(monotonic() + PATIENCE) => {
                tracing::warn!(error = %error.chain(), "PostgreSQL does not respond; retrying");
                due = monotonic() + backoff.next_wait();
                continue;
            }
            other => other.inspect_err(|_| progress.clear())?,
        };
        outage = None;
        backoff.reset();
        match portion {
            Portion::Taken => {
                progress.clear();
                return Err(Error::new(Code::PartlyDone, format!("another process has resumed replay {}", replay.id))
                    .hint("it goes on there; nothing is copied twice")
                    .into());
            }
            Portion::Refused { id, reason } => refused.add(id, &reason, &resume_command(replay.id, args))?,
            Portion::Done => refused.in_a_row = 0,
        }
        if let Some(rate) = rate {
            due += Duration::from_secs_f64((replay.copied - before) as f64 / f64::from(rate));
        }
        progress.at(count_of(replay.copied));
    }
    progress.clear();
    view::outcome(context.format(), replay)?;
    if refused.all == 0 {
        return expect_all(replay, 0);
    }
    expect_all(replay, refused.all)?;
    Err(Error::new(Code::PartlyDone, format!("the table outbox_events refuses copies of {} events", refused.all))
        .hint("a constraint or a trigger of yours does; the messages above name the first of them")
        .into())
}

/// Errors: fewer events were copied, or refused, than had matched when they were counted.
fn expect_all(replay: &Replay, refused: u64) -> Result<()> {
    let missing = count_of(replay.matched).saturating_sub(count_of(replay.copied)).saturating_sub(refused);
    if missing == 0 {
        return Ok(());
    }
    let message =
        format!("{missing} of {} events that matched were not copied, and {} were", replay.matched, replay.copied);
    Err(Error::new(Code::PartlyDone, message)
        .hint(
            "a cleanup or somebody else has deleted or changed them meanwhile, or the table had refused them before the replay was resumed. \
             Without --rate a replay is faster than the cleanup; cleanup.published_older_than keeps rows for longer",
        )
        .into())
}

/// Events of which the table takes no copy.
#[derive(Default)]
struct Refused {
    all: u64,
    in_a_row: u32,
}

impl Refused {
    /// Errors: so many in a row that it is no fault of theirs.
    fn add(&mut self, id: i64, reason: &str, resume: &str) -> Result<()> {
        (self.all, self.in_a_row) = (self.all + 1, self.in_a_row + 1);
        if self.all <= REFUSALS_SHOWN {
            output::note(&format!("event {id} is not copied: {reason}"));
        }
        if self.in_a_row < REFUSALS_IN_A_ROW {
            return Ok(());
        }
        Err(Error::new(Code::PartlyDone, format!("the table outbox_events refuses every copy: {reason}"))
            .hint(format!("a constraint or a trigger of yours does; put it right, then {resume}"))
            .into())
    }
}

fn count_of(events: i64) -> u64 {
    u64::try_from(events).unwrap_or(0)
}

/// `None` when it was stopped.
async fn count(
    pool: &Pool,
    filter: &Filter,
    after: i64,
    bounds: Bounds,
    stop: &CancellationToken,
) -> Result<Option<Vec<Group>>> {
    let (from, all) = (after.max(0), bounds.upto_id);
    let mut progress = Progress::new("rows looked at", 0, count_of(all - from));
    let counted = replay::count(pool, filter, after, all, |last| {
        progress.at(count_of(last - from));
        !stop.is_cancelled()
    });
    let counted = counted.await;
    progress.clear();
    Ok(counted?)
}

/// The filter with every time worked out by the clock of the database, which set `created_at`.
fn filter(args: &ReplayArgs, now: Timestamp) -> Result<Filter, Error> {
    let at = |when: Option<When>| match when {
        None => (None, None),
        Some(When::At(at)) => (Some(at), None),
        Some(When::Ago(ago)) => {
            let at = SignedDuration::try_from(ago).ok().and_then(|ago| now.checked_sub(ago).ok());
            (Some(at.unwrap_or(Timestamp::MIN)), Some(ago.as_secs_f64()))
        }
    };
    let ((from, from_ago), (to, to_ago)) = (at(args.from), at(args.to));
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Error::new(Code::Usage, format!("--from {from} is not before --to {to}"))
            .hint("events are taken from --from on, up to but without --to"));
    }
    let ids: BTreeSet<i64> = args.id.iter().copied().collect();
    Ok(Filter {
        ids: (!ids.is_empty()).then(|| ids.into_iter().collect()),
        topic: args.topic.clone(),
        event_type: args.event_type.clone(),
        aggregate_type: args.aggregate_type.clone(),
        aggregate_id: args.aggregate_id.clone(),
        key: args.key.clone(),
        from,
        to,
        from_ago,
        to_ago,
    })
}

/// Whoever names ids wants exactly those: one that cannot be copied stops all.
fn check_ids(wanted: &[i64], found: &[Named]) -> Result<(), Error> {
    let known: BTreeSet<i64> = found.iter().map(|row| row.id).collect();
    let missing: Vec<String> = wanted.iter().filter(|id| !known.contains(id)).map(i64::to_string).collect();
    if !missing.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no event {}", missing.join(", ")))
            .hint("outbox-relay events ls lists what is there; cleaned-up events are gone"));
    }
    for row in found {
        if row.dead_letter {
            return Err(Error::new(Code::CheckNotMet, format!("event {} is a dead letter", row.id))
                .hint("outbox-relay dlq redrive brings the event back to its topic"));
        }
        let hint = match row.status.as_str() {
            "PUBLISHED" | "DISCARDED" => continue,
            "FAILED" => "outbox-relay events retry tries it again",
            _ => "it is published when its turn comes",
        };
        return Err(Error::new(
            Code::CheckNotMet,
            format!("event {} is {}, not PUBLISHED or DISCARDED", row.id, row.status),
        )
        .hint(hint));
    }
    Ok(())
}

/// A topic that the relay would refuse, or that does not exist, would make every copy FAILED.
async fn check_topic(settings: &Config, topic: Option<&str>) -> Result<(), Error> {
    let Some(topic) = topic else { return Ok(()) };
    Routing::new(&settings.routing)?.allows(topic).map_err(|refused| {
        Error::new(Code::Usage, "--to-topic is refused").caused_by(refused).hint("see routing.allowed_topics")
    })?;
    if settings.kafka.bootstrap_servers.trim().is_empty() {
        return Ok(());
    }
    match Admin::new(&settings.kafka)?.topic(topic).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::new(Code::NotFound, format!("the topic {topic} does not exist"))
            .hint("create it first: events for a topic that does not exist fail after relay.unknown_topic_grace")),
        Err(error) => {
            output::note(&format!("Kafka does not say whether {topic} exists: {}", error.chain()));
            Ok(())
        }
    }
}

async fn refuse_without_grants(pool: &Pool) -> Result<()> {
    let missing = replay::missing_grants(pool).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::PostgresStatement, format!("the role of database.url has no {}", missing.join(", no ")))
        .hint("see outbox_operator in docs/roles.sql")
        .into())
}

fn refuse_unfinished(args: &ReplayArgs, filter: &Filter, unfinished: &[Replay]) -> Result<(), Error> {
    let same = |replay: &&Replay| {
        replay.readable
            && replay.filter.same(filter)
            && (&replay.to_topic, replay.new_ids) == (&args.to_topic, args.new_ids)
    };
    let Some(found) = unfinished.iter().find(same).filter(|_| !args.again) else { return Ok(()) };
    Err(Error::new(
        Code::CheckNotMet,
        format!(
            "the same replay, begun at {}, is unfinished: {} of {} events are copied",
            found.created_at, found.copied, found.matched
        ),
    )
    .hint(format!("{}\n--again begins another one all the same", resume_command(found.id, args))))
}

fn resume_command(id: Uuid, args: &ReplayArgs) -> String {
    let flag = if args.ignore_retention { " --ignore-retention" } else { "" };
    format!("go on with: outbox-relay replay --resume {id}{flag}")
}

/// `resume`: the command that goes on; `None` when nothing was begun.
fn stopped(resume: Option<String>) -> Error {
    Error::new(Code::PartlyDone, "stopped").hint(resume.unwrap_or_else(|| "nothing was changed".to_owned()))
}

/// Whatever ended it, it can go on.
fn with_resume(failure: super::Failure, resume: String) -> super::Failure {
    match failure {
        super::Failure::Error(error) if error.code() == Code::PartlyDone => error.into(),
        super::Failure::Error(error) => {
            let hint = error.hint_text().map(|hint| format!("{hint}\n{resume}"));
            error.hint(hint.unwrap_or(resume)).into()
        }
        settings @ super::Failure::Settings(_) => settings,
    }
}
