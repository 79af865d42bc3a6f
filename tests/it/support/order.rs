//! The checker of the promises about loss and order, separate from everything that it checks.
//!
//! It is given, per key, the ids that were committed (ascending) and the ids as Kafka has them (in topic order).
//! Allowed: the committed ids in order, and after a crash a *rerun*: a step back to an id that was sent before, from
//! where it goes on with every id that follows, in order. A rerun may be cut short by another rerun. A rerun that ends
//! before it has caught up, so that the stream jumps forward again, is a *late* repeat: what the buffers of a paused
//! producer still held. It is harmless for a consumer that ignores known ids, but only a zombie may cause it, so it is
//! counted apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

/// What the checker found. [`Report::violations`] is empty when all promises held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One sentence each.
    pub violations: Vec<String>,
    /// Records that repeat an id, reruns and late repeats together.
    pub repeats: usize,
    /// Steps back that start a rerun, counted over all keys.
    pub reruns: usize,
    /// Records that belong to late repeats.
    pub late: usize,
}

impl Report {
    /// Fails with everything that was found, at most 20 sentences.
    #[track_caller]
    pub fn expect_kept(&self) -> &Self {
        if !self.violations.is_empty() {
            let mut text = format!("{} violations of loss or order:", self.violations.len());
            for violation in self.violations.iter().take(20) {
                write!(text, "\n  {violation}").expect("a String grows");
            }
            panic!("{text}");
        }
        self
    }

    #[track_caller]
    pub fn expect_no_repeats(&self) -> &Self {
        assert_eq!(self.repeats, 0, "records that repeat an id");
        self
    }

    #[track_caller]
    pub fn expect_no_late_repeats(&self) -> &Self {
        assert_eq!(self.late, 0, "records repeated late, outside a rerun that catches up");
        self
    }
}

/// Checks every key of either side. `committed` must be ascending per key; `sent` is in topic order.
pub fn check<K: Ord + Clone + std::fmt::Debug + std::hash::Hash>(
    committed: &HashMap<K, Vec<i64>>,
    sent: &HashMap<K, Vec<i64>>,
) -> Report {
    let keys: BTreeSet<&K> = committed.keys().chain(sent.keys()).collect();
    let mut report = Report::default();
    for key in keys {
        let nothing = Vec::new();
        check_key(key, committed.get(key).unwrap_or(&nothing), sent.get(key).unwrap_or(&nothing), &mut report);
    }
    report
}

fn check_key<K: std::fmt::Debug>(key: &K, committed: &[i64], sent: &[i64], report: &mut Report) {
    assert!(committed.is_sorted(), "the caller gives committed ids in order");
    let places: BTreeMap<i64, usize> = committed.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    // `next` is the place of the next id never sent before; `at` follows the record just read.
    let (mut next, mut at): (usize, Option<usize>) = (0, None);
    let mut rerun_length = 0;
    for id in sent {
        let Some(&place) = places.get(id) else {
            report.violations.push(format!("key {key:?}: id {id} was sent and never committed"));
            continue;
        };
        let continues = at.map_or(0, |at| at + 1) == place;
        if place < next {
            report.repeats += 1;
            if continues {
                rerun_length += 1;
            } else if at.is_some_and(|at| place > at) {
                // Forward, past ids that were sent before: what came before it did not catch up.
                report.late += rerun_length;
                report.violations.push(format!("key {key:?}: id {id} repeats with a hole before it"));
                rerun_length = 1;
            } else {
                report.reruns += 1;
                rerun_length = 1;
            }
        } else {
            if place > next {
                report.violations.push(format!("key {key:?}: id {id} was sent before {}", committed[next]));
            } else if !continues {
                report.late += rerun_length;
            }
            rerun_length = 0;
            next = place + 1;
        }
        at = Some(place);
    }
    let sent: BTreeSet<&i64> = sent.iter().collect();
    let lost: Vec<&i64> = committed.iter().filter(|id| !sent.contains(id)).collect();
    if let Some(first) = lost.first() {
        report.violations.push(format!(
            "key {key:?}: {} of {} ids lost, the first is {first}",
            lost.len(),
            committed.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(committed: &[i64], sent: &[i64]) -> Report {
        check(&HashMap::from([("k", committed.to_vec())]), &HashMap::from([("k", sent.to_vec())]))
    }

    #[test]
    fn the_committed_ids_in_order_keep_the_promise() {
        assert_eq!(report(&[3, 5, 9], &[3, 5, 9]), Report::default());
    }

    #[test]
    fn a_lost_id_is_seen_in_the_middle_and_at_the_end() {
        assert_eq!(report(&[1, 2, 3], &[1, 2]).violations, ["key \"k\": 1 of 3 ids lost, the first is 3"]);
        let middle = report(&[1, 2, 3], &[1, 3]).violations;
        assert_eq!(middle, ["key \"k\": id 3 was sent before 2", "key \"k\": 1 of 3 ids lost, the first is 2"]);
    }

    #[test]
    fn a_key_that_never_arrived_is_lost() {
        let report = check(&HashMap::from([("gone", vec![1])]), &HashMap::new());
        assert_eq!(report.violations, ["key \"gone\": 1 of 1 ids lost, the first is 1"]);
    }

    #[test]
    fn swapped_ids_are_seen_even_when_none_is_lost() {
        assert!(!report(&[1, 2, 3], &[2, 1, 3]).violations.is_empty());
        assert!(!report(&[1, 2, 3], &[1, 3, 2]).violations.is_empty());
    }

    #[test]
    fn an_id_that_was_rolled_back_must_not_be_sent() {
        assert_eq!(report(&[1, 3], &[1, 2, 3]).violations, ["key \"k\": id 2 was sent and never committed"]);
    }

    #[test]
    fn a_rerun_from_any_earlier_id_is_allowed_and_counted() {
        let found = report(&[1, 2, 3, 4, 5], &[1, 2, 3, 2, 3, 4, 5]);
        assert_eq!(found, Report { repeats: 2, reruns: 1, ..Report::default() });
        let whole = report(&[1, 2], &[1, 2, 1, 2]);
        assert_eq!(whole, Report { repeats: 2, reruns: 1, ..Report::default() });
    }

    #[test]
    fn a_rerun_may_be_cut_short_by_another() {
        let found = report(&[1, 2, 3, 4], &[1, 2, 3, 1, 2, 1, 2, 3, 4]);
        assert_eq!(found, Report { repeats: 5, reruns: 2, ..Report::default() });
    }

    #[test]
    fn the_same_id_twice_in_a_row_is_a_rerun_of_one() {
        assert_eq!(report(&[1, 2], &[1, 1, 2]), Report { repeats: 1, reruns: 1, ..Report::default() });
    }

    #[test]
    fn a_rerun_with_a_hole_is_a_violation() {
        let found = report(&[1, 2, 3, 4], &[1, 2, 3, 1, 3, 4]);
        assert_eq!(found.violations, ["key \"k\": id 3 repeats with a hole before it"]);
    }

    #[test]
    fn a_rerun_that_skips_to_new_ids_is_late() {
        let found = report(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 2, 3, 5]);
        assert_eq!(found, Report { repeats: 2, reruns: 1, late: 2, ..Report::default() });
    }

    #[test]
    fn a_single_late_record_is_late() {
        assert_eq!(report(&[1, 2, 3], &[1, 2, 1, 3]).late, 1);
    }

    #[test]
    fn a_new_id_that_overtakes_in_a_rerun_is_seen() {
        assert!(!report(&[1, 2, 3, 4], &[1, 2, 1, 2, 4, 3]).violations.is_empty());
    }
}
