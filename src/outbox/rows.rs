//! Converts a claimed row into an event.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::event::{EventStatus, OutboxEvent, Payload, ShardId};

type Error = tokio_postgres::Error;

/// A text column, byte for byte: JSON is passed on as it is, whatever the encoding of the database.
struct Text<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Text<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

/// The word of a `status` column.
struct Status(EventStatus);

impl<'a> FromSql<'a> for Status {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(<&str as FromSql>::from_sql(ty, raw)?.parse()?))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

/// Errors: the column has a word that is no status, which the constraint of the table does not let in.
pub(super) fn status(row: &Row, column: &str) -> Result<EventStatus, Error> {
    Ok(row.try_get::<_, Status>(column)?.0)
}

/// The same of a column that may be null.
pub(super) fn status_if_any(row: &Row, column: &str) -> Result<Option<EventStatus>, Error> {
    Ok(row.try_get::<_, Option<Status>>(column)?.map(|status| status.0))
}

/// What came of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Whole,
    /// It is larger than a record may be, by at least this size; only what identifies it was read.
    TooLarge(u64),
    /// The claim had enough before it.
    Unread,
}

pub(super) fn content(row: &Row) -> Result<Content, Error> {
    let takes: Option<i64> = row.try_get(8)?;
    Ok(takes.map_or(Content::Whole, |takes| u64::try_from(takes).map_or(Content::Unread, Content::TooLarge)))
}

/// Whether another transaction keeps the row from being settled.
pub(super) fn is_busy(row: &Row) -> Result<bool, Error> {
    row.try_get(22)
}

pub(super) fn id(row: &Row) -> Result<i64, Error> {
    row.try_get(0)
}

pub(super) fn shard(row: &Row) -> Result<ShardId, Error> {
    row.try_get(21)
}

/// The columns are in the order of `claim.sql` and similar statements. They are accessed by number, because a lookup by
/// name compares the names of twenty columns for each value of each row.
pub(super) fn event(row: &Row) -> Result<OutboxEvent<'_>, Error> {
    let json: Option<Text<'_>> = row.try_get(12)?;
    let raw: Option<&[u8]> = row.try_get(13)?;
    let headers: Option<Text<'_>> = row.try_get(14)?;
    let due_in: Option<f64> = row.try_get(10)?;
    let bytes = match content(row)? {
        Content::TooLarge(bytes) => bytes,
        Content::Whole | Content::Unread => 0,
    };
    Ok(OutboxEvent {
        id: row.try_get(0)?,
        event_id: row.try_get(1)?,
        event_type: row.try_get(2)?,
        event_version: row.try_get(3)?,
        aggregate_type: row.try_get(4)?,
        topic: row.try_get(5)?,
        key: row.try_get(6)?,
        key_bytes: u32::try_from(row.try_get::<_, Option<i32>>(7)?.unwrap_or(0)).unwrap_or(0),
        bytes,
        created_at: row.try_get(9)?,
        due_in_seconds: due_in.filter(|seconds| *seconds > 0.0),
        aggregate_id: row.try_get(11)?,
        payload: match (json, raw) {
            (Some(text), _) => Payload::Json(text.0),
            (None, Some(raw)) => Payload::Raw(raw),
            (None, None) => Payload::Tombstone,
        },
        // PostgreSQL checks the encoding of what it stores, so this is UTF-8 unless the database has another encoding;
        // an empty text is then refused as headers that are no object.
        headers: headers.map(|text| std::str::from_utf8(text.0).unwrap_or_default()),
        correlation_id: row.try_get(15)?,
        causation_id: row.try_get(16)?,
        source: row.try_get(17)?,
        traceparent: row.try_get(18)?,
        replay_of: row.try_get(19)?,
        dead_letter_of: row.try_get(20)?,
    })
}
