//! The partitions that the group gave this instance: which are read and from where, which wait and until when, and what
//! is buffered of them.
//!
//! Pure. Times are monotonic, since the start of the process.
//! Invariant: a partition is read only between taking its fence and losing it, and what is buffered of it follows its
//! folded offset: whenever the assignment is handed to Kafka anew, buffers are empty and reading starts at that offset.

mod slot;

use std::time::Duration;

use super::position::{Landmark, Stopped};
use super::record::{Place, Record};
pub use slot::{Batch, Reading, Why};
use slot::{Slot, State};

/// The ways of sharing partitions that our members know, as Kafka writes them. A group that has agreed on another one
/// cannot be joined.
pub const ASSIGNORS: &str = "range,roundrobin";

/// Most bytes of records buffered over all partitions, besides what librdkafka prefetches. A guess: enough for a full
/// batch of ordinary events, and one record larger than that still fits.
const BUFFER_BYTES_MAX: usize = 8 << 20;

/// All partitions of this instance.
#[derive(Debug)]
pub struct Assignment {
    slots: Vec<Slot>,
    batch_records: usize,
    buffered_bytes: usize,
    full: bool,
    buffered: bool,
    /// Partitions whose record to look back at is another one.
    strange: Vec<(Place, i64, i64)>,
}

impl Assignment {
    /// `batch_records`: most records buffered of one partition.
    pub fn new(batch_records: usize) -> Self {
        Self { slots: Vec::new(), batch_records, buffered_bytes: 0, full: false, buffered: false, strange: Vec::new() }
    }

    /// The group has given us exactly these.
    pub fn assign(&mut self, places: Vec<Place>, now: Duration) {
        self.slots = places.into_iter().map(|place| Slot::new(place, now)).collect();
        self.reset_buffer();
    }

    /// The partitions whose fence is to be taken now.
    pub fn due(&self, now: Duration) -> Vec<Place> {
        let due = self.slots.iter().filter(|slot| matches!(slot.state, State::Waiting { due } if due <= now));
        due.map(|slot| slot.place.clone()).collect()
    }

    /// When the next partition becomes due.
    pub fn next_due(&self) -> Option<Duration> {
        let waiting = self.slots.iter().filter_map(|slot| match slot.state {
            State::Waiting { due } => Some(due),
            State::Reading { .. } => None,
        });
        waiting.min()
    }

    /// Its fence is taken: it is read from `next_offset`, once the assignment is handed to Kafka and `look_back` was
    /// found.
    pub fn read(&mut self, place: &Place, epoch: i64, next_offset: i64, look_back: Option<Landmark>) {
        if let Some(slot) = self.slot(place) {
            slot.state = State::Reading { epoch, buffer: Vec::new(), look_back };
            slot.next_offset = next_offset;
            slot.why.take_if(|why| !matches!(why, Why::Blocked(_)));
        }
    }

    /// It is not read any more; what is buffered of it is dropped.
    pub fn wait(&mut self, place: &Place, why: Why, now: Duration) {
        if let Some(slot) = self.slot(place) {
            slot.wait(why, now);
        }
    }

    /// Somebody has decided about it: it is due at once.
    pub fn hurry(&mut self, place: &Place, now: Duration) {
        if let Some(Slot { state: State::Waiting { due }, .. }) = self.slot(place) {
            *due = now;
        }
    }

    /// Partitions that are stopped, with the reason.
    pub fn stopped(&self) -> impl Iterator<Item = (&Place, &Stopped)> {
        self.slots.iter().filter_map(|slot| match &slot.why {
            Some(Why::Stopped(stopped)) => Some((&slot.place, stopped)),
            Some(
                Why::New | Why::Unavailable(_) | Why::Unmeasured(_) | Why::Locked(_) | Why::Blocked(_) | Why::Fenced,
            )
            | None => None,
        })
    }

    /// Partitions whose last folded record is another one now, with epoch and offset. They wait, and each is given
    /// once.
    pub fn take_strange(&mut self) -> Vec<(Place, i64, i64)> {
        std::mem::take(&mut self.strange)
    }

    /// Every partition that is read is looked at anew before it is read on.
    pub fn recheck(&mut self, why: &str, now: Duration) {
        for place in self.reading().map(|reading| reading.place.clone()).collect::<Vec<_>>() {
            self.wait(&place, Why::Unmeasured(why.to_owned()), now);
        }
        self.reset_buffer();
    }

    /// A fold of it begins: until it ends, nothing is buffered of the partition, and it is not among those that are
    /// read.
    pub fn fold_begins(&mut self, place: &Place) {
        if let Some(slot) = self.slot(place)
            && let State::Reading { epoch, .. } = slot.state
        {
            slot.folding = Some(epoch);
        }
    }

    /// Kafka stops to send it, so that it has to be handed over again when its fold has ended.
    pub fn leave_out(&mut self, place: &Place) {
        if let Some(slot) = self.slot(place).filter(|slot| slot.folding.is_some()) {
            slot.left_out = true;
        }
    }

    /// The fold by this epoch has ended. Returns whether the partition was left out meanwhile, and `None` when it is
    /// not that fold any more which the partition waits for.
    pub fn fold_ended(&mut self, place: &Place, epoch: i64) -> Option<bool> {
        let slot = self.slot(place)?;
        slot.folding.take_if(|own| *own == epoch)?;
        Some(std::mem::take(&mut slot.left_out))
    }

    /// The partitions that are read, but for those whose fold is under way.
    pub fn reading(&self) -> impl Iterator<Item = Reading<'_>> {
        self.slots.iter().filter(|slot| slot.folding.is_none()).filter_map(|slot| match slot.state {
            State::Reading { epoch, look_back, .. } => {
                let next_offset = slot.next_offset;
                let from = look_back.map_or(next_offset, |landmark| landmark.offset);
                Some(Reading { place: &slot.place, epoch, next_offset, from })
            }
            State::Waiting { .. } => None,
        })
    }

    /// Why partitions are not read, or were not when they were last tried.
    pub fn problems(&self) -> impl Iterator<Item = (&Place, &Why)> {
        self.slots.iter().filter_map(|slot| Some((&slot.place, slot.why.as_ref()?)))
    }

    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.slots.iter().map(|slot| &slot.place)
    }

    /// Buffers a record. One of a partition that is not read, or before its offset, is a leftover from an earlier
    /// assignment and is dropped.
    pub fn push(&mut self, topic: &str, partition: i32, record: Record) {
        let batch_records = self.batch_records;
        let slot = self.slots.iter_mut().find(|slot| slot.place.partition == partition && slot.place.topic == topic);
        let Some(Slot { place, state, next_offset, folding: None, .. }) = slot else { return };
        let State::Reading { epoch, buffer, look_back } = state else { return };
        if let Some(landmark) = look_back.take_if(|landmark| record.offset >= landmark.offset)
            && record.offset == landmark.offset
            && Landmark::of(&record) != landmark
        {
            // A landmark that is not there any more was compacted away, and tells nothing.
            self.strange.push((place.clone(), *epoch, record.offset));
            *state = State::Waiting { due: Duration::MAX };
            return;
        }
        if record.offset < buffer.last().map_or(*next_offset, |last| last.offset + 1) {
            return;
        }
        self.buffered_bytes += record.size();
        buffer.push(record);
        self.buffered = true;
        self.full |= buffer.len() >= batch_records || self.buffered_bytes >= BUFFER_BYTES_MAX;
    }

    /// Nothing more should be gathered before a fold.
    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn is_empty(&self) -> bool {
        !self.buffered
    }

    /// Takes what is buffered, one batch per partition.
    pub fn take_batches(&mut self) -> Vec<Batch> {
        let batches = self.slots.iter_mut().filter_map(|slot| match &mut slot.state {
            State::Reading { epoch, buffer, .. } if !buffer.is_empty() => Some(Batch {
                place: slot.place.clone(),
                epoch: *epoch,
                next_offset: slot.next_offset,
                records: std::mem::take(buffer),
            }),
            State::Reading { .. } | State::Waiting { .. } => None,
        });
        let batches = batches.collect();
        self.reset_buffer();
        batches
    }

    /// The partition is folded up to here.
    pub fn folded(&mut self, place: &Place, folded_offset: i64) {
        if let Some(slot) = self.slot(place) {
            slot.next_offset = folded_offset;
            slot.why = None;
            slot.unavailable.reset();
            slot.blocked.reset();
        }
    }

    /// There are no records before this offset, only markers of transactions.
    pub fn passed(&mut self, place: &Place, offset: i64) {
        if let Some(slot) = self.slot(place) {
            slot.next_offset = offset;
        }
    }

    fn slot(&mut self, place: &Place) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.place == *place)
    }

    /// Drops what is buffered, before the assignment is handed to Kafka again.
    pub fn reset_buffer(&mut self) {
        for slot in &mut self.slots {
            slot.left_out |= slot.folding.is_some();
            if let State::Reading { buffer, .. } = &mut slot.state {
                buffer.clear();
            }
        }
        self.buffered_bytes = 0;
        self.full = false;
        self.buffered = false;
    }
}

#[cfg(test)]
mod tests {
    use super::slot::{FENCED_WAIT, STOPPED_WAIT};
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn place(partition: i32) -> Place {
        Place { topic: "orders".to_owned(), partition }
    }

    fn record(offset: i64, bytes: usize) -> Record {
        Record::new("orders", 0, offset, None, Vec::new(), None, Some(vec![b'x'; bytes]))
    }

    fn offsets(batch: &Batch) -> Vec<i64> {
        batch.records.iter().map(|record| record.offset).collect()
    }

    /// Two partitions, the first read from offset 10.
    fn reading_one(batch_records: usize) -> Assignment {
        let mut assignment = Assignment::new(batch_records);
        assignment.assign(vec![place(0), place(1)], NOW);
        assignment.read(&place(0), 7, 10, None);
        assignment
    }

    #[test]
    fn what_is_not_read_is_not_buffered() {
        let mut assignment = reading_one(100);
        for (partition, offset) in [(1, 10), (2, 10), (0, 9), (0, 10), (0, 12), (0, 11), (0, 12), (0, 13)] {
            assignment.push("orders", partition, record(offset, 1));
        }
        assignment.push("catalog", 0, record(20, 1));
        let batches = assignment.take_batches();
        assert_eq!(batches.len(), 1);
        assert_eq!((batches[0].epoch, offsets(&batches[0])), (7, vec![10, 12, 13]));
        assert!(assignment.is_empty() && assignment.take_batches().is_empty());
    }

    #[test]
    fn a_buffer_is_full_by_records_of_one_partition_or_by_bytes() {
        let mut assignment = reading_one(2);
        assignment.push("orders", 0, record(10, 1));
        assert!(!assignment.is_full());
        assignment.push("orders", 0, record(11, 1));
        assert!(assignment.is_full());
        assignment.take_batches();
        assert!(!assignment.is_full());
        assignment.push("orders", 0, record(12, BUFFER_BYTES_MAX));
        assert!(assignment.is_full(), "one large record fits, and fills it");
    }

    #[test]
    fn a_partition_waits_as_long_as_its_reason_asks() {
        let mut assignment = reading_one(10);
        assert_eq!(assignment.due(NOW), [place(1)]);
        assignment.wait(&place(0), Why::Fenced, NOW);
        let stopped = Stopped { reason: "moved".to_owned(), detail: "gone".to_owned(), since: jiff::Timestamp::MIN };
        assignment.wait(&place(1), Why::Stopped(stopped), NOW);
        assert!(assignment.due(NOW + FENCED_WAIT - Duration::from_millis(1)).is_empty());
        assert_eq!(assignment.next_due(), Some(NOW + FENCED_WAIT));
        assert_eq!(assignment.due(NOW + FENCED_WAIT), [place(0)]);
        assert_eq!(assignment.due(NOW + STOPPED_WAIT), [place(0), place(1)]);
        assert_eq!(assignment.reading().count(), 0);
    }

    #[test]
    fn waits_grow_until_a_fold_succeeds() {
        let mut assignment = reading_one(10);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assignment.wait(&place(0), Why::Unavailable("down".to_owned()), NOW);
            waits.push(assignment.slots[0].state.due() - NOW);
            assignment.read(&place(0), 8, 10, None);
        }
        assert!(waits[7] > waits[0] * 8 && waits[7] <= Duration::from_secs(2), "{waits:?}");
        assignment.folded(&place(0), 11);
        assignment.wait(&place(0), Why::Unavailable("down".to_owned()), NOW);
        assert!(assignment.slots[0].state.due() - NOW <= Duration::from_millis(50));
    }

    #[test]
    fn a_blocked_partition_is_a_problem_until_a_fold_succeeds() {
        let mut assignment = reading_one(10);
        let problem = |assignment: &Assignment| assignment.problems().next().map(|(_, why)| why.clone());
        assignment.assign(vec![place(0)], NOW);
        for (why, stays) in [(Why::Blocked("broken".to_owned()), true), (Why::Unavailable("down".to_owned()), false)] {
            assignment.wait(&place(0), why.clone(), NOW);
            assert_eq!(problem(&assignment), Some(why.clone()));
            assignment.read(&place(0), 8, 10, None);
            assert_eq!(problem(&assignment), stays.then_some(why));
            assignment.folded(&place(0), 11);
            assert_eq!(problem(&assignment), None);
        }
    }

    #[test]
    fn after_a_fold_it_reads_on_behind_it() {
        let mut assignment = reading_one(10);
        assignment.push("orders", 0, record(10, 1));
        assignment.take_batches();
        assignment.folded(&place(0), 11);
        assignment.push("orders", 0, record(10, 1));
        assert!(assignment.is_empty());
        let expected = Reading { place: &place(0), epoch: 7, next_offset: 11, from: 11 };
        assert_eq!(assignment.reading().collect::<Vec<_>>(), [expected]);
        assignment.assign(vec![place(1)], NOW);
        assert_eq!(assignment.due(NOW), [place(1)], "an earlier assignment is forgotten");
    }

    impl State {
        fn due(&self) -> Duration {
            match self {
                Self::Waiting { due } => *due,
                Self::Reading { .. } => panic!("it is read"),
            }
        }
    }
}
