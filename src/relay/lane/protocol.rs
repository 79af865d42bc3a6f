//! What a lane does next: the only place that decides it, for both delivery modes, alone or in a shared step.
//!
//! Pure: no waiting, no clock, no metrics. The lane asks [`Protocol::next`], does what it says, and reports what it
//! observed. `tests/simulation.rs` drives the same code through crashes, lost answers and changes of owner.
//! Invariants: one batch at a time; what PostgreSQL or Kafka has not confirmed is looked up before the lane goes on.

mod opening;
mod safeguards;

use uuid::Uuid;

use crate::outbox::{LastBatch, OutboxError, Settlement, Step};
use crate::relay::shared_step::SHARED_ROWS_MAX;
use crate::relay::takeover::Disagreement;
use opening::Opening;
pub use opening::{Ask, Found};
pub use safeguards::{Safeguard, Safeguards};

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// It was told to stop, and everything in hand is settled: the lease may be given away.
    Drained,
    /// The lease is over or another instance has it. What was in hand belongs to the next owner.
    LostLease,
    /// PostgreSQL and Kafka contradict each other: an operator has to look before anybody continues.
    Disagree(Disagreement),
}

/// How events are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    AtLeastOnce,
    /// With the name of this outbox, which its markers carry.
    ExactlyOnce(Uuid),
}

/// Whether the lane may still act for its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    Holds,
    /// Its owner took it back. What was acknowledged may still be settled.
    Withdrawn,
    /// It ran out. Somebody else may own the shard.
    Expired,
}

/// What the lane sees around it when it asks what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Around {
    pub right: Right,
    /// The lane was told to stop.
    pub stopping: bool,
    /// Everything is paused.
    pub paused: bool,
    /// The lane holds a permit to have a batch in flight.
    pub has_turn: bool,
}

/// What the lane does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next {
    /// Ask PostgreSQL or Kafka, and report the answer.
    Ask(Ask),
    /// Get a permit to have a batch in flight: one of those for small batches, or a full one.
    Turn {
        small: bool,
    },
    /// One transaction in PostgreSQL. Report it with [`Protocol::stepped`].
    Step(Intent),
    /// Send the claimed batch. Report it with [`Protocol::published`].
    Publish,
    Wait(Wait),
    End(Ended),
}

/// What a lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Everything is paused.
    Paused,
    /// The shard has nothing to do.
    Work,
    /// Kafka did not take all of a batch.
    Kafka,
    /// Something failed and is tried again.
    Retry,
}

/// What a step has to do besides settling what is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Nothing.
    Settle,
    /// Claim the next batch.
    Next,
    /// Take up the batch in [`Protocol::in_hand`] again.
    Resend,
}

/// A step that the lane is about to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Intent {
    /// In one transaction with other lanes. If nothing was done for this lane, it calls
    /// [`Protocol::undone`] and takes the same step alone.
    pub shared: bool,
    pub work: Work,
    /// What PostgreSQL must say about the last batch; `None` if the lane does not know yet.
    pub expected: Option<LastBatch>,
    /// The batch in flight is not in Kafka and never will be.
    pub forget: bool,
    /// The number of the batch goes to Kafka in the transaction of its records.
    pub numbered: bool,
    /// What the row says about that from now on.
    pub marked: bool,
}

/// How sending a batch ended.
#[derive(Debug)]
pub struct Sent {
    pub settlement: Settlement,
    /// Events that Kafka did not acknowledge, for no fault of their own.
    pub unsent: u64,
    /// Events of partitions that take nothing now.
    pub stuck: u64,
    /// In exactly-once delivery: the producer may be used for another transaction.
    pub usable: bool,
    /// In exactly-once delivery: nobody knows whether the transaction was committed.
    pub unknown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// PostgreSQL, and in exactly-once delivery Kafka, have to be asked first.
    Closed(Opening),
    Open,
    /// A batch was claimed and has not been sent.
    Claimed,
    Ended(Ended),
}

/// What was under way when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Failed {
    /// The shard of exactly-once delivery was being opened.
    Opening,
    /// The outcome of a step, or of a read, is unknown.
    Step,
}

/// The state of a lane between two actions.
#[derive(Debug, Clone, Hash)]
pub struct Protocol {
    mode: Mode,
    safeguards: Safeguards,
    /// Other lanes are there to share steps with.
    shares: bool,
    stage: Stage,
    failed: Option<Failed>,
    wait: Option<Wait>,
    /// Of the batch that was published last; still to be written.
    settlement: Settlement,
    /// A batch that was sent without a transaction, perhaps in part, and is to be sent again as it was.
    resend: Option<Vec<i64>>,
    /// The batch in flight is known not to be in Kafka: it may be claimed afresh.
    forget: bool,
    /// The last batch as this lane knows it. PostgreSQL may have another one: a commit whose answer was lost came
    /// through late, or a failover lost commits, and ids in hand may belong to other rows now.
    last: Option<LastBatch>,
    /// Somebody else may have written the marker since this lane did: it is read before anybody is fenced.
    estranged: bool,
    /// The last claim found few events: the next step is shared with other lanes.
    is_small: bool,
    /// Nothing that a former owner left is in flight any more.
    resolved: bool,
}

impl Protocol {
    /// `inherited` is the manifest that a former owner left.
    pub fn new(mode: Mode, inherited: Option<Vec<i64>>, shares: bool, safeguards: Safeguards) -> Self {
        Self {
            mode,
            safeguards,
            shares,
            stage: match mode {
                Mode::AtLeastOnce => Stage::Open,
                Mode::ExactlyOnce(_) => Stage::Closed(Opening::Peek),
            },
            failed: None,
            wait: None,
            settlement: Settlement::default(),
            resolved: inherited.is_none(),
            // In exactly-once delivery the marker decides about it.
            resend: inherited.filter(|_| safeguards.has(Safeguard::ManifestResent)),
            forget: false,
            last: None,
            estranged: true,
            is_small: false,
        }
    }

    fn is_exactly_once(&self) -> bool {
        matches!(self.mode, Mode::ExactlyOnce(_))
    }

    pub fn next(&mut self, around: Around) -> Next {
        let Around { right, stopping, paused, has_turn } = around;
        match self.stage {
            Stage::Ended(ended) => return Next::End(ended),
            Stage::Claimed => return Next::Publish,
            Stage::Closed(_) | Stage::Open => {}
        }
        if right == Right::Expired {
            return self.end(Ended::LostLease);
        }
        if stopping && self.settlement.is_empty() {
            // A manifest that is not resolved stays for the next owner.
            return self.end(Ended::Drained);
        }
        match self.failed.take() {
            // The next owner opens.
            Some(Failed::Opening) if stopping => return self.end(Ended::Drained),
            Some(_) if right == Right::Withdrawn => return self.end(Ended::LostLease),
            Some(_) => return Next::Wait(Wait::Retry),
            None => {}
        }
        if let Some(wait) = self.wait.take() {
            return Next::Wait(wait);
        }
        if let Stage::Closed(opening) = &self.stage {
            return Next::Ask(opening.ask());
        }
        // What is in hand is settled; an inherited batch waits with the rest.
        if paused && !stopping && self.settlement.is_empty() {
            return Next::Wait(Wait::Paused);
        }
        // A step that only settles needs none.
        let small = self.is_small && self.resend.is_none();
        if !stopping && !has_turn {
            return Next::Turn { small };
        }
        Next::Step(self.intent(small && !stopping, stopping, paused))
    }

    fn intent(&self, shared: bool, stopping: bool, paused: bool) -> Intent {
        let work = match (&self.resend, stopping, paused) {
            (_, true, _) | (None, false, true) => Work::Settle,
            (Some(_), false, _) => Work::Resend,
            (None, false, false) => Work::Next,
        };
        let marked = match (self.mode, work) {
            (Mode::AtLeastOnce, Work::Settle | Work::Next | Work::Resend) => {
                !self.safeguards.has(Safeguard::MarkCleared)
            }
            (Mode::ExactlyOnce(_), Work::Settle | Work::Next) => true,
            (Mode::ExactlyOnce(_), Work::Resend) => !self.safeguards.has(Safeguard::ResendUnmarked),
        };
        Intent {
            shared,
            work,
            expected: self.last.filter(|_| self.safeguards.has(Safeguard::StepComparesBatch)),
            forget: self.forget && self.safeguards.has(Safeguard::ForgottenNumberReused),
            numbered: self.is_exactly_once(),
            marked,
        }
    }

    /// What is still to be written of the last batch. A shared step takes it and gives it back.
    pub fn settlement(&mut self) -> &mut Settlement {
        &mut self.settlement
    }

    /// The same, and the batch to be sent again, in the order of its ids.
    pub fn in_hand(&self) -> (&Settlement, Option<&[i64]>) {
        (&self.settlement, self.resend.as_deref())
    }

    /// Nothing that a former owner left is in flight any more.
    pub fn is_resolved(&self) -> bool {
        self.resolved
    }

    /// A shared step did nothing for this lane: it takes the same step alone.
    pub fn undone(&mut self) {
        self.is_small = false;
    }

    /// A step was committed, or postponed.
    pub fn stepped<R>(&mut self, intent: Intent, step: &Step<R>) {
        let claimed = step.batch.as_ref().map(|batch| batch.events.len());
        let few = claimed.is_none_or(|events| events <= SHARED_ROWS_MAX as usize);
        self.is_small = self.shares && !step.full && few;
        self.last = Some(step.last);
        if step.postponed {
            self.wait = Some(Wait::Work);
            return;
        }
        let was_resend = intent.work == Work::Resend;
        if was_resend
            && claimed.is_none()
            && self.is_exactly_once()
            && self.safeguards.has(Safeguard::EmptyResendReopens)
        {
            // Nothing was left to send again, so no marker was written for that batch.
            self.close();
        }
        self.resolved |= !was_resend || claimed.is_none();
        (self.settlement, self.resend, self.forget) = (Settlement::default(), None, false);
        match claimed {
            Some(_) => self.stage = Stage::Claimed,
            // Rows that failed, or that were released: there may be more to claim at once.
            None if step.moved > 0 => {}
            None => self.wait = Some(Wait::Work),
        }
    }

    /// A step failed.
    pub fn step_failed(&mut self, error: &OutboxError) {
        // The next one is not shared.
        self.is_small = false;
        match error {
            OutboxError::Fenced(_) => self.stage = Stage::Ended(Ended::LostLease),
            OutboxError::Moved { .. } | OutboxError::Unchanged => self.close(),
            OutboxError::Db(_) => {
                self.failed = Some(Failed::Step);
                self.close();
            }
        }
    }

    /// The batch was sent, as far as Kafka took it. Returns whether the lane waits before it sends the rest again.
    pub fn published(&mut self, sent: Sent) -> bool {
        let Sent { settlement, unsent, stuck, usable, unknown } = sent;
        self.stage = Stage::Open;
        if self.is_exactly_once() {
            self.estranged |= unknown;
            if !usable && self.safeguards.has(Safeguard::UnusualReopens) {
                self.close();
            }
            // Without the events at fault, the rest of the batch may be claimed again at once.
            let at_fault = !settlement.failed.is_empty() || stuck > 0;
            self.wait = (unsent > 0 && !at_fault).then_some(Wait::Kafka);
        } else {
            self.wait = (unsent > 0).then_some(Wait::Kafka);
        }
        self.settlement = settlement;
        self.wait.is_some()
    }

    /// The marker is about to expire: the shard is opened again, which writes it.
    pub fn marker_due(&mut self) {
        self.close();
    }

    fn close(&mut self) {
        let peeks = self.estranged || !self.safeguards.has(Safeguard::FenceBeforeMarker);
        self.stage = Stage::Closed(match self.is_exactly_once() && peeks {
            true => Opening::Peek,
            false => Opening::Look { peeked: None },
        });
    }

    fn end(&mut self, ended: Ended) -> Next {
        self.stage = Stage::Ended(ended);
        Next::End(ended)
    }
}
