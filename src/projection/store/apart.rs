//! A part of a batch in which something cannot be folded: one transaction that folds the good events and keeps the bad
//! ones.
//!
//! Savepoints, because a transaction for each event that fails costs a commit or two each time, and ten thousand such
//! events in a row are no exception when the SQL and the events do not fit each other.

use std::ops::Range;

use super::{Fate, Part, Store};
use crate::db::Transaction;
use crate::projection::failure::{Cause, FoldError};

/// Events that are tried next after some have failed: an eighth of them, so that few statements lead to the one that is
/// to blame.
const SMALLER: usize = 8;

impl Store {
    /// Runs the projections over the part piece by piece. Returns the fates of its records, with what was refused to be
    /// parked.
    ///
    /// Errors: what fails for another reason than an event.
    pub(super) async fn find(
        &self,
        transaction: &mut Transaction<'_>,
        part: Part<'_>,
        fresh: &[bool],
    ) -> Result<Vec<Fate>, FoldError> {
        let mut fates = part.fates.to_vec();
        let (mut start, mut size) = (0, part.records.len());
        while start < part.records.len() {
            let piece = start..part.records.len().min(start + size);
            let savepoint = transaction.savepoint("piece").await?;
            let outcome = self.project_piece(&savepoint, part, &fates, fresh, &piece).await;
            match outcome {
                Ok(refused) if refused.is_empty() => {
                    savepoint.commit().await?;
                    start = piece.end;
                    size = size.saturating_mul(2);
                }
                Ok(refused) => {
                    savepoint.rollback().await?;
                    for (index, reason) in refused {
                        fates[piece.start + index] = Fate::Park(reason);
                    }
                }
                Err(error) if error.cause() == Cause::Data => {
                    savepoint.rollback().await?;
                    if piece.len() == 1 {
                        fates[piece.start] = Fate::Park(error.reason());
                    }
                    size = (piece.len() / SMALLER).max(1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fates)
    }

    async fn project_piece(
        &self,
        savepoint: &Transaction<'_>,
        part: Part<'_>,
        fates: &[Fate],
        fresh: &[bool],
        piece: &Range<usize>,
    ) -> Result<Vec<(usize, String)>, FoldError> {
        let records = &part.records[piece.clone()];
        let piece_of_part = Part { records, fates: &fates[piece.clone()], ..part };
        self.project(savepoint, piece_of_part, &fresh[piece.clone()]).await
    }
}
