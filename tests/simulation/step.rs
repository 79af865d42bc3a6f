//! What one step of a lane does in PostgreSQL, as `outbox/step/` and its statements have it: settles, claims, and
//! writes the manifest, with marks or with a watermark.

use outbox_relay::outbox::watermark::Watermark;
use outbox_relay::outbox::{Batch, Claimed, LastBatch, Step};
use outbox_relay::relay::protocol::{Intent, Work};

use crate::kafka::Record;
use crate::postgres::{Draft, Id};
use crate::rules::{Precaution, Rules};

/// Rows of one batch.
const CLAIM_MAX: usize = 2;

/// How a relay keeps track of published rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tracking {
    Rows,
    Watermark,
}

/// What the lane brings to a step.
pub struct InHand<'a> {
    pub intent: Intent,
    pub tracking: Tracking,
    /// What Kafka has.
    pub published: &'a [Id],
    /// To be sent again.
    pub resend: &'a [Id],
    /// No row with an id up to this one can appear any more.
    pub horizon: Id,
}

pub fn step(draft: &mut Draft, rules: Rules, in_hand: &InHand<'_>) -> Step<Record> {
    let InHand { intent, tracking, published, resend, horizon } = *in_hand;
    let last = draft.shard.last();
    let before = draft.shard.clone();
    let mut watermark = Watermark::new(draft.shard.done_id, draft.shard.ahead.clone());
    settle(draft, rules, tracking, &mut watermark, published);
    if intent.work != Work::Resend {
        requeue(draft, rules, published);
    }
    let (claimed, covered) = match intent.work {
        Work::Settle => (Vec::new(), None),
        Work::Next => claim(draft, tracking, &watermark),
        Work::Resend => {
            let again: Vec<Id> = draft.pending().map(|row| row.id).filter(|id| resend.contains(id)).collect();
            requeue(draft, rules, &again);
            (again, None)
        }
    };
    match tracking {
        Tracking::Watermark => {
            if let Some(covered) = covered {
                watermark.advance(covered.min(horizon));
                draft.shard.low_id = draft.shard.low_id.max(watermark.done_id().saturating_add(1));
            }
        }
        Tracking::Rows => {
            let low_id = draft.shard.low_id;
            let lowest = draft.pending().map(|row| row.id).find(|id| *id >= low_id).unwrap_or(Id::MAX);
            draft.shard.low_id = low_id.max(lowest.min(horizon.saturating_add(1)));
        }
    }
    (draft.shard.done_id, draft.shard.ahead) = (watermark.done_id(), watermark.ahead().to_vec());
    let settled_seq = if intent.forget && last.in_flight { last.seq - 1 } else { last.seq };
    let seq = match intent.work {
        Work::Resend if !claimed.is_empty() => last.seq,
        Work::Next if !claimed.is_empty() => settled_seq + 1,
        Work::Settle | Work::Next | Work::Resend => settled_seq,
    };
    let batch = (!claimed.is_empty()).then(|| Batch {
        seq,
        tag: intent.numbered.then(|| draft.draw_tag(seq)),
        events: claimed.iter().map(|id| Claimed { id: *id, record: record(draft, *id) }).collect(),
    });
    if batch.is_some() || last.in_flight || draft.shard != before {
        draft.shard.batch_seq = seq;
        draft.shard.batch_ids = batch.is_some().then_some(claimed);
        draft.shard.marked = intent.marked;
        draft.shard.tag = batch.as_ref().and_then(|batch| batch.tag).or(draft.shard.tag);
    }
    let last = LastBatch { seq, in_flight: batch.is_some() };
    let leased_at = None;
    Step { batch, moved: 0, missing: 0, full: false, row_bytes: None, last, postponed: false, leased_at }
}

fn record(draft: &Draft, id: Id) -> Record {
    let row = draft.rows.iter().find(|row| row.id == id).expect("it was claimed");
    Record { id, event: row.event, key: row.key }
}

/// Published rows are marked, or told to the watermark. What waited below the watermark is marked in any case.
fn settle(draft: &mut Draft, rules: Rules, tracking: Tracking, watermark: &mut Watermark, published: &[Id]) {
    match tracking {
        Tracking::Rows => {
            draft.mark(rules, watermark.ahead());
            *watermark = Watermark::new(watermark.done_id(), Vec::new());
            draft.mark(rules, published);
        }
        Tracking::Watermark => watermark.publish(published.iter().copied()),
    }
    let again: Vec<Id> = published.iter().copied().filter(|id| draft.shard.again.remove(id)).collect();
    draft.mark(rules, &again);
}

/// Rows of the batch in flight that are not in `others` wait again, as far as the watermark has passed them.
fn requeue(draft: &mut Draft, rules: Rules, others: &[Id]) {
    let done_id = draft.shard.done_id;
    let given_up = draft.shard.batch_ids.clone().unwrap_or_default();
    if done_id == 0 || given_up.len() <= others.len() || !rules.has(Precaution::Requeue) {
        return;
    }
    let given_up: Vec<Id> = draft
        .pending()
        .map(|row| row.id)
        .filter(|id| given_up.contains(id) && !others.contains(id) && *id <= done_id)
        .collect();
    draft.shard.again.extend(given_up);
}

/// The next rows that wait, those below the watermark first; and how far everything was read.
fn claim(draft: &Draft, tracking: Tracking, watermark: &Watermark) -> (Vec<Id>, Option<Id>) {
    let low_id = draft.shard.low_id;
    let pending: Vec<Id> = draft.pending().map(|row| row.id).collect();
    let waits_again = |id: &&Id| draft.shard.again.contains(id) && **id < low_id;
    let mut claimed: Vec<Id> = pending.iter().filter(waits_again).take(CLAIM_MAX).copied().collect();
    let room = CLAIM_MAX - claimed.len();
    if room == 0 {
        return (claimed, None);
    }
    let ahead: &[Id] = if tracking == Tracking::Watermark { watermark.ahead() } else { &[] };
    let rest: Vec<Id> = pending.iter().copied().filter(|id| *id >= low_id && !ahead.contains(id)).take(room).collect();
    let covered = if rest.len() == room { rest.last().copied() } else { Some(Id::MAX) };
    claimed.extend(rest);
    (claimed, covered)
}
