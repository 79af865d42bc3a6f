//! Parked events that an operator has released.

use std::time::Duration;

use super::{Reader, why_not};
use crate::clock;
use crate::error::Result;
use crate::projection::assignment::Reading;
use crate::projection::record::Place;
use crate::projection::store::Counts;
use crate::projection::store::parked::Released;

/// Released events of one partition that are folded before the client is polled again. A guess: well below a second.
const TURN: usize = 100;

/// The thread must go on polling, so it does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Reader {
    /// Folds what was released of the partitions that are read, some at a time. What is left is found by the next look.
    pub(super) fn fold_released(&mut self) -> Result<()> {
        if self.released.is_empty() {
            return Ok(());
        }
        let released = std::mem::take(&mut self.released);
        let reading: Vec<(Place, i64)> = self
            .assignment
            .reading()
            .filter(|reading| released.contains(reading.place))
            .map(|Reading { place, epoch, .. }| (place.clone(), epoch))
            .collect();
        let mut interrupted = false;
        for (place, epoch) in reading {
            interrupted |= self.fold_released_of(&place, epoch);
        }
        if interrupted { self.hand_over() } else { Ok(()) }
    }

    /// Returns whether the partition has to wait now.
    fn fold_released_of(&mut self, place: &Place, epoch: i64) -> bool {
        let (mut counts, mut refused, mut why) = (Counts::default(), 0_u64, None);
        for turn in 1.. {
            let store = &self.store;
            let fold = async { tokio::time::timeout(PATIENCE, store.fold_released(place, epoch)).await };
            // A lock on the read model, or a slow statement: it is tried again, and rolled back until then.
            let Ok(outcome) = self.runtime.block_on(fold) else { break };
            match outcome {
                Ok(Released::Nothing) => break,
                Ok(Released::Folded { offset }) => {
                    tracing::debug!(partition = %place, offset, "a released event was folded");
                    counts.applied += 1;
                }
                Ok(Released::Refused { offset }) => {
                    tracing::debug!(partition = %place, offset, "a released event does not fit");
                    refused += 1;
                }
                Err(error) => {
                    why = Some(why_not(&error));
                    break;
                }
            }
            if turn >= TURN {
                self.released.insert(place.clone());
                break;
            }
        }
        if counts.applied > 0 || refused > 0 {
            // The reasons may quote the events, so they are in consumer_parked only.
            tracing::info!(partition = %place, folded = counts.applied, parked_again = refused, "released events were folded again");
            self.meters.count(&place.topic, counts);
        }
        let waits = why.is_some();
        if let Some(why) = why {
            self.assignment.wait(place, why, clock::monotonic());
        }
        waits
    }
}
