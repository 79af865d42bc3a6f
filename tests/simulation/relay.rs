//! One instance of the relay: a lane for each shard, what it knows of the lock barrier, and when it ends.

use std::hash::{Hash, Hasher};

use outbox_relay::outbox::barrier::Horizon;

use crate::lane::{Doing, Lane, Mode, Parts, Process, Who};
use crate::postgres::{Database, Id};
use crate::rules::{Luck, Precaution, Rules};
use crate::shard::Number;
use crate::world::Setting;

#[derive(Debug, Clone)]
pub struct Relay {
    pub who: Who,
    /// By the number of the shard that each one works on.
    pub lanes: Vec<Lane>,
    /// The process is to end.
    pub stopping: bool,
    pub horizon: Horizon,
    /// The run of the server that the horizon is about.
    server: u32,
    /// The highest id drawn, read by the barrier; the writers are listed in its next step.
    pub candidate: Option<Id>,
}

impl Relay {
    pub fn new(instance: u32, mode: Mode, setting: &Setting) -> Self {
        let shares = setting.shares && mode == Mode::AtLeastOnce;
        let tracking = setting.tracking[instance as usize % setting.tracking.len()];
        let who = Who { instance, mode, tracking, shares };
        Self {
            who,
            lanes: (0..setting.lanes()).map(|shard| Lane::new(who, shard, setting.rules)).collect(),
            stopping: false,
            horizon: Horizon::default(),
            server: 0,
            candidate: None,
        }
    }

    /// All of it but the horizon: a search that compares states opens no writers.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        (self.stopping, &self.lanes).hash(hasher);
    }

    pub fn is_refused(&self) -> bool {
        self.lanes.iter().any(|lane| lane.refused.is_some())
    }

    /// It has a shard.
    pub fn is_at_work(&self) -> bool {
        self.lanes.iter().any(|lane| lane.doing != Doing::Acquire)
    }

    pub fn stop(&mut self) {
        self.stopping = true;
        for lane in &mut self.lanes {
            lane.stopping = true;
        }
    }

    /// The number of shards is about to change.
    pub fn give_way(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.gives_way()) {
            lane.stopping = true;
        }
    }

    /// The barrier notices another run of the server, in which ids may be drawn again.
    pub fn meet_server(&mut self, server: u32) {
        if self.server != server {
            (self.server, self.horizon, self.candidate) = (server, Horizon::default(), None);
        }
    }

    /// No row with an id up to this one can appear any more, as far as it knows.
    pub fn horizon_of(&self, db: &Database, rules: Rules) -> Id {
        match (rules.has(Precaution::Barrier), self.server == db.server) {
            (true, true) => self.horizon.reached(),
            // It counts for nothing on another run of the server.
            (true, false) => 0,
            (false, _) => db.last_id(),
        }
    }

    /// One lane takes one step.
    pub fn advance(&mut self, shard: Number, luck: Luck, parts: &mut Parts<'_>) -> Process {
        match self.lanes[shard].shares_next() {
            Some(_) => self.together(&[shard], luck, parts),
            None => self.lanes[shard].advance(luck, parts),
        }
    }

    /// The process was told to stop, and has nothing left to do. Otherwise lanes that have given a shard up may take
    /// another one.
    pub fn has_drained(&mut self) -> bool {
        if !self.stopping {
            let drained = self.lanes.iter_mut().filter(|lane| lane.doing == Doing::Acquire);
            drained.for_each(|lane| lane.stopping = false);
        }
        self.stopping && !self.is_at_work()
    }
}
