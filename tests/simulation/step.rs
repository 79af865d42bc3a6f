//! What one step of a lane does in PostgreSQL, as `outbox/step/` and its statements have it: settles, claims, and
//! writes the manifest, with marks or with a watermark.

use outbox_relay::outbox::watermark::Watermark;
use outbox_relay::outbox::{Batch, Claimed, LastBatch, Step};
use outbox_relay::relay::protocol::{Intent, Work};

use crate::kafka::Record;
use crate::postgres::{Draft, Id};
use crate::rules::{Precaution, Rules};
use crate::shard::{Number, Shard};

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
    pub shard: Number,
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
    let InHand { shard: number, intent, tracking, published, resend, horizon } = *in_hand;
    let before = draft.shards[&number].clone();
    let mut shard = before.clone();
    let last = shard.last();
    let mut watermark = Watermark::new(shard.done_id, shard.ahead.clone());
    settle(draft, rules, tracking, &mut shard, &mut watermark, published);
    if intent.work != Work::Resend {
        requeue(draft, rules, &mut shard, published);
    }
    let (claimed, covered) = match intent.work {
        Work::Settle => (Vec::new(), None),
        Work::Next => claim(draft, rules, tracking, number, &shard, &watermark),
        Work::Resend => {
            let again: Vec<Id> = draft.pending().map(|row| row.id).filter(|id| resend.contains(id)).collect();
            requeue(draft, rules, &mut shard, &again);
            (again, None)
        }
    };
    match tracking {
        Tracking::Watermark => {
            if let Some(covered) = covered {
                watermark.advance(covered.min(horizon));
                shard.low_id = shard.low_id.max(watermark.done_id().saturating_add(1));
            }
        }
        Tracking::Rows => {
            let low_id = shard.low_id;
            let lowest = pending_in(draft, number).find(|id| *id >= low_id).unwrap_or(Id::MAX);
            shard.low_id = low_id.max(lowest.min(horizon.saturating_add(1)));
        }
    }
    (shard.done_id, shard.ahead) = (watermark.done_id(), watermark.ahead().to_vec());
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
    if batch.is_some() || last.in_flight || shard != before {
        shard.batch_seq = seq;
        shard.batch_ids = batch.is_some().then_some(claimed);
        shard.marked = intent.marked;
        shard.tag = batch.as_ref().and_then(|batch| batch.tag).or(shard.tag);
    }
    draft.shards.insert(number, shard);
    let last = LastBatch { seq, in_flight: batch.is_some() };
    let leased_at = None;
    Step { batch, moved: 0, missing: 0, full: false, row_bytes: None, last, postponed: false, leased_at }
}

fn record(draft: &Draft, id: Id) -> Record {
    let row = draft.rows.iter().find(|row| row.id == id).expect("it was claimed");
    Record { id, event: row.event, key: row.key }
}

/// Rows of a shard that say PENDING, by id.
fn pending_in(draft: &Draft, shard: Number) -> impl Iterator<Item = Id> {
    draft.pending().filter(move |row| row.shard == shard).map(|row| row.id)
}

/// Published rows are marked, or told to the watermark. What waited below the watermark is marked in any case.
fn settle(
    draft: &mut Draft,
    rules: Rules,
    tracking: Tracking,
    shard: &mut Shard,
    watermark: &mut Watermark,
    published: &[Id],
) {
    match tracking {
        Tracking::Rows => {
            draft.mark(rules, watermark.ahead());
            *watermark = Watermark::new(watermark.done_id(), Vec::new());
            draft.mark(rules, published);
        }
        Tracking::Watermark => watermark.publish(published.iter().copied()),
    }
    let again: Vec<Id> = published.iter().copied().filter(|id| shard.again.remove(id)).collect();
    draft.mark(rules, &again);
}

/// Rows of the batch in flight that are not in `others` wait again, as far as the watermark has passed them.
fn requeue(draft: &Draft, rules: Rules, shard: &mut Shard, others: &[Id]) {
    let done_id = shard.done_id;
    let given_up = shard.batch_ids.clone().unwrap_or_default();
    if done_id == 0 || given_up.len() <= others.len() || !rules.has(Precaution::Requeue) {
        return;
    }
    let given_up =
        draft.pending().map(|row| row.id).filter(|id| given_up.contains(id) && !others.contains(id) && *id <= done_id);
    shard.again.extend(given_up);
}

/// The next rows that wait, those below the watermark first; and how far everything was read.
fn claim(
    draft: &Draft,
    rules: Rules,
    tracking: Tracking,
    number: Number,
    shard: &Shard,
    watermark: &Watermark,
) -> (Vec<Id>, Option<Id>) {
    let low_id = shard.low_id;
    let pending: Vec<Id> = pending_in(draft, number).collect();
    let waits_again = |id: &&Id| shard.again.contains(id) && **id < low_id;
    let again: Vec<Id> = pending.iter().filter(waits_again).take(CLAIM_MAX).copied().collect();
    let room = CLAIM_MAX - again.len();
    if room == 0 {
        return (again, None);
    }
    let ahead: &[Id] = if tracking == Tracking::Watermark { watermark.ahead() } else { &[] };
    let rest: Vec<Id> = pending.iter().copied().filter(|id| *id >= low_id && !ahead.contains(id)).take(room).collect();
    let covered = if rest.len() == room { rest.last().copied() } else { Some(Id::MAX) };
    let claimed = match rules.has(Precaution::AgainFirst) || rest.is_empty() {
        true => [again, rest].concat(),
        // What is above the watermark goes out, and what waits again follows in a later batch.
        false => rest,
    };
    (claimed, covered)
}
