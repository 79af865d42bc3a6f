//! Kafka as the relay sees it: two partitions, the marker, and the coordinator of the one transactional id of the shard.
//!
//! The client is one without a new epoch per transaction: a late EndTxn of the same epoch ends whatever transaction is open.
//! Brokers check that a partition belongs to the open transaction when a record or a marker comes in for it.

use crate::postgres::{Id, Key, Tag};

pub const PARTITIONS: usize = 2;
/// A partition, or the marker: what a transaction can contain.
const MARKER: usize = PARTITIONS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Sent without a transaction.
    Plain,
    Open,
    Committed,
    Aborted,
}

#[derive(Debug, Clone, Hash)]
pub struct Record {
    pub id: Id,
    pub key: Key,
    /// Which sending of which batch.
    pub attempt: usize,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Transaction {
    None,
    Open([bool; PARTITIONS + 1]),
    /// Decided, and not yet written to what it contains.
    Ending {
        commit: bool,
        contains: [bool; PARTITIONS + 1],
    },
    Ended {
        commit: bool,
    },
}

/// What a transaction leaves behind besides its records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Marker {
    pub seq: i64,
    /// Which batch it was, in the metadata of the offset.
    pub tag: Option<Tag>,
}

/// A request that its sender does not wait for any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Straggler {
    Init,
    Marker { epoch: i64, marker: Marker },
    End { epoch: i64, commit: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub enum KafkaError {
    /// A newer producer of this transactional id exists.
    Fenced,
    /// Not in the transaction that is open.
    InvalidState,
}

#[derive(Debug, Clone, Hash)]
pub struct Kafka {
    pub logs: [Vec<Record>; PARTITIONS],
    pub marker: Option<Marker>,
    marker_sent: Option<Marker>,
    epoch: i64,
    transaction: Transaction,
    pub stragglers: Vec<Straggler>,
}

pub fn partition_of(key: Key) -> usize {
    usize::from(key) % PARTITIONS
}

impl Kafka {
    pub fn new() -> Self {
        Self {
            logs: Default::default(),
            marker: None,
            marker_sent: None,
            epoch: 0,
            transaction: Transaction::None,
            stragglers: Vec::new(),
        }
    }

    /// A new producer: finishes what was decided, aborts what was not, and every former producer is fenced.
    pub fn init(&mut self) -> i64 {
        self.epoch += 1;
        self.abort();
        self.transaction = Transaction::None;
        self.epoch
    }

    /// An unclean election, or a topic made anew from a copy: records and marker as they once were.
    pub fn go_back(&mut self, past: &Self) {
        (self.logs, self.marker) = (past.logs.clone(), past.marker.clone());
        for record in self.logs.iter_mut().flatten().filter(|record| record.fate == Fate::Open) {
            record.fate = Fate::Aborted;
        }
    }

    /// The open transaction takes too long, and the coordinator ends it under a new epoch.
    pub fn time_out(&mut self) {
        if matches!(self.transaction, Transaction::Open(_)) {
            self.epoch += 1;
            self.abort();
        }
    }

    pub fn has_open_transaction(&self) -> bool {
        matches!(self.transaction, Transaction::Open(_))
    }

    pub fn is_ending(&self) -> bool {
        matches!(self.transaction, Transaction::Ending { .. })
    }

    /// `new` for the first record that this client has for the partition in its transaction: it adds the partition.
    pub fn produce(&mut self, epoch: i64, new: bool, id: Id, key: Key, attempt: usize) -> Result<(), KafkaError> {
        let partition = partition_of(key);
        self.enter(epoch, new, partition)?;
        self.logs[partition].push(Record { id, key, attempt, fate: Fate::Open });
        Ok(())
    }

    /// Outside of any transaction.
    pub fn produce_plain(&mut self, id: Id, key: Key, attempt: usize) {
        self.logs[partition_of(key)].push(Record { id, key, attempt, fate: Fate::Plain });
    }

    pub fn send_marker(&mut self, epoch: i64, new: bool, marker: Marker) -> Result<(), KafkaError> {
        self.enter(epoch, new, MARKER)?;
        self.marker_sent = Some(marker);
        Ok(())
    }

    pub fn end(&mut self, epoch: i64, commit: bool) -> Result<(), KafkaError> {
        if epoch != self.epoch {
            return Err(KafkaError::Fenced);
        }
        match self.transaction {
            Transaction::Open(contains) => {
                self.transaction = Transaction::Ending { commit, contains };
                Ok(())
            }
            // Asked again: the coordinator knows only how the last one ended.
            Transaction::Ending { commit: decided, .. } | Transaction::Ended { commit: decided }
                if decided == commit =>
            {
                Ok(())
            }
            Transaction::Ending { .. } | Transaction::Ended { .. } | Transaction::None => Err(KafkaError::InvalidState),
        }
    }

    /// The marker as a reader of stable offsets gets it. `None`: not yet, a transaction contains it.
    pub fn read_marker(&mut self) -> Option<Option<Marker>> {
        self.finish();
        match self.transaction {
            Transaction::Open(contains) if contains[MARKER] => None,
            Transaction::Open(_) | Transaction::None | Transaction::Ending { .. } | Transaction::Ended { .. } => {
                Some(self.marker.clone())
            }
        }
    }

    /// Writes the decision to everything that the transaction contains.
    pub fn finish(&mut self) {
        let Transaction::Ending { commit, contains } = self.transaction else { return };
        let fate = if commit { Fate::Committed } else { Fate::Aborted };
        for (log, _) in self.logs.iter_mut().zip(contains).filter(|(_, contained)| *contained) {
            for record in log.iter_mut().filter(|record| record.fate == Fate::Open) {
                record.fate = fate;
            }
        }
        if contains[MARKER] {
            let sent = self.marker_sent.take();
            if commit {
                self.marker = sent;
            }
        }
        self.transaction = Transaction::Ended { commit };
    }

    /// A request arrives that nobody waits for. A retried record needs no such thing: its sequence number gives it away.
    pub fn arrives(&mut self, straggler: usize) {
        match self.stragglers.remove(straggler) {
            Straggler::Init => drop(self.init()),
            Straggler::Marker { epoch, marker } => drop(self.send_marker(epoch, false, marker)),
            Straggler::End { epoch, commit } => drop(self.end(epoch, commit)),
        }
    }

    /// What a `read_committed` reader of a partition sees or will see: a decided transaction counts.
    pub fn visible(&self, partition: usize) -> impl Iterator<Item = &Record> {
        let decided = matches!(self.transaction,
            Transaction::Ending { commit: true, contains } if contains[partition]);
        self.logs[partition].iter().filter(move |record| match record.fate {
            Fate::Plain | Fate::Committed => true,
            Fate::Open => decided,
            Fate::Aborted => false,
        })
    }

    fn abort(&mut self) {
        if let Transaction::Open(contains) = self.transaction {
            self.transaction = Transaction::Ending { commit: false, contains };
        }
        self.finish();
    }

    fn enter(&mut self, epoch: i64, new: bool, what: usize) -> Result<(), KafkaError> {
        if epoch != self.epoch {
            return Err(KafkaError::Fenced);
        }
        if new {
            // The client waits until the former transaction has ended everywhere.
            self.finish();
            let mut contains = match self.transaction {
                Transaction::Open(contains) => contains,
                Transaction::None | Transaction::Ending { .. } | Transaction::Ended { .. } => [false; PARTITIONS + 1],
            };
            contains[what] = true;
            self.transaction = Transaction::Open(contains);
        }
        match self.transaction {
            Transaction::Open(contains) if contains[what] => Ok(()),
            Transaction::Open(_) | Transaction::None | Transaction::Ending { .. } | Transaction::Ended { .. } => {
                Err(KafkaError::InvalidState)
            }
        }
    }
}
