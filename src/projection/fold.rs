//! Folds one batch of a partition: what is folded, skipped or parked, and what a failure means.
//!
//! Knows neither Kafka nor SQL. The offset moves with every part that is folded, so a batch that fails half way goes on
//! from there.
//! Invariant: a record is parked only when PostgreSQL refuses it alone, or its projection names it, or its value is not
//! JSON. What may as well be the fault of the database or of a projection's statement parks a record only on the
//! evidence that [`super::suspicion`] asks for: it fails alone, again and again, and others pass.

use std::ops::Range;

use super::failure::{Cause, FoldError};
use super::plan::Plan;
use super::position::Standing;
use super::record::{Place, Record};
use super::store::locks::LockWait;
use super::store::{Counts, Fate, Manner, Outcome, Part, Store};
use super::suspicion::{Ground, Suspicion};
use crate::clock::monotonic;

/// Immediate repeats of a part after PostgreSQL was not available: a connection that died while it was idle, a
/// deadlock. What lasts longer is waited for by the consumer, which goes on polling meanwhile.
const REPEATS_MAX: u32 = 2;
/// Records that are tried, and rolled back, to see whether others pass.
const PROBES: usize = 3;

/// What became of a batch.
#[derive(Debug)]
pub struct Folded {
    /// Of the parts that were committed.
    pub counts: Counts,
    /// The offset after the last committed record; `None` when nothing was committed.
    pub next_offset: Option<i64>,
    pub end: End,
    /// For the next fold of the partition.
    pub suspicion: Suspicion,
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
    fold_watched(store, place, epoch, next_offset, records, Suspicion::default(), &LockWait::default()).await
}

/// As [`fold_batch`], with what earlier folds of the partition have found out. `wait` tells whether it waits for a
/// lock.
pub async fn fold_watched(
    store: &Store,
    place: &Place,
    epoch: i64,
    next_offset: i64,
    records: &[Record],
    suspicion: Suspicion,
    wait: &LockWait,
) -> Folded {
    let mut batch = Batch::new(store, place, epoch, next_offset, records, suspicion, wait);
    let end = batch.run().await;
    let moved = batch.next_offset != next_offset;
    batch.suspicion.passed(batch.next_offset);
    if matches!(end, End::Done) {
        batch.suspicion.all_passed();
    }
    let (counts, suspicion) = (batch.counts, batch.suspicion);
    Folded { counts, next_offset: moved.then_some(batch.next_offset), end, suspicion }
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
    suspicion: Suspicion,
    /// A statement was too slow: parts that are not single records have less time.
    hurried: bool,
    wait: &'a LockWait,
}

impl<'a> Batch<'a> {
    fn new(
        store: &'a Store,
        place: &'a Place,
        epoch: i64,
        next_offset: i64,
        records: &'a [Record],
        suspicion: Suspicion,
        wait: &'a LockWait,
    ) -> Self {
        let handled = |record: &Record| {
            let event_type = record.event.event_type.as_deref();
            store.projections().iter().any(|projection| projection.handles(&place.topic, event_type))
        };
        let fates = records.iter().map(|record| first_fate(record, handled(record))).collect();
        let mut plan = Plan::new(records.len());
        if let Some(index) = suspicion.offset().and_then(|at| records.iter().position(|record| record.offset == at)) {
            plan.single_out(index);
        }
        let (counts, unanswered, hurried) = (Counts::default(), Vec::new(), false);
        Self { store, place, epoch, records, fates, plan, counts, next_offset, unanswered, suspicion, hurried, wait }
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
            let manner = Manner { apart, brief: self.hurried && range.len() > 1, wait: self.wait };
            let outcome = self.store.fold_in(part, manner).await;
            if !matches!(&outcome, Err(error) if error.cause() == Cause::Locked) {
                self.wait.is_over();
            }
            match outcome {
                Ok(Outcome::Folded(counts)) => {
                    if counts.parked > 0 {
                        // The reasons may quote the events, so they are in consumer_parked only.
                        let (events, from, to) =
                            (counts.parked, self.records[range.start].offset, self.records[range.end - 1].offset);
                        tracing::warn!(partition = %self.place, events, from, to, "parked events that cannot be folded in consumer_parked");
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
                    tracing::info!(partition = %self.place, next_offset, "already folded; the reply to a commit was lost");
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
                        tracing::debug!(partition = %self.place, records = range.len(), "{error}; searching for the event");
                        apart = true;
                    }
                    Cause::Data => {
                        apart = false;
                        if !self.isolate(&range, &error) {
                            return End::Failed(error);
                        }
                    }
                    Cause::TooSlow | Cause::Unclear => {
                        apart = false;
                        self.hurried |= error.cause() == Cause::TooSlow;
                        if !self.suspect(&range, &error).await {
                            return End::Failed(error);
                        }
                    }
                    Cause::Doubtful | Cause::Program if self.suspicion.doubts(&error.ground(), monotonic()) => {
                        apart = false;
                        self.store.fails(self.place, &error.ground());
                        if !self.suspect(&range, &error).await {
                            return End::Failed(error);
                        }
                    }
                    // Nothing was committed. A deadlock, for one, is over by now.
                    Cause::Doubtful if repeats < REPEATS_MAX => repeats += 1,
                    Cause::Unavailable if repeats < REPEATS_MAX => {
                        repeats += 1;
                        self.unanswered.push(self.records[range.end - 1].offset + 1);
                    }
                    // It waits again, after others had their turn. The reader goes on meanwhile, and says for whom.
                    Cause::Locked => self.wait.goes_on(),
                    Cause::Doubtful | Cause::Unavailable | Cause::Program => return End::Failed(error),
                },
            }
        }
        End::Done
    }

    /// The end of a part of ours whose commit was not answered, when that is where the partition stands.
    fn answered_by(&self, standing: &Standing) -> Option<i64> {
        let next_offset = standing.next_offset;
        let ours = standing.epoch == self.epoch && !standing.stopped && standing.written_offset == Some(next_offset);
        (ours && self.unanswered.contains(&next_offset)).then_some(next_offset)
    }

    /// The part fails for a reason that need not be a record's: cuts it, or blames the record that is alone if there is
    /// evidence, or lets it try once more with that. `false`: there is none, or not yet.
    async fn suspect(&mut self, range: &Range<usize>, error: &FoldError) -> bool {
        let ground = error.ground();
        let passed = self.store.passed(&ground);
        if self.plan.cut() {
            tracing::debug!(partition = %self.place, records = range.len(), "{error}; searching for the event");
            self.suspicion.part_failed(&ground, passed);
            return true;
        }
        let index = range.start;
        self.suspicion.failed_alone(self.records[index].offset, &ground, passed);
        let confirmed = self.suspicion.is_confirmed();
        if self.suspicion.has_evidence(passed) {
            self.suspicion.confirm();
        }
        if !self.suspicion.is_tried_enough() {
            return false;
        }
        if !self.suspicion.has_evidence(passed) {
            self.probe(index, &ground).await;
        }
        let evidence = if self.suspicion.has_evidence(self.store.passed(&ground)) {
            "while other events succeeded"
        } else if self.is_only_one(index, error, &ground) && self.passes_empty(index).await {
            "while PostgreSQL accepted everything but this event"
        } else {
            return false;
        };
        if !confirmed {
            self.suspicion.confirm();
            return true;
        }
        let parked = &mut self.fates[index];
        let Fate::Fold = parked else { return self.isolate(range, error) };
        let failures = self.suspicion.convict();
        *parked = Fate::Park(format!("{error}; it failed {failures} times on its own {evidence}"));
        true
    }

    /// Whether there is no other event that could tell, and the error cannot be PostgreSQL's own.
    fn is_only_one(&self, index: usize, error: &FoldError, ground: &Ground) -> bool {
        let is_last = index + 1 == self.records.len();
        is_last
            && error.cause() == Cause::Doubtful
            && error.is_raised()
            && !self.store.fails_elsewhere(self.place, ground)
    }

    /// Whether the consumer's statements and the projections work without the record, where there is no other one.
    async fn passes_empty(&self, index: usize) -> bool {
        let part = Part {
            place: self.place,
            epoch: self.epoch,
            next_offset: self.next_offset,
            records: &self.records[index..=index],
            fates: &[Fate::Skip],
        };
        self.store.try_and_take_back(part).await.is_ok()
    }

    /// Tries records behind this one, and takes them back: the next, the last, and one in the middle.
    async fn probe(&self, index: usize, ground: &Ground) {
        let (next, last) = (index + 1, self.records.len() - 1);
        let mut chosen = vec![next, last, usize::midpoint(next, last)];
        chosen.retain(|at| self.fates.get(*at).is_some_and(|fate| *at > index && *fate == Fate::Fold));
        chosen.dedup();
        for at in chosen.into_iter().take(PROBES) {
            let part = Part {
                place: self.place,
                epoch: self.epoch,
                next_offset: self.next_offset,
                records: &self.records[at..=at],
                fates: &self.fates[at..=at],
            };
            if let Err(error) = self.store.try_and_take_back(part).await {
                tracing::debug!(partition = %self.place, "{error}; another event fails in the same way");
            }
            if self.suspicion.has_evidence(self.store.passed(ground)) {
                return;
            }
        }
    }

    /// The part holds an event that cannot even be recorded: halves it, or parks the event if it is alone, at last in a
    /// form that every database can hold. `false` if even that failed.
    fn isolate(&mut self, range: &Range<usize>, error: &FoldError) -> bool {
        if self.plan.split() {
            tracing::debug!(partition = %self.place, records = range.len(), "{error}; searching for the event");
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
