//! Kafka as the relay sees it: two partitions, the markers, and the coordinator of the transactional ids of the shards.
//!
//! The first partition may lose its leader: then it takes no records, and no transaction that contains it can be ended.
//! The coordinator gives its transactional id to nobody until then. The client is one without a new epoch per
//! transaction: a late EndTxn of the same epoch ends whatever transaction is open. Brokers check that a partition
//! belongs to the open transaction when a record or a marker comes in for it.

use std::collections::BTreeMap;

use outbox_relay::broker::transaction::Marker;

use crate::postgres::{Event, Id, Key};
use crate::shard::Number;

pub const PARTITIONS: usize = 2;
/// A partition, or the marker of the shard: what a transaction can contain.
const MARKER: usize = PARTITIONS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Sent without a transaction.
    Plain,
    Open,
    Committed,
    Aborted,
}

/// A transactional id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId {
    pub shard: Number,
    pub number: i32,
}

/// An event on its way to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    pub id: Id,
    pub event: Event,
    pub key: Key,
}

/// A record in a log.
#[derive(Debug, Clone, Hash)]
pub struct Logged {
    pub record: Record,
    /// Which sending of which batch.
    pub attempt: usize,
    /// Whose transaction it is in.
    producer: ProducerId,
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

/// A request that its sender does not wait for any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Straggler {
    Init { id: ProducerId },
    Marker { id: ProducerId, epoch: i64, marker: Marker },
    End { id: ProducerId, epoch: i64, commit: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub enum KafkaError {
    /// A newer producer of this transactional id exists.
    Fenced,
    /// Not in the transaction that is open.
    InvalidState,
    /// The former transaction is not ended everywhere, or the partition has no leader.
    NotNow,
}

/// What the coordinator knows of a transactional id.
#[derive(Debug, Clone, Hash)]
struct Producer {
    epoch: i64,
    transaction: Transaction,
    marker_sent: Option<Marker>,
}

#[derive(Debug, Clone, Hash)]
pub struct Kafka {
    pub logs: [Vec<Logged>; PARTITIONS],
    pub markers: BTreeMap<Number, Marker>,
    producers: BTreeMap<ProducerId, Producer>,
    /// The first partition has no leader.
    pub leaderless: bool,
    pub stragglers: Vec<Straggler>,
}

pub fn partition_of(key: Key) -> usize {
    usize::from(key) % PARTITIONS
}

impl Kafka {
    pub fn new() -> Self {
        Self {
            logs: Default::default(),
            markers: BTreeMap::new(),
            producers: BTreeMap::new(),
            leaderless: false,
            stragglers: Vec::new(),
        }
    }

    fn ids(&self) -> Vec<ProducerId> {
        self.producers.keys().copied().collect()
    }

    fn producer(&mut self, id: ProducerId) -> &mut Producer {
        let new = Producer { epoch: 0, transaction: Transaction::None, marker_sent: None };
        self.producers.entry(id).or_insert(new)
    }

    /// A new producer: finishes what was decided, aborts what was not, and every former producer is fenced. `None`: a
    /// transaction cannot be ended now. If it was open it is aborted from now on, under a new epoch; if it was decided,
    /// nothing has changed.
    pub fn init(&mut self, id: ProducerId) -> Option<i64> {
        if matches!(self.producer(id).transaction, Transaction::Open(_)) {
            self.producer(id).epoch += 1;
            self.abort(id);
        }
        self.finish(id);
        let producer = self.producer(id);
        if matches!(producer.transaction, Transaction::Ending { .. }) {
            return None;
        }
        producer.epoch += 1;
        producer.transaction = Transaction::None;
        Some(producer.epoch)
    }

    /// An unclean election, or a topic made anew from a copy: records and marker as they once were.
    pub fn go_back(&mut self, past: &Self) {
        (self.logs, self.markers) = (past.logs.clone(), past.markers.clone());
        for record in self.logs.iter_mut().flatten().filter(|record| record.fate == Fate::Open) {
            record.fate = Fate::Aborted;
        }
    }

    /// Open transactions take too long, and the coordinator ends them under a new epoch.
    pub fn time_out(&mut self) {
        for id in self.ids() {
            if matches!(self.producer(id).transaction, Transaction::Open(_)) {
                self.producer(id).epoch += 1;
                self.abort(id);
            }
        }
    }

    pub fn has_open_transaction(&self) -> bool {
        self.producers.values().any(|producer| matches!(producer.transaction, Transaction::Open(_)))
    }

    pub fn is_ending(&self) -> bool {
        self.producers.values().any(|producer| matches!(producer.transaction, Transaction::Ending { .. }))
    }

    /// `new` for the first record that this client has for the partition in its transaction: it adds the partition.
    pub fn produce(
        &mut self,
        (id, epoch): (ProducerId, i64),
        new: bool,
        record: Record,
        attempt: usize,
    ) -> Result<(), KafkaError> {
        let partition = partition_of(record.key);
        self.enter(id, epoch, new, partition)?;
        if self.leaderless && partition == 0 {
            return Err(KafkaError::NotNow);
        }
        self.logs[partition].push(Logged { record, attempt, producer: id, fate: Fate::Open });
        Ok(())
    }

    /// Outside of any transaction.
    pub fn produce_plain(&mut self, record: Record, attempt: usize) {
        self.logs[partition_of(record.key)].push(Logged {
            record,
            attempt,
            producer: ProducerId::default(),
            fate: Fate::Plain,
        });
    }

    pub fn send_marker(&mut self, (id, epoch): (ProducerId, i64), new: bool, marker: Marker) -> Result<(), KafkaError> {
        self.enter(id, epoch, new, MARKER)?;
        self.producer(id).marker_sent = Some(marker);
        Ok(())
    }

    pub fn end(&mut self, (id, epoch): (ProducerId, i64), commit: bool) -> Result<(), KafkaError> {
        let producer = self.producer(id);
        if epoch != producer.epoch {
            return Err(KafkaError::Fenced);
        }
        match producer.transaction {
            Transaction::Open(contains) => {
                producer.transaction = Transaction::Ending { commit, contains };
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

    /// The marker of a shard as a reader of stable offsets gets it. `None`: not yet, a transaction contains it.
    pub fn read_marker(&mut self, shard: Number) -> Option<Option<Marker>> {
        self.finish_all();
        let open = |(id, producer): (&ProducerId, &Producer)| {
            id.shard == shard && matches!(producer.transaction, Transaction::Open(contains) if contains[MARKER])
        };
        (!self.producers.iter().any(open)).then(|| self.peek(shard))
    }

    /// The same as a reader of everything gets it, without waiting for anybody.
    pub fn peek(&self, shard: Number) -> Option<Marker> {
        self.markers.get(&shard).cloned()
    }

    pub fn finish_all(&mut self) {
        for id in self.ids() {
            self.finish(id);
        }
    }

    /// Writes the decision to everything that the transaction contains, as far as it takes it.
    fn finish(&mut self, id: ProducerId) {
        let leaderless = self.leaderless;
        let Transaction::Ending { commit, contains } = self.producer(id).transaction else { return };
        let fate = if commit { Fate::Committed } else { Fate::Aborted };
        for (partition, log) in self.logs.iter_mut().enumerate() {
            if contains[partition] && !(leaderless && partition == 0) {
                for record in log.iter_mut().filter(|record| record.fate == Fate::Open && record.producer == id) {
                    record.fate = fate;
                }
            }
        }
        let producer = self.producers.get_mut(&id).expect("it has a transaction");
        if contains[MARKER]
            && let Some(sent) = producer.marker_sent.take()
            && commit
        {
            self.markers.insert(id.shard, sent);
        }
        producer.transaction = if leaderless && contains[0] {
            let mut left = [false; PARTITIONS + 1];
            left[0] = true;
            Transaction::Ending { commit, contains: left }
        } else {
            Transaction::Ended { commit }
        };
    }

    /// A request arrives that nobody waits for. A retried record needs no such thing: its sequence number gives it
    /// away.
    pub fn arrives(&mut self, straggler: usize) {
        match self.stragglers.remove(straggler) {
            Straggler::Init { id } => drop(self.init(id)),
            Straggler::Marker { id, epoch, marker } => drop(self.send_marker((id, epoch), false, marker)),
            Straggler::End { id, epoch, commit } => drop(self.end((id, epoch), commit)),
        }
    }

    /// What a `read_committed` reader of a partition sees or will see: a decided transaction counts.
    pub fn visible(&self, partition: usize) -> impl Iterator<Item = &Logged> {
        let decided = move |id: ProducerId| {
            self.producers.get(&id).is_some_and(|producer| {
                matches!(producer.transaction,
                    Transaction::Ending { commit: true, contains } if contains[partition])
            })
        };
        self.logs[partition].iter().filter(move |record| match record.fate {
            Fate::Plain | Fate::Committed => true,
            Fate::Open => decided(record.producer),
            Fate::Aborted => false,
        })
    }

    fn abort(&mut self, id: ProducerId) {
        if let Transaction::Open(contains) = self.producer(id).transaction {
            self.producer(id).transaction = Transaction::Ending { commit: false, contains };
        }
        self.finish(id);
    }

    fn enter(&mut self, id: ProducerId, epoch: i64, new: bool, what: usize) -> Result<(), KafkaError> {
        if epoch != self.producer(id).epoch {
            return Err(KafkaError::Fenced);
        }
        if new {
            // The client waits until the former transaction has ended everywhere.
            self.finish(id);
            let mut contains = match self.producer(id).transaction {
                Transaction::Open(contains) => contains,
                Transaction::Ending { .. } => return Err(KafkaError::NotNow),
                Transaction::None | Transaction::Ended { .. } => [false; PARTITIONS + 1],
            };
            contains[what] = true;
            self.producer(id).transaction = Transaction::Open(contains);
        }
        match self.producer(id).transaction {
            Transaction::Open(contains) if contains[what] => Ok(()),
            Transaction::Open(_) | Transaction::None | Transaction::Ending { .. } | Transaction::Ended { .. } => {
                Err(KafkaError::InvalidState)
            }
        }
    }
}
