//! One commit of a lane, or of several lanes together: checks the fence, settles the batch in hand, claims the next
//! one, writes its manifest.
//!
//! A commit waits for the disk, whatever is in it: lanes with a handful of events each are better off with one for all
//! of them.

use std::iter;

use futures_util::future::try_join_all;
use tokio_postgres::Row;

use super::care::{self, Budget, Care, Careful};
use super::claim::Waiting;
use super::isolate::{Blame, MayBlame};
use super::manifest::Manifest;
use super::settle::Refusal;
use super::triage::{Screening, triage};
use super::{
    Batch, BatchTag, Claim, Fence, Found, LastBatch, OutboxError, PgOutbox, SettleMode, Settlement, Source, Step,
    Watermark, claim, manifest, release, settle, watermark,
};
use crate::clock::monotonic;
use crate::db::{DbError, Transaction};
use crate::event::{OutboxEvent, ShardId};
use crate::failpoint::{self, Fault, Point};

const FENCE: &str = include_str!("step/sql/fence.sql");
const FENCE_FREE: &str = include_str!("step/sql/fence_free.sql");
const LOWEST_PENDING: &str = include_str!("step/sql/lowest_pending.sql");

/// How long a transaction of several shards waits for the lock of a row. Whoever holds it keeps all of them waiting;
/// alone, each waits for as long as it may.
const TOGETHER_LOCK_TIMEOUT: &str = "set local lock_timeout = '200ms'";

/// What one shard has to do in a transaction that several share.
pub struct Part<'a, J> {
    pub fence: Fence,
    pub settlement: &'a Settlement,
    /// Not from a manifest.
    pub claim: Claim<'a>,
    pub screen: J,
}

/// The row of a shard, locked for this transaction.
struct Locked {
    server: i64,
    low_id: i64,
    batch_seq: i64,
    batch_rows: Option<i32>,
    watermark: Watermark,
    has_requeued: bool,
    any_outcomes: bool,
    any_held: bool,
    release_due: bool,
}

impl Locked {
    fn read(row: &Row) -> Self {
        Self {
            server: row.get("server"),
            low_id: row.get("low_id"),
            batch_seq: row.get("batch_seq"),
            batch_rows: row.get("batch_rows"),
            watermark: Watermark::new(row.get("done_id"), row.get("ahead_ids")),
            has_requeued: row.get("has_requeued"),
            any_outcomes: row.get("any_outcomes"),
            any_held: row.get("any_held"),
            release_due: row.get("release_due"),
        }
    }

    fn last(&self) -> LastBatch {
        LastBatch { seq: self.batch_seq, in_flight: self.batch_rows.is_some() }
    }

    /// The caller knows the last batch, if it matters.
    fn check(&self, fence: Fence, claim: &Claim<'_>) -> Result<(), OutboxError> {
        let found = self.last();
        match claim.expected.filter(|expected| *expected != found) {
            Some(expected) => Err(OutboxError::Moved { shard: fence.shard, expected, found }),
            None => Ok(()),
        }
    }
}

impl PgOutbox {
    /// One commit of a lane: checks the fence, settles the batch in hand, claims the next one, writes its manifest.
    ///
    /// `screen` sees the claimed events in id order.
    ///
    /// Errors: [`OutboxError::Fenced`], [`OutboxError::Moved`] and statement errors change nothing. After
    /// [`DbError::Unavailable`] the outcome of the commit is unknown: read [`PgOutbox::state`] and compare `batch_seq`.
    /// Not cancel safe in that sense either: when the future is dropped the commit may or may not have happened.
    pub async fn step<R>(
        &self,
        fence: Fence,
        settlement: &Settlement,
        claim: Claim<'_>,
        mut screen: impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
    ) -> Result<Step<R>, OutboxError> {
        let shard = fence.shard;
        let in_doubt = self.watch.doubts.is_grown(shard, monotonic());
        if !self.watch.is_on(shard) && !in_doubt {
            match self.try_step(fence, settlement, claim, &mut screen, None).await {
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
        let budget = Some(Budget::new(self.lease, in_doubt));
        let ended = self.try_step(fence, settlement, claim, &mut screen, budget).await;
        self.note(shard, &ended);
        ended
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

    /// With a `budget` it takes care of rows that make a statement fail.
    async fn try_step<R>(
        &self,
        fence: Fence,
        settlement: &Settlement,
        claim: Claim<'_>,
        screen: &mut impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
        budget: Option<Budget>,
    ) -> Result<Step<R>, OutboxError> {
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        let [before, reading, after] = budget.map_or([Care::Plain; 3], Budget::phases);
        if let Some(budget) = budget {
            budget.limit(&tx).await?;
        }
        let row = tx.query_opt(&tx.prepare_cached(FENCE).await?, &[&fence.shard, &fence.owner, &fence.epoch]).await?;
        let Some(row) = row else { return Err(OutboxError::Fenced(fence)) };
        let locked = Locked::read(&row);
        if let Err(moved) = locked.check(fence, &claim) {
            tx.rollback().await?;
            connection.done();
            return Err(moved);
        }
        let missing = settle::settle(&tx, before, iter::once(settlement), self.settle_mode).await?;
        let open = self.begin(&tx, before, fence, locked, settlement, claim).await?;
        let found = self.claim(&tx, reading, &open).await?;
        if budget.is_none() && settlement.comes_back_in(&found.found.rows)? {
            return Err(OutboxError::Unchanged);
        }
        let busy = !found.unread.is_empty();
        let (mut step, manifest) = self.end(&tx, after, open, found, screen).await?;
        step.missing = missing;
        if step.postponed {
            tx.rollback().await?;
            connection.done();
            return Ok(step);
        }
        manifest::write(&tx, manifest.as_slice(), self.lease.as_secs_f64()).await?;
        failpoint::reach(Point::StepBeforeCommit).map_err(DbError::of_a_test)?;
        tx.commit().await?;
        connection.done();
        if budget.is_some() {
            self.watch.step(fence.shard, busy);
        }
        failpoint::reach(Point::StepAfterCommit).map_err(DbError::of_a_test)?;
        Ok(step)
    }

    /// The same for several shards of one owner in one transaction. The answers are in the order of `parts`; `None`:
    /// nothing was done for this shard, which has to take its step alone.
    ///
    /// Errors: as of [`PgOutbox::step`], for all parts, and only when the outcome of the commit is unknown. A part that
    /// is fenced or has moved does not keep the others from theirs; anything else that goes wrong before the commit
    /// leaves every part undone.
    pub async fn step_together<R, J>(
        &self,
        parts: &mut [Part<'_, J>],
    ) -> Result<Vec<Option<Result<Step<R>, OutboxError>>>, DbError>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        let undone = |count: usize, error: &OutboxError| {
            tracing::debug!(error = %error, "rolled back a shared settle/claim transaction; each shard repeats its own part");
            (0..count).map(|_| None).collect()
        };
        let count = parts.len();
        let mut connection = match self.pool.get().await {
            Ok(connection) => connection,
            Err(error) => return Ok(undone(count, &error.into())),
        };
        let tx = match connection.transaction().await {
            Ok(tx) => tx,
            Err(error) => return Ok(undone(count, &error.into())),
        };
        let steps = match self.work_together(&tx, parts).await {
            Ok(steps) => steps,
            Err(error) => return Ok(undone(count, &error)),
        };
        if let Err(reason) = failpoint::reach(Point::StepBeforeCommit) {
            return Ok(undone(count, &DbError::of_a_test(reason).into()));
        }
        match tx.commit().await {
            Ok(()) => {}
            // A deferred constraint: PostgreSQL has undone all of it.
            Err(error) if error.blame() != Blame::Nobody => return Ok(undone(count, &error.into())),
            Err(error) => return Err(error),
        }
        connection.done();
        failpoint::reach(Point::StepAfterCommit).map_err(DbError::of_a_test)?;
        Ok(steps)
    }

    async fn work_together<R, J>(
        &self,
        tx: &Transaction<'_>,
        parts: &mut [Part<'_, J>],
    ) -> Result<Vec<Option<Result<Step<R>, OutboxError>>>, OutboxError>
    where
        J: FnMut(&OutboxEvent<'_>) -> Screening<R>,
    {
        let Some(owner) = parts.first().map(|part| part.fence.owner) else { return Ok(Vec::new()) };
        let shards: Vec<_> = parts.iter().map(|part| part.fence.shard).collect();
        let epochs: Vec<_> = parts.iter().map(|part| part.fence.epoch).collect();
        let fence = async { tx.query(&tx.prepare_cached(FENCE_FREE).await?, &[&owner, &shards, &epochs]).await };
        // The fence waits for no lock, so it does not matter which of the two comes first.
        let ((), rows) = tokio::try_join!(tx.batch_execute(TOGETHER_LOCK_TIMEOUT), fence)?;
        let locked: Vec<_> = parts
            .iter()
            .map(|part| {
                if self.watch.is_on(part.fence.shard) {
                    return None;
                }
                // Fenced, or locked by somebody: alone it will find out, or wait.
                let locked = Locked::read(rows.iter().find(|row| row.get::<_, i16>("shard") == part.fence.shard)?);
                Some(locked.check(part.fence, &part.claim).map(|()| locked))
            })
            .collect();
        let settlements = parts
            .iter()
            .zip(&locked)
            .filter(|(_, locked)| matches!(locked, Some(Ok(_))))
            .map(|(part, _)| part.settlement);
        let missing = settle::settle(tx, Care::Plain, settlements, self.settle_mode).await?;
        // Side by side: the statements for one shard do not wait for the answers to those for another one.
        let open = try_join_all(parts.iter().zip(locked).map(async |(part, locked)| {
            match locked {
                Some(Ok(locked)) => self
                    .begin(tx, Care::Plain, part.fence, locked, part.settlement, part.claim)
                    .await
                    .map(|open| Some(Ok(open))),
                Some(Err(moved)) => Ok(Some(Err(moved))),
                None => Ok(None),
            }
        }))
        .await?;
        let plain: Vec<_> = open.iter().flatten().flatten().filter(|open| open.is_plain()).collect();
        let waiting: Vec<_> = plain
            .iter()
            .map(|open| {
                let ahead = (self.settle_mode == SettleMode::Watermark).then(|| open.watermark.ahead());
                Waiting::plain(open.fence.shard, open.range(), open.claim.limits, ahead)
            })
            .collect();
        let record_bytes = plain.first().map_or(0, |open| open.claim.limits.record_bytes);
        let mut plain = claim::waiting(tx, record_bytes, &waiting).await?.into_iter();
        let found: Vec<_> = open
            .iter()
            .map(|open| match open {
                Some(Ok(open)) if open.is_plain() => plain.next(),
                _ => None,
            })
            .collect();
        let ended = try_join_all(parts.iter_mut().zip(open).zip(found).map(async |((part, open), found)| match open {
            Some(Ok(open)) => {
                let found = match found {
                    Some(found) => Careful::plain(found),
                    None => self.claim(tx, Care::Plain, &open).await?,
                };
                if part.settlement.comes_back_in(&found.found.rows)? {
                    return Err(OutboxError::Unchanged);
                }
                Ok::<_, OutboxError>(Some(Ok(self.end(tx, Care::Plain, open, found, &mut part.screen).await?)))
            }
            Some(Err(moved)) => Ok(Some(Err(moved))),
            None => Ok(None),
        }))
        .await?;
        let (mut steps, mut manifests) = (Vec::with_capacity(ended.len()), Vec::new());
        for ended in ended {
            steps.push(ended.map(|ended| {
                ended.map(|(step, manifest)| {
                    manifests.extend(manifest);
                    step
                })
            }));
        }
        manifest::write(tx, &manifests, self.lease.as_secs_f64()).await?;
        // Whose they were is not known; somebody has to say it.
        if let Some(first) = steps.iter_mut().flatten().flatten().next() {
            first.missing = missing;
        }
        Ok(steps)
    }

    /// What is written before the claim, the published rows themselves left out.
    async fn begin<'a>(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        fence: Fence,
        locked: Locked,
        settlement: &Settlement,
        claim: Claim<'a>,
    ) -> Result<Open<'a>, OutboxError> {
        let last = locked.last();
        let Locked {
            server,
            mut low_id,
            batch_rows,
            mut watermark,
            mut has_requeued,
            any_outcomes,
            any_held,
            release_due,
            ..
        } = locked;
        let horizon = if claim.horizon.server == server { claim.horizon.id } else { 0 };
        let before = watermark.clone();
        // Only what this instance does with rows is up to its settings: how far the shard is, is read from what others
        // did, too.
        watermark.mark_surplus(tx, care, self.settle_mode != SettleMode::Watermark).await?;
        if self.settle_mode == SettleMode::Watermark {
            watermark.publish(settlement.published.iter().map(|(id, _)| *id));
        }
        let failed: Vec<Refusal> = settlement.failed.iter().map(Refusal::from).collect();
        settle::fail(tx, care, fence.shard, &failed, &*self.policy).await?;
        if has_requeued {
            // The watermark passed them long before, and would tell a wrong time.
            let again = watermark::take_off(tx, settlement.ids()).await?;
            settle::mark(tx, care, settlement.published.iter().filter(|(id, _)| again.contains(id))).await?;
        }
        let mut moved = settlement.failed.len() as u64;
        let left = rows_left(batch_rows, settlement.len());
        if !matches!(claim.source, Source::Manifest(_)) && watermark.done_id() > 0 && left {
            watermark::requeue(tx, fence, settlement.ids()).await?;
            has_requeued = true;
        }
        if release_due && claim.release && matches!(claim.source, Source::Waiting) {
            // Half of the batch at most, so that released events and the others take turns.
            let portion = i64::from(claim.limits.rows.get() / 2).max(1);
            let one_by_one = any_outcomes || care.looks();
            let released = match one_by_one {
                true => release::each(tx, care, fence.shard, portion).await?,
                false => release::all(tx, fence.shard, portion).await?,
            };
            (low_id, moved) = (released.low_id, moved + released.events);
            has_requeued |= watermark.done_id() > 0;
        }
        let any_held = any_held || !settlement.failed.is_empty();
        Ok(Open {
            fence,
            claim,
            last,
            horizon,
            low_id,
            batch_rows,
            before,
            watermark,
            has_requeued,
            any_outcomes,
            any_held,
            moved,
        })
    }

    async fn claim(&self, tx: &Transaction<'_>, care: Care, open: &Open<'_>) -> Result<Careful, OutboxError> {
        let ahead = (self.settle_mode == SettleMode::Watermark).then(|| open.watermark.ahead());
        let (shard, range, claim) = (open.fence.shard, open.range(), open.claim);
        if matches!(care, Care::Plain) && !open.any_outcomes {
            return Ok(Careful::plain(claim::rows(tx, shard, range, claim, open.has_requeued, ahead).await?));
        }
        let ids = care::ids(tx, shard, range, claim, open.has_requeued, ahead).await?;
        care::read(tx, care, &self.watch, shard, range, claim, ids).await
    }

    /// What is written after the claim, and what is to be written of the shard itself. Of a step that is postponed all
    /// is to be rolled back.
    async fn end<R>(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        open: Open<'_>,
        found: Careful,
        screen: &mut impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
    ) -> Result<(Step<R>, Option<Manifest>), OutboxError> {
        let Open {
            fence,
            claim,
            last,
            horizon,
            low_id,
            batch_rows,
            before,
            mut watermark,
            has_requeued,
            any_held,
            moved,
            ..
        } = open;
        let Claim { source, .. } = claim;
        let Careful { found: Found { rows, covered, full, bytes }, unread, cut_short } = found;
        let row_bytes = bytes.checked_div(rows.len() as u64);
        let sorted = triage(tx, fence.shard, rows, unread, any_held, full, screen).await?;
        if (sorted.stopped || cut_short) && matches!(source, Source::Manifest(_)) {
            // To be sent again whole or not at all: a part of it would not be the repeat that is promised.
            let step = Step {
                batch: None,
                moved: 0,
                missing: 0,
                full: false,
                row_bytes,
                last,
                postponed: true,
                leased_at: None,
            };
            return Ok((step, None));
        }
        let moved = moved + sorted.apply(tx, care, fence.shard, &*self.policy).await?;
        if has_requeued {
            watermark::take_off(tx, sorted.moved_ids()).await?;
        }

        let mut new_low_id = low_id;
        let left = rows_left(batch_rows, sorted.publish.len());
        if matches!(source, Source::Manifest(_)) && watermark.done_id() > 0 && left {
            watermark::requeue(tx, fence, sorted.publish.iter().map(|event| event.id)).await?;
        }
        if self.settle_mode == SettleMode::Watermark {
            if let Some(covered) = covered {
                watermark
                    .advance(covered.min(sorted.left.map_or(i64::MAX, |left| left.saturating_sub(1))).min(horizon));
                new_low_id = low_id.max(watermark.done_id().saturating_add(1));
            }
            watermark.mark_surplus(tx, care, false).await?;
        } else if claim.move_low_id {
            let lowest = tx.query_opt(&tx.prepare_cached(LOWEST_PENDING).await?, &[&fence.shard, &low_id]).await?;
            let lowest = lowest.map_or(i64::MAX, |row| row.get(0));
            new_low_id = low_id.max(lowest.min(horizon.saturating_add(1)));
        }

        let last_seq = if claim.forget && last.in_flight { last.seq - 1 } else { last.seq };
        let tag = |seq| claim.numbered.then(|| BatchTag::draw(seq));
        let batch = match source {
            Source::Manifest(_) if !sorted.publish.is_empty() => Some((last.seq, sorted.publish)),
            Source::Waiting if !sorted.publish.is_empty() => Some((last_seq + 1, sorted.publish)),
            Source::Waiting | Source::Manifest(_) | Source::Nothing => None,
        };
        let batch = batch.map(|(seq, events)| Batch { seq, tag: tag(seq), events });
        let seq = batch.as_ref().map_or(last_seq, |batch| batch.seq);
        // A careful step may take most of a lease, and renewals leave out a shard that is at work: it extends its own.
        let careful = care.looks();
        let changed = careful || batch.is_some() || last.in_flight || new_low_id != low_id || watermark != before;
        let manifest = changed.then(|| Manifest {
            fence,
            seq,
            ids: batch.as_ref().map(|batch| batch.events.iter().map(|event| event.id).collect()),
            low_id: new_low_id,
            marked: claim.marked,
            tag: batch.as_ref().and_then(|batch| batch.tag),
            watermark,
        });
        let last = LastBatch { seq, in_flight: batch.is_some() };
        let leased_at = changed.then(monotonic);
        Ok((Step { batch, moved, missing: 0, full, row_bytes, last, postponed: false, leased_at }, manifest))
    }
}

/// A shard between what is written before the claim and after it.
struct Open<'a> {
    fence: Fence,
    claim: Claim<'a>,
    last: LastBatch,
    /// On this server.
    horizon: i64,
    low_id: i64,
    batch_rows: Option<i32>,
    /// As it was found.
    before: Watermark,
    watermark: Watermark,
    has_requeued: bool,
    any_outcomes: bool,
    any_held: bool,
    moved: u64,
}

impl Open<'_> {
    /// Where the claim begins, and the highest id to claim.
    fn range(&self) -> (i64, i64) {
        (self.low_id, if self.claim.strict { self.horizon } else { i64::MAX })
    }

    /// Nothing is claimed but what waits above `low_id`, and no row of that is to be left out.
    fn is_plain(&self) -> bool {
        matches!(self.claim.source, Source::Waiting) && !self.has_requeued && !self.any_outcomes
    }
}

/// Rows of the batch in flight are neither among so many that are settled, nor among those in flight from now on.
fn rows_left(batch_rows: Option<i32>, others: usize) -> bool {
    batch_rows.is_some_and(|rows| (others as i64) < i64::from(rows))
}
