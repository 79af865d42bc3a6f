//! What a relay asks of Kafka: records one by one, the marker, the commit; and when it takes a new producer.

use crate::kafka::{KafkaError, Marker, Straggler, partition_of};
use crate::postgres::Id;
use crate::relay::{At, Attempt, Batch, Mode, Parts, Relay};
use crate::rules::{Luck, Safeguard};

impl Relay {
    pub(crate) fn send(&mut self, seq: i64, ids: Vec<Id>, parts: &mut Parts<'_>) {
        self.at = match (self.mode, ids.is_empty()) {
            (Mode::AtLeastOnce, _) => At::SendPlain,
            (Mode::ExactlyOnce, true) => At::SendMarker,
            (Mode::ExactlyOnce, false) => At::Produce,
        };
        parts.attempts.push(Attempt { ids: ids.clone(), mode: self.mode });
        self.batch = Batch { seq, ids, attempt: parts.attempts.len() - 1, ..Batch::default() };
        self.suspicious = false;
    }

    pub(crate) fn send_plain(&mut self, parts: &mut Parts<'_>) {
        let id = self.batch.ids[self.batch.sent];
        parts.kafka.produce_plain(id, parts.db.key_of(id), self.batch.attempt);
        self.batch.sent += 1;
        if self.batch.sent == self.batch.ids.len() {
            self.hand = self.batch.ids.clone();
            self.at = At::Step;
        }
    }

    pub(crate) fn produce(&mut self, luck: Luck, parts: &mut Parts<'_>) {
        let id = self.batch.ids[self.batch.sent];
        let key = parts.db.key_of(id);
        let new = !self.batch.added[partition_of(key)];
        if luck == Luck::LostBefore {
            return self.recycle();
        }
        match parts.kafka.produce(self.producer, new, id, key, self.batch.attempt) {
            Ok(()) if luck == Luck::Fine || !parts.rules.has(Safeguard::Recycle) => {
                self.batch.added[partition_of(key)] = true;
                self.batch.sent += 1;
                if self.batch.sent == self.batch.ids.len() {
                    self.at = At::SendMarker;
                }
            }
            // The client waits, until it gives up.
            Err(KafkaError::NotNow) => {}
            Ok(()) | Err(KafkaError::Fenced | KafkaError::InvalidState) => self.recycle(),
        }
    }

    pub(crate) fn send_marker(&mut self, luck: Luck, parts: &mut Parts<'_>) {
        let (number, epoch) = self.producer;
        if luck == Luck::LostBefore {
            return self.recycle();
        }
        let marker = Marker { seq: self.batch.seq, tag: self.tag };
        match parts.kafka.send_marker(self.producer, !self.batch.marker_added, marker.clone()) {
            Ok(()) => {
                self.batch.marker_added = true;
                self.at = At::Commit;
                if luck == Luck::Twice {
                    self.suspicious = true;
                    parts.kafka.stragglers.push(Straggler::Marker { number, epoch, marker });
                }
            }
            Err(KafkaError::NotNow) => {}
            Err(KafkaError::Fenced | KafkaError::InvalidState) => self.recycle(),
        }
    }

    pub(crate) fn commit(&mut self, luck: Luck, parts: &mut Parts<'_>) {
        let (number, epoch) = self.producer;
        if matches!(luck, Luck::Late | Luck::Twice) {
            parts.kafka.stragglers.push(Straggler::End { number, epoch, commit: true });
        }
        let answer = match luck {
            Luck::LostBefore | Luck::Late => None,
            Luck::Fine | Luck::Twice | Luck::LostAfter => Some(parts.kafka.end(self.producer, true)),
        };
        self.suspicious |= luck != Luck::Fine;
        match answer {
            Some(Err(KafkaError::Fenced | KafkaError::InvalidState | KafkaError::NotNow)) => self.recycle(),
            _ if self.suspicious && parts.rules.has(Safeguard::Recycle) => self.recycle(),
            Some(Ok(())) if luck != Luck::LostAfter => {
                self.hand = self.batch.ids.clone();
                self.seq = self.batch.seq;
                self.at = At::Step;
            }
            // The client asks again.
            Some(Ok(())) | None => {}
        }
    }

    /// A new producer, and the whole takeover, as if somebody else had left the batch behind.
    fn recycle(&mut self) {
        self.hand.clear();
        self.at = At::CheckFence;
    }
}
