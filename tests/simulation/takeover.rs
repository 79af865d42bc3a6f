//! The takeover in exactly-once delivery: check the fence, init, read the marker, read the manifest, and do what
//! `outbox_relay::relay::takeover::resolve` says. The function is the production's.

use outbox_relay::relay::takeover::{Resolution, Seen, may_leave, resolve};

use crate::kafka::{Marker, Straggler};
use crate::postgres::PgError;
use crate::relay::{At, Parts, Process, Relay};
use crate::rules::{Luck, Rules, Safeguard};

impl Relay {
    /// Whoever has lost the shard must not fence its owner's producer.
    pub(crate) fn check_fence(&mut self, parts: &mut Parts<'_>) -> Process {
        match parts.db.renew(self.fence()) {
            Err(error) if parts.rules.has(Safeguard::EpochFence) => return self.failed(&error, At::CheckFence),
            Ok(()) | Err(_) => {
                self.producer.0 = parts.db.shard.producer;
                self.at = if init_first(parts) { At::Init } else { At::ReadMarker };
            }
        }
        Process::GoesOn
    }

    pub(crate) fn init(&mut self, luck: Luck, parts: &mut Parts<'_>) {
        match luck {
            Luck::Fine | Luck::Twice => {
                let number = self.producer.0;
                match parts.kafka.init(number) {
                    Some(epoch) => {
                        self.producer.1 = epoch;
                        self.fenced = Some(number);
                        self.at = if init_first(parts) { At::ReadMarker } else { At::ReadManifestAndResolve };
                    }
                    None => self.at = At::Leave,
                }
            }
            // The client asks again.
            Luck::LostAfter => drop(parts.kafka.init(self.producer.0)),
            Luck::Late => parts.kafka.stragglers.push(Straggler::Init { number: self.producer.0 }),
            Luck::LostBefore => {}
        }
    }

    /// Another transactional id, if nobody can commit anything under this one that is not decided.
    pub(crate) fn leave(&mut self, parts: &mut Parts<'_>) -> Process {
        let Some(marker) = parts.kafka.read_marker() else { return Process::GoesOn };
        self.marker = marker;
        if let Err(error) = parts.db.state(parts.rules, self.fence()) {
            return self.failed(&error, At::CheckFence);
        }
        self.remember(parts.db);
        let (number, rules) = (self.producer.0, parts.rules);
        let own = self.fenced == Some(number);
        if !rules.has(Safeguard::LeaveDecided) || may_leave(own, self.manifest, self.seen(rules)) {
            if let Err(error) = parts.db.next_producer(self.fence(), number, rules.has(Safeguard::LeaveNoted)) {
                return self.failed(&error, At::CheckFence);
            }
            self.producer.0 = number + 1;
            self.at = At::Init;
        } else {
            // Waits for the partition, and asks for the lease meanwhile.
            self.at = At::CheckFence;
        }
        Process::GoesOn
    }

    fn seen(&self, rules: Rules) -> Option<Seen> {
        self.marker.as_ref().map(|marker| Seen {
            seq: marker.seq,
            same_batch: self.agrees(marker) || !rules.has(Safeguard::BatchNamed),
        })
    }

    pub(crate) fn read_marker(&mut self, parts: &mut Parts<'_>) {
        if let Some(marker) = parts.kafka.read_marker() {
            self.marker = marker;
            self.at = if init_first(parts) { At::ReadManifestAndResolve } else { At::Init };
        }
    }

    pub(crate) fn read_manifest_and_resolve(&mut self, parts: &mut Parts<'_>) -> Process {
        if parts.rules.has(Safeguard::ManifestAfterMarker) {
            if let Err(error) = parts.db.state(parts.rules, self.fence()) {
                return self.failed(&error, At::CheckFence);
            }
            self.remember(parts.db);
        }
        self.resolve(parts);
        Process::GoesOn
    }

    fn resolve(&mut self, parts: &mut Parts<'_>) {
        self.seq = self.manifest.seq;
        match self.decide(parts.rules) {
            Resolution::Settle => self.at = At::SettleInherited,
            Resolution::Forget => self.at = At::Forget,
            Resolution::Resend => self.at = At::Reclaim,
            Resolution::Ready => self.at = At::Step,
            Resolution::Baseline => self.send(self.seq, Vec::new(), parts),
            Resolution::Refuse(why) => {
                self.refused = Some(why);
                self.at = At::Refused;
            }
        }
    }

    fn decide(&self, rules: Rules) -> Resolution {
        if !rules.has(Safeguard::ReadBack) {
            let seq = self.seq - i64::from(self.manifest.in_flight);
            return resolve(self.manifest, Some(Seen { seq, same_batch: true }));
        }
        resolve(self.manifest, self.seen(rules))
    }

    /// As `Known::agrees` has it.
    fn agrees(&self, marker: &Marker) -> bool {
        match (marker.tag, self.tag) {
            (Some(theirs), Some(ours)) => theirs == ours,
            (_, None) | (None, _) => !self.manifest.in_flight,
        }
    }

    pub(crate) fn settle_inherited(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        let (rules, ids) = (parts.rules, &self.manifest_ids);
        let done = parts.db.transaction(rules, self.fence(), self.expected(true), luck, |draft| {
            draft.settle(rules, ids);
            draft.shard.batch_ids = None;
        });
        self.resolved(done, parts)
    }

    pub(crate) fn forget(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Process {
        let done = parts.db.transaction(parts.rules, self.fence(), self.expected(true), luck, |draft| {
            draft.shard.batch_seq -= 1;
            draft.shard.batch_ids = None;
        });
        self.resolved(done, parts)
    }

    fn resolved(&mut self, done: Result<(), PgError>, parts: &Parts<'_>) -> Process {
        match done {
            Ok(()) => {
                self.remember(parts.db);
                self.at = At::Step;
                Process::GoesOn
            }
            // Nothing was sent since the marker was read, but the answer is cheap: everything from the start.
            Err(error) => self.failed(&error, At::CheckFence),
        }
    }
}

fn init_first(parts: &Parts<'_>) -> bool {
    parts.rules.has(Safeguard::InitBeforeMarker)
}
