//! Reading the rows of the next batch.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::statements as sql;
use super::{Claim, Limits, OutboxError, Source, rows};
use crate::db::Transaction;
use crate::event::ShardId;

/// Rows of the first claim, when nothing is known of their size yet.
const FIRST_ROWS: u64 = 256;

/// The rows of a claim.
#[derive(Default)]
pub(super) struct Found {
    /// In the order of their ids, and of the columns that `rows::event` knows.
    pub(super) rows: Vec<Row>,
    /// Every row that waits up to this id is among `rows`, those left out that wait again. `None`: nothing is known of it.
    pub(super) covered: Option<i64>,
    /// There may be more.
    pub(super) full: bool,
    /// What the rows take, each at most as much as a record may.
    pub(super) bytes: u64,
}

/// Reads what `claim` asks for, from the first id of `range` to the last. `any_again`: there may be events that wait again below the watermark. `ahead`: where progress is kept as
/// a watermark, the published rows above it.
pub(super) async fn rows(
    tx: &Transaction<'_>,
    shard: ShardId,
    range: (i64, i64),
    claim: Claim<'_>,
    any_again: bool,
    ahead: Option<&[i64]>,
) -> Result<Found, OutboxError> {
    let (low_id, ceiling) = range;
    let Limits { bytes, record_bytes, .. } = claim.limits;
    let record_bytes = i64::try_from(record_bytes).unwrap_or(i64::MAX);
    let mut found = Found::default();
    match claim.source {
        Source::Nothing => return Ok(found),
        Source::Manifest(ids) => {
            found.read(tx, sql::CLAIM_MANIFEST, &[&ids, &record_bytes], u64::MAX).await?;
            return Ok(found);
        }
        Source::Waiting => {}
    }
    let mut most_rows = most_rows(claim.limits);
    if any_again {
        // All of them are lower than what the watermark has not passed, so they come first in the batch, too.
        let most_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let ids = tx
            .query(
                &tx.prepare_cached(sql::CLAIM_AGAIN).await?,
                &[&shard, &most_rows, &most_bytes, &record_bytes, &ceiling, &low_id],
            )
            .await?;
        let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
        if !ids.is_empty() {
            found.read(tx, sql::CLAIM_MANIFEST, &[&ids, &record_bytes], u64::MAX).await?;
        }
        most_rows -= ids.len() as i64;
        if most_rows <= 0 || found.bytes >= bytes {
            found.full = true;
            return Ok(found);
        }
    }
    let rest = Waiting { shard, range, rows: most_rows, bytes: bytes - found.bytes, ahead };
    for rest in waiting(tx, claim.limits.record_bytes, &[rest]).await? {
        found.rows.extend(rest.rows);
        found.bytes += rest.bytes;
        (found.covered, found.full) = (rest.covered, rest.full);
    }
    Ok(found)
}

/// Not many more than fit, as far as one knows: what is not read any more has been made and sent for nothing.
fn most_rows(limits: Limits) -> i64 {
    let fitting = limits.bytes.checked_div(limits.row_bytes).map_or(FIRST_ROWS, |fitting| fitting + 1);
    i64::try_from(fitting.min(u64::from(limits.rows.get()))).unwrap_or(i64::MAX)
}

/// What a shard may claim of what waits, from the first id of `range` to the last.
pub(super) struct Waiting<'a> {
    shard: ShardId,
    range: (i64, i64),
    rows: i64,
    bytes: u64,
    ahead: Option<&'a [i64]>,
}

impl<'a> Waiting<'a> {
    /// Nothing waits again.
    pub(super) fn plain(shard: ShardId, range: (i64, i64), limits: Limits, ahead: Option<&'a [i64]>) -> Self {
        Self { shard, range, rows: most_rows(limits), bytes: limits.bytes, ahead }
    }
}

/// Reads what waits in some shards, in one statement; the answers are in their order. All keep their progress in the same way, and `record_bytes`
/// is the most of one row. What one leaves of its rows and bytes another may have.
pub(super) async fn waiting(
    tx: &Transaction<'_>,
    record_bytes: u64,
    claims: &[Waiting<'_>],
) -> Result<Vec<Found>, OutboxError> {
    let record_bytes = i64::try_from(record_bytes).unwrap_or(i64::MAX);
    let mut found: Vec<Found> = claims.iter().map(|_| Found::default()).collect();
    let Some(first) = claims.first() else { return Ok(found) };
    let most_rows = claims.iter().map(|claim| claim.rows).max().unwrap_or(0);
    let most_bytes: u64 = claims.iter().map(|claim| claim.bytes).sum();
    let shards: Vec<_> = claims.iter().map(|claim| claim.shard).collect();
    let (low_ids, ceilings): (Vec<i64>, Vec<i64>) = claims.iter().map(|claim| claim.range).unzip();
    let params: [&(dyn ToSql + Sync); 5] = [&shards, &low_ids, &most_rows, &record_bytes, &ceilings];
    let mut all = Found::default();
    if first.ahead.is_some() {
        let ahead: Vec<i64> = claims.iter().filter_map(|claim| claim.ahead).flatten().copied().collect();
        let last = ahead.iter().max().copied().unwrap_or(0);
        let mut params = params.to_vec();
        params.extend([&ahead as &(dyn ToSql + Sync), &last]);
        all.read(tx, sql::CLAIM_WATERMARK, &params, most_bytes).await?;
    } else {
        all.read(tx, sql::CLAIM, &params, most_bytes).await?;
    }
    for row in all.rows {
        let shard = rows::shard(&row)?;
        let Some(place) = shards.iter().position(|own| *own == shard) else { continue };
        found[place].bytes += rows::bytes(&row)?;
        found[place].rows.push(row);
    }
    for (found, claim) in found.iter_mut().zip(claims) {
        // When reading ended early, nobody knows what the others have left.
        found.full = all.full || found.rows.len() as i64 >= most_rows;
        found.covered = match found.rows.last() {
            Some(last) if found.full => Some(last.try_get(0)?),
            None if found.full => None,
            Some(_) | None => Some(claim.range.1),
        };
    }
    Ok(found)
}

impl Found {
    /// Reads rows until they have `most_bytes` with those that are there. Rows that are not read stay on the way: the session reads past
    /// them before its next answer, and holds none in memory.
    async fn read(
        &mut self,
        tx: &Transaction<'_>,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
        most_bytes: u64,
    ) -> Result<(), OutboxError> {
        let statement = tx.prepare_cached(statement).await?;
        let mut rows = pin!(tx.query_raw(&statement, params.iter().copied()).await?);
        while let Some(row) = rows.try_next().await? {
            self.bytes += rows::bytes(&row)?;
            self.rows.push(row);
            if self.bytes >= most_bytes {
                self.full = true;
                break;
            }
        }
        Ok(())
    }
}
