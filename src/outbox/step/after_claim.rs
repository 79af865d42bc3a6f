//! What a step writes for its shard after it has claimed: events that fail or wait by what they contain, and how far
//! the shard is. The row of the shard itself is left to the caller.

use super::super::care::{Care, Careful};
use super::super::claim::Found;
use super::super::manifest::Manifest;
use super::super::triage::triage;
use super::super::{
    Batch, BatchTag, Claim, Claimed, LastBatch, OutboxError, PgOutbox, Screening, SettleMode, Source, Step, watermark,
};
use super::shard::Open;
use crate::clock::monotonic;
use crate::db::Transaction;
use crate::event::OutboxEvent;

const LOWEST_PENDING: &str = include_str!("sql/lowest_pending.sql");

impl PgOutbox {
    /// Of a step that is postponed all is to be rolled back.
    pub(super) async fn after_claim<R>(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        mut open: Open<'_>,
        found: Careful,
        screen: &mut impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
    ) -> Result<(Step<R>, Option<Manifest>), OutboxError> {
        let Careful { found: Found { rows, covered, full, bytes }, unread, cut_short } = found;
        let row_bytes = bytes.checked_div(rows.len() as u64);
        let sorted = triage(tx, open.fence.shard, rows, unread, open.any_held, full, screen).await?;
        if (sorted.stopped || cut_short) && open.resends() {
            return Ok((postponed(open.last, row_bytes), None));
        }
        open.moved += sorted.apply(tx, care, open.fence.shard, &*self.policy).await?;
        if open.has_requeued {
            watermark::take_off(tx, sorted.moved_ids()).await?;
        }
        if open.resends() && open.watermark.done_id() > 0 && open.leaves_rows(sorted.publish.len()) {
            watermark::requeue(tx, open.fence, sorted.publish.iter().map(|event| event.id)).await?;
        }
        let new_low_id = self.advance(tx, care, &mut open, covered, sorted.left).await?;
        let last_seq = if open.claim.forget && open.last.in_flight { open.last.seq - 1 } else { open.last.seq };
        let batch = batch(open.claim, open.last, last_seq, sorted.publish);
        let seq = batch.as_ref().map_or(last_seq, |batch| batch.seq);
        // A careful step may take most of a lease, and renewals leave out a shard that is at work: it extends its own.
        let changed = care.looks()
            || batch.is_some()
            || open.last.in_flight
            || new_low_id != open.low_id
            || open.watermark != open.before;
        let step_last = LastBatch { seq, in_flight: batch.is_some() };
        let manifest = changed.then(|| Manifest {
            fence: open.fence,
            seq,
            ids: batch.as_ref().map(|batch| batch.events.iter().map(|event| event.id).collect()),
            low_id: new_low_id,
            marked: open.claim.marked,
            tag: batch.as_ref().and_then(|batch| batch.tag),
            watermark: open.watermark,
        });
        let leased_at = changed.then(monotonic);
        let step = Step {
            batch,
            moved: open.moved,
            missing: 0,
            full,
            row_bytes,
            last: step_last,
            postponed: false,
            leased_at,
        };
        Ok((step, manifest))
    }

    /// How far the shard is, by what was read: `covered`, but for the first row that was `left`. Returns its `low_id`.
    async fn advance(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        open: &mut Open<'_>,
        covered: Option<i64>,
        left: Option<i64>,
    ) -> Result<i64, OutboxError> {
        let Open { fence, claim, horizon, low_id, ref mut watermark, .. } = *open;
        if self.settle_mode == SettleMode::Watermark {
            let mut new_low_id = low_id;
            if let Some(covered) = covered {
                watermark.advance(covered.min(left.map_or(i64::MAX, |left| left.saturating_sub(1))).min(horizon));
                new_low_id = low_id.max(watermark.done_id().saturating_add(1));
            }
            watermark.mark_surplus(tx, care, false).await?;
            return Ok(new_low_id);
        }
        if !claim.move_low_id {
            return Ok(low_id);
        }
        let lowest = tx.query_opt(&tx.prepare_cached(LOWEST_PENDING).await?, &[&fence.shard, &low_id]).await?;
        let lowest = lowest.map_or(i64::MAX, |row| row.get(0));
        Ok(low_id.max(lowest.min(horizon.saturating_add(1))))
    }
}

/// To be sent again whole or not at all: a part of it would not be the repeat that is promised.
fn postponed<R>(last: LastBatch, row_bytes: Option<u64>) -> Step<R> {
    Step { batch: None, moved: 0, missing: 0, full: false, row_bytes, last, postponed: true, leased_at: None }
}

/// The events to publish, with the number of their batch; `last_seq` is that of the last one that counts.
fn batch<R>(claim: Claim<'_>, last: LastBatch, last_seq: i64, events: Vec<Claimed<R>>) -> Option<Batch<R>> {
    let seq = match claim.source {
        Source::Manifest(_) if !events.is_empty() => last.seq,
        Source::Waiting if !events.is_empty() => last_seq + 1,
        Source::Waiting | Source::Manifest(_) | Source::Nothing => return None,
    };
    Some(Batch { seq, tag: claim.numbered.then(|| BatchTag::draw(seq)), events })
}
