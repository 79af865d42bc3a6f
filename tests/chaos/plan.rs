//! The plan of a run: which fault at which second on whom, all of it from one seed.
//!
//! Pure. The same seed, length, mode and number of kills give the same plan, which is printed before the run and again
//! when a promise breaks. What a plan cannot repeat is the timing within the processes; running it again several times
//! is how a rare failure comes back.

mod fault;

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::weather::{Direction, Request, Weather};
pub use fault::{Fault, Link, Who};

/// The lease of the relays under test: short, so that takeovers are frequent.
pub const LEASE: Duration = Duration::from_secs(3);

/// How long published rows are kept: short, so that the cleaner has work while faults go on.
pub const RETENTION: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    AtLeastOnce,
    ExactlyOnce,
}

impl Mode {
    /// As `relay.delivery` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        }
    }
}

/// Faults that wait for each other; those of different lanes overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Crashes,
    Freezes,
    Consumers,
    Postgres,
    Broker,
    Network,
    Traps,
    Positions,
}

/// Which brokers a fault is about, if it is about brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brokers {
    All,
    One(usize),
    /// All but one: what is left is no majority, and too few replicas for `acks=all`.
    AllBut(usize),
}

impl Brokers {
    pub fn has(self, broker: usize) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => broker == one,
            Self::AllBut(one) => broker != one,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub lane: Lane,
    pub fault: Fault,
    pub brokers: Brokers,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    pub length: Duration,
    /// One, or a cluster of three.
    pub brokers: usize,
    pub relays: usize,
    pub consumers: usize,
    pub batch_rows: u32,
    /// `relay.ordering = "strict"`: order by id even where writers do not take turns.
    pub strict: bool,
    /// After how long the Kafka client gives a request up, and asks again on another connection.
    pub patience: Duration,
    /// By time.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// `kills`: how many SIGKILLs of relays; by default one in four seconds.
    pub fn new(seed: u64, mode: Mode, length: Duration, kills: Option<u32>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (relays, consumers) = (rng.usize(1..=3), rng.usize(1..=2));
        let batch_rows = [200, 500, 1_000][rng.usize(0..3)];
        let strict = rng.u8(0..3) == 0;
        // The shorter, the more requests are late for the client and arrive all the same.
        let patience = Duration::from_secs([3, 10][rng.usize(0..2)]);
        let faults = Vec::new();
        let mut plan = Self { seed, mode, length, brokers: 1, relays, consumers, batch_rows, strict, patience, faults };
        let relay = |rng: &mut Rng| Who::Relay(rng.usize(0..relays));
        plan.lane(Lane::Freezes, &mut rng, 8.0, |rng| Fault::Freeze(relay(rng), LEASE + between(rng, 500, 3_500)));
        plan.crashes(&mut rng, kills.unwrap_or(u32::try_from(length.as_secs() / 4).unwrap_or(u32::MAX)));
        plan.lane(Lane::Consumers, &mut rng, 9.0, |rng| {
            let who = Who::Consumer(rng.usize(0..consumers));
            match rng.u8(0..10) {
                0..5 => Fault::Kill(who),
                5..8 => Fault::Freeze(who, between(rng, 1_000, 8_000)),
                _ => Fault::Stop(who),
            }
        });
        plan.lane(Lane::Postgres, &mut rng, 25.0, |rng| match rng.u8(0..10) {
            0..5 => Fault::CrashPostgres,
            _ => Fault::FreezeSessions(between(rng, 500, 6_000)),
        });
        plan.lane(Lane::Broker, &mut rng, 25.0, |rng| match rng.u8(0..10) {
            0..4 => Fault::KillBroker,
            _ => Fault::FreezeBroker(between(rng, 300, 15_000)),
        });
        plan.lane(Lane::Network, &mut rng, 9.0, |rng| {
            let link = match rng.u8(0..10) {
                0..5 => Link::Kafka,
                5..8 => Link::Postgres(relay(rng)),
                _ => Link::Postgres(Who::Consumer(rng.usize(0..consumers))),
            };
            bad_network(rng, link)
        });
        plan.lane(Lane::Traps, &mut rng, 3.0, |rng| {
            let relay = relay(rng);
            trap(rng, mode, relay)
        });
        // Drawn apart, so that a seed keeps the rest of its plan.
        let mut rng = Rng::with_seed(seed ^ 0x9051_7105);
        plan.lane(Lane::Positions, &mut rng, 9.0, |rng| match rng.bool() {
            true => Fault::CrashIdlePostgres,
            false => Fault::RemakeTopic,
        });
        plan.faults.sort_by_key(|planned| planned.at);
        plan
    }

    /// The same plan; topics are deleted and created again only where that was asked for.
    #[must_use]
    pub fn remaking(mut self, remake: bool) -> Self {
        self.faults.retain(|planned| remake || planned.fault != Fault::RemakeTopic);
        self
    }

    /// The same plan on several brokers: each fault of a broker or of a link to Kafka is about one of them, and now and
    /// then about more. Its choices are made apart, so that with one broker a seed stays the plan that it was.
    #[must_use]
    pub fn on_brokers(mut self, brokers: usize) -> Self {
        let mut rng = Rng::with_seed(!self.seed);
        self.brokers = brokers;
        for planned in self.faults.iter_mut().filter(|_| brokers > 1) {
            let one = rng.usize(0..brokers);
            planned.brokers = match (planned.fault, rng.u8(0..4)) {
                (Fault::FreezeBroker(_), 0) => Brokers::AllBut(one),
                (Fault::Bad(..) | Fault::Reset(_), 0) => Brokers::All,
                _ => Brokers::One(one),
            };
        }
        self
    }

    /// As `relay.ordering` says it.
    pub fn ordering(&self) -> &'static str {
        if self.strict { "strict" } else { "key" }
    }

    /// Exactly `kills` SIGKILLs spread over the length, and a SIGTERM for every six of them.
    fn crashes(&mut self, rng: &mut Rng, kills: u32) {
        let length = self.length.as_secs_f64();
        for n in 0..kills {
            // One in each slice, somewhere in it: as irregular as it gets with a given number.
            let at = length * (f64::from(n) + rng.f64()) / f64::from(kills);
            let who = self.awake(rng, at);
            self.faults.push(planned(Lane::Crashes, at, Fault::Kill(who)));
            if n % 6 == 3 {
                let at = length * rng.f64();
                let who = self.awake(rng, at);
                self.faults.push(planned(Lane::Crashes, at, Fault::Stop(who)));
            }
        }
    }

    /// A relay that is not frozen at that moment, nor has just woken up: most zombies shall live to find themselves
    /// fenced.
    fn awake(&self, rng: &mut Rng, at: f64) -> Who {
        let frozen = |n: usize| {
            self.faults.iter().any(|planned| {
                let Fault::Freeze(who, lasts) = planned.fault else { return false };
                let from = planned.at.as_secs_f64();
                who == Who::Relay(n) && (from - 0.5..from + lasts.as_secs_f64() + 2.0).contains(&at)
            })
        };
        let awake: Vec<usize> = (0..self.relays).filter(|n| !frozen(*n)).collect();
        match awake.as_slice() {
            [] => Who::Relay(rng.usize(0..self.relays)),
            awake => Who::Relay(awake[rng.usize(0..awake.len())]),
        }
    }

    /// Faults with exponential gaps of `mean` seconds, at least one.
    fn lane(&mut self, lane: Lane, rng: &mut Rng, mean: f64, mut fault: impl FnMut(&mut Rng) -> Fault) {
        let length = self.length.as_secs_f64();
        let mut at = rng.f64() * mean.min(length * 0.6);
        while at < length {
            let fault = fault(rng);
            self.faults.push(planned(lane, at, fault));
            at += fault.lasts().as_secs_f64() + (mean * -(1.0 - rng.f64()).ln()).clamp(0.2 * mean, 3.0 * mean);
        }
    }

    /// The faults of one lane, by time.
    pub fn of(&self, lane: Lane) -> Vec<Planned> {
        self.faults.iter().filter(|planned| planned.lane == lane).copied().collect()
    }
}

fn planned(lane: Lane, at: f64, fault: Fault) -> Planned {
    // Whole milliseconds: the plan that is printed is the plan.
    Planned { at: Duration::from_millis((at * 1_000.0) as u64), lane, fault, brokers: Brokers::All }
}

fn between(rng: &mut Rng, low_ms: u64, high_ms: u64) -> Duration {
    Duration::from_millis(rng.u64(low_ms..high_ms))
}

fn bad_network(rng: &mut Rng, link: Link) -> Fault {
    let direction = [Direction::Requests, Direction::Answers, Direction::Both][rng.usize(0..3)];
    match rng.u8(0..10) {
        0..2 => Fault::Reset(link),
        2..4 => Fault::Bad(link, direction, Weather::Delay(between(rng, 20, 500)), between(rng, 1_000, 6_000)),
        4..5 => {
            let bytes_per_second = rng.u32(8_000..200_000);
            Fault::Bad(link, direction, Weather::Throttle { bytes_per_second }, between(rng, 1_000, 6_000))
        }
        // Longer than a lease and, at times, than the socket timeout of the Kafka client (10 s).
        5..8 => Fault::Bad(link, direction, Weather::Hold, between(rng, 500, 12_000)),
        _ => Fault::Bad(link, direction, Weather::Swallow, between(rng, 500, 12_000)),
    }
}

/// A trap for single requests: what makes outcomes unknown.
fn trap(rng: &mut Rng, mode: Mode, relay: Who) -> Fault {
    if rng.u8(0..10) < 3 {
        return Fault::LoseAnswers(Link::Postgres(relay), Request::Commit);
    }
    if mode == Mode::ExactlyOnce && rng.u8(0..10) < 4 {
        return Fault::EndTxnIntoNext(Duration::from_secs(20));
    }
    let request = match mode {
        Mode::AtLeastOnce => Request::PRODUCE,
        Mode::ExactlyOnce => match rng.u8(0..10) {
            0..6 => Request::END_TXN,
            6 => Request::ADD_PARTITIONS_TO_TXN,
            7 => Request::INIT_PRODUCER_ID,
            8 => Request::TXN_OFFSET_COMMIT,
            _ => Request::PRODUCE,
        },
    };
    match rng.bool() {
        true => Fault::LoseAnswers(Link::Kafka, request),
        false => Fault::DelayRequest(Link::Kafka, request, between(rng, 1_000, 15_000)),
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)?;
        match self.brokers {
            _ if !self.fault.is_of_kafka() => Ok(()),
            Brokers::All => Ok(()),
            Brokers::One(n) => write!(f, ", broker {n}"),
            Brokers::AllBut(n) => write!(f, ", all brokers but {n}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, mode, length, brokers, relays, consumers, batch_rows, strict: _, patience, faults } = self;
        let (mode, ordering) = (mode.as_str(), self.ordering());
        writeln!(
            f,
            "plan: {mode}, seed {seed}, {length:?}, {relays} relays, {consumers} consumers, batches of {batch_rows}, order by {ordering}, requests given up after {patience:?}, {} faults",
            faults.len()
        )?;
        if *brokers > 1 {
            writeln!(f, "on a cluster of {brokers} brokers")?;
        }
        faults.iter().try_for_each(|planned| writeln!(f, "{:>9.3} s  {planned}", planned.at.as_secs_f64()))
    }
}

/// What a plan must be, whatever the seed.
pub fn self_check() {
    for seed in 0..50 {
        let length = Duration::from_secs(60);
        let plan = Plan::new(seed, Mode::AtLeastOnce, length, Some(40));
        assert_eq!(plan, Plan::new(seed, Mode::AtLeastOnce, length, Some(40)), "the seed is the plan");
        assert_ne!(plan.faults, Plan::new(seed + 1, Mode::AtLeastOnce, length, Some(40)).faults);
        assert!(plan.faults.is_sorted_by_key(|planned| planned.at));
        assert!(plan.faults.iter().all(|planned| planned.at < length));
        let kills = plan.faults.iter().filter(|planned| matches!(planned.fault, Fault::Kill(Who::Relay(_)))).count();
        assert_eq!(kills, 40);
        assert_eq!(plan.clone().on_brokers(1), plan, "one broker changes nothing");
        let three = plan.clone().on_brokers(3);
        assert!(
            three.faults.iter().zip(&plan.faults).all(|(three, one)| (three.at, three.fault) == (one.at, one.fault))
        );
        let kills = three.faults.iter().filter(|planned| planned.fault == Fault::KillBroker);
        assert!(kills.clone().all(|planned| matches!(planned.brokers, Brokers::One(0..3))), "liveness needs two");
        for lane in
            [Lane::Freezes, Lane::Consumers, Lane::Postgres, Lane::Broker, Lane::Network, Lane::Traps, Lane::Positions]
        {
            assert!(!plan.of(lane).is_empty(), "no fault of {lane:?} with seed {seed}");
        }
    }
}
