//! Partitions in trouble as `/readyz?verbose` and the metrics show them.

use super::outage::Outage;
use super::{Down, Partitions, Trouble};

/// Partitions that `/readyz?verbose` names.
const NAMED: usize = 10;

impl Partitions {
    pub(in crate::broker) fn any_leaderless(&self) -> bool {
        let leaderless = |entry: &Outage| entry.trouble == Trouble::NoLeader;
        !self.all_well() && self.topics().values().any(|known| known.entries.values().any(leaderless))
    }

    /// Partitions that have no leader, in words, as far as they are known.
    pub fn leaderless(&self) -> Vec<String> {
        if self.all_well() {
            return Vec::new();
        }
        let topics = self.topics();
        let entries = topics.iter().flat_map(|(topic, known)| known.entries.iter().map(move |entry| (topic, entry)));
        let down =
            entries.filter(|(_, (_, entry))| entry.trouble == Trouble::NoLeader).map(|(topic, (partition, entry))| {
                Down { topic: topic.clone(), partition: *partition, trouble: entry.trouble }.to_string()
            });
        down.take(NAMED).collect()
    }

    /// For `/readyz?verbose`: the partitions that keys wait for, and how many of each state there are.
    pub fn report(&self) -> (Vec<String>, [i64; 4]) {
        let (mut notes, mut counts) = (Vec::new(), [0; 4]);
        if self.all_well() {
            return (notes, counts);
        }
        let mut more = 0_usize;
        for (topic, known) in &*self.topics() {
            for (partition, entry) in known.entries.iter().filter(|(_, entry)| entry.confirmed) {
                let trouble = entry.trouble;
                let place = Trouble::STATES.iter().position(|state| *state == trouble.state()).unwrap_or(0);
                counts[place] += 1;
                if notes.len() < NAMED {
                    notes.push(Down { topic: topic.clone(), partition: *partition, trouble }.to_string());
                } else {
                    more += 1;
                }
            }
        }
        if more > 0 {
            notes.push(format!("{more} more partitions do not accept records"));
        }
        (notes, counts)
    }
}
