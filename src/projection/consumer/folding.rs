//! Folds that are under way: one of a partition at a time, and none of them keeps the thread from polling for long.
//!
//! An ordinary fold ends within a second, and is simply waited for. One that does not (a lock on the read model, a slow
//! statement) continues on its own: its partition is paused, the others are read and folded, and readiness says what it
//! waits for. Invariant: a partition whose fold is under way is not read and not handed to Kafka; afterwards it is
//! handed over with the offset that the fold has reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{Reader, why_not};
use crate::clock::monotonic;
use crate::error::{Code, Error, Result};
use crate::projection::assignment::{Batch, Why};
use crate::projection::fold::{End, Folded, fold_watched};
use crate::projection::record::Place;
use crate::projection::store::Store;
use crate::projection::store::locks::LockWait;
use crate::projection::suspicion::Suspicion;
use crate::signals::{Situation, Wait};

/// How long the thread waits for folds before it goes on without them.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the stop waits for them.
const LAST_WAIT: Duration = Duration::from_secs(3);
/// A fold that lasts longer makes the consumer unready, whatever it does.
const SLOW: Duration = Duration::from_secs(30);
/// Between two looks for the holders of locks, also while some are still unknown; and the longest wait for the answer.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_FIRST: Duration = Duration::from_millis(300);
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What came of one batch.
struct Ended {
    batch: Batch,
    folded: Folded,
}

/// A fold under way.
struct Underway {
    since: Duration,
    paused: bool,
    wait: Arc<LockWait>,
}

#[derive(Default)]
pub(super) struct Folding {
    tasks: JoinSet<Ended>,
    underway: BTreeMap<Place, Underway>,
    /// Partitions that the client has paused. It remembers that even over a new assignment.
    paused: BTreeSet<Place>,
    looked: Duration,
    /// Which folds wait for locks, with whom they wait for, in words.
    locks: BTreeMap<Place, String>,
    /// What is known of records that fail by themselves. It outlives rebalances, which would begin the attempts anew.
    suspicions: BTreeMap<Place, Suspicion>,
}

impl Folding {
    fn begin(&mut self, runtime: &Handle, store: &Arc<Store>, batch: Batch) {
        let store = Arc::clone(store);
        let wait = Arc::new(LockWait::default());
        let fold = Underway { since: monotonic(), paused: false, wait: Arc::clone(&wait) };
        self.underway.insert(batch.place.clone(), fold);
        let suspicion = self.suspicions.get(&batch.place).cloned().unwrap_or_default();
        let fold = async move {
            let (place, records) = (&batch.place, &batch.records);
            let folded = fold_watched(&store, place, batch.epoch, batch.next_offset, records, suspicion, &wait).await;
            Ended { batch, folded }
        };
        self.tasks.spawn_on(fold, runtime);
    }

    /// Folds that the thread still waits for.
    fn young(&self) -> bool {
        self.underway.values().any(|fold| !fold.paused)
    }

    /// The next one that ends within this time.
    fn next(&mut self, runtime: &Handle, patience: Duration) -> Result<Option<Ended>> {
        let joined = runtime.block_on(async { tokio::time::timeout(patience, self.tasks.join_next()).await });
        match joined {
            Ok(Some(Ok(ended))) => {
                self.underway.remove(&ended.batch.place);
                Ok(Some(ended))
            }
            Ok(Some(Err(_))) => Err(Error::new(Code::Unexpected, "a fold panicked")),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    /// Their partitions belong to somebody else now. What they have not committed is rolled back.
    pub(super) fn give_up(&mut self) {
        self.tasks.abort_all();
        let (paused, suspicions) = (std::mem::take(&mut self.paused), std::mem::take(&mut self.suspicions));
        *self = Self { paused, suspicions, ..Self::default() };
    }

    /// Another client takes the place of the one that has paused partitions.
    pub(super) fn forget_paused(&mut self) {
        self.paused.clear();
    }

    /// What folds have waited for.
    pub(super) fn waits(&self) -> impl Iterator<Item = Wait> {
        let now = monotonic();
        let slow = self
            .underway
            .iter()
            .filter(move |(place, fold)| now.saturating_sub(fold.since) >= SLOW && !self.locks.contains_key(*place));
        let slow = slow.map(|(place, _)| {
            let text = format!("a fold of {place} has been running for more than {} s", SLOW.as_secs());
            Wait::new(Situation::SlowFold).of_partition(&place.topic, place.partition).because(text)
        });
        let locked = |(place, wait): (&Place, &String)| {
            let text = format!("a fold of {place} {wait}");
            Wait::new(Situation::Locked).of_partition(&place.topic, place.partition).because(text)
        };
        self.locks.iter().map(locked).chain(slow)
    }
}

impl Reader {
    /// Folds what is gathered, all partitions at the same time, and takes in what earlier folds have come to.
    pub(super) fn fold(&mut self) -> Result<()> {
        for batch in self.assignment.take_batches() {
            self.assignment.fold_begins(&batch.place);
            self.folding.begin(&self.runtime, &self.store, batch);
        }
        let until = monotonic() + PATIENCE;
        let mut interrupted = false;
        loop {
            let patience = if self.folding.young() { until.saturating_sub(monotonic()) } else { Duration::ZERO };
            match self.folding.next(&self.runtime, patience)? {
                Some(ended) => interrupted |= self.take_in(ended),
                None => break,
            }
        }
        self.pause_slow();
        self.look_for_locks();
        if interrupted { self.hand_over() } else { Ok(()) }
    }

    /// Waits for what is under way, before the end.
    pub(super) fn fold_last(&mut self) {
        let until = monotonic() + LAST_WAIT;
        while let Ok(Some(ended)) = self.folding.next(&self.runtime, until.saturating_sub(monotonic())) {
            self.take_in(ended);
        }
        self.folding.give_up();
    }

    /// Returns whether the partitions have to be handed to Kafka again.
    fn take_in(&mut self, Ended { batch, folded }: Ended) -> bool {
        let Batch { place, epoch, .. } = &batch;
        self.meters.count(&place.topic, folded.counts);
        let Some(left_out) = self.assignment.fold_ended(place, *epoch) else {
            // It was given to another instance meanwhile, or given to us again: the fence decides what counts.
            return false;
        };
        let suspected = folded.suspicion.offset();
        self.folding.suspicions.insert(place.clone(), folded.suspicion);
        if let Some(next_offset) = folded.next_offset {
            self.assignment.folded(place, next_offset);
            self.uncommitted.insert(place.clone(), next_offset);
        }
        let why = match folded.end {
            End::Done => return left_out,
            End::Elsewhere(standing) => {
                let believed = folded.next_offset.unwrap_or(batch.next_offset);
                if !self.check(place, *epoch, believed, standing.as_ref()) {
                    // It was changed and changed back under our eyes.
                    self.assignment.wait(place, Why::New, monotonic());
                }
                return true;
            }
            End::Failed(error) => match (why_not(&error), suspected) {
                (Why::Blocked(text), Some(offset)) => Why::Blocked(format!("{place}, offset {offset}: {text}")),
                (why, _) => why,
            },
        };
        self.assignment.wait(place, why, monotonic());
        true
    }

    /// Kafka sends nothing more of partitions whose folds last: it would have to be dropped.
    fn pause_slow(&mut self) {
        let mut list = TopicPartitionList::new();
        for (place, fold) in self.folding.underway.iter_mut().filter(|(_, fold)| !fold.paused) {
            fold.paused = true;
            self.folding.paused.insert(place.clone());
            list.add_partition(&place.topic, place.partition);
            self.assignment.leave_out(place);
        }
        if list.count() > 0
            && let Err(error) = self.consumer.pause(&list)
        {
            tracing::debug!(error = %error, "could not pause partitions; dropping records that arrive from them");
        }
    }

    /// Those that Kafka has been handed anew are read again.
    pub(super) fn resume(&mut self, handed_over: &TopicPartitionList) {
        let mut list = TopicPartitionList::new();
        self.folding.paused.retain(|place| {
            let read = handed_over.find_partition(&place.topic, place.partition).is_some();
            if read {
                list.add_partition(&place.topic, place.partition);
            }
            !read
        });
        if list.count() > 0
            && let Err(error) = self.consumer.resume(&list)
        {
            tracing::warn!(error = %error, "could not resume reading");
        }
    }

    /// Finds out whom folds wait for, if they wait for a lock.
    fn look_for_locks(&mut self) {
        let waiting: Vec<(Place, Timestamp, Option<i32>)> = self
            .folding
            .underway
            .iter()
            .filter_map(|(place, fold)| fold.wait.now().map(|(since, pid)| (place.clone(), since, pid)))
            .collect();
        self.folding.locks.retain(|known, _| waiting.iter().any(|(place, ..)| place == known));
        let now = monotonic();
        // Only those whose turn it is are seen waiting at the server.
        let every = if self.folding.locks.len() < waiting.len() { LOOK_FIRST } else { LOOK_EVERY };
        if waiting.is_empty() || now.saturating_sub(self.folding.looked) < every {
            return;
        }
        self.folding.looked = now;
        let store = &self.store;
        let asked = self.runtime.block_on(async { tokio::time::timeout(LOOK_LIMIT, store.lock_holders()).await });
        // Without an answer the last one stands, and so it does for a fold that pauses between two attempts.
        let Ok(Ok(holders)) = asked else { return };
        for holder in &holders {
            let waits = waiting.iter().find(|(_, _, pid)| *pid == Some(holder.waits));
            if let Some((place, since, _)) = waits {
                self.folding.locks.insert(place.clone(), format!("{holder}, since {since:.0}"));
            }
        }
    }
}
