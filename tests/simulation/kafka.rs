//! Kafka as the relay sees it: two partitions, the marker, and the coordinator of the transactional ids of the shard.
//!
//! The first partition may lose its leader: then it takes no records, and no transaction that contains it can be ended.
//! The coordinator gives its transactional id to nobody until then. The client is one without a new epoch per
//! transaction: a late EndTxn of the same epoch ends whatever transaction is open. Brokers check that a partition
//! belongs to the open transaction when a record or a marker comes in for it.

use outbox_relay::broker::transaction::Marker;

use crate::postgres::{Event, Id, Key};

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
    /// Of its producer.
    number: i32,
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
    Init { number: i32 },
    Marker { number: i32, epoch: i64, marker: Marker },
    End { number: i32, epoch: i64, commit: bool },
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

/// A transactional id.
#[derive(Debug, Clone, Hash)]
struct Producer {
    epoch: i64,
    transaction: Transaction,
    marker_sent: Option<Marker>,
}

#[derive(Debug, Clone, Hash)]
pub struct Kafka {
    pub logs: [Vec<Logged>; PARTITIONS],
    pub marker: Option<Marker>,
    /// By number.
    producers: Vec<Producer>,
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
            marker: None,
            producers: Vec::new(),
            leaderless: false,
            stragglers: Vec::new(),
        }
    }

    fn numbers(&self) -> std::ops::Range<i32> {
        0..i32::try_from(self.producers.len()).expect("few producers")
    }

    fn producer(&mut self, number: i32) -> &mut Producer {
        let index = usize::try_from(number).expect("numbers begin with 0");
        while self.producers.len() <= index {
            self.producers.push(Producer { epoch: 0, transaction: Transaction::None, marker_sent: None });
        }
        &mut self.producers[index]
    }

    /// A new producer: finishes what was decided, aborts what was not, and every former producer is fenced. `None`: a
    /// transaction cannot be ended now. If it was open it is aborted from now on, under a new epoch; if it was decided,
    /// nothing has changed.
    pub fn init(&mut self, number: i32) -> Option<i64> {
        if matches!(self.producer(number).transaction, Transaction::Open(_)) {
            self.producer(number).epoch += 1;
            self.abort(number);
        }
        self.finish(number);
        let producer = self.producer(number);
        if matches!(producer.transaction, Transaction::Ending { .. }) {
            return None;
        }
        producer.epoch += 1;
        producer.transaction = Transaction::None;
        Some(producer.epoch)
    }

    /// An unclean election, or a topic made anew from a copy: records and marker as they once were.
    pub fn go_back(&mut self, past: &Self) {
        (self.logs, self.marker) = (past.logs.clone(), past.marker.clone());
        for record in self.logs.iter_mut().flatten().filter(|record| record.fate == Fate::Open) {
            record.fate = Fate::Aborted;
        }
    }

    /// Open transactions take too long, and the coordinator ends them under a new epoch.
    pub fn time_out(&mut self) {
        for number in self.numbers() {
            if matches!(self.producer(number).transaction, Transaction::Open(_)) {
                self.producer(number).epoch += 1;
                self.abort(number);
            }
        }
    }

    pub fn has_open_transaction(&self) -> bool {
        self.producers.iter().any(|producer| matches!(producer.transaction, Transaction::Open(_)))
    }

    pub fn is_ending(&self) -> bool {
        self.producers.iter().any(|producer| matches!(producer.transaction, Transaction::Ending { .. }))
    }

    /// `new` for the first record that this client has for the partition in its transaction: it adds the partition.
    pub fn produce(
        &mut self,
        (number, epoch): (i32, i64),
        new: bool,
        record: Record,
        attempt: usize,
    ) -> Result<(), KafkaError> {
        let partition = partition_of(record.key);
        self.enter(number, epoch, new, partition)?;
        if self.leaderless && partition == 0 {
            return Err(KafkaError::NotNow);
        }
        self.logs[partition].push(Logged { record, attempt, number, fate: Fate::Open });
        Ok(())
    }

    /// Outside of any transaction.
    pub fn produce_plain(&mut self, record: Record, attempt: usize) {
        self.logs[partition_of(record.key)].push(Logged { record, attempt, number: 0, fate: Fate::Plain });
    }

    pub fn send_marker(&mut self, (number, epoch): (i32, i64), new: bool, marker: Marker) -> Result<(), KafkaError> {
        self.enter(number, epoch, new, MARKER)?;
        self.producer(number).marker_sent = Some(marker);
        Ok(())
    }

    pub fn end(&mut self, (number, epoch): (i32, i64), commit: bool) -> Result<(), KafkaError> {
        let producer = self.producer(number);
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

    /// The marker as a reader of stable offsets gets it. `None`: not yet, a transaction contains it.
    pub fn read_marker(&mut self) -> Option<Option<Marker>> {
        self.finish_all();
        let open =
            |producer: &Producer| matches!(producer.transaction, Transaction::Open(contains) if contains[MARKER]);
        (!self.producers.iter().any(open)).then(|| self.marker.clone())
    }

    /// The marker as a reader of everything gets it, without waiting for anybody.
    pub fn peek(&self) -> Option<Marker> {
        self.marker.clone()
    }

    pub fn finish_all(&mut self) {
        for number in self.numbers() {
            self.finish(number);
        }
    }

    /// Writes the decision to everything that the transaction contains, as far as it takes it.
    fn finish(&mut self, number: i32) {
        let leaderless = self.leaderless;
        let Transaction::Ending { commit, contains } = self.producer(number).transaction else { return };
        let fate = if commit { Fate::Committed } else { Fate::Aborted };
        for (partition, log) in self.logs.iter_mut().enumerate() {
            if contains[partition] && !(leaderless && partition == 0) {
                for record in log.iter_mut().filter(|record| record.fate == Fate::Open && record.number == number) {
                    record.fate = fate;
                }
            }
        }
        let index = usize::try_from(number).expect("numbers begin with 0");
        let producer = &mut self.producers[index];
        if contains[MARKER] {
            let sent = producer.marker_sent.take();
            if commit {
                self.marker = sent;
            }
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
            Straggler::Init { number } => drop(self.init(number)),
            Straggler::Marker { number, epoch, marker } => drop(self.send_marker((number, epoch), false, marker)),
            Straggler::End { number, epoch, commit } => drop(self.end((number, epoch), commit)),
        }
    }

    /// What a `read_committed` reader of a partition sees or will see: a decided transaction counts.
    pub fn visible(&self, partition: usize) -> impl Iterator<Item = &Logged> {
        let decided = move |number: i32| {
            let index = usize::try_from(number).expect("numbers begin with 0");
            self.producers.get(index).is_some_and(|producer| {
                matches!(producer.transaction,
                    Transaction::Ending { commit: true, contains } if contains[partition])
            })
        };
        self.logs[partition].iter().filter(move |record| match record.fate {
            Fate::Plain | Fate::Committed => true,
            Fate::Open => decided(record.number),
            Fate::Aborted => false,
        })
    }

    fn abort(&mut self, number: i32) {
        if let Transaction::Open(contains) = self.producer(number).transaction {
            self.producer(number).transaction = Transaction::Ending { commit: false, contains };
        }
        self.finish(number);
    }

    fn enter(&mut self, number: i32, epoch: i64, new: bool, what: usize) -> Result<(), KafkaError> {
        if epoch != self.producer(number).epoch {
            return Err(KafkaError::Fenced);
        }
        if new {
            // The client waits until the former transaction has ended everywhere.
            self.finish(number);
            let mut contains = match self.producer(number).transaction {
                Transaction::Open(contains) => contains,
                Transaction::Ending { .. } => return Err(KafkaError::NotNow),
                Transaction::None | Transaction::Ended { .. } => [false; PARTITIONS + 1],
            };
            contains[what] = true;
            self.producer(number).transaction = Transaction::Open(contains);
        }
        match self.producer(number).transaction {
            Transaction::Open(contains) if contains[what] => Ok(()),
            Transaction::Open(_) | Transaction::None | Transaction::Ending { .. } | Transaction::Ended { .. } => {
                Err(KafkaError::InvalidState)
            }
        }
    }
}
