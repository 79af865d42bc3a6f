//! Records that cannot be folded: they are stored in `consumer_parked`, with the reason, in the transaction that folds
//! the others.

use jiff::Timestamp;
use uuid::Uuid;

use super::columns::kept;
use super::{Counts, Fate, Part, Store};
use crate::db::Transaction;
use crate::projection::failure::FoldError;
use crate::projection::record::{Place, Record};

pub(super) const INSERT_PARKED: &str = include_str!("sql/insert_parked.sql");

/// An event to keep in `consumer_parked`.
#[derive(Debug, Clone, Copy)]
struct Parked<'a> {
    record: &'a Record,
    reason: &'a str,
    escaped: bool,
}

impl Store {
    /// Keeps what is to be parked, and counts what became of the part.
    pub(super) async fn park(
        &self,
        transaction: &Transaction<'_>,
        part: Part<'_>,
        fresh: &[bool],
    ) -> Result<Counts, FoldError> {
        let mut counts = Counts::default();
        let mut parked = Vec::new();
        for (index, fate) in part.fates.iter().enumerate() {
            let (reason, escaped) = match fate {
                Fate::Skip => {
                    counts.skipped += 1;
                    continue;
                }
                Fate::Fold | Fate::Park(_) | Fate::ParkEscaped(_) if !fresh[index] => {
                    counts.duplicate += 1;
                    continue;
                }
                Fate::Fold => {
                    counts.applied += 1;
                    continue;
                }
                Fate::Park(reason) => (reason, false),
                Fate::ParkEscaped(reason) => (reason, true),
            };
            counts.parked += 1;
            parked.push(Parked { record: &part.records[index], reason, escaped });
        }
        if !parked.is_empty() {
            self.insert_parked(transaction, part.place, &parked).await?;
        }
        Ok(counts)
    }

    async fn insert_parked(
        &self,
        transaction: &Transaction<'_>,
        place: &Place,
        parked: &[Parked<'_>],
    ) -> Result<(), FoldError> {
        let records = || parked.iter().map(|parked| parked.record);
        let ids: Vec<Uuid> = records().map(|record| record.event.id).collect();
        let types: Vec<_> =
            parked.iter().map(|parked| kept(parked.record.event.event_type.as_deref(), parked.escaped)).collect();
        let offsets: Vec<i64> = records().map(|record| record.offset).collect();
        let keys: Vec<Option<&[u8]>> = records().map(|record| record.key.as_deref()).collect();
        let values: Vec<Option<&[u8]>> = records().map(|record| record.value.as_deref()).collect();
        let headers: Vec<String> = parked.iter().map(|parked| parked.record.headers_list(parked.escaped)).collect();
        let times: Vec<Option<Timestamp>> = records().map(|record| record.recorded_at).collect();
        let reasons: Vec<_> = parked.iter().map(|parked| kept(Some(parked.reason), parked.escaped)).collect();
        let statement = transaction.prepare_cached(INSERT_PARKED).await?;
        transaction
            .execute(
                &statement,
                &[
                    &self.group,
                    &place.topic,
                    &place.partition,
                    &ids,
                    &types,
                    &offsets,
                    &keys,
                    &values,
                    &headers,
                    &times,
                    &reasons,
                    &self.projection,
                ],
            )
            .await?;
        Ok(())
    }
}
