//! Replay: copies of published events, appended to the outbox; resumable.

mod choice;
mod copy;
mod report;
mod retention;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::jobs::Recording;
use super::progress::{Progress, Step};
use super::{Author, Result, When};
use crate::config::Config;
use crate::db::{Database, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::jobs::{self, Kind};
use crate::outbox::replay::{self, Begun as Started, Bounds, Filter, Group, Replay, TakeOver, Taken};
use choice::{check_ids, check_topic, filter, refuse_unfinished, refuse_without_grants, unfinished};
pub use copy::Run;
pub use report::{Counts, GroupLine, Outcome};
use retention::Copies;
pub use retention::Expired;

/// What to copy, where to, and how fast.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// These and nothing else; with them, the filters are empty.
    pub ids: Vec<i64>,
    pub from: Option<When>,
    pub to: Option<When>,
    pub topic: Option<String>,
    pub event_type: Option<String>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub key: Option<String>,
    /// Another topic than that of the events.
    pub to_topic: Option<String>,
    pub new_ids: bool,
    /// Copies per second.
    pub rate: Option<i32>,
    /// Also when the same replay is unfinished.
    pub again: bool,
    /// Also what its topic would not keep.
    pub ignore_retention: bool,
}

/// Where a plan is made, and who hears how far it is.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub settings: &'a Config,
    pub pool: &'a Pool,
    pub progress: &'a dyn Progress,
    pub stop: &'a CancellationToken,
}

/// Connections for a replay.
pub fn pool(settings: &Config) -> Result<Pool> {
    Ok(Database::of(settings)?.pool_with_setup(Role::Admin, 2, replay::SESSION))
}

/// A replay that has not begun.
#[derive(Debug)]
pub struct Plan {
    request: Request,
    filter: Filter,
    bounds: Bounds,
    /// Copies begin behind this id.
    first: i64,
    counts: Counts,
}

/// Counts what would be copied. Changes nothing. `dry_run`: nobody will carry it out, so what would be in the way of
/// that is not looked for.
pub async fn plan(context: Context<'_>, request: Request, dry_run: bool) -> Result<Plan> {
    let Context { settings, pool, progress, .. } = context;
    check_topic(settings, request.to_topic.as_deref(), progress).await?;
    let bounds = replay::begin(pool).await?;
    let filter = filter(&request, bounds.now)?;
    if let Some(ids) = &filter.ids {
        check_ids(ids, &replay::named(pool, ids).await?)?;
    }
    if !dry_run {
        refuse_without_grants(pool).await?;
        refuse_unfinished(&request, &filter, &replay::show(pool, None).await?)?;
    }
    let first = filter.ids.as_ref().and_then(|ids| ids.first()).map_or(0, |first| first - 1);
    let copies = Span { filter: &filter, to_topic: request.to_topic.as_deref(), after: first, bounds };
    let Some((groups, expired)) = copies.measure(context).await? else { return Err(stopped(None).into()) };
    let counts = Counts {
        matched: groups.iter().map(|group| group.events).sum(),
        to_topic: request.to_topic.clone(),
        new_ids: request.new_ids,
        groups: report::lines(&groups),
        expired,
    };
    Ok(Plan { request, filter, bounds, first, counts })
}

impl Plan {
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Errors: [`Code::NotFound`] when there is nothing to copy.
    pub fn finds_some(&self) -> Result<(), Error> {
        if self.counts.matched > 0 {
            return Ok(());
        }
        Err(Error::new(Code::NotFound, "no event matches")
            .hint("only PUBLISHED events are copied, and no copies of earlier replays; outbox-relay events ls takes the same filters"))
    }

    /// Errors: [`Code::CheckNotMet`] when Kafka would not keep copies, unless that was accepted.
    pub fn may_run(&self) -> Result<(), Error> {
        retention::verdict(&self.counts.expired, self.request.ignore_retention)
    }

    /// Records the replay in the database, so that it can be resumed from now on. Copies nothing yet.
    ///
    /// Errors: [`Code::CheckNotMet`] when somebody else has begun the same one since it was planned.
    pub async fn begin(self, pool: &Pool, author: Author, progress: &dyn Progress) -> Result<Run> {
        self.may_run()?;
        let mut replay = Replay {
            id: Uuid::now_v7(),
            filter: self.filter,
            readable: true,
            to_topic: self.request.to_topic,
            new_ids: self.request.new_ids,
            rate: self.request.rate,
            upto_id: self.bounds.upto_id,
            last_id: self.first,
            matched: self.counts.matched,
            copied: 0,
            created_at: self.bounds.now,
            finished: false,
        };
        let (runner, ignore_retention) = (Uuid::new_v4(), self.request.ignore_retention);
        let job = Recording::is_possible(pool, progress).await?.then(|| new_job(&replay, ignore_retention));
        match replay::create(pool, &mut replay, runner, &author, self.request.again, job.as_ref()).await? {
            Started::Ours(job) => Ok(Run { replay, runner, job, author, ignore_retention }),
            Started::Same(other) => Err(unfinished(&other, ignore_retention).into()),
        }
    }
}

/// Without keys and ids of aggregates; the filter itself is in `outbox_replays`.
fn new_job(replay: &Replay, ignore_retention: bool) -> jobs::New {
    let arguments = serde_json::json!({
        "filter": replay.filter.for_audit(),
        "to_topic": replay.to_topic,
        "new_ids": replay.new_ids,
        "rate": replay.rate,
        "ignore_retention": ignore_retention,
    });
    jobs::New { id: replay.id, kind: Kind::Replay, arguments, parts: replay::progress(replay).parts, cursor: None }
}

/// A replay that was begun.
#[derive(Debug)]
pub struct Begun {
    replay: Replay,
}

/// Errors: [`Code::NotFound`], or another version began it.
pub async fn find(pool: &Pool, id: Uuid) -> Result<Begun> {
    let Some(replay) = replay::show(pool, Some(id)).await?.pop() else {
        let unfinished: Vec<String> =
            replay::show(pool, None).await?.iter().take(5).map(|replay| replay.id.to_string()).collect();
        let hint = match unfinished.is_empty() {
            true => "no replay is unfinished".to_owned(),
            false => format!("unfinished are: {}", unfinished.join(", ")),
        };
        return Err(Error::new(Code::NotFound, format!("there is no replay {id}")).hint(hint).into());
    };
    if !replay.readable {
        return Err(Error::new(Code::CheckNotMet, format!("replay {id} was started by another version"))
            .hint("resume it with that version, or start it again")
            .into());
    }
    Ok(Begun { replay })
}

/// What is left of a replay.
#[derive(Debug)]
pub struct Rest {
    replay: Replay,
    pub groups: Vec<GroupLine>,
    pub expired: Vec<Expired>,
    ignore_retention: bool,
}

impl Begun {
    pub fn is_finished(&self) -> bool {
        self.replay.finished
    }

    /// Ends the job of a finished replay whose process died just before it could do so itself.
    pub async fn end_job(&self, pool: &Pool, author: &Author) -> Result<()> {
        if jobs::recordable(pool).await? != jobs::Recordable::Yes {
            return Ok(());
        }
        let take = jobs::Take { id: self.replay.id, author, take_over: false };
        if let Some(job) = jobs::resume(pool, take).await? {
            let result = Some(replay::progress(&self.replay).result);
            jobs::end(pool, job, &jobs::End { ending: jobs::Ending::Done, parts: None, result }).await?;
        }
        Ok(())
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::new(&self.replay, 0, false)
    }

    /// Counts what is left. Changes nothing.
    pub async fn plan(self, context: Context<'_>, ignore_retention: bool) -> Result<Rest> {
        let replay = self.replay;
        let bounds = Bounds { upto_id: replay.upto_id, now: replay::begin(context.pool).await?.now };
        let to_topic = replay.to_topic.as_deref();
        let copies = Span { filter: &replay.filter, to_topic, after: replay.last_id, bounds };
        let Some((groups, expired)) = copies.measure(context).await? else {
            return Err(stopped(Some(format!("continue with: {}", resume_command(replay.id, ignore_retention)))).into());
        };
        Ok(Rest { groups: report::lines(&groups), expired, replay, ignore_retention })
    }
}

impl Rest {
    pub fn outcome(&self) -> Outcome {
        Outcome::new(&self.replay, 0, false)
    }

    /// As [`Plan::may_run`].
    pub fn may_run(&self) -> Result<(), Error> {
        retention::verdict(&self.expired, self.ignore_retention)
    }

    /// Takes the replay over. `rate`: another one from now on. `take_over`: also from a process that is still at work.
    /// `None`: it has been finished meanwhile.
    pub async fn take(
        self,
        pool: &Pool,
        rate: Option<i32>,
        author: Author,
        take_over: bool,
        progress: &dyn Progress,
    ) -> Result<Option<Run>> {
        self.may_run()?;
        refuse_without_grants(pool).await?;
        let (id, runner, ignore_retention) = (self.replay.id, Uuid::new_v4(), self.ignore_retention);
        let job = Recording::is_possible(pool, progress).await?.then(|| new_job(&self.replay, ignore_retention));
        let how = TakeOver { id, runner, rate, author: &author, job: job.as_ref(), take_over };
        match replay::take(pool, how).await? {
            Taken::Ours(replay, job) => Ok(Some(Run { replay: *replay, runner, job, author, ignore_retention })),
            Taken::Finished => Ok(None),
            Taken::Busy => Err(super::jobs::busy(id).into()),
        }
    }
}

/// What is to be copied, before it is counted.
#[derive(Clone, Copy)]
struct Span<'a> {
    filter: &'a Filter,
    to_topic: Option<&'a str>,
    after: i64,
    bounds: Bounds,
}

impl Span<'_> {
    /// Counts it, and what Kafka would not keep. `None` when it was stopped.
    async fn measure(self, context: Context<'_>) -> Result<Option<(Vec<Group>, Vec<Expired>)>> {
        let Self { filter, to_topic, after, bounds } = self;
        let Some(groups) = count(context, filter, after, bounds).await? else { return Ok(None) };
        let copies = Copies { filter, to_topic, after, bounds, groups: &groups };
        let expired = retention::expired(context, copies).await?;
        Ok(expired.map(|expired| (groups, expired)))
    }
}

/// `None` when it was stopped.
async fn count(context: Context<'_>, filter: &Filter, after: i64, bounds: Bounds) -> Result<Option<Vec<Group>>> {
    let (from, all) = (after.max(0), bounds.upto_id);
    let step = |done| context.progress.report(Step::new("rows looked at", count_of(done), count_of(all - from)));
    step(0);
    let counted = replay::count(context.pool, filter, after, all, |last| {
        step(last - from);
        !context.stop.is_cancelled()
    });
    Ok(counted.await?)
}

fn count_of(events: i64) -> u64 {
    u64::try_from(events).unwrap_or(0)
}

/// How to continue a replay that has ended early.
fn resume_command(id: Uuid, ignore_retention: bool) -> String {
    let flag = if ignore_retention { " --ignore-retention" } else { "" };
    format!("outbox-relay replay --resume {id}{flag}")
}

/// `resume`: how to continue; `None` when nothing was begun.
pub fn stopped(resume: Option<String>) -> Error {
    Error::new(Code::PartlyDone, "stopped").hint(resume.unwrap_or_else(|| "nothing was changed".to_owned()))
}
