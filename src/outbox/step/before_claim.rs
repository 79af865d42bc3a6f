//! What a step writes for its shard before it claims: failed events, rows that are requeued, held events that are due.
//! The published rows have been settled then.

use super::super::care::Care;
use super::super::settle::Refusal;
use super::super::{
    Claim, Fence, OutboxError, PgOutbox, SettleMode, Settlement, Source, Watermark, release, settle, watermark,
};
use super::shard::{Locked, Open};
use crate::db::Transaction;

impl PgOutbox {
    pub(super) async fn before_claim<'a>(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        fence: Fence,
        locked: Locked,
        settlement: &Settlement,
        claim: Claim<'a>,
    ) -> Result<Open<'a>, OutboxError> {
        let last = locked.last();
        let Locked { server, low_id, batch_rows, watermark, has_requeued, any_outcomes, any_held, release_due, .. } =
            locked;
        let mut open = Open {
            fence,
            claim,
            last,
            horizon: if claim.horizon.server == server { claim.horizon.id } else { 0 },
            low_id,
            batch_rows,
            before: watermark.clone(),
            watermark,
            has_requeued,
            any_outcomes,
            any_held: any_held || !settlement.failed.is_empty(),
            moved: settlement.failed.len() as u64,
        };
        self.keep_progress(tx, care, &mut open.watermark, settlement).await?;
        let failed: Vec<Refusal> = settlement.failed.iter().map(Refusal::from).collect();
        settle::fail(tx, care, fence.shard, &failed, &*self.policy).await?;
        requeue(tx, care, &mut open, settlement).await?;
        if release_due && claim.release && matches!(claim.source, Source::Waiting) {
            release_keys(tx, care, &mut open).await?;
        }
        Ok(open)
    }

    async fn keep_progress(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        watermark: &mut Watermark,
        settlement: &Settlement,
    ) -> Result<(), OutboxError> {
        // Only what this instance does with rows is up to its settings: how far the shard is, is read from what others
        // did, too.
        watermark.mark_surplus(tx, care, self.settle_mode != SettleMode::Watermark).await?;
        if self.settle_mode == SettleMode::Watermark {
            watermark.publish(settlement.published.iter().map(|event| event.id));
        }
        Ok(())
    }
}

/// Rows below the watermark that wait again: those that are settled are taken off, and those of the batch in flight
/// that are not settled join them.
async fn requeue(
    tx: &Transaction<'_>,
    care: Care,
    open: &mut Open<'_>,
    settlement: &Settlement,
) -> Result<(), OutboxError> {
    if open.has_requeued {
        // The watermark passed them long before, and would tell a wrong time.
        let again = watermark::take_off(tx, settlement.ids()).await?;
        settle::mark(tx, care, settlement.published.iter().filter(|event| again.contains(&event.id))).await?;
    }
    if !open.resends() && open.watermark.done_id() > 0 && open.leaves_rows(settlement.len()) {
        watermark::requeue(tx, open.fence, settlement.ids()).await?;
        open.has_requeued = true;
    }
    Ok(())
}

async fn release_keys(tx: &Transaction<'_>, care: Care, open: &mut Open<'_>) -> Result<(), OutboxError> {
    // Half of the batch at most, so that released events and the others take turns.
    let portion = i64::from(open.claim.limits.rows.get() / 2).max(1);
    let one_by_one = open.any_outcomes || care.looks();
    let released = match one_by_one {
        true => release::each(tx, care, open.fence.shard, portion).await?,
        false => release::all(tx, open.fence.shard, portion).await?,
    };
    open.low_id = released.low_id;
    open.moved += released.events;
    open.has_requeued |= open.watermark.done_id() > 0;
    Ok(())
}
