//! Which part of a batch to fold next, so that one bad event does not hold up the others.
//!
//! Pure. A batch is tried whole. When its data make a projection fail, it is cut in halves until the event that fails
//! alone is found; every part is folded in a transaction of its own that moves the offset past it. Invariant: parts
//! come in the order of the offsets and cover the batch without gap or overlap, so that the offset never passes a
//! record that is neither folded nor parked.

use std::ops::Range;

/// The parts of one batch that are still to be folded.
#[derive(Debug)]
pub struct Plan {
    /// The last is the next; all others follow it in reverse order.
    parts: Vec<Range<usize>>,
}

impl Plan {
    pub fn new(records: usize) -> Self {
        let mut parts = Vec::new();
        if records > 0 {
            parts.push(0..records);
        }
        Self { parts }
    }

    /// The part to fold now; `None` when all are folded.
    pub fn next(&self) -> Option<Range<usize>> {
        self.parts.last().cloned()
    }

    /// The part is folded.
    pub fn done(&mut self) {
        self.parts.pop();
    }

    /// The records before `index` turned out to be folded already.
    pub fn skip_to(&mut self, index: usize) {
        while let Some(part) = self.parts.last_mut() {
            if part.end <= index {
                self.parts.pop();
            } else {
                part.start = part.start.max(index);
                break;
            }
        }
    }

    /// Something in the part cannot be folded: halves it. `false` when it is a single record, which is then the bad
    /// one.
    pub fn split(&mut self) -> bool {
        let Some(part) = self.parts.last_mut().filter(|part| part.len() > 1) else { return false };
        let (start, middle) = (part.start, part.start + part.len() / 2);
        part.start = middle;
        self.parts.push(start..middle);
        true
    }
}

/// Pieces that a part is cut into when each failure takes long: fewer steps than by halves.
const PIECES: usize = 8;

impl Plan {
    /// As [`Plan::split`], into eight pieces.
    pub fn cut(&mut self) -> bool {
        let Some(part) = self.parts.pop_if(|part| part.len() > 1) else { return false };
        let size = part.len().div_ceil(PIECES);
        let pieces = part.clone().step_by(size).map(|start| start..part.end.min(start + size));
        self.parts.extend(pieces.rev());
        true
    }

    /// Makes the record at `index` a part of its own. Called before anything is folded.
    pub fn single_out(&mut self, index: usize) {
        let Some(whole) = self.parts.pop_if(|part| part.contains(&index)) else { return };
        let parts = [index + 1..whole.end, index..index + 1, whole.start..index];
        self.parts.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Folds as the consumer does, with `bad` events that make every part fail that holds one.
    fn run(records: usize, bad: &BTreeSet<usize>) -> (Vec<usize>, BTreeSet<usize>, usize) {
        let (mut plan, mut folded, mut parked, mut attempts) = (Plan::new(records), Vec::new(), BTreeSet::new(), 0);
        while let Some(part) = plan.next() {
            attempts += 1;
            if part.clone().any(|index| bad.contains(&index) && !parked.contains(&index)) {
                if !plan.split() {
                    parked.insert(part.start);
                }
            } else {
                folded.extend(part);
                plan.done();
            }
        }
        (folded, parked, attempts)
    }

    proptest! {
        #[test]
        fn every_record_is_passed_once_in_order_and_only_the_bad_ones_are_parked(
            records in 0_usize..300, bad in proptest::collection::btree_set(0_usize..300, 0..12)
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|index| *index < records).collect();
            let (passed, parked, attempts) = run(records, &bad);
            prop_assert_eq!(passed, (0..records).collect::<Vec<_>>());
            prop_assert_eq!(&parked, &bad);
            prop_assert!(attempts <= 1 + bad.len() * (2 * 9 + 1), "{} attempts for {} bad", attempts, bad.len());
        }

        #[test]
        fn what_was_folded_before_is_left_out(records in 1_usize..100, splits in 0_usize..8, index in 0_usize..120) {
            let mut plan = Plan::new(records);
            for _ in 0..splits {
                plan.split();
            }
            plan.skip_to(index);
            let mut left = Vec::new();
            while let Some(part) = plan.next() {
                left.extend(part);
                plan.done();
            }
            prop_assert_eq!(left, (index.min(records)..records).collect::<Vec<_>>());
        }
    }

    /// The parts in the order in which they are folded.
    fn parts(mut plan: Plan) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        while let Some(part) = plan.next() {
            parts.push(part);
            plan.done();
        }
        parts
    }

    #[test]
    fn pieces_and_what_is_singled_out_cover_the_batch_in_order() {
        for records in 1..100 {
            let mut plan = Plan::new(records);
            assert_eq!(plan.cut(), records > 1);
            let pieces = parts(plan);
            assert_eq!(pieces.iter().cloned().flatten().collect::<Vec<_>>(), (0..records).collect::<Vec<_>>());
            assert!(pieces.len() <= PIECES && pieces.iter().all(|piece| !piece.is_empty()), "{pieces:?}");
        }
        for (index, expected) in [
            (0, vec![0..1, 1..5]),
            (2, vec![0..2, 2..3, 3..5]),
            (4, vec![0..4, 4..5]),
            (5, std::iter::once(0..5).collect()),
        ] {
            let mut plan = Plan::new(5);
            plan.single_out(index);
            assert_eq!(parts(plan), expected, "{index}");
        }
    }

    #[test]
    fn one_bad_event_in_two_thousand_costs_few_transactions() {
        let (_, _, attempts) = run(2_000, &BTreeSet::from([1_234]));
        assert!(attempts <= 24, "{attempts}");
    }
}
