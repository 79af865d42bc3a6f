//! Everything there is, and everything that can happen next.
//!
//! A state and an action give the next state and nothing else does: no clock, no threads, no randomness. So a list of
//! actions is a run that can be repeated, shortened and printed.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use crate::kafka::Kafka;
use crate::lane::{Attempt, Doing, Lane, Mode, Parts, Process};
use crate::postgres::{Database, Event, Key, LEASE};
use crate::relay::Relay;
use crate::resharder::{Command, Resharder};
use crate::rules::{Luck, Rules};
use crate::shard::{Number, SHARDS_MAX, Shard};
use crate::step::Tracking;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A relay's lane of this shard takes one step.
    Relay(usize, Number, Luck),
    /// Those of its lanes that share their steps take one, in one transaction.
    Together(usize, Luck),
    /// A process dies and another one starts in its place.
    Restart(usize, Mode),
    /// It is told to stop, drains, and another one starts in its place.
    Stop(usize),
    Time(u32),
    /// A request arrives that nobody waits for any more.
    Straggler(usize),
    /// A commit that was on its way arrives, or never does.
    DoubtEnds(usize, bool),
    TransactionFinishes,
    TransactionTimesOut,
    WriterOpens(Key),
    /// It draws an id, for a row that it may insert later.
    WriterDraws(usize),
    WriterInserts(usize),
    WriterEnds(usize, bool),
    /// An operator deletes a row that waits.
    RowDeleted(usize),
    /// The barrier reads the highest id drawn.
    BarrierReadsId(usize),
    /// The barrier lists the writers.
    BarrierLists(usize),
    /// So many commits are lost, with everything that was open.
    PostgresGoesBack(usize),
    MarkerExpires(Number),
    /// `shards set` is run.
    ReshardingBegins(usize),
    Reshards(Luck),
    /// It gives up.
    ReshardingAbandoned,
    /// A relay notices that the number of shards is about to change.
    GivesWay(usize),
    /// The first partition loses its leader, or has one again.
    Leader(bool),
}

/// What may happen to a shared step, besides going well.
const SHARED_MISFORTUNES: &[Luck] = &[Luck::LostAfter, Luck::LostBefore, Luck::Late, Luck::Undone];

/// What may still happen, so that a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    pub restarts: u32,
    /// Graceful stops.
    pub stops: u32,
    /// Requests and answers that go wrong.
    pub misfortunes: u32,
    /// Waits that end a lease.
    pub waits: u32,
    pub rows: usize,
    pub barriers: u32,
    pub timeouts: u32,
    pub failovers: u32,
    pub expiries: u32,
    /// Times that a partition loses its leader.
    pub elections: u32,
    /// Rows that an operator deletes while they wait.
    pub deletions: u32,
    /// Batches that at-least-once delivery sends in part, because Kafka takes no more.
    pub parts: u32,
    /// Times that `shards set` is run.
    pub reshardings: u32,
    /// Ids that are drawn long before their rows are inserted.
    pub draws: u32,
}

/// What kind of run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setting {
    /// Of the relays at the start.
    pub modes: &'static [Mode],
    /// Of processes that start later.
    pub later: &'static [Mode],
    /// Of processes in turn.
    pub tracking: &'static [Tracking],
    /// At the start.
    pub shards: usize,
    /// Lanes share their steps with others, so a step may be undone for all of them.
    pub shares: bool,
    pub rules: Rules,
    /// Leases end while their owner lives, and it goes on later.
    pub zombies: bool,
    pub budget: Budget,
}

impl Setting {
    /// Of each relay.
    pub fn lanes(&self) -> usize {
        if self.budget.reshardings > 0 { SHARDS_MAX } else { self.shards }
    }
}

#[derive(Debug, Clone)]
pub struct World {
    pub setting: Setting,
    pub db: Database,
    pub kafka: Kafka,
    pub relays: Vec<Relay>,
    pub resharder: Option<Resharder>,
    pub attempts: Vec<Attempt>,
    /// What at-least-once delivery has ever claimed may be visible more than once.
    pub repeatable: BTreeSet<Event>,
    left: Budget,
    next_instance: u32,
    /// A part of a history was lost for good: a refusal is right from here on.
    pub history_lost: bool,
    /// A repeat need not be the same batch again: a row of it was deleted, or Kafka took only a part.
    pub repeats_vary: bool,
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let mut relays = Vec::new();
        for (mode, instance) in setting.modes.iter().zip(1..) {
            relays.push(Relay::new(instance, *mode, &setting));
        }
        Self {
            setting,
            db: Database::new(setting.shards, setting.budget.failovers > 0),
            kafka: Kafka::new(),
            next_instance: relays.len() as u32 + 1,
            relays,
            resharder: None,
            attempts: Vec::new(),
            repeatable: BTreeSet::new(),
            left: setting.budget,
            history_lost: false,
            repeats_vary: false,
        }
    }

    /// Rows that are committed before anything else happens.
    pub fn with_rows(mut self, keys: &[Key]) -> Self {
        for key in keys {
            self.db.open_writer(*key);
            self.db.insert(0);
            self.db.end_writer(0, true);
        }
        self.left.rows -= keys.len();
        self
    }

    pub fn refused(&self) -> bool {
        self.relays.iter().any(Relay::is_refused)
    }

    #[allow(clippy::too_many_lines, reason = "a condition for each action")]
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let left = self.left;
        for (n, relay) in self.relays.iter().enumerate() {
            for (shard, lane) in
                relay.lanes.iter().enumerate().filter(|(shard, lane)| self.can_step(relay, *shard, lane))
            {
                actions.push(Action::Relay(n, shard, Luck::Fine));
                let spares = if lane.doing == Doing::SendPlain { left.parts } else { left.misfortunes };
                if spares > 0 {
                    actions.extend(lane.misfortunes().iter().map(|luck| Action::Relay(n, shard, *luck)));
                }
            }
            if !relay.is_refused() && relay.sharing().len() > 1 {
                actions.push(Action::Together(n, Luck::Fine));
                let misfortunes = if left.misfortunes > 0 { SHARED_MISFORTUNES } else { &[] };
                actions.extend(misfortunes.iter().map(|luck| Action::Together(n, *luck)));
            }
            if self.db.tables.resharding_to.is_some() && relay.lanes.iter().any(Lane::gives_way) {
                actions.push(Action::GivesWay(n));
            }
            if left.stops > 0 && relay.is_at_work() && !relay.stopping {
                actions.push(Action::Stop(n));
            }
            if left.restarts > 0 && relay.is_at_work() {
                actions.extend(self.setting.later.iter().map(|mode| Action::Restart(n, *mode)));
            }
            if left.barriers > 0 {
                actions.push(match relay.candidate {
                    None if relay.horizon.is_settled() => Action::BarrierReadsId(n),
                    _ => Action::BarrierLists(n),
                });
            }
        }
        if left.waits > 0 && self.db.shards().iter().any(|shard| self.can_end(shard)) {
            actions.push(Action::Time(LEASE));
        }
        actions.extend((0..self.kafka.stragglers.len()).map(Action::Straggler));
        for doubt in 0..self.db.doubts.len() {
            actions.extend([Action::DoubtEnds(doubt, true), Action::DoubtEnds(doubt, false)]);
        }
        if self.kafka.is_ending() {
            actions.push(Action::TransactionFinishes);
        }
        if left.timeouts > 0 && self.kafka.has_open_transaction() {
            actions.push(Action::TransactionTimesOut);
        }
        if left.rows > 0 {
            // Writers of one key take turns.
            let free = (0..3).filter(|key| !self.db.writers.iter().any(|writer| writer.key == *key));
            actions.extend(free.map(Action::WriterOpens));
            actions.extend((0..self.db.writers.len()).map(Action::WriterInserts));
        }
        if left.draws > 0 {
            actions.extend((0..self.db.writers.len()).map(Action::WriterDraws));
        }
        for writer in 0..self.db.writers.len() {
            actions.extend([Action::WriterEnds(writer, true), Action::WriterEnds(writer, false)]);
        }
        if left.deletions > 0 {
            let waits = |row: &usize| !self.db.is_published(&self.db.rows()[*row]);
            actions.extend((0..self.db.rows().len()).filter(waits).map(Action::RowDeleted));
        }
        if left.failovers > 0 {
            actions.extend((1..=self.db.past_commits().min(6)).map(Action::PostgresGoesBack));
        }
        if left.expiries > 0 {
            actions.extend(self.kafka.markers.keys().copied().map(Action::MarkerExpires));
        }
        self.resharding_actions(&mut actions);
        if self.kafka.leaderless {
            actions.push(Action::Leader(true));
        } else if left.elections > 0 {
            actions.push(Action::Leader(false));
        }
        actions
    }

    fn resharding_actions(&self, actions: &mut Vec<Action>) {
        match &self.resharder {
            Some(resharder) => {
                actions.push(Action::Reshards(Luck::Fine));
                if self.left.misfortunes > 0 {
                    actions.extend([Action::Reshards(Luck::LostAfter), Action::Reshards(Luck::LostBefore)]);
                }
                if resharder.may_abandon(self.setting.rules) {
                    actions.push(Action::ReshardingAbandoned);
                }
            }
            None if self.left.reshardings > 0 => {
                let possible = |shards: &usize| Resharder::begin(&self.db.tables, *shards).is_some();
                actions.extend((1..=SHARDS_MAX).filter(possible).map(Action::ReshardingBegins));
            }
            None => {}
        }
    }

    fn can_step(&self, relay: &Relay, shard: Number, lane: &Lane) -> bool {
        let can_go_on = lane.doing != Doing::Acquire || (!lane.stopping && self.db.is_to_be_had(shard));
        !relay.is_refused() && can_go_on
    }

    /// Its lease can end.
    fn can_end(&self, shard: &Shard) -> bool {
        let owner = shard.owner.filter(|_| shard.lease_left > 0 && !shard.is_taken());
        owner.is_some_and(|owner| self.setting.zombies || !self.lives(owner))
    }

    fn lives(&self, instance: u32) -> bool {
        self.relays.iter().any(|relay| relay.who.instance == instance)
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each action")]
    pub fn apply(&mut self, action: Action) {
        let left = &mut self.left;
        match action {
            Action::Relay(n, shard, luck) => {
                if luck != Luck::Fine && self.relays[n].lanes[shard].doing == Doing::SendPlain {
                    left.parts = left.parts.saturating_sub(1);
                    self.repeats_vary = true;
                } else {
                    left.misfortunes -= u32::from(luck != Luck::Fine && left.misfortunes > 0);
                }
                self.advance(n, |relay, parts| relay.advance(shard, luck, parts));
            }
            Action::Together(n, luck) => {
                left.misfortunes -= u32::from(luck != Luck::Fine && left.misfortunes > 0);
                self.advance(n, |relay, parts| relay.together(&relay.sharing(), luck, parts));
            }
            Action::GivesWay(n) => self.relays[n].give_way(),
            Action::ReshardingBegins(shards) => {
                left.reshardings = left.reshardings.saturating_sub(1);
                self.resharder = Resharder::begin(&self.db.tables, shards);
            }
            Action::Reshards(luck) => {
                left.misfortunes -= u32::from(luck != Luck::Fine && left.misfortunes > 0);
                let (db, rules) = (&mut self.db, self.setting.rules);
                if self.resharder.as_mut().is_some_and(|resharder| resharder.advance(luck, db, rules) == Command::Ended)
                {
                    self.resharder = None;
                }
            }
            Action::ReshardingAbandoned => {
                self.db.abandon_resharding();
                self.resharder = None;
            }
            Action::Restart(n, mode) => {
                left.restarts = left.restarts.saturating_sub(1);
                self.start(n, mode);
            }
            Action::Stop(n) => {
                left.stops = left.stops.saturating_sub(1);
                self.relays[n].stop();
            }
            Action::Time(ticks) => {
                left.waits = left.waits.saturating_sub(u32::from(ticks >= LEASE));
                let (zombies, relays) = (self.setting.zombies, &self.relays);
                let renews =
                    |owner| !zombies && ticks >= LEASE && relays.iter().any(|relay| relay.who.instance == owner);
                self.db.pass(ticks, renews);
            }
            Action::Straggler(n) => self.kafka.arrives(n),
            Action::DoubtEnds(doubt, happened) => {
                let shards: Vec<Number> = self.db.doubts[doubt].shards.keys().copied().collect();
                self.db.end_doubt(doubt, happened);
                shards.into_iter().for_each(|shard| self.note_repeatable(shard));
            }
            Action::TransactionFinishes => self.kafka.finish_all(),
            Action::TransactionTimesOut => {
                left.timeouts = left.timeouts.saturating_sub(1);
                self.kafka.time_out();
            }
            Action::WriterOpens(key) => self.db.open_writer(key),
            Action::WriterDraws(writer) => {
                left.draws -= 1;
                self.db.draw(writer);
            }
            Action::WriterInserts(writer) => {
                left.rows -= 1;
                self.db.insert(writer);
            }
            Action::WriterEnds(writer, commits) => self.db.end_writer(writer, commits),
            Action::RowDeleted(row) => {
                left.deletions -= 1;
                self.repeats_vary = true;
                self.db.delete(row);
            }
            Action::BarrierReadsId(n) => {
                left.barriers -= 1;
                let relay = &mut self.relays[n];
                relay.meet_server(self.db.server);
                relay.candidate = Some(self.db.last_id()).filter(|id| *id > relay.horizon.reached());
            }
            Action::BarrierLists(n) => {
                left.barriers -= 1;
                let (relay, open) = (&mut self.relays[n], self.db.open_writers());
                relay.meet_server(self.db.server);
                match relay.candidate.take() {
                    Some(id) => relay.horizon.begin(id, open),
                    None => relay.horizon.look(&open),
                }
            }
            Action::PostgresGoesBack(commits) => {
                left.failovers -= 1;
                self.history_lost = true;
                self.resharder = None;
                self.db.go_back(commits);
            }
            Action::Leader(back) => {
                left.elections -= u32::from(!back);
                self.kafka.leaderless = !back;
            }
            Action::MarkerExpires(shard) => {
                left.expiries -= 1;
                self.history_lost = true;
                self.kafka.markers.remove(&shard);
            }
        }
    }

    fn advance(&mut self, n: usize, step: impl FnOnce(&mut Relay, &mut Parts<'_>) -> Process) {
        let rules = self.setting.rules;
        let horizon = self.relays[n].horizon_of(&self.db, rules);
        let (db, kafka, attempts) = (&mut self.db, &mut self.kafka, &mut self.attempts);
        let mode = self.relays[n].who.mode;
        let process = step(&mut self.relays[n], &mut Parts { db, kafka, attempts, rules, horizon });
        if process == Process::Ends || self.relays[n].has_drained() {
            self.start(n, mode);
        }
        if mode == Mode::AtLeastOnce {
            (0..self.db.shards().len()).for_each(|shard| self.note_repeatable(shard));
        }
    }

    fn start(&mut self, n: usize, mode: Mode) {
        self.relays[n] = Relay::new(self.next_instance, mode, &self.setting);
        self.next_instance += 1;
    }

    /// What is in flight without a mark was claimed by at-least-once delivery.
    fn note_repeatable(&mut self, shard: Number) {
        let shard = &self.db.shards()[shard];
        let in_flight = shard.batch_ids.as_deref().filter(|_| !shard.marked).unwrap_or_default();
        self.repeatable.extend(self.db.events(in_flight));
    }

    /// Nothing goes wrong any more. Everything that was delayed arrives, everyone goes on, and after a while all is
    /// delivered. False when it is not.
    pub fn comes_to_rest(&mut self, mut look: impl FnMut(&Self)) -> bool {
        self.left = Budget {
            misfortunes: 0,
            restarts: 0,
            stops: 0,
            rows: 0,
            failovers: 0,
            expiries: 0,
            elections: 0,
            deletions: 0,
            draws: 0,
            ..self.left
        };
        self.kafka.leaderless = false;
        for round in 0..400 {
            if self.is_at_rest() {
                return true;
            }
            if self.refused() {
                return self.history_lost;
            }
            let mut todo = vec![Action::Time(1)];
            todo.extend((!self.db.doubts.is_empty()).then_some(Action::DoubtEnds(0, round % 2 == 0)));
            todo.extend((!self.kafka.stragglers.is_empty()).then_some(Action::Straggler(0)));
            todo.extend((!self.db.writers.is_empty()).then_some(Action::WriterEnds(0, true)));
            todo.extend(self.kafka.is_ending().then_some(Action::TransactionFinishes));
            // A transaction that nobody works on any more.
            todo.extend((round % 60 == 59).then_some(Action::TransactionTimesOut));
            todo.extend(self.rest_of_resharding());
            let lanes = 0..self.setting.lanes();
            let steps = (0..self.relays.len()).flat_map(|n| lanes.clone().map(move |shard| (n, shard)));
            todo.extend(steps.map(|(n, shard)| Action::Relay(n, shard, Luck::Fine)));
            for action in todo {
                self.apply(action);
                look(self);
            }
        }
        self.is_at_rest()
    }

    /// What is begun is finished.
    fn rest_of_resharding(&self) -> Vec<Action> {
        let mut todo = Vec::new();
        match (&self.resharder, self.db.tables.resharding_to) {
            (Some(_), _) => todo.push(Action::Reshards(Luck::Fine)),
            (None, Some(wanted)) => todo.push(Action::ReshardingBegins(wanted)),
            (None, None) => {}
        }
        if self.db.tables.resharding_to.is_some() {
            todo.extend((0..self.relays.len()).map(Action::GivesWay));
        }
        todo
    }

    fn is_at_rest(&self) -> bool {
        let quiet = self.db.doubts.is_empty() && self.db.writers.is_empty() && self.kafka.stragglers.is_empty();
        let quiet = quiet && !self.kafka.has_open_transaction() && !self.kafka.is_ending();
        let quiet = quiet && self.resharder.is_none() && self.db.tables.resharding_to.is_none();
        let at_work = |shard: Number, owner: u32| {
            self.relays.iter().any(|relay| relay.who.instance == owner && relay.lanes[shard].is_idle())
        };
        let settled = |(number, shard): (Number, &Shard)| {
            shard.batch_ids.is_none() && shard.owner.is_some_and(|owner| at_work(number, owner))
        };
        let published = self.db.rows().iter().all(|row| self.db.is_published(row));
        quiet && self.db.shards().iter().enumerate().all(settled) && published
    }

    /// Two states with the same number have the same future, for what a search without the barrier can reach.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (&self.db, &self.kafka, &self.resharder, &self.attempts, &self.repeatable).hash(&mut hasher);
        (self.left, self.history_lost, self.repeats_vary).hash(&mut hasher);
        for relay in &self.relays {
            relay.hash_into(&mut hasher);
        }
        hasher.finish()
    }
}
