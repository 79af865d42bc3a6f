//! Deleting old, finished rows on a schedule: on one instance at a time, one pass per `cleanup.interval`.
//!
//! The statements are in `outbox::cleanup`. How a pass proceeds is in [`worker`], which the command `cleanup` also
//! uses. Invariant: nothing here ends the process. A cleaner that fails retries, and events flow without it.

mod chunks;
pub mod partitions;
pub mod worker;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::monotonic;
use crate::config::CleanupConfig;
use crate::db::{DbError, Pool};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::outbox::cleanup::{Ages, Session, Tally};
use crate::retry::Backoff;
pub use chunks::Chunks;
use worker::{Walk, Worker};

/// How soon another instance takes over after the one that deletes has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A pass begins where the last one left the first row. Once in this time one begins at the lowest id, for rows that
/// were committed late, or that have become finished by hand.
const FROM_THE_START: Duration = Duration::from_secs(3600);

/// Looking at rows that stay takes at most this part of the time: a million events that wait must not be read every
/// minute.
const VAIN_PART: u32 = 20;

/// What this instance knows of what there is to delete. Only to save work: losing it costs a pass over everything.
#[derive(Debug, Default)]
struct Known {
    /// Rows up to this id have been looked at, and those that are left are not finished.
    resume: i64,
    from_the_start: Option<Duration>,
    chunks: Chunks,
}

/// What a process deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Everything,
    /// Entries of `event_handled` alone: where only a consumer runs, whose role has no right to more. Relays beside it
    /// may delete the same.
    Handled,
}

/// Deletes until `stop`. `pool` is of [`Role::Cleanup`](crate::db::Role::Cleanup) and of one connection.
pub async fn run(
    settings: CleanupConfig,
    what: What,
    pool: Pool,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let mut known = Known::default();
    let mut backoff = Backoff::for_connection();
    while !stop.is_cancelled() {
        let wait = match lead(&settings, what, &pool, &metrics, &mut known, &stop).await {
            Ok(()) => {
                backoff.reset();
                settings.interval.min(LOOK_AGAIN)
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), "cleanup waits for PostgreSQL");
                backoff.next_wait()
            }
        };
        metrics.cleanup_paused.set(0);
        rest(wait, &stop).await;
    }
    Ok(())
}

/// Passes for as long as this session is the one that deletes. Returns at once when another one is.
async fn lead(
    settings: &CleanupConfig,
    what: What,
    pool: &Pool,
    metrics: &Metrics,
    known: &mut Known,
    stop: &CancellationToken,
) -> Result<(), DbError> {
    let session = Session::open(pool).await?;
    let leads = match what {
        What::Everything => session.lead().await?,
        What::Handled => session.lead_of_handled().await?,
    };
    if !leads {
        session.close();
        return Ok(());
    }
    tracing::debug!("this instance runs the cleanup");
    let mut worker = Worker::new(&session, settings, metrics.clone(), stop.clone());
    while !stop.is_cancelled() {
        let vain = pass(settings, what, &mut worker, metrics, known).await?;
        rest((vain * VAIN_PART).max(settings.interval), stop).await;
    }
    Ok(())
}

/// Goes over everything once. Returns the time spent on looking at rows that stay. A kind that fails does not keep the
/// others from being deleted; errors are those of the connection.
async fn pass(
    settings: &CleanupConfig,
    what: What,
    worker: &mut Worker<'_>,
    metrics: &Metrics,
    known: &mut Known,
) -> Result<Duration, DbError> {
    let started = monotonic();
    let mut deleted = Tally::default();
    let mut tell = |some: Tally| {
        deleted += some;
        metrics.count_deleted(some.published, some.discarded, some.failed, some.handled);
    };
    let everything = what == What::Everything;
    // A DISCARDED row has no use but the record of what became of it, as a PUBLISHED one.
    // Of a partitioned outbox whole partitions go.
    let by_row = everything && !worker.is_partitioned().await?;
    if let (true, Some(age)) = (by_row, settings.published_older_than.age()) {
        let ages = Ages { published: Some(age), discarded: Some(age) };
        let whole = known.from_the_start.is_none_or(|at| started.saturating_sub(at) >= FROM_THE_START);
        let walk = Walk { after: if whole { 0 } else { known.resume }, up_to: i64::MAX, to_the_end: false };
        if let Some(walked) = complain("outbox_events", worker.finished(walk, ages, &mut tell).await)? {
            known.resume = walked.resume;
            if whole {
                known.from_the_start = Some(started);
            }
        }
    }
    if let (true, Some(age)) = (everything, settings.failed_older_than.age()) {
        complain("outbox_events", worker.failed(i64::MAX, age, &mut tell).await)?;
    }
    if let Some(age) = settings.handled_older_than.age() {
        complain("event_handled", worker.handled(&mut known.chunks, age, &mut tell).await)?;
    }
    if let (true, Some(age)) = (everything, settings.jobs_older_than.age()) {
        complain("outbox_jobs", worker.jobs(age).await)?;
    }
    metrics.cleanup_passes.inc();
    if deleted.total() > 0 {
        let Tally { published, discarded, failed, handled } = deleted;
        let seconds = monotonic().saturating_sub(started).as_secs_f64();
        tracing::info!(published, discarded, failed, handled, seconds, "deleted old finished rows");
    }
    Ok(worker.take_vain())
}

/// `None` for a failure that the next pass may not have: a missing grant, a statement that took too long.
fn complain<T>(table: &'static str, outcome: Result<T, DbError>) -> Result<Option<T>, DbError> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.is_unavailable() && !worker::is_timeout(&error) => Err(error),
        Err(error) => {
            tracing::warn!(table, error = %error.chain(), "could not delete old finished rows; docs/roles.sql lists the required grants");
            Ok(None)
        }
    }
}

/// Waits, or until the stop.
async fn rest(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
