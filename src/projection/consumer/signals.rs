//! What the consumer says of itself: the gauges of lag, and what it waits for.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::statistics::Statistics;

use super::{ERROR_LASTS, Reader};
use crate::clock;
use crate::projection::assignment::{Reading, Why};
use crate::projection::position::Stopped;
use crate::signals::{Situation, Wait};

/// A broker that has sent nothing for so long says nothing of where its partitions end: it is asked again and again
/// while they are read.
const BROKER_SILENCE: Duration = Duration::from_secs(15);

/// How long an ordinary rebalance may leave a member without an answer.
const REJOINS_WITHIN: Duration = Duration::from_secs(15);

impl Reader {
    /// Takes lag and reachability from the client's statistics, if there are new ones.
    pub(super) fn observe(&mut self) {
        let Some(statistics) = self.consumer.context().take_statistics() else { return };
        self.brokers_down = !statistics.brokers.values().any(|broker| broker.state == "UP");
        self.open.clear();
        self.unheard.clear();
        for Reading { place, next_offset, .. } in self.assignment.reading() {
            let topic = statistics.topics.get(&place.topic);
            let Some(partition) = topic.and_then(|topic| topic.partitions.get(&place.partition)) else { continue };
            if !is_heard(&statistics, partition.leader) {
                if partition.leader >= 0 && !self.brokers_down {
                    self.unheard.insert(place.clone(), partition.leader);
                }
                continue;
            }
            // Not the last stable offset: what lies behind an open transaction is lag as well.
            if partition.hi_offset >= 0 {
                self.meters.set_lag(place, partition.hi_offset - next_offset);
            }
            if partition.ls_offset >= 0
                && partition.ls_offset < partition.hi_offset
                && next_offset >= partition.ls_offset
            {
                self.open.insert(place.clone());
            }
        }
    }

    /// The consumer ends: whoever reads its partitions next says how far behind they are.
    pub(super) fn forget_gauges(&mut self) {
        self.forget_partitions();
        self.meters.forget_stopped();
    }

    /// The partitions are not ours any more.
    pub(super) fn forget_partitions(&mut self) {
        self.assignment.places().for_each(|place| self.meters.forget_lag(place));
        self.open.clear();
        self.unheard.clear();
    }

    /// Tells the status what is waited for, if anything.
    pub(super) fn report(&mut self) {
        let now = clock::monotonic();
        self.errors.retain(|_, (_, seen)| now.saturating_sub(*seen) < ERROR_LASTS);
        let mut waits = Vec::new();
        if !self.joined || self.revoked_at.is_some_and(|at| now.saturating_sub(at) >= REJOINS_WITHIN) {
            waits.push(Wait::new(Situation::NotJoined));
        }
        if self.brokers_down {
            waits.push(Wait::new(Situation::KafkaAway).because("no Kafka broker is connected"));
        }
        waits.extend(self.look_failed.iter().map(|failure| Wait::new(Situation::PostgresAway).because(failure)));
        waits.extend(self.folding.waits());
        waits.extend(self.unassigned.waits());
        waits.extend(self.errors.iter().map(|(error, (situation, _))| Wait::new(*situation).because(error)));
        let open = self
            .open
            .iter()
            .map(|place| Wait::new(Situation::OpenTransaction).of_partition(&place.topic, place.partition));
        waits.extend(open);
        waits.extend(self.unheard.iter().map(|(place, leader)| {
            let text = format!("broker {leader} does not respond");
            Wait::new(Situation::Unmeasured).of_partition(&place.topic, place.partition).because(text)
        }));
        for (place, why) in self.assignment.problems() {
            let wait = match why {
                Why::New => continue,
                Why::Fenced => Wait::new(Situation::TakenElsewhere).of_partition(&place.topic, place.partition),
                Why::Unavailable(text) => Wait::new(Situation::PostgresAway).because(text),
                Why::Silent(text) => Wait::new(Situation::KafkaAway).because(text),
                Why::Unmeasured(text) => {
                    Wait::new(Situation::Unmeasured).of_partition(&place.topic, place.partition).because(text)
                }
                Why::Leaderless => Wait::new(Situation::NoLeader).of_partition(&place.topic, place.partition),
                Why::Locked(text) => Wait::new(Situation::Locked).because(text),
                Why::Blocked(text) => Wait::new(Situation::ProjectionRefused).because(text),
                Why::Stopped(Stopped { reason, detail, since }) => Wait::new(Situation::Stopped)
                    .of_partition(&place.topic, place.partition)
                    .because(format!("{detail} ({reason})"))
                    .since(Some(*since)),
            };
            waits.push(wait);
        }
        // How far behind they are is for whoever reads them to say.
        self.assignment.waiting().for_each(|place| self.meters.forget_lag(place));
        self.meters.set_stopped(self.assignment.stopped());
        self.status.report(waits);
    }
}

/// Whether the broker with this id has answered lately.
fn is_heard(statistics: &Statistics, leader: i32) -> bool {
    let mut brokers = statistics.brokers.values().filter(|broker| broker.nodeid == leader);
    brokers.any(|broker| {
        let silent = u64::try_from(broker.rxidle).map_or(Duration::MAX, Duration::from_micros);
        broker.state == "UP" && silent < BROKER_SILENCE
    })
}
