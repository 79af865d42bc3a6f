//! How deleting proceeds: small batches, each followed by a pause of the same length, never ahead of the replicas,
//! until a stop.
//!
//! A batch is one transaction, so a crash between two of them leaves nothing half done and the next worker continues. A
//! stop takes effect between batches.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::chunks::Chunks;
use super::rest;
use crate::clock::monotonic;
use crate::config::CleanupConfig;
use crate::db::DbError;
use crate::metrics::Metrics;
use crate::outbox::cleanup::{Ages, Looked, Session, Tally, Window};
use crate::outbox::isolate::{self, Blame, MayBlame};

pub use crate::outbox::inspect::is_timeout;

/// Where a batch takes longer than `database.statement_timeout`, the next one is half as large; below this size a
/// single row is looked for that takes as long by itself.
const ROWS_MIN: u32 = 10;

/// Between two looks at the replicas. A batch of a thousand rows writes a megabyte of WAL at most, so little can gather
/// in it.
const LAG_LOOK: Duration = Duration::from_millis(500);

/// Number of rows that are reported individually per walk.
const REFUSALS_TOLD: u64 = 10;

/// Single rows in a row that fail with an error by which PostgreSQL blames itself, or take too long, before that is
/// believed. A guess: a slow one costs `database.statement_timeout`.
const DOUBTS_MAX: u32 = 10;

/// Hears what each batch has deleted.
pub type Tell<'t> = &'t mut (dyn FnMut(Tally) + Send);

/// Which part of the ids to go over.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// Begin behind this id.
    pub after: i64,
    pub up_to: i64,
    /// Also past rows that are all too young. Rows behind those are younger still, unless applications set
    /// `created_at`.
    pub to_the_end: bool,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// All rows up to this id have been looked at, and those that are left are not finished.
    pub resume: i64,
}

/// How a batch ended.
enum Batch<T> {
    Done(T),
    /// Nothing was done, and the next one is smaller.
    Smaller,
    /// Nothing was done, because of the only row that it had, for this reason.
    Refused(String),
}

/// Runs batches on one session.
pub struct Worker<'s> {
    session: &'s Session,
    stop: CancellationToken,
    metrics: Metrics,
    pace: Pace,
    replicas: Replicas,
    /// Time of the last batch.
    last: Duration,
    /// Time of batches that deleted nothing.
    vain: Duration,
    /// How many more rows may be deleted.
    left: u64,
    /// Rows that the table does not let go.
    refused: u64,
    /// Of these, those that may have failed for another reason, since something was last deleted.
    doubts: u32,
    /// The last of these errors, as long as nothing at all was deleted.
    doubt: Option<DbError>,
    any_deleted: bool,
}

impl<'s> Worker<'s> {
    pub fn new(session: &'s Session, settings: &CleanupConfig, metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            session,
            stop,
            metrics,
            pace: Pace::new(settings.batch_rows.get()),
            replicas: Replicas {
                allowed: settings.max_replica_lag.as_u64(),
                looked: None,
                waiting: false,
                hidden: false,
            },
            last: Duration::ZERO,
            vain: Duration::ZERO,
            left: u64::MAX,
            refused: 0,
            doubts: 0,
            doubt: None,
            any_deleted: false,
        }
    }

    /// For a command, whose metrics nobody reads.
    pub fn for_command(session: &'s Session, settings: &CleanupConfig, stop: CancellationToken) -> Self {
        Self::new(session, settings, Metrics::new(), stop)
    }

    /// Deletes no more than this many rows in all.
    #[must_use]
    pub fn at_most(mut self, rows: u64) -> Self {
        self.left = rows;
        self
    }

    /// Whether there is a reason to end early: the stop, the limit, or another process has the job.
    pub fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.left == 0 || self.session.is_lost()
    }

    /// Whether the outbox is partitioned.
    pub async fn is_partitioned(&self) -> Result<bool, DbError> {
        self.session.is_partitioned().await
    }

    /// Time spent on batches that deleted nothing, since the last call.
    pub fn take_vain(&mut self) -> Duration {
        std::mem::take(&mut self.vain)
    }

    /// PUBLISHED and DISCARDED rows, in the order of their ids.
    pub async fn finished(&mut self, walk: Walk, ages: Ages, tell: Tell<'_>) -> Result<Walked, DbError> {
        let mut after = walk.after;
        let mut first_left = None;
        while let Some(rows) = self.turn().await? {
            let window = Window { after, up_to: walk.up_to, rows };
            let session = self.session;
            let looked = match self.batch(session.finished(window, ages)).await? {
                Batch::Done(looked) => looked,
                Batch::Smaller => continue,
                Batch::Refused(reason) => self.pass(session.count_finished(window, ages).await?, &reason),
            };
            self.count(looked.deleted, tell);
            first_left = first_left.or(looked.first_left);
            after = looked.last_id.unwrap_or(after);
            if looked.seen < u64::from(rows) || !(looked.any_old || walk.to_the_end) {
                break;
            }
        }
        Ok(Walked { resume: first_left.map_or(after, |id| id.saturating_sub(1)) })
    }

    /// FAILED rows, by their index.
    pub async fn failed(&mut self, up_to: i64, age: Duration, tell: Tell<'_>) -> Result<(), DbError> {
        let mut after = 0;
        while let Some(rows) = self.turn().await? {
            let (session, window) = (self.session, Window { after, up_to, rows });
            let looked = match self.batch(session.failed(window, age)).await? {
                Batch::Done(looked) => looked,
                Batch::Smaller => continue,
                Batch::Refused(reason) => self.pass(session.count_failed(window, age).await?.0, &reason),
            };
            self.count(looked.deleted, tell);
            after = looked.last_id.unwrap_or(after);
            if looked.seen < u64::from(rows) {
                break;
            }
        }
        Ok(())
    }

    /// Entries of `event_handled`, from the pages where there is something to delete.
    pub async fn handled(&mut self, chunks: &mut Chunks, age: Duration, tell: Tell<'_>) -> Result<(), DbError> {
        let session = self.session;
        chunks.fit(session.handled_extent().await?);
        let mut from = 0;
        while let Some(chunk) = chunks.next(from, monotonic()) {
            let Some(rows) = self.turn().await? else { break };
            let looked = monotonic();
            let (handled, next_in) = match self.batch(session.handled(Chunks::pages(chunk), age, rows)).await? {
                Batch::Done(done) => done,
                Batch::Smaller => continue,
                // Their position says nothing about single rows: these pages are checked again once the age has passed.
                Batch::Refused(reason) => {
                    tracing::warn!(
                        reason,
                        "could not delete some old rows of event_handled; continuing with other pages"
                    );
                    (0, None)
                }
            };
            self.count(Tally { handled, ..Tally::default() }, tell);
            // As many as it may delete: there are more in the same pages.
            if handled < u64::from(rows) {
                chunks.looked(chunk, looked + next_in.unwrap_or(age));
                from = chunk + 1;
            }
        }
        Ok(())
    }

    /// Jobs that ended long ago, all in one transaction: there are few.
    pub async fn jobs(&self, age: Duration) -> Result<(), DbError> {
        let deleted = self.session.jobs(age).await?;
        if deleted > 0 {
            tracing::info!(jobs = deleted, "deleted jobs that ended long ago");
        }
        Ok(())
    }

    /// The error that every row failed with and by which PostgreSQL blames itself, for example a missing privilege.
    /// `None` if any row was deleted: it was a matter of single rows then.
    pub fn doubt(&mut self) -> Option<DbError> {
        self.doubt.take()
    }

    /// Waits until it is time for a batch. Returns how many rows it may take; `None`: the work is over.
    async fn turn(&mut self) -> Result<Option<u32>, DbError> {
        rest(self.pace.take_pause(), &self.stop).await;
        while !self.is_over() {
            let Some(wait) = self.replicas.wait(self.session, &self.metrics).await? else {
                return Ok(Some(self.pace.rows().min(u32::try_from(self.left).unwrap_or(u32::MAX))));
            };
            rest(wait, &self.stop).await;
        }
        Ok(None)
    }

    /// One row that the table does not let go, such as one that a foreign key of the application refers to: it stays,
    /// and is passed.
    fn pass(&mut self, looked: Looked, reason: &str) -> Looked {
        if let Some(id) = looked.last_id {
            self.refused += 1;
            if self.refused <= REFUSALS_TOLD {
                tracing::warn!(id, reason, "the table does not allow an old row to be deleted; skipping it");
            }
        }
        Looked { deleted: Tally::default(), first_left: looked.first_left.or(looked.last_id), any_old: true, ..looked }
    }

    async fn batch<T>(&mut self, work: impl Future<Output = Result<T, DbError>>) -> Result<Batch<T>, DbError> {
        let started = monotonic();
        let outcome = work.await;
        let took = monotonic().saturating_sub(started);
        self.metrics.cleanup_batch_duration.observe(took.as_secs_f64());
        self.last = took;
        match outcome {
            Ok(done) => {
                self.pace.took(took);
                Ok(Batch::Done(done))
            }
            Err(error) if is_timeout(&error) && self.pace.shrink(took) => Ok(Batch::Smaller),
            Err(error) if error.blame() == Blame::Nobody => Err(error),
            Err(_) if self.pace.narrow() => Ok(Batch::Smaller),
            Err(error) => {
                self.doubts += u32::from(is_timeout(&error) || error.blame() == Blame::Doubtful);
                if self.doubts > DOUBTS_MAX {
                    return Err(error);
                }
                let reason = isolate::reason(error.sqlstate());
                if error.blame() == Blame::Doubtful && !self.any_deleted {
                    self.doubt = Some(error);
                }
                Ok(Batch::Refused(reason))
            }
        }
    }

    fn count(&mut self, deleted: Tally, tell: Tell<'_>) {
        if deleted.total() == 0 {
            self.vain += self.last;
        } else {
            (self.doubts, self.doubt, self.any_deleted) = (0, None, true);
        }
        self.left = self.left.saturating_sub(deleted.total());
        tell(deleted);
    }
}

/// The size of batches and the pause between them. Pure.
#[derive(Debug)]
struct Pace {
    most: u32,
    rows: u32,
    pause: Duration,
}

impl Pace {
    fn new(most: u32) -> Self {
        Self { most, rows: most, pause: Duration::ZERO }
    }

    fn rows(&self) -> u32 {
        self.rows
    }

    /// A batch was done: half of the time is for others.
    fn took(&mut self, time: Duration) {
        self.pause = time;
        self.rows = self.rows.saturating_mul(2).min(self.most);
    }

    /// A row of the batch makes it fail. False when there is only one.
    fn narrow(&mut self) -> bool {
        let narrows = self.rows > 1;
        self.rows = (self.rows / 2).max(1);
        narrows
    }

    /// A batch took too long. False when it cannot be made smaller.
    fn shrink(&mut self, time: Duration) -> bool {
        self.pause = time;
        let smaller = (self.rows / 2).max(ROWS_MIN).min(self.rows);
        let shrinks = smaller < self.rows;
        self.rows = smaller;
        shrinks
    }

    fn take_pause(&mut self) -> Duration {
        std::mem::take(&mut self.pause)
    }
}

/// Whether replicas keep up.
#[derive(Debug)]
struct Replicas {
    allowed: u64,
    looked: Option<Duration>,
    waiting: bool,
    /// It was said that some cannot be seen.
    hidden: bool,
}

impl Replicas {
    /// How long to wait before the next look; `None`: not at all.
    async fn wait(&mut self, session: &Session, metrics: &Metrics) -> Result<Option<Duration>, DbError> {
        let now = monotonic();
        if !self.waiting && self.looked.is_some_and(|at| now.saturating_sub(at) < LAG_LOOK) {
            return Ok(None);
        }
        let lag = session.replica_lag().await?;
        self.looked = Some(now);
        if lag.hidden > 0 && !self.hidden {
            self.hidden = true;
            tracing::warn!(
                replicas = lag.hidden,
                "the role cannot see replica lag, so deleting does not wait for replicas; grant it pg_read_all_stats"
            );
        }
        let behind = lag.bytes.filter(|bytes| *bytes > self.allowed);
        match behind {
            Some(bytes) if !self.waiting => {
                tracing::warn!(bytes, allowed = self.allowed, "pausing deletes: a replica is behind");
            }
            None if self.waiting => tracing::info!("resuming deletes: the replicas have caught up"),
            Some(_) | None => {}
        }
        self.waiting = behind.is_some();
        metrics.cleanup_paused.set(i64::from(self.waiting));
        Ok(behind.map(|_| LAG_LOOK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_followed_by_a_pause_as_long_as_itself() {
        let mut pace = Pace::new(1_000);
        assert_eq!(pace.take_pause(), Duration::ZERO, "the first begins at once");
        pace.took(Duration::from_millis(12));
        assert_eq!((pace.take_pause(), pace.take_pause()), (Duration::from_millis(12), Duration::ZERO));
    }

    #[test]
    fn a_batch_that_takes_too_long_is_halved_down_to_a_few_rows_and_grows_again() {
        let mut pace = Pace::new(50);
        assert!(pace.shrink(Duration::ZERO) && pace.shrink(Duration::ZERO) && pace.shrink(Duration::ZERO));
        assert_eq!((pace.rows(), pace.shrink(Duration::ZERO)), (ROWS_MIN, false), "less makes no difference");
        pace.took(Duration::ZERO);
        pace.took(Duration::ZERO);
        pace.took(Duration::ZERO);
        assert_eq!(pace.rows(), 50, "never above the setting");
        assert!(!Pace::new(5).shrink(Duration::ZERO));
    }
}
