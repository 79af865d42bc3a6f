//! Everything there is, and everything that can happen next.
//!
//! A state and an action give the next state and nothing else does: no clock, no threads, no randomness. So a list of
//! actions is a run that can be repeated, shortened and printed.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use crate::kafka::Kafka;
use crate::postgres::{Database, Event, Key, LEASE};
use crate::relay::{Attempt, Doing, Mode, Parts, Process, Relay};
use crate::rules::{Luck, Rules};
use crate::step::Tracking;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A relay takes one step.
    Relay(usize, Luck),
    /// A process dies and another one starts in its place.
    Restart(usize, Mode),
    /// It is told to stop, drains, and another one starts in its place.
    Stop(usize),
    Time(u32),
    /// A request arrives that nobody waits for any more.
    Straggler(usize),
    /// The commit that was on its way arrives, or never does.
    DoubtEnds(bool),
    TransactionFinishes,
    TransactionTimesOut,
    WriterOpens(Key),
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
    MarkerExpires,
    /// The first partition loses its leader, or has one again.
    Leader(bool),
}

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
    /// Lanes share their steps with others, so a step may be undone for all of them.
    pub shares: bool,
    pub rules: Rules,
    /// Leases end while their owner lives, and it goes on later.
    pub zombies: bool,
    pub budget: Budget,
}

#[derive(Debug, Clone)]
pub struct World {
    pub setting: Setting,
    pub db: Database,
    pub kafka: Kafka,
    pub relays: Vec<Relay>,
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
            db: Database::new(setting.budget.failovers > 0),
            kafka: Kafka::new(),
            next_instance: relays.len() as u32 + 1,
            relays,
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
        self.relays.iter().any(|relay| relay.refused.is_some())
    }

    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let left = self.left;
        for (n, relay) in self.relays.iter().enumerate() {
            if self.can_step(relay) {
                actions.push(Action::Relay(n, Luck::Fine));
                let spares = if relay.doing == Doing::SendPlain { left.parts } else { left.misfortunes };
                if spares > 0 {
                    actions.extend(relay.misfortunes().iter().map(|luck| Action::Relay(n, *luck)));
                }
            }
            if left.stops > 0 && relay.doing != Doing::Acquire && !relay.stopping {
                actions.push(Action::Stop(n));
            }
            if left.restarts > 0 && relay.doing != Doing::Acquire {
                actions.extend(self.setting.later.iter().map(|mode| Action::Restart(n, *mode)));
            }
            if left.barriers > 0 {
                actions.push(match relay.candidate {
                    None if relay.horizon.is_settled() => Action::BarrierReadsId(n),
                    _ => Action::BarrierLists(n),
                });
            }
        }
        if left.waits > 0 && self.db.shard.lease_left > 0 && (self.setting.zombies || !self.owner_lives()) {
            actions.push(Action::Time(LEASE));
        }
        actions.extend((0..self.kafka.stragglers.len()).map(Action::Straggler));
        if self.db.doubt.is_some() {
            actions.extend([Action::DoubtEnds(true), Action::DoubtEnds(false)]);
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
        for writer in 0..self.db.writers.len() {
            actions.extend([Action::WriterEnds(writer, true), Action::WriterEnds(writer, false)]);
        }
        if left.deletions > 0 {
            let waits = |row: &usize| !self.db.is_published(&self.db.rows[*row]);
            actions.extend((0..self.db.rows.len()).filter(waits).map(Action::RowDeleted));
        }
        if left.failovers > 0 {
            actions.extend((1..=self.db.past_commits().min(6)).map(Action::PostgresGoesBack));
        }
        if left.expiries > 0 && self.kafka.marker.is_some() {
            actions.push(Action::MarkerExpires);
        }
        if self.kafka.leaderless {
            actions.push(Action::Leader(true));
        } else if left.elections > 0 {
            actions.push(Action::Leader(false));
        }
        actions
    }

    fn can_step(&self, relay: &Relay) -> bool {
        let free = self.db.shard.owner.is_none() || self.db.shard.lease_left == 0;
        relay.refused.is_none() && (relay.doing != Doing::Acquire || free)
    }

    fn owner_lives(&self) -> bool {
        self.relays.iter().any(|relay| self.db.shard.owner == Some(relay.instance))
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each action")]
    pub fn apply(&mut self, action: Action) {
        let left = &mut self.left;
        match action {
            Action::Relay(n, luck) => {
                if luck != Luck::Fine && self.relays[n].doing == Doing::SendPlain {
                    left.parts = left.parts.saturating_sub(1);
                    self.repeats_vary = true;
                } else {
                    left.misfortunes -= u32::from(luck != Luck::Fine && left.misfortunes > 0);
                }
                let mut parts = Parts {
                    db: &mut self.db,
                    kafka: &mut self.kafka,
                    attempts: &mut self.attempts,
                    rules: self.setting.rules,
                };
                let mode = self.relays[n].mode;
                if self.relays[n].advance(luck, &mut parts) == Process::Ended {
                    self.start(n, mode);
                }
                if mode == Mode::AtLeastOnce {
                    self.note_repeatable();
                }
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
                self.db.pass(ticks);
            }
            Action::Straggler(n) => self.kafka.arrives(n),
            Action::DoubtEnds(happened) => {
                self.db.end_doubt(happened);
                if !self.db.shard.marked {
                    self.note_repeatable();
                }
            }
            Action::TransactionFinishes => self.kafka.finish_all(),
            Action::TransactionTimesOut => {
                left.timeouts = left.timeouts.saturating_sub(1);
                self.kafka.time_out();
            }
            Action::WriterOpens(key) => self.db.open_writer(key),
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
                self.db.go_back(commits);
            }
            Action::Leader(back) => {
                left.elections -= u32::from(!back);
                self.kafka.leaderless = !back;
            }
            Action::MarkerExpires => {
                left.expiries -= 1;
                self.history_lost = true;
                self.kafka.marker = None;
            }
        }
    }

    fn start(&mut self, n: usize, mode: Mode) {
        self.relays[n] = Relay::new(self.next_instance, mode, &self.setting);
        self.next_instance += 1;
    }

    fn note_repeatable(&mut self) {
        let in_flight = self.db.shard.batch_ids.clone().unwrap_or_default();
        self.repeatable.extend(self.db.events(&in_flight));
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
            todo.extend(self.db.doubt.is_some().then_some(Action::DoubtEnds(round % 2 == 0)));
            todo.extend((!self.kafka.stragglers.is_empty()).then_some(Action::Straggler(0)));
            todo.extend((!self.db.writers.is_empty()).then_some(Action::WriterEnds(0, true)));
            todo.extend(self.kafka.is_ending().then_some(Action::TransactionFinishes));
            // A transaction that nobody works on any more.
            todo.extend((round % 60 == 59).then_some(Action::TransactionTimesOut));
            todo.extend((0..self.relays.len()).map(|n| Action::Relay(n, Luck::Fine)));
            for action in todo {
                self.apply(action);
                look(self);
            }
        }
        self.is_at_rest()
    }

    fn is_at_rest(&self) -> bool {
        let quiet = self.db.doubt.is_none() && self.db.writers.is_empty() && self.kafka.stragglers.is_empty();
        let quiet = quiet && !self.kafka.has_open_transaction() && !self.kafka.is_ending();
        let owned = self.relays.iter().any(|relay| relay.is_idle() && self.db.shard.owner == Some(relay.instance));
        let published = self.db.rows.iter().all(|row| self.db.is_published(row));
        quiet && owned && self.db.shard.batch_ids.is_none() && published
    }

    /// Two states with the same number have the same future, for what a search without the barrier can reach.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (&self.db, &self.kafka, &self.attempts, &self.repeatable, self.left, self.history_lost, self.repeats_vary)
            .hash(&mut hasher);
        for relay in &self.relays {
            relay.hash_into(&mut hasher);
        }
        hasher.finish()
    }
}
