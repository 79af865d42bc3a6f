//! One partition of this instance: whether it is read or waits, why, and for how long.

use std::time::Duration;

use crate::projection::position::{Landmark, Stopped};
use crate::projection::record::{Place, Record};
use crate::retry::Backoff;

/// Before a partition that another instance took, while it is still assigned to us, is taken back. By then a rebalance
/// would have told us (session timeout 30 s); if none came, nobody else may be reading it.
pub(super) const FENCED_WAIT: Duration = Duration::from_secs(45);
/// Before a partition that is stopped is taken again. Decisions are looked for every few seconds, so this only matters
/// when the look fails for long.
pub(super) const STOPPED_WAIT: Duration = Duration::from_secs(300);
/// Before a projection that does not work is tried again: first and longest wait.
const BLOCKED_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why a partition is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Just assigned.
    New,
    /// PostgreSQL does not answer.
    Unavailable(String),
    /// Kafka does not say where it begins and ends.
    Unmeasured(String),
    /// Somebody keeps what a fold needs locked.
    Locked(String),
    /// A projection or the schema is broken.
    Blocked(String),
    /// Another instance has taken it.
    Fenced,
    /// Somebody has to decide about its position.
    Stopped(Stopped),
}

#[derive(Debug)]
pub(super) enum State {
    Waiting {
        due: Duration,
    },
    Reading {
        epoch: i64,
        buffer: Vec<Record>,
        /// To be found unchanged before anything is buffered.
        look_back: Option<Landmark>,
    },
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) state: State,
    /// Offset after the last folded record; 0 until the fence was taken once.
    pub(super) next_offset: i64,
    /// The epoch of a fold that is under way.
    pub(super) folding: Option<i64>,
    /// Kafka does not have it because of that fold.
    pub(super) left_out: bool,
    /// Why it waits. A partition that was blocked stays so until a fold succeeds: reading it again proves nothing.
    pub(super) why: Option<Why>,
    pub(super) unavailable: Backoff,
    pub(super) blocked: Backoff,
}

impl Slot {
    /// Just assigned: its fence is to be taken at once.
    pub(super) fn new(place: Place, now: Duration) -> Self {
        Self {
            place,
            state: State::Waiting { due: now },
            next_offset: 0,
            folding: None,
            left_out: false,
            why: Some(Why::New),
            unavailable: Backoff::for_connection(),
            blocked: Backoff::new(BLOCKED_WAIT.0, BLOCKED_WAIT.1),
        }
    }

    /// It is not read any more; what is buffered of it is dropped.
    pub(super) fn wait(&mut self, why: Why, now: Duration) {
        let wait = match &why {
            Why::New => Duration::ZERO,
            Why::Unavailable(_) | Why::Unmeasured(_) | Why::Locked(_) => self.unavailable.next_wait(),
            Why::Blocked(_) => self.blocked.next_wait(),
            Why::Fenced => FENCED_WAIT,
            Why::Stopped(_) => STOPPED_WAIT,
        };
        self.state = State::Waiting { due: now + wait };
        self.why = Some(why);
    }
}

/// A batch to fold.
#[derive(Debug)]
pub struct Batch {
    pub place: Place,
    pub epoch: i64,
    /// After the last folded record.
    pub next_offset: i64,
    pub records: Vec<Record>,
}

/// A partition that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading<'a> {
    pub place: &'a Place,
    pub epoch: i64,
    /// After the last folded record.
    pub next_offset: i64,
    /// Where Kafka begins: at the record to look back at, if there is one.
    pub from: i64,
}
