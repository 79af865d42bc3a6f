//! How a lane finds out where its shard stands: at the start in exactly-once delivery, and in either mode whenever the
//! outcome of the last action is unknown.
//!
//! At-least-once delivery reads the manifest. Exactly-once delivery also fences every older producer of the shard,
//! reads the marker, and lets `takeover::resolve` decide about the batch that PostgreSQL believes to be in flight. A
//! crash, a lost answer, a refusal and a change of owner all take this path.

use super::{Ended, Failed, Mode, Protocol, Safeguard, Stage};
use crate::broker::transaction::{Blocked, Marker};
use crate::outbox::{LastBatch, OutboxError, Published, Settlement, ShardState};
use crate::relay::takeover::{
    Disagreement, Known, Manifest, Resolution, Seen, foresee, is_ours, may_leave, note, resolve,
};

/// What has to be asked next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// PostgreSQL: the row of the shard, under its fence. Answer with [`Protocol::found`].
    State,
    /// Kafka: the marker as it is now, without fencing anybody. Answer with [`Protocol::peeked`].
    Marker,
    /// Kafka: fence every older producer under the `transactional.id` with this number, then read the marker. Answer
    /// with [`Protocol::fenced`] or [`Protocol::blocked`].
    Fence { producer: i32 },
    /// PostgreSQL: put the next number into the row of the shard. Answer with [`Protocol::renumbered`].
    NextProducer { from: i32 },
    /// Kafka: commit this marker without records. Answer with [`Protocol::written`].
    Write(Marker),
}

/// What the row of the shard led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// More has to be asked.
    Incomplete,
    /// A transaction of a former owner cannot be ended now, and its outcome decides what happens to the batch.
    Blocked,
    /// At-least-once delivery knows where it is.
    Recovered,
    /// The marker has decided.
    Resolved(Resolution),
    Refused(Disagreement),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Opening {
    /// Somebody else may have written the marker since this lane did.
    Peek,
    /// Before the fence, so that a process that lost its lease does not fence its successor. And after the peek, so
    /// that it does not compare its successor's marker with an old row.
    Look {
        peeked: Option<Option<Marker>>,
    },
    Fence {
        before: ShardState,
        producer: i32,
        peeked: Option<Marker>,
        /// Another `transactional.id` was left for this one.
        left: bool,
    },
    /// The last transaction under the `transactional.id` cannot be ended now.
    Blocked {
        before: ShardState,
        producer: i32,
        blocked: Blocked,
    },
    Leave {
        before: ShardState,
        producer: i32,
    },
    /// After the fence, in case the lease was lost in between: then the successor opens again, and we are out.
    Confirm {
        marker: Option<Marker>,
    },
    Write {
        marker: Marker,
    },
}

impl Opening {
    pub(super) fn ask(&self) -> Ask {
        match self {
            Self::Look { .. } | Self::Blocked { .. } | Self::Confirm { .. } => Ask::State,
            Self::Peek => Ask::Marker,
            Self::Fence { producer, .. } => Ask::Fence { producer: *producer },
            Self::Leave { producer, .. } => Ask::NextProducer { from: *producer },
            Self::Write { marker } => Ask::Write(marker.clone()),
        }
    }
}

impl Protocol {
    /// Nothing more has to be asked.
    pub fn is_open(&self) -> bool {
        match self.stage {
            Stage::Open | Stage::Claimed => true,
            Stage::Closed(_) | Stage::Ended(_) => false,
        }
    }

    /// The former producers are fenced, and the answer to [`Ask::State`] decides.
    pub fn decides(&self) -> bool {
        matches!(self.stage, Stage::Closed(Opening::Confirm { .. }))
    }

    /// What PostgreSQL says about the shard. `marker_due`: the marker has to be written again soon.
    pub fn found(&mut self, state: ShardState, marker_due: bool) -> Found {
        let Mode::ExactlyOnce(installation) = self.mode else {
            self.recovered(state);
            return Found::Recovered;
        };
        let Stage::Closed(opening) = self.stage.clone() else { return Found::Incomplete };
        let next = match opening {
            Opening::Look { peeked } => {
                if let Some(marker) = &peeked {
                    // A relay on a copy of a database learns here that the original is at work.
                    let foreseen = match self.seen(&state, marker.clone()) {
                        Ok(seen) => foresee(Manifest::of(&state), seen),
                        Err(why) => Some(why),
                    };
                    if let Some(why) = foreseen {
                        return self.refuse(why);
                    }
                }
                Opening::Fence { producer: state.producer, before: state, peeked: peeked.flatten(), left: false }
            }
            Opening::Blocked { before, producer, blocked: Blocked { own, marker } } => {
                let seen = match self.seen(&state, marker) {
                    Ok(seen) => seen,
                    Err(why) => return self.refuse(why),
                };
                let leaves = may_leave(own, Manifest::of(&state), seen);
                if !leaves && self.safeguards.has(Safeguard::LeaveOnlyDecided) {
                    self.ask_failed();
                    return Found::Blocked;
                }
                match self.safeguards.has(Safeguard::NextIdNotedFirst) {
                    // Whoever owns the shard next fences this one, so PostgreSQL has it before Kafka does.
                    true => Opening::Leave { before, producer },
                    false => Opening::Fence { before, producer: producer + 1, peeked: None, left: true },
                }
            }
            Opening::Confirm { marker } => return self.decide(installation, state, marker, marker_due),
            // Nobody asked for it.
            other @ (Opening::Peek | Opening::Fence { .. } | Opening::Leave { .. } | Opening::Write { .. }) => other,
        };
        self.stage = Stage::Closed(next);
        Found::Incomplete
    }

    /// The marker before anybody was fenced.
    pub fn peeked(&mut self, marker: Option<Marker>) {
        if let Stage::Closed(Opening::Peek) = &self.stage {
            self.stage = Stage::Closed(Opening::Look { peeked: Some(marker) });
        }
    }

    /// Every older producer is fenced, and the marker is final. `marker_due` is as for [`Protocol::found`].
    pub fn fenced(&mut self, marker: Option<Marker>, marker_due: bool) {
        let Mode::ExactlyOnce(installation) = self.mode else { return };
        let Stage::Closed(Opening::Fence { before, peeked, .. }) = &self.stage else { return };
        let marker = if self.safeguards.has(Safeguard::FenceBeforeMarker) { marker } else { peeked.clone() };
        if self.safeguards.has(Safeguard::ManifestAfterFence) {
            self.stage = Stage::Closed(Opening::Confirm { marker });
        } else {
            self.decide(installation, before.clone(), marker, marker_due);
        }
    }

    /// The last transaction under this `transactional.id` cannot be ended now. Errors: nor can that of the one that was
    /// left for it.
    pub fn blocked(&mut self, blocked: Blocked) -> Result<(), Blocked> {
        match &self.stage {
            Stage::Closed(Opening::Fence { before, producer, left: false, .. }) => {
                self.stage = Stage::Closed(Opening::Blocked { before: before.clone(), producer: *producer, blocked });
                Ok(())
            }
            Stage::Closed(_) | Stage::Open | Stage::Claimed | Stage::Ended(_) => Err(blocked),
        }
    }

    /// The row of the shard has the next `transactional.id`.
    pub fn renumbered(&mut self, producer: i32) {
        if let Stage::Closed(Opening::Leave { before, .. }) = &self.stage {
            self.stage = Stage::Closed(Opening::Fence { before: before.clone(), producer, peeked: None, left: true });
        }
    }

    /// The marker is committed.
    pub fn written(&mut self) {
        if let Stage::Closed(Opening::Write { .. }) = &self.stage {
            self.opened();
        }
    }

    /// The answer to the last question did not come, or is no use: everything is asked again from the start.
    pub fn ask_failed(&mut self) {
        self.failed = Some(if self.is_exactly_once() { Failed::Opening } else { Failed::Step });
        self.close();
    }

    /// PostgreSQL did not answer [`Ask::State`] or [`Ask::NextProducer`].
    pub fn state_failed(&mut self, error: &OutboxError) {
        match error {
            OutboxError::Fenced(_) => self.stage = Stage::Ended(Ended::LostLease),
            // Only a step compares batches, and writes to rows.
            OutboxError::Moved { .. } | OutboxError::Unchanged | OutboxError::Db(_) => self.ask_failed(),
        }
    }

    /// What is in hand of a batch that PostgreSQL does not have in flight is let go.
    fn recovered(&mut self, state: ShardState) {
        let found = LastBatch { seq: state.batch_seq, in_flight: state.batch_ids.is_some() };
        let same_batch = self.last == Some(found) || !self.safeguards.has(Safeguard::RecoveryComparesBatch);
        match state.batch_ids {
            // What we wanted to settle is still in flight for the database: the commit did not happen.
            Some(ids) if same_batch && belongs_to(&self.settlement, &ids) => {}
            // A batch that we have not seen: the commit happened, its answer was lost. Or PostgreSQL went back to it.
            Some(ids) => {
                self.settlement = Settlement::default();
                self.resend = Some(ids).filter(|_| self.safeguards.has(Safeguard::ManifestResent));
            }
            // Nothing in flight: settled, and nothing was claimed. Or PostgreSQL went back to before it was claimed.
            None => (self.settlement, self.resend) = (Settlement::default(), None),
        }
        self.last = Some(found);
        self.stage = Stage::Open;
    }

    /// What a marker says about the last batch. Errors: it belongs to another outbox.
    fn seen(&self, state: &ShardState, marker: Option<Marker>) -> Result<Option<Seen>, Disagreement> {
        let Mode::ExactlyOnce(installation) = self.mode else { return Ok(None) };
        let Some(Marker { seq, note }) = marker else { return Ok(None) };
        if !is_ours(&note, installation) {
            return Err(Disagreement::ForeignMarker);
        }
        let known = Known { installation, tag: state.tag, ids: state.batch_ids.as_deref() };
        let same_batch = known.agrees(&note) || !self.safeguards.has(Safeguard::MarkerNamesBatch);
        Ok(Some(Seen { seq, same_batch }))
    }

    fn decide(
        &mut self,
        installation: uuid::Uuid,
        state: ShardState,
        marker: Option<Marker>,
        marker_due: bool,
    ) -> Found {
        let manifest = Manifest::of(&state);
        let seen = match self.seen(&state, marker) {
            Ok(_) if !self.safeguards.has(Safeguard::MarkerDecides) => {
                Some(Seen { seq: manifest.seq - i64::from(manifest.in_flight), same_batch: true })
            }
            Ok(seen) => seen,
            Err(why) => return self.refuse(why),
        };
        let resolution = resolve(manifest, seen);
        let ids = state.batch_ids.unwrap_or_default();
        let mut write = false;
        match resolution {
            Resolution::Refuse(why) => return self.refuse(why),
            Resolution::Settle => {
                // Where the records are is known only to the lane that sent them.
                if !self.settlement.published.iter().map(|event| &event.id).eq(&ids) {
                    let published = ids.iter().copied().map(Published::somewhere).collect();
                    self.settlement = Settlement { published, ..Settlement::default() };
                }
                (self.resend, self.forget) = (None, false);
            }
            Resolution::Forget => {
                self.settlement.published.clear();
                (self.resend, self.forget) = (None, true);
            }
            Resolution::Resend => {
                self.settlement.published.clear();
                (self.resend, self.forget) = (Some(ids), false);
            }
            Resolution::Ready => {
                self.settlement.published.clear();
                (self.resend, self.forget) = (None, false);
                write = marker_due;
            }
            Resolution::Baseline => {
                self.settlement.published.clear();
                (self.resend, self.forget) = (None, false);
                write = self.safeguards.has(Safeguard::BaselineWritten);
            }
        }
        self.last = Some(LastBatch { seq: manifest.seq, in_flight: manifest.in_flight });
        if write {
            let marker = Marker { seq: state.batch_seq, note: note(installation, state.tag) };
            self.stage = Stage::Closed(Opening::Write { marker });
        } else {
            self.opened();
        }
        Found::Resolved(resolution)
    }

    fn opened(&mut self) {
        self.stage = Stage::Open;
        self.estranged = false;
    }

    fn refuse(&mut self, why: Disagreement) -> Found {
        self.stage = Stage::Ended(Ended::Disagree(why));
        Found::Refused(why)
    }
}

/// Whether the manifest is that of the batch this settlement is about.
fn belongs_to(settlement: &Settlement, manifest: &[i64]) -> bool {
    let first = settlement
        .published
        .first()
        .map(|event| event.id)
        .or_else(|| settlement.failed.first().map(|failed| failed.id));
    first.is_some_and(|id| manifest.binary_search(&id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(ids: &[i64]) -> Settlement {
        Settlement { published: ids.iter().copied().map(Published::somewhere).collect(), ..Settlement::default() }
    }

    #[test]
    fn a_manifest_is_ours_when_it_holds_what_we_settle() {
        assert!(belongs_to(&settlement(&[3, 5]), &[3, 5, 9]));
        assert!(!belongs_to(&settlement(&[3, 5]), &[11, 12]));
        assert!(!belongs_to(&Settlement::default(), &[11, 12]));
    }
}
