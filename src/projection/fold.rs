//! Folds one batch of a partition: what is folded, skipped or parked, and what a failure means.
//!
//! Knows neither Kafka nor SQL. The offset moves with every part that is folded, so a batch that fails half way goes on
//! from there.
//! Invariant: a record is parked only when PostgreSQL refuses it alone, or its projection names it, or its value is not
//! JSON. A failure of the database or of a projection's statement never parks anything.

use std::ops::Range;

use super::failure::{Cause, FoldError};
use super::plan::Plan;
use super::position::Standing;
use super::record::{Place, Record};
use super::store::{Counts, Fate, Outcome, Part, Store};

/// Immediate repeats of a part after PostgreSQL was not available: a connection that died while it was idle, a
/// deadlock. What lasts longer is waited for by the consumer, which goes on polling meanwhile.
const REPEATS_MAX: u32 = 2;

/// What became of a batch.
#[derive(Debug)]
pub struct Folded {
    /// Of the parts that were committed.
    pub counts: Counts,
    /// The offset after the last committed record; `None` when nothing was committed.
    pub next_offset: Option<i64>,
    pub end: End,
}

/// How the batch ended.
#[derive(Debug)]
pub enum End {
    /// Every record is folded, parked or skipped.
    Done,
    /// The partition is not where its reader believes, and the rest is dropped. `None`: its row is gone.
    Elsewhere(Option<Standing>),
    /// The rest has to be read and folded again later.
    Failed(FoldError),
}

/// Folds `records` (offsets ascending) of one partition, which stands at `next_offset` as far as its reader knows.
///
/// Cancel safe: the parts that were committed stay so, with their offset.
pub async fn fold_batch(store: &Store, place: &Place, epoch: i64, next_offset: i64, records: &[Record]) -> Folded {
    let mut batch = Batch::new(store, place, epoch, next_offset, records);
    let end = batch.run().await;
    let moved = batch.next_offset != next_offset;
    Folded { counts: batch.counts, next_offset: moved.then_some(batch.next_offset), end }
}

struct Batch<'a> {
    store: &'a Store,
    place: &'a Place,
    epoch: i64,
    records: &'a [Record],
    fates: Vec<Fate>,
    plan: Plan,
    counts: Counts,
    /// Where the partition stands.
    next_offset: i64,
    /// Ends of parts of which nobody knows whether they were committed.
    unanswered: Vec<i64>,
}

impl<'a> Batch<'a> {
    fn new(store: &'a Store, place: &'a Place, epoch: i64, next_offset: i64, records: &'a [Record]) -> Self {
        let handled = |record: &Record| {
            let event_type = record.event.event_type.as_deref();
            store.projections().iter().any(|projection| projection.handles(&place.topic, event_type))
        };
        let fates = records.iter().map(|record| first_fate(record, handled(record))).collect();
        let plan = Plan::new(records.len());
        let (counts, unanswered) = (Counts::default(), Vec::new());
        Self { store, place, epoch, records, fates, plan, counts, next_offset, unanswered }
    }

    async fn run(&mut self) -> End {
        let mut repeats = 0;
        // Whether the part at hand is known to hold an event that fails.
        let mut apart = false;
        while let Some(range) = self.plan.next() {
            let part = Part {
                place: self.place,
                epoch: self.epoch,
                next_offset: self.next_offset,
                records: &self.records[range.clone()],
                fates: &self.fates[range.clone()],
            };
            let outcome = if apart { self.store.fold_apart(part).await } else { self.store.fold(part).await };
            match outcome {
                Ok(Outcome::Folded(counts)) => {
                    if counts.parked > 0 {
                        // The reasons may quote the events, so they are in consumer_parked only.
                        let (events, from, to) =
                            (counts.parked, self.records[range.start].offset, self.records[range.end - 1].offset);
                        tracing::warn!(partition = %self.place, events, from, to, "events that cannot be folded are parked in consumer_parked");
                    }
                    self.counts.add(counts);
                    self.next_offset = self.records[range.end - 1].offset + 1;
                    self.plan.done();
                    (repeats, apart) = (0, false);
                }
                Ok(Outcome::Elsewhere(standing)) => {
                    let Some(next_offset) = standing.as_ref().and_then(|standing| self.answered_by(standing)) else {
                        return End::Elsewhere(standing);
                    };
                    tracing::info!(partition = %self.place, next_offset, "already folded: the answer to a commit was lost");
                    self.next_offset = next_offset;
                    self.plan.skip_to(self.records.partition_point(|record| record.offset < next_offset));
                }
                Ok(Outcome::Refused(refused)) => {
                    for (index, reason) in refused {
                        self.fates[range.start + index] = Fate::Park(reason);
                    }
                }
                Err(error) => match error.cause() {
                    Cause::Data if !apart && range.len() > 1 => {
                        tracing::debug!(partition = %self.place, records = range.len(), "{error}: looking for it");
                        apart = true;
                    }
                    Cause::Data => {
                        apart = false;
                        if !self.isolate(&range, &error) {
                            return End::Failed(error);
                        }
                    }
                    Cause::TooSlow => {
                        if !self.plan.split() {
                            return End::Failed(error);
                        }
                        tracing::warn!(partition = %self.place, records = range.len(), "{error}: trying half of it");
                    }
                    Cause::Unavailable if repeats < REPEATS_MAX => {
                        repeats += 1;
                        self.unanswered.push(self.records[range.end - 1].offset + 1);
                    }
                    // It has waited at the server, and waits there again. The reader goes on meanwhile, and says for
                    // whom.
                    Cause::Locked => {}
                    Cause::Unavailable | Cause::Program => return End::Failed(error),
                },
            }
        }
        End::Done
    }

    /// The end of a part of ours whose commit was not answered, when that is where the partition stands.
    fn answered_by(&self, standing: &Standing) -> Option<i64> {
        let next_offset = standing.next_offset;
        let ours = standing.epoch == self.epoch && !standing.stopped && next_offset == standing.written_offset;
        (ours && self.unanswered.contains(&next_offset)).then_some(next_offset)
    }

    /// The part holds an event that cannot even be recorded: halves it, or parks the event if it is alone, at last in a
    /// form that every database can hold. `false` if even that failed.
    fn isolate(&mut self, range: &Range<usize>, error: &FoldError) -> bool {
        if self.plan.split() {
            tracing::debug!(partition = %self.place, records = range.len(), "{error}: looking for it");
            return true;
        }
        let first = &mut self.fates[range.start];
        *first = match first {
            Fate::Fold | Fate::Skip => Fate::Park(error.reason()),
            // What was refused now is the event as it was to be kept.
            Fate::Park(reason) => Fate::ParkEscaped(std::mem::take(reason)),
            Fate::ParkEscaped(_) => return false,
        };
        true
    }
}

/// What is to happen to a record as far as it can be told without PostgreSQL. The value of an event that nobody handles
/// is not looked at.
fn first_fate(record: &Record, handled: bool) -> Fate {
    if !handled {
        return Fate::Skip;
    }
    match record.json() {
        Ok(_) => Fate::Fold,
        Err(reason) => Fate::Park(reason),
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.skipped += other.skipped;
        self.parked += other.parked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_nobody_handles_is_skipped_whatever_its_value() {
        let record = |value: &[u8]| Record::new("t", 0, 0, None, Vec::new(), None, Some(value.to_vec()));
        assert_eq!(first_fate(&record(b"\xff\xff"), false), Fate::Skip);
        assert_eq!(first_fate(&record(b"{}"), true), Fate::Fold);
        assert!(matches!(first_fate(&record(b"\xff\xff"), true), Fate::Park(reason) if reason.contains("not JSON")));
        let tombstone = Record::new("t", 0, 0, None, Vec::new(), None, None);
        assert_eq!(first_fate(&tombstone, true), Fate::Fold, "whether null makes sense is for the projection to say");
    }
}
