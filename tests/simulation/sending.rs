//! What a lane asks of Kafka: records one by one, the marker, the commit.

use outbox_relay::broker::transaction::Marker;
use outbox_relay::outbox::{Batch, Published, Settlement};
use outbox_relay::relay::protocol::Sent;

use crate::kafka::{KafkaError, PARTITIONS, Record, Straggler, partition_of};
use crate::lane::{Attempt, Doing, Lane, Mode, Parts, marker};
use crate::rules::Luck;

/// What is being sent.
#[derive(Debug, Clone, Default, Hash)]
pub struct Sending {
    records: Vec<Record>,
    marker: Option<Marker>,
    attempt: usize,
    /// How many records were.
    pub sent: usize,
    added: [bool; PARTITIONS],
    marker_added: bool,
    /// Something about the transaction was not ordinary.
    suspicious: bool,
}

impl Sending {
    pub fn of_batch(batch: Batch<Record>) -> Self {
        let marker = Some(marker(batch.seq, batch.tag));
        let records = batch.events.into_iter().map(|claimed| claimed.record).collect();
        Self { records, marker, ..Self::default() }
    }

    /// Only a marker.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl Lane {
    /// Begins to send the batch that was claimed.
    pub(crate) fn send(&mut self, parts: &mut Parts<'_>) -> Doing {
        self.sending.attempt = parts.attempts.len();
        let events = self.sending.records.iter().map(|record| record.event).collect();
        parts.attempts.push(Attempt { events });
        match self.who.mode {
            Mode::AtLeastOnce => Doing::SendPlain,
            Mode::ExactlyOnce => Doing::Produce,
        }
    }

    /// Begins to write a marker alone.
    pub(crate) fn write(&mut self, marker: Marker) -> Doing {
        self.sending = Sending { marker: Some(marker), ..Sending::default() };
        Doing::SendMarker
    }

    pub(crate) fn send_plain(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        if luck != Luck::LostBefore {
            let Sending { records, attempt, sent, .. } = &mut self.sending;
            parts.kafka.produce_plain(records[*sent], *attempt);
            *sent += 1;
            if *sent < records.len() {
                return Some(Doing::SendPlain);
            }
        }
        let count = self.sending.sent;
        let unsent = (self.sending.records.len() - count) as u64;
        self.protocol.published(Sent {
            settlement: self.settles(count),
            unsent,
            stuck: 0,
            usable: true,
            unknown: false,
        });
        None
    }

    pub(crate) fn produce(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        let Sending { records, attempt, sent, added, .. } = &mut self.sending;
        let record = records[*sent];
        let partition = partition_of(record.key);
        if luck == Luck::LostBefore {
            return self.unknown();
        }
        match parts.kafka.produce(self.producer, !added[partition], record, *attempt) {
            Ok(()) if luck == Luck::Fine => {
                added[partition] = true;
                *sent += 1;
                Some(if *sent == records.len() { Doing::SendMarker } else { Doing::Produce })
            }
            // The client waits, until it gives up.
            Err(KafkaError::NotNow) => Some(Doing::Produce),
            Ok(()) | Err(KafkaError::Fenced | KafkaError::InvalidState) => self.unknown(),
        }
    }

    pub(crate) fn send_marker(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        let (id, epoch) = self.producer;
        let Some(marker) = self.sending.marker.clone().filter(|_| luck != Luck::LostBefore) else {
            return self.unknown();
        };
        match parts.kafka.send_marker(self.producer, !self.sending.marker_added, marker.clone()) {
            Ok(()) => {
                self.sending.marker_added = true;
                if luck == Luck::Twice {
                    self.sending.suspicious = true;
                    parts.kafka.stragglers.push(Straggler::Marker { id, epoch, marker });
                }
                Some(Doing::Commit)
            }
            Err(KafkaError::NotNow) => Some(Doing::SendMarker),
            Err(KafkaError::Fenced | KafkaError::InvalidState) => self.unknown(),
        }
    }

    pub(crate) fn commit(&mut self, luck: Luck, parts: &mut Parts<'_>) -> Option<Doing> {
        let (id, epoch) = self.producer;
        if matches!(luck, Luck::Late | Luck::Twice) {
            parts.kafka.stragglers.push(Straggler::End { id, epoch, commit: true });
        }
        let answer = match luck {
            Luck::LostBefore | Luck::Late => None,
            Luck::Fine | Luck::Twice | Luck::LostAfter | Luck::Undone => Some(parts.kafka.end(self.producer, true)),
        };
        match answer {
            Some(Ok(())) if luck != Luck::LostAfter => {
                let usable = luck == Luck::Fine && !self.sending.suspicious;
                self.marked |= usable || !self.sending.is_empty();
                if self.sending.is_empty() {
                    if usable { self.protocol.written() } else { self.protocol.ask_failed() }
                } else {
                    let settlement = self.settles(self.sending.records.len());
                    self.protocol.published(Sent { settlement, unsent: 0, stuck: 0, usable, unknown: false });
                }
                None
            }
            Some(Ok(()) | Err(KafkaError::Fenced | KafkaError::InvalidState | KafkaError::NotNow)) | None => {
                self.unknown()
            }
        }
    }

    /// The first `count` records are in Kafka.
    fn settles(&self, count: usize) -> Settlement {
        let published = self.sending.records[..count].iter().map(|record| Published::somewhere(record.id)).collect();
        Settlement { published, ..Settlement::default() }
    }

    /// The transaction did not end in order, and the producer is not used again.
    fn unknown(&mut self) -> Option<Doing> {
        if self.sending.is_empty() {
            self.protocol.ask_failed();
        } else {
            let unsent = self.sending.records.len() as u64;
            let settlement = Settlement::default();
            self.protocol.published(Sent { settlement, unsent, stuck: 0, usable: false, unknown: true });
        }
        None
    }
}
