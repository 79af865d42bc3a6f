//! A row of the claim as an event.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::event::{OutboxEvent, Payload, ShardId};

type Error = tokio_postgres::Error;

/// The text of a jsonb value as PostgreSQL prints it, without parsing it on our side.
struct JsonText<'a>(&'a [u8]);

impl<'a> FromSql<'a> for JsonText<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // Binary jsonb is a version byte, 1, and the text (PostgreSQL, jsonb_send).
        match raw.split_first() {
            Some((1, text)) => Ok(Self(text)),
            _ => Err("unknown version of binary jsonb".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}

/// How much a row takes. Of one that is larger than a record may be, the large columns were not read.
pub(super) fn bytes(row: &Row) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<_, i64>(8)?).unwrap_or(0))
}

/// The shard of a row of `claim.sql`.
pub(super) fn shard(row: &Row) -> Result<ShardId, Error> {
    row.try_get(21)
}

/// The columns stand in the order of `claim.sql` and `claim_manifest.sql`; by number, since a look-up by name compares
/// the names of twenty columns for each value of each row.
pub(super) fn event(row: &Row) -> Result<OutboxEvent<'_>, Error> {
    let json: Option<JsonText<'_>> = row.try_get(12)?;
    let raw: Option<&[u8]> = row.try_get(13)?;
    let headers: Option<JsonText<'_>> = row.try_get(14)?;
    let due_in: Option<f64> = row.try_get(10)?;
    Ok(OutboxEvent {
        id: row.try_get(0)?,
        event_id: row.try_get(1)?,
        event_type: row.try_get(2)?,
        event_version: row.try_get(3)?,
        aggregate_type: row.try_get(4)?,
        topic: row.try_get(5)?,
        key: row.try_get(6)?,
        key_bytes: u32::try_from(row.try_get::<_, Option<i32>>(7)?.unwrap_or(0)).unwrap_or(0),
        bytes: bytes(row)?,
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
