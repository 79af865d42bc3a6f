//! The transaction of a step, stage by stage, for one shard or for several of one owner.

use futures_util::future::try_join_all;

use super::super::care::{self, Budget, Care, Careful};
use super::super::claim::{self, Found, Waiting};
use super::super::isolate::{Blame, MayBlame};
use super::super::manifest::{self, Manifest};
use super::super::{OutboxError, PgOutbox, Screening, SettleMode, Step, settle};
use super::shard::{Lock, Open};
use super::{Outcome, Part};
use crate::db::{DbError, Transaction};
use crate::event::OutboxEvent;
use crate::failpoint::{self, Point};

/// Why a transaction of a step has failed.
pub(super) enum Failed {
    /// Nothing was changed.
    Undone(OutboxError),
    /// Nobody knows whether it was committed.
    Unknown(DbError),
}

impl From<OutboxError> for Failed {
    fn from(error: OutboxError) -> Self {
        Self::Undone(error)
    }
}

impl From<DbError> for Failed {
    fn from(error: DbError) -> Self {
        Self::Undone(error.into())
    }
}

impl From<Failed> for OutboxError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Undone(error) => error,
            Failed::Unknown(error) => error.into(),
        }
    }
}

/// A part at its end.
struct Ended<R> {
    step: Step<R>,
    /// The row of the shard as it is to be written, if it changes.
    manifest: Option<Manifest>,
    /// Some rows were not read in time.
    has_unread: bool,
}

impl PgOutbox {
    /// With a `budget` it takes care of rows that make a statement fail.
    pub(super) async fn transact<R, J>(
        &self,
        parts: &mut [Part<'_, J>],
        lock: Lock,
        budget: Option<Budget>,
    ) -> Result<Vec<Outcome<Step<R>>>, Failed>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        let ended = self.work(&tx, parts, lock, budget).await?;
        if !ended.iter().filter_map(Outcome::done).any(|ended| !ended.step.postponed) {
            tx.rollback().await?;
            connection.done();
            return Ok(ended.into_iter().map(Outcome::step).collect());
        }
        failpoint::reach(Point::StepBeforeCommit).map_err(DbError::of_a_test)?;
        match tx.commit().await {
            Ok(()) => connection.done(),
            // A deferred constraint: PostgreSQL has undone all of it.
            Err(error) if error.blame() != Blame::Nobody => return Err(error.into()),
            Err(error) => return Err(Failed::Unknown(error)),
        }
        if budget.is_some() {
            for (part, ended) in parts.iter().zip(&ended) {
                self.watch.step(part.fence.shard, ended.done().is_some_and(|ended| ended.has_unread));
            }
        }
        failpoint::reach(Point::StepAfterCommit).map_err(|reason| Failed::Unknown(DbError::of_a_test(reason)))?;
        Ok(ended.into_iter().map(Outcome::step).collect())
    }

    /// All but the commit. Several shards side by side: the statements for one do not wait for the answers to those for
    /// another one; the published rows, the claim and the manifests are one statement for all of them.
    async fn work<R, J>(
        &self,
        tx: &Transaction<'_>,
        parts: &mut [Part<'_, J>],
        lock: Lock,
        budget: Option<Budget>,
    ) -> Result<Vec<Outcome<Ended<R>>>, OutboxError>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        let [before, reading, after] = budget.map_or([Care::Plain; 3], Budget::phases);
        if let Some(budget) = budget {
            budget.limit(tx).await?;
        }
        let locked = self.lock(tx, parts, lock).await?;
        let settlements =
            parts.iter().zip(&locked).filter(|(_, locked)| locked.done().is_some()).map(|(part, _)| part.settlement);
        let missing = settle::settle(tx, before, settlements, self.settle_mode).await?;
        let open = try_join_all(parts.iter().zip(locked).map(async |(part, locked)| {
            let Part { fence, settlement, claim, .. } = part;
            Ok::<_, OutboxError>(match locked {
                Outcome::Done(locked) => {
                    Outcome::Done(self.before_claim(tx, before, *fence, locked, settlement, *claim).await?)
                }
                Outcome::Failed(error) => Outcome::Failed(error),
                Outcome::NotTried => Outcome::NotTried,
            })
        }))
        .await?;
        let found = self.claim_plain(tx, reading, &open).await?;
        let mut ended = try_join_all(parts.iter_mut().zip(open).zip(found).map(async |((part, open), found)| {
            let open = match open {
                Outcome::Done(open) => open,
                Outcome::Failed(error) => return Ok(Outcome::Failed(error)),
                Outcome::NotTried => return Ok(Outcome::NotTried),
            };
            let found = match found {
                Some(found) => Careful::plain(found),
                None => self.claim(tx, reading, &open).await?,
            };
            if budget.is_none() && part.settlement.comes_back_in(&found.found.rows)? {
                return Err(OutboxError::Unchanged);
            }
            let has_unread = !found.unread.is_empty();
            let (step, manifest) = self.after_claim(tx, after, open, found, &mut part.screen).await?;
            Ok(Outcome::Done(Ended { step, manifest, has_unread }))
        }))
        .await?;
        let manifests: Vec<_> = ended.iter_mut().filter_map(|ended| ended.done_mut()?.manifest.take()).collect();
        manifest::write(tx, &manifests, self.lease.as_secs_f64()).await?;
        // Nobody knows whose they were; one of them has to report it.
        if let Some(first) = ended.iter_mut().find_map(Outcome::done_mut) {
            first.step.missing = missing;
        }
        Ok(ended)
    }

    /// The claims that need nothing but the next rows, in one statement; `None` for the others.
    async fn claim_plain(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        open: &[Outcome<Open<'_>>],
    ) -> Result<Vec<Option<Found>>, OutboxError> {
        let is_plain = |open: &&Open<'_>| matches!(care, Care::Plain) && open.is_plain();
        let plain: Vec<_> = open.iter().filter_map(Outcome::done).filter(is_plain).collect();
        let waiting: Vec<_> = plain
            .iter()
            .map(|open| Waiting::plain(open.fence.shard, open.range(), open.claim.limits, self.ahead(open)))
            .collect();
        let record_bytes = plain.first().map_or(0, |open| open.claim.limits.record_bytes);
        let mut found = claim::waiting(tx, record_bytes, &waiting).await?.into_iter();
        Ok(open.iter().map(|open| open.done().filter(is_plain).and_then(|_| found.next())).collect())
    }

    async fn claim(&self, tx: &Transaction<'_>, care: Care, open: &Open<'_>) -> Result<Careful, OutboxError> {
        let (shard, range, claim) = (open.fence.shard, open.range(), open.claim);
        if matches!(care, Care::Plain) && !open.any_outcomes {
            return Ok(Careful::plain(
                claim::rows(tx, shard, range, claim, open.has_requeued, self.ahead(open)).await?,
            ));
        }
        let ids = care::ids(tx, shard, range, claim, open.has_requeued, self.ahead(open)).await?;
        care::read(tx, care, &self.watch, shard, range, claim, ids).await
    }

    /// Where progress is kept as a watermark, the published rows above it.
    fn ahead<'a>(&self, open: &'a Open<'_>) -> Option<&'a [i64]> {
        (self.settle_mode == SettleMode::Watermark).then(|| open.watermark.ahead())
    }
}

impl<T> Outcome<T> {
    fn done_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Failed(_) | Self::NotTried => None,
        }
    }
}

impl<R> Outcome<Ended<R>> {
    fn step(self) -> Outcome<Step<R>> {
        match self {
            Self::Done(ended) => Outcome::Done(ended.step),
            Self::Failed(error) => Outcome::Failed(error),
            Self::NotTried => Outcome::NotTried,
        }
    }
}
