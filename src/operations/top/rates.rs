//! Rates: how fast counters grew over the last few seconds. Pure.
//!
//! Sessions report to PostgreSQL's statistics about once a second, so that from one second to the next a counter may
//! stand still or jump; over five seconds that evens out.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::operations::shards;
use crate::outbox::inspect::live::{Activity, Progress};

/// Seconds.
const WINDOW: f64 = 5.0;

/// How fast the outbox works. What counts rows is an estimate: see `table_activity.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    pub over_seconds: f64,
    /// Exact: the shards number their batches.
    pub batches_per_second: f64,
    pub inserted_rows_per_second_estimate: f64,
    /// A row is updated once when it is published. It is more than once for rows that are held or fail on the way.
    pub updated_rows_per_second_estimate: f64,
    /// By the cleaner.
    pub deleted_rows_per_second_estimate: f64,
}

#[derive(Debug)]
struct Sample {
    activity: Activity,
    batches: BTreeMap<i16, i64>,
    /// Sum of the positions by group and topic, over the same partitions.
    folded: BTreeMap<(String, String), (usize, i64)>,
}

/// The samples of the last few seconds, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

impl Window {
    pub(super) fn add(&mut self, activity: &Activity, shards: &[shards::Line], progress: &[Progress]) {
        let mut folded: BTreeMap<(String, String), (usize, i64)> = BTreeMap::new();
        for at in progress {
            let sum = folded.entry((at.group.clone(), at.topic.clone())).or_default();
            *sum = (sum.0 + 1, sum.1.saturating_add(at.next_offset));
        }
        let batches = shards.iter().map(|line| (line.shard, line.batch)).collect();
        let reset = self.samples.back().is_some_and(|last| is_reset(&last.activity, activity));
        if reset {
            self.samples.clear();
        }
        self.samples.push_back(Sample { activity: *activity, batches, folded });
        // One that is older than the window stays, to compare with.
        while self.samples.get(1).is_some_and(|next| activity.at - next.activity.at >= WINDOW) {
            self.samples.pop_front();
        }
    }

    fn ends(&self) -> Option<(&Sample, &Sample, f64)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let over = last.activity.at - first.activity.at;
        (over > 0.0).then_some((first, last, over))
    }

    /// `None` with fewer than two samples.
    pub(super) fn rates(&self) -> Option<Rates> {
        let (first, last, over) = self.ends()?;
        let grown = |counter: fn(&Activity) -> i64| (counter(&last.activity) - counter(&first.activity)) as f64 / over;
        // A shard that was not there before has no growth to tell.
        let batches: i64 =
            last.batches.iter().filter_map(|(shard, now)| Some((now - first.batches.get(shard)?).max(0))).sum();
        Some(Rates {
            over_seconds: over,
            batches_per_second: batches as f64 / over,
            inserted_rows_per_second_estimate: grown(|activity| activity.inserted),
            updated_rows_per_second_estimate: grown(|activity| activity.updated),
            deleted_rows_per_second_estimate: grown(|activity| activity.deleted),
        })
    }

    /// How fast a group goes through a topic. `None` while that cannot be told, or when the partitions are others than
    /// before.
    pub(super) fn records_per_second(&self, group: &str, topic: &str) -> Option<f64> {
        let (first, last, over) = self.ends()?;
        let key = (group.to_owned(), topic.to_owned());
        let ((was, from), (is, to)) = (first.folded.get(&key)?, last.folded.get(&key)?);
        (was == is).then(|| (to - from).max(0) as f64 / over)
    }
}

/// Counters go back when the statistics were reset, by hand or by a crash of the server; time goes back with a
/// failover.
fn is_reset(before: &Activity, now: &Activity) -> bool {
    now.at <= before.at
        || now.inserted < before.inserted
        || now.updated < before.updated
        || now.deleted < before.deleted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(shard: i16, batch: i64) -> shards::Line {
        shards::Line {
            shard,
            owner: None,
            epoch: 0,
            lease_left_seconds: None,
            batch,
            in_flight: 0,
            low_id: 0,
            held_keys: 0,
            oldest_pending_seconds: None,
        }
    }

    fn activity(at: f64, inserted: i64) -> Activity {
        Activity { at, rows: 0, inserted, updated: inserted / 2, deleted: 0 }
    }

    #[test]
    fn a_rate_is_over_the_last_five_seconds() {
        let mut window = Window::default();
        for second in 0..20 {
            // Nothing for ten seconds, then a hundred a second.
            let inserted = 100 * (second - 10).max(0);
            window.add(&activity(second as f64, inserted), &[shard(0, inserted / 10), shard(1, 7)], &[]);
        }
        let rates = window.rates().unwrap();
        assert_eq!((rates.over_seconds, rates.inserted_rows_per_second_estimate), (5.0, 100.0));
        assert_eq!((rates.updated_rows_per_second_estimate, rates.batches_per_second), (50.0, 10.0));
    }

    #[test]
    fn one_look_tells_no_rate_and_neither_does_a_counter_that_went_back() {
        let mut window = Window::default();
        window.add(&activity(1.0, 100), &[], &[]);
        assert_eq!(window.rates(), None);
        window.add(&activity(2.0, 0), &[], &[]);
        assert_eq!(window.rates(), None);
        window.add(&activity(3.0, 30), &[], &[]);
        assert_eq!(window.rates().unwrap().inserted_rows_per_second_estimate, 30.0);
    }

    #[test]
    fn looks_that_are_rare_are_compared_with_the_one_before() {
        let mut window = Window::default();
        for minute in 0..3 {
            window.add(&activity(60.0 * minute as f64, 60 * minute * minute), &[], &[]);
        }
        let rates = window.rates().unwrap();
        assert_eq!((rates.over_seconds, rates.inserted_rows_per_second_estimate), (60.0, 3.0));
    }

    #[test]
    fn a_partition_that_came_makes_no_jump() {
        let at = |partition, next_offset| Progress {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition,
            next_offset,
            idle: 0.0,
            next_known: None,
        };
        let mut window = Window::default();
        window.add(&activity(1.0, 0), &[], &[at(0, 10)]);
        window.add(&activity(2.0, 0), &[], &[at(0, 30)]);
        assert_eq!(window.records_per_second("g", "t"), Some(20.0));
        assert_eq!(window.records_per_second("g", "other"), None);
        window.add(&activity(3.0, 0), &[], &[at(0, 30), at(1, 1_000)]);
        assert_eq!(window.records_per_second("g", "t"), None);
    }
}
