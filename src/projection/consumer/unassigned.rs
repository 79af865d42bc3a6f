//! Partitions that no member of the group has been given.
//!
//! The member that hands out the partitions asks Kafka which ones there are. It leaves out a topic that is missing at
//! that moment because it is just being deleted and created again. librdkafka does not join again afterwards: compared
//! with what it knew before, the topic has not changed. So each member compares what the group has handed out with the
//! partitions that exist, and joins again when some are left without a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;

use super::Reader;
use super::membership::subscribe_to;
use super::positions::IDS_WAIT;
use crate::broker::raw;
use crate::clock::monotonic;
use crate::error::Result;
use crate::projection::record::Place;
use crate::retry::Backoff;
use crate::signals::{Situation, Wait};

/// Between two looks at the group. Only a member that does not have every partition itself looks.
const LOOK_EVERY: Duration = Duration::from_secs(6);
/// How long partitions stay without a reader before the member joins again: more than one look.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before it joins once more, first and longest wait. The others have to stop reading for it.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// What is known of partitions without a reader.
#[derive(Debug)]
pub(super) struct Unassigned {
    places: BTreeSet<Place>,
    since: Duration,
    looked: Duration,
    not_before: Duration,
    pauses: Backoff,
}

impl Default for Unassigned {
    fn default() -> Self {
        let (places, zero) = (BTreeSet::new(), Duration::ZERO);
        let pauses = Backoff::new(AGAIN.0, AGAIN.1);
        Self { places, since: zero, looked: zero, not_before: zero, pauses }
    }
}

impl Unassigned {
    pub(super) fn waits(&self) -> impl Iterator<Item = Wait> {
        self.places.iter().map(|place| Wait::new(Situation::Unassigned).of_partition(&place.topic, place.partition))
    }

    /// Takes in what a look has found. True when it is time to join again.
    fn found(&mut self, places: BTreeSet<Place>, now: Duration) -> bool {
        if places != self.places {
            self.since = now;
            self.places = places;
        }
        if self.places.is_empty() {
            self.pauses.reset();
            return false;
        }
        if now.saturating_sub(self.since) < PATIENCE || now < self.not_before {
            return false;
        }
        self.not_before = now + self.pauses.next_wait();
        true
    }
}

impl Reader {
    /// Compares the partitions that exist, as many of each topic, with those that somebody has.
    pub(super) fn look_for_unassigned(&mut self, exist: &BTreeMap<String, i32>) -> Result<()> {
        let now = monotonic();
        if !self.joined || self.unanswered || now.saturating_sub(self.unassigned.looked) < LOOK_EVERY {
            return Ok(());
        }
        self.unassigned.looked = now;
        let own: BTreeSet<&Place> = self.assignment.places().collect();
        let all = exist.iter().flat_map(|(topic, partitions)| {
            (0..*partitions).map(|partition| Place { topic: topic.clone(), partition })
        });
        let others = all.filter(|place| !own.contains(place));
        let others: BTreeSet<_> = others.map(|place| (place.topic, place.partition)).collect();
        let places = match others.is_empty() {
            true => BTreeSet::new(),
            false => match raw::group(self.consumer.client(), self.store.group(), IDS_WAIT) {
                Ok(group) => {
                    let unassigned = group.unassigned(others).into_iter();
                    unassigned.map(|(topic, partition)| Place { topic, partition }).collect()
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "who has which partition is unknown");
                    return Ok(());
                }
            },
        };
        if !self.unassigned.found(places, now) {
            return Ok(());
        }
        let partitions = self.unassigned.places.len();
        let first = self.unassigned.places.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(partitions, first, "no member of the group has these partitions: joining the group again");
        subscribe_to(&self.consumer, &self.settings.topics)?;
        self.joined = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(partitions: &[i32]) -> BTreeSet<Place> {
        partitions.iter().map(|partition| Place { topic: "t".to_owned(), partition: *partition }).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    #[test]
    fn partitions_that_stay_without_a_reader_make_the_member_join_again() {
        let mut unassigned = Unassigned::default();
        assert!(!unassigned.found(places(&[1, 2]), at(0)));
        assert_eq!(unassigned.waits().count(), 2);
        assert!(!unassigned.found(places(&[1, 2]), at(6)), "not yet");
        assert!(!unassigned.found(places(&[1]), at(12)), "others now: the group is still at work");
        assert!(unassigned.found(places(&[1]), at(24)));
        assert!(!unassigned.found(places(&[1]), at(36)), "not so soon again");
        assert!(unassigned.found(places(&[1]), at(24 + 60)));
        assert!(!unassigned.found(places(&[1]), at(24 + 60 + 59)), "each time later");
        assert!(!unassigned.found(places(&[]), at(200)));
        assert_eq!(unassigned.waits().count(), 0);
    }
}
