//! One lane as a machine that takes one step at a time. What it does next is the product's own `relay::protocol`; here
//! is what the answers are.
//!
//! Between two steps anything may happen to it and around it. It has no clock: a lane that slept for a year goes on
//! where it was, which is worse than what its permit allows. What goes to Kafka is in `sending.rs`, a step in one
//! transaction with other lanes in `together.rs`.

use std::fmt;

use outbox_relay::broker::transaction::{Blocked, Marker};
use outbox_relay::db::DbError;
use outbox_relay::outbox::{Fence as RealFence, LastBatch, OutboxError, ShardState, Step};
use outbox_relay::relay::protocol::{self, Around, Ask, Ended, Intent, Next, Protocol, Right};
use outbox_relay::relay::takeover::Disagreement;
use uuid::Uuid;

use crate::kafka::{Kafka, ProducerId, Record, Straggler};
use crate::postgres::{Database, Draft, Event, Fence, Id, PgError};
use crate::rules::{Luck, Rules};
use crate::sending::Sending;
use crate::shard::Number;
use crate::step::{InHand, Tracking, step};

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

/// Whose lane it is.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Who {
    pub instance: u32,
    pub mode: Mode,
    pub tracking: Tracking,
    /// Its lanes may take their steps together.
    pub shares: bool,
}

#[derive(Debug, Clone, Hash)]
pub struct Lane {
    pub(crate) who: Who,
    shard: Number,
    /// It is to settle what is in hand, and to give its shard up.
    pub stopping: bool,
    pub doing: Doing,
    fence: Option<Fence>,
    pub(crate) protocol: Protocol,
    /// Its transactional id, and the epoch under it.
    pub(crate) producer: (ProducerId, i64),
    /// Whose former producers it has fenced.
    fenced: Option<i32>,
    /// It has committed a marker, or found a current one.
    pub(crate) marked: bool,
    pub(crate) sending: Sending,
    pub refused: Option<Disagreement>,
}

/// What a step works on.
pub struct Parts<'a> {
    pub db: &'a mut Database,
    pub kafka: &'a mut Kafka,
    pub attempts: &'a mut Vec<Attempt>,
    pub rules: Rules,
    /// No row with an id up to this one can appear any more.
    pub horizon: Id,
}

/// The process goes on, or ends because a shard of it belongs to another one.
#[derive(Debug, PartialEq, Eq)]
pub enum Process {
    GoesOn,
    Ends,
}

impl Lane {
    pub fn new(who: Who, shard: Number, rules: Rules) -> Self {
        Self {
            who,
            shard,
            stopping: false,
            doing: Doing::Acquire,
            fence: None,
            protocol: Protocol::new(protocol_mode(who.mode), None, who.shares, rules.safeguards()),
            producer: (ProducerId::default(), 0),
            fenced: None,
            marked: false,
            sending: Sending::default(),
            refused: None,
        }
    }

    /// It waits for work, and has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Next(Next::Step(_)))
    }

    /// The number of shards is about to change. It gives its shard up, but not before it has settled what a former
    /// owner left.
    pub fn gives_way(&self) -> bool {
        self.doing != Doing::Acquire && !self.stopping && self.protocol.is_resolved()
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
            Doing::Acquire if self.stopping => Some(Doing::Acquire),
            Doing::Acquire => match parts.db.acquire(self.who.instance, self.shard) {
                Some((fence, inherited)) => {
                    let safeguards = parts.rules.safeguards();
                    let protocol = Protocol::new(protocol_mode(self.who.mode), inherited, self.who.shares, safeguards);
                    *self = Self { fence: Some(fence), protocol, ..Self::new(self.who, self.shard, parts.rules) };
                    None
                }
                None => Some(Doing::Acquire),
            },
            Doing::Next(Next::Ask(ask)) => self.ask(ask, luck, parts),
            Doing::Next(Next::Step(intent @ Intent { shared: false, .. })) => self.step(intent, luck, parts),
            Doing::Next(Next::Step(Intent { shared: true, .. })) => panic!("it is taken together"),
            Doing::Next(other @ (Next::Turn { .. } | Next::Publish | Next::Wait(_) | Next::End(_))) => {
                panic!("{other:?} is not a step of its own")
            }
            Doing::ReadMarker => match parts.kafka.read_marker(self.shard) {
                Some(marker) => {
                    self.protocol.fenced(marker, !self.marked);
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
    pub(crate) fn plan(&mut self, parts: &mut Parts<'_>) -> Process {
        self.marked |= self.who.mode == Mode::ExactlyOnce && self.protocol.is_open();
        loop {
            let around = Around { right: Right::Holds, stopping: self.stopping, paused: false, has_turn: true };
            match self.protocol.next(around) {
                Next::Wait(_) => {}
                Next::End(Ended::Drained) => {
                    parts.db.release(self.fence());
                    self.doing = Doing::Acquire;
                    return Process::GoesOn;
                }
                Next::End(Ended::LostLease) => return Process::Ends,
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

    pub(crate) fn fence(&self) -> Fence {
        self.fence.expect("it has acquired the shard")
    }

    fn ask(&mut self, ask: Ask, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        match ask {
            Ask::State => {
                parts.db.renew(self.fence());
                match self.state(parts) {
                    Ok(state) => drop(self.protocol.found(state, !self.marked)),
                    Err(error) => self.protocol.state_failed(&real(&error)),
                }
            }
            Ask::Marker => self.protocol.peeked(parts.kafka.peek(self.shard)),
            Ask::Fence { producer } => return Some(self.init(producer, luck, parts)),
            Ask::NextProducer { from } => match parts.db.next_producer(self.fence(), from) {
                Ok(producer) => self.protocol.renumbered(producer),
                Err(error) => self.protocol.state_failed(&real(&error)),
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
        let id = ProducerId { shard: self.shard, number };
        match luck {
            Luck::Fine | Luck::Twice | Luck::Undone => match parts.kafka.init(id) {
                Some(epoch) => {
                    self.producer = (id, epoch);
                    self.fenced = Some(number);
                    return Doing::ReadMarker;
                }
                None => {
                    self.producer.0 = id;
                    return Doing::ReadMarkerOfBlocked;
                }
            },
            Luck::LostAfter => drop(parts.kafka.init(id)),
            Luck::Late => parts.kafka.stragglers.push(Straggler::Init { id }),
            Luck::LostBefore => {}
        }
        Doing::Next(Next::Ask(Ask::Fence { producer: number }))
    }

    fn read_marker_of_blocked(&mut self, parts: &mut Parts<'_>) -> Option<Doing> {
        let Some(marker) = parts.kafka.read_marker(self.shard) else {
            return Some(Doing::ReadMarkerOfBlocked);
        };
        let own = self.fenced == Some(self.producer.0.number);
        if self.protocol.blocked(Blocked { own, marker }).is_err() {
            self.protocol.ask_failed();
        }
        None
    }

    /// Settles what is in hand and claims what is next, in one transaction.
    fn step(&mut self, intent: Intent, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        let (rules, fence, horizon) = (parts.rules, self.fence(), parts.horizon);
        let work = |draft: &mut Draft| self.work(intent, horizon, draft, rules);
        let done = parts.db.transaction(rules, fence, intent.expected, luck, work);
        self.stepped(intent, done);
        None
    }

    /// Its part of a transaction.
    pub(crate) fn work(&self, intent: Intent, horizon: Id, draft: &mut Draft, rules: Rules) -> Step<Record> {
        let (settlement, resend) = self.protocol.in_hand();
        let published: Vec<Id> = settlement.published.iter().map(|event| event.id).collect();
        let (shard, tracking, resend) = (self.shard, self.who.tracking, resend.unwrap_or_default());
        step(draft, rules, &InHand { shard, intent, tracking, published: &published, resend, horizon })
    }

    /// How it ended.
    pub(crate) fn stepped(&mut self, intent: Intent, done: Result<Step<Record>, PgError>) {
        match done {
            Ok(step) => {
                self.protocol.stepped(intent, &step);
                self.sending = step.batch.map(Sending::of_batch).unwrap_or_default();
            }
            Err(error) => self.protocol.step_failed(&real(&error)),
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
