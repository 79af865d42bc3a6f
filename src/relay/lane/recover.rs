//! What a lane does when it does not know whether its last commit happened.

use tokio_util::sync::CancellationToken;

use super::{Lane, Unsettled};
use crate::outbox::{LastBatch, OutboxError, Settlement};
use crate::retry::Backoff;

impl Lane {
    /// After a lost answer, or when PostgreSQL has another batch than expected: did the commit happen? The manifest
    /// tells by its number of batch and by its ids. What is in hand of a batch that PostgreSQL does not have in flight
    /// is let go. `None` when the lease is over.
    pub(super) async fn recover(&mut self, unsettled: Unsettled, stop: &CancellationToken) -> Option<Unsettled> {
        let mut backoff = Backoff::for_connection();
        loop {
            match self.shared.outbox.state(self.fence).await {
                Ok(state) => {
                    let found = LastBatch { seq: state.batch_seq, in_flight: state.batch_ids.is_some() };
                    return Some(match state.batch_ids {
                        // What we wanted to settle is still in flight for the database: the commit did not happen.
                        Some(ids) if unsettled.last == Some(found) && belongs_to(&unsettled.settlement, &ids) => {
                            unsettled
                        }
                        // A batch that we have not seen: the commit happened, its answer was lost. Or PostgreSQL went
                        // back to it.
                        Some(ids) => Unsettled { resend: Some(ids), last: Some(found), ..Unsettled::default() },
                        // Nothing in flight: settled, and nothing was claimed. Or PostgreSQL went back to before it was
                        // claimed.
                        None => Unsettled { last: Some(found), ..Unsettled::default() },
                    });
                }
                Err(OutboxError::Fenced(_)) => return None,
                // Only a step compares batches, and writes to rows.
                Err(OutboxError::Moved { .. } | OutboxError::Unchanged) => {}
                Err(OutboxError::Db(error)) => {
                    self.shared.health.postgres_failed(&error);
                    if !self.permit.holds() || self.permit.is_ended() {
                        return None;
                    }
                    self.pause(backoff.next_wait(), stop).await;
                }
            }
        }
    }
}

/// Whether the manifest is that of the batch this settlement is about.
fn belongs_to(settlement: &Settlement, manifest: &[i64]) -> bool {
    let first =
        settlement.published.first().map(|(id, _)| *id).or_else(|| settlement.failed.first().map(|failed| failed.id));
    first.is_some_and(|id| manifest.binary_search(&id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(ids: &[i64]) -> Settlement {
        Settlement { published: ids.iter().map(|id| (*id, None)).collect(), ..Settlement::default() }
    }

    #[test]
    fn a_manifest_is_ours_when_it_holds_what_we_settle() {
        assert!(belongs_to(&settlement(&[3, 5]), &[3, 5, 9]));
        assert!(!belongs_to(&settlement(&[3, 5]), &[11, 12]));
        assert!(!belongs_to(&Settlement::default(), &[11, 12]));
    }
}
