//! One instance of the relay as a machine that takes one step at a time: what it knows, and the steps both modes share.
//!
//! Between two steps anything may happen to it and around it. It has no clock: a relay that slept for a year goes on
//! where it was, which is worse than what the permit of a lane allows. What goes to Kafka is in `sending.rs`, the
//! takeover of exactly-once delivery in `takeover.rs`.

use std::hash::{Hash, Hasher};

use outbox_relay::outbox::barrier::Horizon;
use outbox_relay::relay::takeover::{Disagreement, Manifest};

use crate::kafka::{Kafka, Marker, PARTITIONS};
use crate::postgres::{Database, Fence, Id, PgError, Tag};
use crate::rules::{Luck, Rules, Safeguard};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    AtLeastOnce,
    ExactlyOnce,
}

/// What it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Acquire,
    /// Before a new producer: whoever has lost the shard must not fence its owner's.
    CheckFence,
    Init,
    /// The transactional id cannot be used now: is there another way?
    Leave,
    ReadMarker,
    ReadManifestAndResolve,
    SettleInherited,
    Forget,
    /// Takes up the rows of the manifest again, to send them whole.
    Reclaim,
    /// Settles what is in hand and claims what is next.
    Step,
    /// Did the commit happen whose answer was lost?
    Recover,
    Produce,
    SendMarker,
    Commit,
    /// At-least-once delivery.
    SendPlain,
    Refused,
}

/// What is being sent.
#[derive(Debug, Clone, Default, Hash)]
pub struct Batch {
    pub seq: i64,
    pub ids: Vec<Id>,
    pub attempt: usize,
    pub(crate) sent: usize,
    pub(crate) added: [bool; PARTITIONS],
    pub(crate) marker_added: bool,
}

/// One sending of a batch, for the checks.
#[derive(Debug, Clone, Hash)]
pub struct Attempt {
    pub ids: Vec<Id>,
    pub mode: Mode,
}

#[derive(Debug, Clone)]
pub struct Relay {
    pub instance: u32,
    pub mode: Mode,
    pub at: At,
    pub fence: Option<Fence>,
    /// Its transactional id, and the epoch under it.
    pub(crate) producer: (usize, i64),
    /// Whose former producers it has fenced.
    pub(crate) fenced: Option<usize>,
    pub(crate) marker: Option<Marker>,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_ids: Vec<Id>,
    /// Of the last batch.
    pub(crate) tag: Option<Tag>,
    /// Committed to Kafka, and not settled.
    pub(crate) hand: Vec<Id>,
    /// Its last number, and what is being sent under it.
    pub(crate) seq: i64,
    pub(crate) batch: Batch,
    pub(crate) suspicious: bool,
    pub refused: Option<Disagreement>,
    pub horizon: Horizon,
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

/// The process goes on, or it has ended because its shard belongs to another one.
#[derive(Debug, PartialEq, Eq)]
pub enum Process {
    GoesOn,
    Ended,
}

impl Relay {
    pub fn new(instance: u32, mode: Mode) -> Self {
        Self {
            instance,
            mode,
            at: At::Acquire,
            fence: None,
            producer: (0, 0),
            fenced: None,
            marker: None,
            manifest: Manifest { seq: 0, in_flight: false, marked: false },
            manifest_ids: Vec::new(),
            tag: None,
            hand: Vec::new(),
            seq: 0,
            batch: Batch::default(),
            suspicious: false,
            refused: None,
            horizon: Horizon::default(),
            candidate: None,
        }
    }

    /// All of it but the horizon: a search that compares states opens no writers.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        let manifest = (self.manifest.seq, self.manifest.in_flight, self.manifest.marked, &self.manifest_ids, self.tag);
        let kafka = (self.producer, self.fenced, &self.marker, self.suspicious, &self.batch);
        (self.instance, self.mode, self.at, self.fence, &self.hand, self.seq, manifest, kafka).hash(hasher);
    }

    /// What may happen to the request of the next step, besides going well.
    pub fn misfortunes(&self) -> &'static [Luck] {
        match self.at {
            At::Init | At::SettleInherited | At::Forget | At::Reclaim | At::Step => {
                &[Luck::LostAfter, Luck::LostBefore, Luck::Late]
            }
            At::Produce => &[Luck::LostAfter, Luck::LostBefore],
            At::SendMarker => &[Luck::LostBefore, Luck::Twice],
            At::Commit => &[Luck::LostAfter, Luck::LostBefore, Luck::Late, Luck::Twice],
            // Reads are asked again; a record without a transaction is sent again by the client, under its sequence
            // number.
            At::Acquire
            | At::CheckFence
            | At::Leave
            | At::ReadMarker
            | At::ReadManifestAndResolve
            | At::Recover
            | At::SendPlain
            | At::Refused => &[],
        }
    }

    pub fn advance(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        match self.at {
            At::Acquire => {
                if let Some(fence) = parts.db.acquire(self.instance) {
                    self.fence = Some(fence);
                    self.remember(parts.db);
                    self.at = match (self.mode, self.manifest.in_flight) {
                        (Mode::ExactlyOnce, _) => At::CheckFence,
                        (Mode::AtLeastOnce, true) => At::Reclaim,
                        (Mode::AtLeastOnce, false) => At::Step,
                    };
                }
            }
            At::CheckFence => return self.check_fence(parts),
            At::Init => self.init(luck, parts),
            At::Leave => return self.leave(parts),
            At::ReadMarker => self.read_marker(parts),
            At::ReadManifestAndResolve => return self.read_manifest_and_resolve(parts),
            At::SettleInherited => return self.settle_inherited(luck, parts),
            At::Forget => return self.forget(luck, parts),
            At::Reclaim => return self.reclaim(luck, parts),
            At::Step => return self.step(luck, parts),
            At::Recover => return self.recover(parts),
            At::Produce => self.produce(luck, parts),
            At::SendMarker => self.send_marker(luck, parts),
            At::Commit => self.commit(luck, parts),
            At::SendPlain => self.send_plain(parts),
            At::Refused => {}
        }
        Process::GoesOn
    }

    /// The manifest as it stands, from memory on.
    pub(crate) fn remember(&mut self, db: &Database) {
        self.manifest = db.shard.manifest();
        self.manifest_ids = db.shard.batch_ids.clone().unwrap_or_default();
        self.tag = db.shard.tag();
        self.seq = self.manifest.seq;
    }

    pub(crate) fn fence(&self) -> Fence {
        self.fence.expect("it has acquired the shard")
    }

    /// What the row must say for the lane to go on from it. At-least-once delivery does not ask.
    pub(crate) fn expected(&self, in_flight: bool) -> Option<(i64, bool)> {
        (self.mode == Mode::ExactlyOnce).then_some((self.seq, in_flight))
    }

    /// Settles what is in hand and claims what is next, in one transaction.
    fn step(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        let (rules, marks) = (parts.rules, self.mode == Mode::ExactlyOnce);
        let (hand, reached) =
            (&self.hand, if rules.has(Safeguard::Barrier) { self.horizon.reached() } else { parts.db.last_id() });
        let expected = self.expected(!hand.is_empty());
        let done = parts.db.transaction(rules, self.fence(), expected, luck, |draft| {
            draft.settle(rules, hand);
            let claimed = draft.claim();
            draft.move_low_id(reached);
            draft.shard.batch_ids = None;
            draft.shard.marked &= marks;
            if !claimed.is_empty() {
                draft.shard.batch_seq += 1;
                draft.shard.batch_ids = Some(claimed.clone());
                draft.shard.marked = marks;
                if marks {
                    draft.draw_tag();
                }
            }
            (draft.shard.batch_seq, claimed)
        });
        match done {
            Ok((seq, claimed)) => {
                self.hand.clear();
                self.remember(parts.db);
                if !claimed.is_empty() {
                    self.send(seq, claimed, parts);
                }
                Process::GoesOn
            }
            Err(error) => self.failed(&error, At::Recover),
        }
    }

    /// Sends a batch that was in flight again, whole and as it was.
    fn reclaim(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        let (rules, mode, ids) = (parts.rules, self.mode, &self.manifest_ids);
        let done = parts.db.transaction(rules, self.fence(), self.expected(true), luck, |draft| {
            let again = draft.claim_again(ids);
            draft.shard.batch_ids = (!again.is_empty()).then(|| again.clone());
            match mode {
                Mode::AtLeastOnce => draft.shard.marked &= !rules.has(Safeguard::MarkTakenOff),
                Mode::ExactlyOnce => {
                    draft.shard.marked |= !rules.has(Safeguard::ResendUnmarked);
                    draft.draw_tag();
                }
            }
            (draft.shard.batch_seq, again)
        });
        match done {
            Ok((seq, again)) => {
                self.remember(parts.db);
                self.at = At::Step;
                if !again.is_empty() {
                    self.send(seq, again, parts);
                }
                Process::GoesOn
            }
            Err(error) => self.failed(&error, if mode == Mode::ExactlyOnce { At::CheckFence } else { At::Recover }),
        }
    }

    /// What a transaction that did not go well means: nothing has happened, or nobody knows and `when_unknown` finds
    /// out.
    pub(crate) fn failed(&mut self, error: &PgError, when_unknown: At) -> Process {
        match error {
            PgError::Fenced => return Process::Ended,
            PgError::Busy => {}
            PgError::Moved | PgError::Unknown => self.at = when_unknown,
        }
        Process::GoesOn
    }

    /// The manifest tells whether the commit happened whose answer was lost.
    fn recover(&mut self, parts: &mut Parts<'_>) -> Process {
        let (seq, in_flight) = (self.seq, !self.hand.is_empty());
        let Ok(shard) = parts.db.state(parts.rules, self.fence()) else { return Process::Ended };
        let (found, ids) = (shard.manifest(), shard.batch_ids.clone().unwrap_or_default());
        if self.mode == Mode::AtLeastOnce {
            let ours = !self.hand.is_empty() && self.hand.iter().all(|id| ids.contains(id));
            self.at = At::Step;
            if found.in_flight && !ours {
                self.hand.clear();
                self.remember(parts.db);
                self.at = At::Reclaim;
            }
        } else if found.in_flight && found.seq == seq + 1 {
            // Ours, and nothing of it was sent.
            self.hand.clear();
            self.remember(parts.db);
            self.send(found.seq, ids, parts);
        } else if found.seq == seq && (in_flight || !found.in_flight) {
            if !found.in_flight {
                self.hand.clear();
            }
            self.at = At::Step;
        } else {
            // Not what we wrote: the row went back in time.
            self.at = At::CheckFence;
        }
        Process::GoesOn
    }
}
