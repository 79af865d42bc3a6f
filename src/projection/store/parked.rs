//! Parked events that an operator has released: each is folded once more, in a transaction of its own.
//!
//! Invariant: the effect of a released event and the end of its row in `consumer_parked` are committed together, so
//! that it is folded at most once more however often it is released.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;

use super::{Fate, Part, Store};
use crate::db::{DbError, StoredTime, Transaction};
use crate::projection::failure::{Cause, FoldError};
use crate::projection::record::{Headers, Place, Record};

const HOLD: &str = include_str!("sql/hold_partition.sql");
const NEXT_RELEASED: &str = include_str!("sql/next_released.sql");
const FORGET_PARKED: &str = include_str!("sql/forget_parked.sql");
const PARK_AGAIN: &str = include_str!("sql/park_again.sql");
pub(super) const ALL: [&str; 4] = [HOLD, NEXT_RELEASED, FORGET_PARKED, PARK_AGAIN];

/// Immediate repeats of a released event: a deadlock is over by then.
const REPEATS: usize = 2;

/// What became of the first released event of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// There is none, or the partition is not ours.
    Nothing,
    /// It is in the projections now.
    Folded { offset: i64 },
    /// It does not fit yet, and is parked again with the reason.
    Refused { offset: i64 },
}

impl Store {
    /// Folds the first released event of a partition.
    ///
    /// Errors: as a fold. Then nothing has changed, except that after an unanswered COMMIT nobody knows.
    pub async fn fold_released(&self, place: &Place, epoch: i64) -> Result<Released, FoldError> {
        for _ in 0..REPEATS {
            match self.try_released(place, epoch, false).await {
                Err(error) if error.cause() == Cause::Doubtful => {}
                ended => return ended,
            }
        }
        self.try_released(place, epoch, true).await
    }

    /// Once. `last`: an error by which PostgreSQL blames itself is held against the event.
    async fn try_released(&self, place: &Place, epoch: i64, last: bool) -> Result<Released, FoldError> {
        let mut connection = self.pool.get().await?;
        let transaction = connection.transaction().await?;
        let hold = transaction.prepare_cached(HOLD).await?;
        let own: [&(dyn ToSql + Sync); 5] = [&self.group, &place.topic, &place.partition, &epoch, &self.projection];
        let held = transaction.query_opt(&hold, &own).await?;
        let record = if held.is_some() { self.next_released(&transaction, place).await? } else { None };
        let Some(record) = record else {
            transaction.rollback().await?;
            connection.done();
            return Ok(Released::Nothing);
        };
        let offset = record.offset;
        let refused = match self.fold_again(&transaction, place, epoch, &record).await {
            Ok(refused) => refused,
            Err(error) => match error.cause() {
                Cause::Data => Some(error.reason()),
                // Whoever is to blame: parked it holds up nobody, and it can be released again.
                Cause::TooSlow | Cause::Unclear | Cause::Program => Some(error.to_string()),
                Cause::Doubtful if last => Some(error.to_string()),
                Cause::Doubtful | Cause::Locked | Cause::Unavailable => return Err(error),
            },
        };
        let Some(reason) = refused else {
            let forget = transaction.prepare_cached(FORGET_PARKED).await?;
            transaction.execute(&forget, &[&self.group, &record.event.id, &self.projection]).await?;
            transaction.commit().await?;
            connection.done();
            return Ok(Released::Folded { offset });
        };
        transaction.rollback().await?;
        let again = connection.prepare_cached(PARK_AGAIN).await?;
        connection.execute(&again, &[&self.group, &record.event.id, &reason, &self.projection]).await?;
        connection.done();
        Ok(Released::Refused { offset })
    }

    async fn next_released(&self, transaction: &Transaction<'_>, place: &Place) -> Result<Option<Record>, DbError> {
        let next = transaction.prepare_cached(NEXT_RELEASED).await?;
        let own: [&(dyn ToSql + Sync); 4] = [&self.group, &place.topic, &place.partition, &self.projection];
        let row = transaction.query_opt(&next, &own).await?;
        Ok(row.map(|row| {
            let recorded_at: Option<StoredTime> = row.get(4);
            let millis = recorded_at.and_then(StoredTime::timestamp).map(Timestamp::as_millisecond);
            let headers = headers(row.get(3));
            let mut record =
                Record::new(&place.topic, place.partition, row.get(0), millis, headers, row.get(1), row.get(2));
            // Of a record without an id of its own it may depend on more than what is kept.
            record.event.id = row.get(5);
            record
        }))
    }

    /// Why it does not fit; `None`: every projection has it.
    async fn fold_again(
        &self,
        transaction: &Transaction<'_>,
        place: &Place,
        epoch: i64,
        record: &Record,
    ) -> Result<Option<String>, FoldError> {
        if let Err(reason) = record.json() {
            return Ok(Some(reason));
        }
        let next_offset = record.offset + 1;
        let records = std::slice::from_ref(record);
        let part = Part { place, epoch, next_offset, records, fates: &[Fate::Fold] };
        // It stands there since it was parked, unless that was long ago.
        self.insert_handled(transaction, part).await?;
        let refused = self.project(transaction, part, &[true]).await?;
        Ok(refused.into_iter().next().map(|(_, reason)| reason))
    }
}

/// What [`Record::headers_list`] has made of them.
fn headers(list: &str) -> Headers {
    let list: Vec<(Value, Value)> = serde_json::from_str(list).unwrap_or_default();
    list.into_iter().map(|(name, value)| (bytes(name).unwrap_or_default(), bytes(value))).collect()
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        Value::Object(map) => map.get("hex").and_then(Value::as_str).map(unhex),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let original: Headers = vec![
            ("ce_type".into(), text("LikeAddedEvent")),
            ("twice".into(), text("")),
            ("twice".into(), Some(vec![0, 255, 16])),
            (vec![255, 0], None),
            ("quote".into(), text("\"\\\u{1f600}")),
        ];
        let record = Record::new("t", 0, 1, None, original.clone(), None, None);
        for escaped in [false, true] {
            assert_eq!(headers(&record.headers_list(escaped)), original);
        }
        assert!(headers("{}").is_empty() && headers("[[1, 2]]").len() == 1);
    }
}
