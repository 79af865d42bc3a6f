//! Parked events that an operator has released. They are folded beside the thread of the consumer, some at a time: a
//! slow one, or one that waits for a lock, keeps no other partition from being read.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Reader;
use crate::error::{Code, Error, Result};
use crate::projection::assignment::Reading;
use crate::projection::failure::FoldError;
use crate::projection::record::Place;
use crate::projection::store::parked::Released;
use crate::projection::store::{Counts, Store};

/// Released events of one partition that are folded before the others have their turn. A guess: well below a second.
const TURN: usize = 100;

/// What became of some released events of one partition.
pub(super) struct Turn {
    place: Place,
    folded: u64,
    refused: u64,
    /// There may be more.
    goes_on: bool,
    failed: Option<FoldError>,
}

/// The turns that are under way: one after the other, in one task. Dropped, it ends, and what it has not committed is
/// rolled back.
#[derive(Default)]
pub(super) struct Releasing(Option<JoinHandle<Vec<Turn>>>);

impl Releasing {
    /// The partitions belong to somebody else now.
    pub(super) fn give_up(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        self.give_up();
    }
}

async fn turn(store: &Store, place: Place, epoch: i64) -> Turn {
    let mut turn = Turn { place, folded: 0, refused: 0, goes_on: false, failed: None };
    for _ in 0..TURN {
        match store.fold_released(&turn.place, epoch).await {
            Ok(Released::Nothing) => return turn,
            Ok(Released::Folded { offset }) => {
                tracing::debug!(partition = %turn.place, offset, "a released event was folded");
                turn.folded += 1;
            }
            Ok(Released::Refused { offset }) => {
                tracing::debug!(partition = %turn.place, offset, "a released event could not be folded");
                turn.refused += 1;
            }
            // An outage or a lock. The next look finds it again.
            Err(error) => {
                turn.failed = Some(error);
                return turn;
            }
        }
    }
    turn.goes_on = true;
    turn
}

impl Reader {
    /// Folds what was released of the partitions that are read, and takes in what became of it. What is left is found
    /// by the next look.
    pub(super) fn fold_released(&mut self) -> Result<()> {
        if self.releasing.0.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(task) = self.releasing.0.take()
        {
            let panicked = |_| Error::new(Code::Unexpected, "a fold of released events panicked");
            let turns = self.runtime.block_on(task).map_err(panicked)?;
            turns.into_iter().for_each(|turn| self.take_in_released(turn));
        }
        if self.releasing.0.is_some() || self.released.is_empty() {
            return Ok(());
        }
        let released = std::mem::take(&mut self.released);
        let reading: Vec<(Place, i64)> = self
            .assignment
            .reading()
            .filter(|reading| released.contains(reading.place))
            .map(|Reading { place, epoch, .. }| (place.clone(), epoch))
            .collect();
        let store = Arc::clone(&self.store);
        let work = async move {
            let mut turns = Vec::with_capacity(reading.len());
            for (place, epoch) in reading {
                turns.push(turn(&store, place, epoch).await);
            }
            turns
        };
        self.releasing.0 = Some(self.runtime.spawn(work));
        Ok(())
    }

    fn take_in_released(&mut self, turn: Turn) {
        let Turn { place, folded, refused, goes_on, failed } = turn;
        if let Some(error) = failed {
            tracing::debug!(partition = %place, "released events have to wait: {error}");
        }
        if goes_on {
            self.released.insert(place.clone());
        }
        if folded > 0 || refused > 0 {
            // The reasons may quote the events, so they are in consumer_parked only.
            tracing::info!(partition = %place, folded, parked_again = refused, "processed released events");
            self.meters.count(&place.topic, Counts { applied: folded, ..Counts::default() });
        }
    }
}
