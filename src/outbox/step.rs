//! One commit of a lane, or of several lanes together: checks the fence, settles the batch in hand, claims the next
//! one, writes its manifest.
//!
//! A commit waits for the disk, whatever is in it: lanes with a handful of events each are better off with one for all
//! of them. Alone or together, it is the same transaction (`step/transaction.rs`).

mod after_claim;
mod before_claim;
mod shard;
mod transaction;

use super::care::Budget;
use super::isolate::{Blame, MayBlame};
use super::triage::Screening;
use super::{Claim, Fence, OutboxError, PgOutbox, Settlement, Step};
use crate::clock::monotonic;
use crate::db::DbError;
use crate::event::{OutboxEvent, ShardId};
use crate::failpoint::{self, Fault};
use shard::Lock;
use transaction::Failed;

/// What one shard has to do in the transaction of a step.
pub struct Part<'a, J> {
    pub fence: Fence,
    pub settlement: &'a Settlement,
    /// In a shared step: not from a manifest.
    pub claim: Claim<'a>,
    /// Sees the claimed events in id order.
    pub screen: J,
}

/// What became of one shard's part of a transaction.
#[derive(Debug)]
pub enum Outcome<T> {
    Done(T),
    /// Nothing was changed, unless the outcome of the commit is unknown.
    Failed(OutboxError),
    /// Nothing was done: the shard has to take its step alone.
    NotTried,
}

impl<T> Outcome<T> {
    pub(super) fn done(&self) -> Option<&T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Failed(_) | Self::NotTried => None,
        }
    }
}

impl PgOutbox {
    /// The step of one lane.
    ///
    /// Errors: [`OutboxError::Fenced`], [`OutboxError::Moved`] and statement errors change nothing. After
    /// [`DbError::Unavailable`] the outcome of the commit is unknown: read [`PgOutbox::state`] and compare `batch_seq`.
    /// Not cancel safe in that sense either: when the future is dropped the commit may or may not have happened.
    pub async fn step<R>(
        &self,
        fence: Fence,
        settlement: &Settlement,
        claim: Claim<'_>,
        screen: impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
    ) -> Result<Step<R>, OutboxError> {
        let shard = fence.shard;
        let mut part = Part { fence, settlement, claim, screen };
        let in_doubt = self.watch.doubts.is_grown(shard, monotonic());
        if !self.watch.is_on(shard) && !in_doubt {
            match self.step_alone(&mut part, None).await {
                Err(error) if error.blame() == Blame::Row && !failpoint::fault(Fault::StatementNotCut) => {
                    // Not the message: it may quote the row.
                    let sqlstate = error.sqlstate();
                    self.watch.begin(shard, sqlstate.as_ref());
                    let sqlstate = sqlstate.as_ref().map_or("none", |code| code.code());
                    tracing::warn!(
                        shard,
                        sqlstate,
                        "settle/claim transaction failed, possibly because of single rows; searching for them"
                    );
                }
                ended => {
                    self.note(shard, &ended);
                    return ended;
                }
            }
        }
        let ended = self.step_alone(&mut part, Some(Budget::new(self.lease, in_doubt))).await;
        self.note(shard, &ended);
        ended
    }

    async fn step_alone<R, J>(&self, part: &mut Part<'_, J>, budget: Option<Budget>) -> Result<Step<R>, OutboxError>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        let fence = part.fence;
        match self.transact(std::slice::from_mut(part), Lock::Wait, budget).await?.pop() {
            Some(Outcome::Done(step)) => Ok(step),
            Some(Outcome::Failed(error)) => Err(error),
            Some(Outcome::NotTried) | None => Err(OutboxError::Fenced(fence)),
        }
    }

    /// The steps of several shards of one owner in one transaction. The outcomes are in the order of `parts`.
    ///
    /// A part that is fenced, locked or has moved does not keep the others from theirs; anything else that goes wrong
    /// before the commit leaves every part undone. If the outcome of the commit is unknown, every part has failed with
    /// the same error, as in [`PgOutbox::step`].
    pub async fn step_together<R, J>(&self, parts: &mut [Part<'_, J>]) -> Vec<Outcome<Step<R>>>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        match self.transact(parts, Lock::Skip, None).await {
            Ok(outcomes) => outcomes,
            Err(Failed::Undone(error)) => {
                tracing::debug!(error = %error, "rolled back a shared settle/claim transaction; each shard repeats its own part");
                parts.iter().map(|_| Outcome::NotTried).collect()
            }
            Err(Failed::Unknown(error)) => {
                let error = std::sync::Arc::new(error);
                parts.iter().map(|_| Outcome::Failed(DbError::shared(&error).into())).collect()
            }
        }
    }

    /// Remembers steps that PostgreSQL says the server is to blame for.
    fn note<R>(&self, shard: ShardId, ended: &Result<Step<R>, OutboxError>) {
        match ended {
            Err(error) if error.blame() == Blame::Doubtful => {
                if self.watch.doubts.failed(shard, error.sqlstate().as_ref(), monotonic()) && !self.watch.is_on(shard) {
                    self.watch.begin(shard, None);
                    let sqlstate = error.sqlstate();
                    let sqlstate = sqlstate.as_ref().map_or("none", |code| code.code());
                    tracing::warn!(
                        shard,
                        sqlstate,
                        "every step of the shard fails while PostgreSQL answers; looking for a row that makes it fail"
                    );
                }
            }
            // Nothing is known of the rows then; nor while they are looked for, where others may follow.
            Err(_) => {}
            Ok(_) if self.watch.is_on(shard) => {}
            Ok(_) => self.watch.doubts.settle(shard),
        }
    }
}
