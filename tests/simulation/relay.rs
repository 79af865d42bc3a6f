//! One instance of the relay as a machine that takes one step at a time. What it does next is the product's own
//! `relay::protocol`; here is what the answers are.
//!
//! Between two steps anything may happen to it and around it. It has no clock: a relay that slept for a year goes on
//! where it was, which is worse than what the permit of a lane allows. What goes to Kafka is in `sending.rs`.

use std::fmt;
use std::hash::{Hash, Hasher};

use outbox_relay::broker::transaction::{Blocked, Marker};
use outbox_relay::db::DbError;
use outbox_relay::outbox::barrier::Horizon;
use outbox_relay::outbox::{Fence as RealFence, LastBatch, OutboxError, ShardState};
use outbox_relay::relay::protocol::{self, Around, Ask, Ended, Intent, Next, Protocol, Right};
use outbox_relay::relay::takeover::Disagreement;
use uuid::Uuid;

use crate::kafka::{Kafka, Straggler};
use crate::postgres::{Database, Event, Fence, Id, PgError};
use crate::rules::{Luck, Precaution, Rules};
use crate::sending::Sending;
use crate::step::{InHand, Tracking, step};
use crate::world::Setting;

/// The name of this outbox in its markers.
pub const INSTALLATION: Uuid = Uuid::from_u128(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    AtLeastOnce,
    ExactlyOnce,
}

/// What it does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Doing {
    Acquire,
    /// What the protocol wants.
    Next(Next),
    /// It has fenced its predecessors under this transactional id.
    ReadMarker,
    /// The transactional id cannot be used now.
    ReadMarkerOfBlocked,
    Produce,
    SendMarker,
    Commit,
    /// At-least-once delivery.
    SendPlain,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next(Next::Step(Intent { work, shared, .. })) => {
                write!(f, "Step {work:?}{}", if *shared { " shared" } else { "" })
            }
            Self::Next(Next::Ask(Ask::Write(_))) => f.write_str("Write"),
            Self::Next(Next::Ask(ask)) => write!(f, "{ask:?}"),
            Self::Next(_)
            | Self::Acquire
            | Self::ReadMarker
            | Self::ReadMarkerOfBlocked
            | Self::Produce
            | Self::SendMarker
            | Self::Commit
            | Self::SendPlain => write!(f, "{self:?}"),
        }
    }
}

/// One sending of a batch, for the checks.
#[derive(Debug, Clone, Hash)]
pub struct Attempt {
    pub events: Vec<Event>,
}

#[derive(Debug, Clone)]
pub struct Relay {
    pub instance: u32,
    pub mode: Mode,
    tracking: Tracking,
    shares: bool,
    pub stopping: bool,
    pub doing: Doing,
    fence: Option<Fence>,
    pub(crate) lane: Protocol,
    /// Its transactional id, and the epoch under it.
    pub(crate) producer: (i32, i64),
    /// Whose former producers it has fenced.
    fenced: Option<i32>,
    /// It has committed a marker, or found a current one.
    pub(crate) marked: bool,
    pub(crate) sending: Sending,
    pub refused: Option<Disagreement>,
    pub horizon: Horizon,
    /// The run of the server that the horizon is about.
    server: u32,
    /// The highest id drawn, read by the barrier; the writers are listed in its next step.
    pub candidate: Option<Id>,
}

/// What a step works on.
pub struct Parts<'a> {
    pub db: &'a mut Database,
    pub kafka: &'a mut Kafka,
    pub attempts: &'a mut Vec<Attempt>,
    pub rules: Rules,
}

/// The process goes on, or it has ended because its shard belongs to another one or it was told to.
#[derive(Debug, PartialEq, Eq)]
pub enum Process {
    GoesOn,
    Ended,
}

impl Relay {
    pub fn new(instance: u32, mode: Mode, setting: &Setting) -> Self {
        let shares = setting.shares && mode == Mode::AtLeastOnce;
        Self {
            instance,
            mode,
            tracking: setting.tracking[instance as usize % setting.tracking.len()],
            shares,
            stopping: false,
            doing: Doing::Acquire,
            fence: None,
            lane: Protocol::new(protocol_mode(mode), None, shares, setting.rules.safeguards()),
            producer: (0, 0),
            fenced: None,
            marked: false,
            sending: Sending::default(),
            refused: None,
            horizon: Horizon::default(),
            server: 0,
            candidate: None,
        }
    }

    /// All of it but the horizon: a search that compares states opens no writers.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        let kafka = (self.producer, self.fenced, self.marked, &self.sending);
        (self.instance, self.mode, self.stopping, &self.doing, self.fence, &self.lane, kafka).hash(hasher);
    }

    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// It waits for work, and has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Next(Next::Step(_)))
    }

    /// The barrier notices another run of the server, in which ids may be drawn again.
    pub fn meet_server(&mut self, server: u32) {
        if self.server != server {
            (self.server, self.horizon, self.candidate) = (server, Horizon::default(), None);
        }
    }

    /// What may happen to the request of the next step, besides going well.
    pub fn misfortunes(&self) -> &'static [Luck] {
        match &self.doing {
            Doing::Next(Next::Step(Intent { shared: true, .. })) => {
                &[Luck::LostAfter, Luck::LostBefore, Luck::Late, Luck::Undone]
            }
            Doing::Next(Next::Step(_) | Next::Ask(Ask::Fence { .. })) => {
                &[Luck::LostAfter, Luck::LostBefore, Luck::Late]
            }
            Doing::Produce => &[Luck::LostAfter, Luck::LostBefore],
            Doing::SendMarker => &[Luck::LostBefore, Luck::Twice],
            Doing::Commit => &[Luck::LostAfter, Luck::LostBefore, Luck::Late, Luck::Twice],
            // The rest of the batch is not sent.
            Doing::SendPlain => &[Luck::LostBefore],
            // Reads are asked again.
            Doing::Acquire | Doing::Next(_) | Doing::ReadMarker | Doing::ReadMarkerOfBlocked => &[],
        }
    }

    pub fn advance(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        let more = match self.doing.clone() {
            Doing::Acquire => match parts.db.acquire(self.instance) {
                Some((fence, inherited)) => {
                    self.fence = Some(fence);
                    let safeguards = parts.rules.safeguards();
                    self.lane = Protocol::new(protocol_mode(self.mode), inherited, self.shares, safeguards);
                    None
                }
                None => Some(Doing::Acquire),
            },
            Doing::Next(Next::Ask(ask)) => self.ask(ask, luck, parts),
            Doing::Next(Next::Step(intent)) => self.step(intent, luck, parts),
            Doing::Next(other @ (Next::Turn { .. } | Next::Publish | Next::Wait(_) | Next::End(_))) => {
                panic!("{other:?} is not a step of its own")
            }
            Doing::ReadMarker => match parts.kafka.read_marker() {
                Some(marker) => {
                    self.lane.fenced(marker, !self.marked);
                    None
                }
                None => Some(Doing::ReadMarker),
            },
            Doing::ReadMarkerOfBlocked => self.read_marker_of_blocked(parts),
            Doing::Produce => self.produce(luck, parts),
            Doing::SendMarker => self.send_marker(luck, parts),
            Doing::Commit => self.commit(luck, parts),
            Doing::SendPlain => self.send_plain(luck, parts),
        };
        match more {
            Some(doing) => {
                self.doing = doing;
                Process::GoesOn
            }
            None => self.plan(parts),
        }
    }

    /// Asks the protocol what comes next. Waiting is no step: anything may happen between two steps anyway.
    fn plan(&mut self, parts: &mut Parts<'_>) -> Process {
        self.marked |= self.mode == Mode::ExactlyOnce && self.lane.is_open();
        loop {
            let around = Around { right: Right::Holds, stopping: self.stopping, paused: false, has_turn: true };
            match self.lane.next(around) {
                Next::Wait(_) => {}
                Next::End(Ended::Drained) => {
                    parts.db.release(self.fence());
                    return Process::Ended;
                }
                Next::End(Ended::LostLease) => return Process::Ended,
                Next::End(Ended::Disagree(why)) => {
                    self.refused = Some(why);
                    return Process::GoesOn;
                }
                Next::Publish => {
                    self.doing = self.send(parts);
                    return Process::GoesOn;
                }
                next @ (Next::Ask(_) | Next::Step(_) | Next::Turn { .. }) => {
                    self.doing = Doing::Next(next);
                    return Process::GoesOn;
                }
            }
        }
    }

    fn fence(&self) -> Fence {
        self.fence.expect("it has acquired the shard")
    }

    fn ask(&mut self, ask: Ask, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        match ask {
            Ask::State => {
                parts.db.renew(self.fence());
                match self.state(parts) {
                    Ok(state) => drop(self.lane.found(state, !self.marked)),
                    Err(error) => self.lane.state_failed(&real(&error)),
                }
            }
            Ask::Marker => self.lane.peeked(parts.kafka.peek()),
            Ask::Fence { producer } => return Some(self.init(producer, luck, parts)),
            Ask::NextProducer { from } => match parts.db.next_producer(self.fence(), from) {
                Ok(producer) => self.lane.renumbered(producer),
                Err(error) => self.lane.state_failed(&real(&error)),
            },
            Ask::Write(marker) => return Some(self.write(marker)),
        }
        None
    }

    fn state(&self, parts: &Parts<'_>) -> Result<ShardState, PgError> {
        parts.db.state(parts.rules, self.fence())
    }

    /// A new producer. When the answer is lost, the client asks again.
    fn init(&mut self, number: i32, luck: Luck, parts: &mut Parts<'_>) -> Doing {
        match luck {
            Luck::Fine | Luck::Twice | Luck::Undone => match parts.kafka.init(number) {
                Some(epoch) => {
                    self.producer = (number, epoch);
                    self.fenced = Some(number);
                    return Doing::ReadMarker;
                }
                None => {
                    self.producer.0 = number;
                    return Doing::ReadMarkerOfBlocked;
                }
            },
            Luck::LostAfter => drop(parts.kafka.init(number)),
            Luck::Late => parts.kafka.stragglers.push(Straggler::Init { number }),
            Luck::LostBefore => {}
        }
        Doing::Next(Next::Ask(Ask::Fence { producer: number }))
    }

    fn read_marker_of_blocked(&mut self, parts: &mut Parts<'_>) -> Option<Doing> {
        let Some(marker) = parts.kafka.read_marker() else { return Some(Doing::ReadMarkerOfBlocked) };
        let own = self.fenced == Some(self.producer.0);
        if self.lane.blocked(Blocked { own, marker }).is_err() {
            self.lane.ask_failed();
        }
        None
    }

    /// Settles what is in hand and claims what is next, in one transaction.
    fn step(&mut self, intent: Intent, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        let rules = parts.rules;
        let horizon = match (rules.has(Precaution::Barrier), self.server == parts.db.server) {
            (true, true) => self.horizon.reached(),
            // It counts for nothing on another run of the server.
            (true, false) => 0,
            (false, _) => parts.db.last_id(),
        };
        let (settlement, resend) = self.lane.in_hand();
        let published: Vec<Id> = settlement.published.iter().map(|event| event.id).collect();
        let resend = resend.unwrap_or_default();
        let in_hand = InHand { intent, tracking: self.tracking, published: &published, resend, horizon };
        let fence = self.fence();
        let done = parts.db.transaction(rules, fence, intent.expected, luck, |draft| step(draft, rules, &in_hand));
        match done {
            Ok(step) => {
                self.lane.stepped(intent, &step);
                self.sending = step.batch.map(Sending::of_batch).unwrap_or_default();
                None
            }
            Err(PgError::Undone) => {
                self.lane.undone();
                Some(Doing::Next(Next::Step(Intent { shared: false, ..intent })))
            }
            Err(error) => {
                self.lane.step_failed(&real(&error));
                None
            }
        }
    }
}

fn protocol_mode(mode: Mode) -> protocol::Mode {
    match mode {
        Mode::AtLeastOnce => protocol::Mode::AtLeastOnce,
        Mode::ExactlyOnce => protocol::Mode::ExactlyOnce(INSTALLATION),
    }
}

/// As the product's code sees it.
fn real(error: &PgError) -> OutboxError {
    match error {
        PgError::Fenced => OutboxError::Fenced(RealFence { shard: 0, owner: INSTALLATION, epoch: 0 }),
        PgError::Moved => OutboxError::Moved { shard: 0, expected: LastBatch::default(), found: LastBatch::default() },
        PgError::Unknown | PgError::Busy | PgError::Undone => {
            OutboxError::Db(DbError::of_a_test("no answer".to_owned()))
        }
    }
}

/// What a lane writes into a transaction to name its batch.
pub fn marker(seq: i64, tag: Option<outbox_relay::outbox::BatchTag>) -> Marker {
    Marker { seq, note: outbox_relay::relay::takeover::note(INSTALLATION, tag) }
}
