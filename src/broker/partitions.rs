//! Which partitions currently accept records, shared by all lanes of an instance.
//!
//! Metadata comes from the task that queries the cluster ([`topics`](super::topics)), failed attempts from the senders.
//! Only records for a partition in trouble wait: their keys are held until the partition works again.

mod outage;
mod report;
mod trouble;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::request_size::RequestLimits;
use crate::clock::monotonic;
use crate::failpoint::{Fault, fault};
use outage::{Known, Outage};
pub use trouble::{Down, Trouble};

/// Electing a leader takes less; keys are not held for that.
const ELECTION: Duration = Duration::from_secs(2);
/// Without any acknowledgement for this long, a partition that the metadata finds nothing wrong with is called silent.
const SILENT: Duration = Duration::from_secs(8);
/// A cluster that answers has not been silent itself for longer than this.
const STEADY: Duration = Duration::from_secs(4);
/// Failed attempts in a row after which a partition counts as refusing.
const STRIKES: u32 = 3;

/// What metadata says about one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub has_leader: bool,
    pub in_sync: usize,
}

#[derive(Debug, Default)]
struct Inner {
    topics: Mutex<HashMap<String, Known>>,
    /// Outages of all topics, so that the lock is not taken while all is well.
    entries: AtomicUsize,
    suspects: Mutex<HashSet<String>>,
    recovered: Mutex<BTreeSet<String>>,
    /// Topics that existed, and when the cluster reported that they no longer do.
    gone: Mutex<HashMap<String, Duration>>,
    wake: Notify,
    requests: RequestLimits,
}

/// Shared by lanes and publishers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Partitions(Arc<Inner>);

impl Partitions {
    fn topics(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_well(&self) -> bool {
        self.0.entries.load(Ordering::Relaxed) == 0
    }

    fn recount(&self, topics: &HashMap<String, Known>) {
        self.0.entries.store(topics.values().map(|known| known.entries.len()).sum(), Ordering::Relaxed);
    }

    /// The partition of a key. `None`: the topic is not known, or there is no key and the client chooses.
    pub fn of(&self, topic: &str, key: Option<&str>) -> Option<i32> {
        self.topics().get(topic).and_then(|known| known.place(key))
    }

    /// Records the cluster's answer about a topic.
    pub fn learnt(&self, topic: &str, places: &[Place], min_in_sync: Option<u32>) {
        self.topics().entry(topic.to_owned()).or_default().min_in_sync = min_in_sync;
        self.seen(topic, places);
    }

    /// The same without the topic's settings.
    pub fn seen(&self, topic: &str, places: &[Place]) {
        let now = monotonic();
        self.gone().remove(topic);
        let mut topics = self.topics();
        let known = topics.entry(topic.to_owned()).or_default();
        known.count = i32::try_from(places.len()).unwrap_or(i32::MAX);
        if now.saturating_sub(known.asked) > STEADY {
            known.steady_since = now;
        }
        known.asked = now;
        let min_in_sync = known.min_in_sync;
        let mut over = false;
        for (partition, place) in (0..).zip(places) {
            let wanted = min_in_sync.map_or(0, |wanted| wanted as usize);
            let trouble = match place {
                Place { has_leader: false, .. } => Some(Trouble::NoLeader),
                Place { in_sync, .. } if *in_sync < wanted => Some(Trouble::UnderReplicated),
                Place { .. } => None,
            };
            match (trouble, known.entries.get_mut(&partition)) {
                (Some(trouble), Some(entry)) => (entry.trouble, entry.seen) = (trouble, true),
                (Some(trouble), None) => {
                    known.entries.insert(partition, Outage { seen: true, ..Outage::new(trouble, now) });
                }
                (None, Some(entry)) if entry.seen => {
                    over |= entry.confirmed;
                    if entry.confirmed {
                        tracing::info!(topic, partition, "the partition accepts records again");
                    }
                    known.entries.remove(&partition);
                }
                (None, _) => {}
            }
        }
        self.recount(&topics);
        drop(topics);
        if over {
            self.recover(topic);
        }
    }

    /// What topics accept at once.
    pub fn requests(&self) -> &RequestLimits {
        &self.0.requests
    }

    /// Forgets topics that are gone or unused.
    pub fn forget(&self, topic: &str) {
        self.0.requests.forget(topic);
        let mut topics = self.topics();
        if topics.remove(topic).is_some_and(|known| !known.entries.is_empty()) {
            self.recount(&topics);
            drop(topics);
            self.recover(topic);
        }
    }

    /// The cluster says that a topic does not exist.
    pub(super) fn vanished(&self, topic: &str) {
        let was_there = self.topics().contains_key(topic);
        if was_there || self.gone().contains_key(topic) {
            self.gone().insert(topic.to_owned(), monotonic());
        }
        self.forget(topic);
    }

    /// Whether a topic that existed is gone, according to the cluster after `since`.
    pub(super) fn is_gone(&self, topic: &str, since: Duration) -> bool {
        self.gone().get(topic).is_some_and(|asked| *asked >= since)
    }

    fn gone(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.0.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether events with this key must wait now. If only an attempt can tell whether a partition works again, one
    /// event passes now and then. `at_once`: an election counts as well. A transaction with a partition that has no
    /// leader can neither be committed nor aborted, and blocks the next one of its shard.
    pub fn down(&self, topic: &str, key: Option<&str>, at_once: bool) -> Option<Down> {
        if self.all_well() || fault(Fault::PartitionsIgnored) {
            return None;
        }
        let now = monotonic();
        let mut topics = self.topics();
        let known = topics.get_mut(topic).filter(|known| !known.entries.is_empty())?;
        let partition = match known.place(key) {
            Some(partition) => partition,
            // The client takes another partition as long as there is one.
            None if known.entries.len() < usize::try_from(known.count).unwrap_or(0) => return None,
            None => known.entries.keys().next().copied()?,
        };
        let entry = known.entries.get_mut(&partition)?;
        if entry.seen && (at_once || now.saturating_sub(entry.since) >= ELECTION) {
            entry.confirm(topic, partition);
        }
        if !entry.confirmed {
            return None;
        }
        if !entry.seen && now >= entry.probe_at {
            entry.postpone(now);
            return None;
        }
        Some(Down { topic: topic.to_owned(), partition, trouble: entry.trouble })
    }

    /// A partition for a record without a key, where some are in trouble. `None`: let the client choose.
    pub fn alternative(&self, topic: &str) -> Option<i32> {
        if self.all_well() {
            return None;
        }
        let topics = self.topics();
        let known = topics.get(topic).filter(|known| !known.entries.is_empty())?;
        let good: Vec<i32> = (0..known.count).filter(|partition| !known.entries.contains_key(partition)).collect();
        (!good.is_empty()).then(|| good[fastrand::usize(..good.len())])
    }

    /// Requests fresh metadata for topics whose records are not acknowledged.
    pub fn suspect<'a>(&self, topics: impl Iterator<Item = &'a str>) {
        let mut suspects = self.0.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            if !suspects.contains(topic) {
                suspects.insert(topic.to_owned());
            }
        }
        self.0.wake.notify_one();
    }

    /// What [`Partitions::suspect`] asked about since the last call.
    pub fn suspects(&self) -> HashSet<String> {
        std::mem::take(&mut *self.0.suspects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a partition is suspected.
    pub async fn suspected(&self) {
        self.0.wake.notified().await;
    }

    /// Why a record has not been acknowledged since `since`, as far as the cluster has reported after that.
    pub(super) fn stuck(&self, topic: &str, key: Option<&str>, since: Duration) -> Option<Trouble> {
        let topics = self.topics();
        let known = topics.get(topic).filter(|known| known.asked >= since)?;
        // After everything was frozen, it must be given time after it resumes.
        let silent = monotonic().saturating_sub(since.max(known.steady_since)) > SILENT;
        let silent = silent.then_some(Trouble::Silent);
        match known.place(key) {
            Some(partition) => known.entries.get(&partition).map(|entry| entry.trouble).or(silent),
            None => silent,
        }
    }

    /// Records were not accepted for this reason; later records for the partition wait.
    pub(super) fn confirm(&self, topic: &str, partition: i32, trouble: Trouble) {
        let now = monotonic();
        let mut topics = self.topics();
        let known = topics.entry(topic.to_owned()).or_default();
        let entry = known.entries.entry(partition).or_insert_with(|| Outage::new(trouble, now));
        entry.confirm(topic, partition);
        entry.postpone(now);
        self.recount(&topics);
    }

    /// An attempt ended with an error that no record caused.
    pub(super) fn failed(&self, topic: &str, partition: i32, code: RDKafkaErrorCode) {
        // The topic may be gone.
        self.suspect(std::iter::once(topic));
        let now = monotonic();
        let mut topics = self.topics();
        let known = topics.entry(topic.to_owned()).or_default();
        let entry = known
            .entries
            .entry(partition)
            .or_insert_with(|| Outage { strikes: 0, ..Outage::new(Trouble::Refusing(code), now) });
        entry.strikes += 1;
        if entry.strikes == 1 {
            let code = code.to_string();
            tracing::warn!(topic, partition, code, "Kafka did not accept records of a partition; they will be resent");
        }
        if entry.strikes >= STRIKES {
            entry.confirm(topic, partition);
            entry.postpone(now);
        }
        self.recount(&topics);
    }

    /// Whether acknowledgements matter to anyone.
    pub(super) fn is_watching(&self) -> bool {
        !self.all_well()
    }

    /// A record was acknowledged.
    pub(super) fn works(&self, topic: &str, partition: i32) {
        let mut topics = self.topics();
        let Some(known) = topics.get_mut(topic) else { return };
        // Metadata may lag behind; it then reports the problem again.
        let Some(entry) = known.entries.remove(&partition) else { return };
        self.recount(&topics);
        drop(topics);
        if entry.confirmed {
            tracing::info!(topic, partition, "the partition accepts records again");
            self.recover(topic);
        }
    }

    fn recover(&self, topic: &str) {
        self.0.recovered.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
    }

    /// Topics of partitions that work again since the last call.
    pub fn recovered(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.recovered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Topics with a partition in trouble.
    pub fn troubled(&self) -> HashSet<String> {
        if self.all_well() {
            return HashSet::new();
        }
        let topics = self.topics();
        topics.iter().filter(|(_, known)| !known.entries.is_empty()).map(|(topic, _)| topic.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::murmur2::murmur2;
    use super::*;

    const GOOD: Place = Place { has_leader: true, in_sync: 2 };
    const OFFLINE: Place = Place { has_leader: false, in_sync: 0 };

    /// A key of this partition of two.
    fn key(partition: i32) -> String {
        let fits = |key: &String| (murmur2(key.as_bytes()) & 0x7fff_ffff) % 2 == partition.cast_unsigned();
        (0..).map(|n| format!("k{n}")).find(fits).expect("one of two")
    }

    fn down(partitions: &Partitions, partition: i32) -> Option<Trouble> {
        partitions.down("t", Some(&key(partition)), false).map(|down| down.trouble)
    }

    #[test]
    fn a_partition_without_a_leader_is_waited_for_until_metadata_shows_one() {
        let partitions = Partitions::default();
        partitions.learnt("t", &[GOOD, OFFLINE], Some(1));
        assert_eq!(down(&partitions, 1), None, "it may be an election");
        assert_eq!(partitions.stuck("t", Some(&key(1)), Duration::ZERO), Some(Trouble::NoLeader));
        assert!(partitions.down("t", Some(&key(1)), true).is_some(), "a transaction must not meet it");
        partitions.confirm("t", 1, Trouble::NoLeader);
        assert_eq!((down(&partitions, 0), down(&partitions, 1)), (None, Some(Trouble::NoLeader)));
        assert_eq!(partitions.down("t", None, true), None, "without a key another partition takes it");
        assert_eq!(partitions.alternative("t"), Some(0));
        assert_eq!(partitions.report(), (vec!["partition 1 of t has no leader".to_owned()], [1, 0, 0, 0]));
        partitions.learnt("t", &[GOOD, GOOD], Some(1));
        assert_eq!(down(&partitions, 1), None);
        assert_eq!(partitions.recovered(), BTreeSet::from(["t".to_owned()]));
    }

    #[test]
    fn a_topic_that_was_there_and_is_not_any_more_is_gone() {
        let partitions = Partitions::default();
        let before = monotonic();
        partitions.vanished("never");
        assert!(!partitions.is_gone("never", before), "it may be made soon");
        partitions.learnt("t", &[GOOD], None);
        partitions.vanished("t");
        assert!(partitions.is_gone("t", before));
        assert!(!partitions.is_gone("t", monotonic() + Duration::from_secs(1)), "that was told before");
        partitions.learnt("t", &[GOOD], None);
        assert!(!partitions.is_gone("t", before));
    }

    #[test]
    fn too_few_replicas_in_sync_are_told_from_enough() {
        let partitions = Partitions::default();
        partitions.learnt("t", &[GOOD, GOOD], Some(3));
        assert_eq!(partitions.stuck("t", Some(&key(0)), Duration::ZERO), Some(Trouble::UnderReplicated));
        partitions.learnt("t", &[GOOD, GOOD], Some(2));
        assert_eq!(partitions.stuck("t", Some(&key(0)), Duration::ZERO), None);
        assert!(partitions.troubled().is_empty());
    }

    #[test]
    fn an_answer_from_before_the_silence_explains_nothing() {
        let partitions = Partitions::default();
        partitions.learnt("t", &[GOOD, OFFLINE], None);
        assert_eq!(partitions.stuck("t", Some(&key(1)), monotonic() + Duration::from_secs(1)), None);
    }

    #[test]
    fn what_is_refused_again_and_again_waits_until_one_gets_through() {
        let partitions = Partitions::default();
        partitions.learnt("t", &[GOOD, GOOD], None);
        for _ in 0..STRIKES {
            assert_eq!(down(&partitions, 1), None);
            partitions.failed("t", 1, RDKafkaErrorCode::KafkaStorageError);
        }
        assert!(matches!(down(&partitions, 1), Some(Trouble::Refusing(_))));
        // Metadata that finds nothing wrong does not know.
        partitions.learnt("t", &[GOOD, GOOD], None);
        assert!(down(&partitions, 1).is_some());
        partitions.works("t", 1);
        assert_eq!(down(&partitions, 1), None);
        assert_eq!(partitions.recovered().len(), 1);
    }
}
