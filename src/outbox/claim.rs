//! Reading the rows of the next batch.

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::statements as sql;
use super::{Claim, OutboxError, Source, rows};
use crate::db::Transaction;
use crate::event::ShardId;

/// The rows of a claim.
pub(super) struct Found {
    /// In the order of their ids, and of the columns that `rows::event` knows.
    pub(super) rows: Vec<Row>,
    /// The lowest id that waits, those left out that wait again; `i64::MAX` when there is none. `None`: not looked for.
    pub(super) first_waiting: Option<i64>,
}

/// Reads what `claim` asks for. `any_again`: there may be events that wait again below the watermark. `ahead`: where progress is kept as
/// a watermark, the published rows above it.
pub(super) async fn rows(
    tx: &Transaction<'_>,
    shard: ShardId,
    low_id: i64,
    claim: Claim<'_>,
    any_again: bool,
    ahead: Option<&[i64]>,
) -> Result<Found, OutboxError> {
    let most_bytes = i64::try_from(claim.limits.bytes).unwrap_or(i64::MAX);
    let record_bytes = i64::try_from(claim.limits.record_bytes).unwrap_or(i64::MAX);
    let mut most_rows = i64::from(claim.limits.rows.get());
    match claim.source {
        Source::Nothing => return Ok(Found { rows: Vec::new(), first_waiting: None }),
        Source::Manifest(ids) => {
            let rows = query(tx, sql::CLAIM_MANIFEST, &[&ids, &record_bytes]).await?;
            return Ok(Found { rows, first_waiting: None });
        }
        Source::Waiting => {}
    }
    // All of them are lower than what the watermark has not passed, so they come first in the batch, too.
    let mut again = Vec::new();
    let mut bytes = 0;
    if any_again {
        let ids =
            query(tx, sql::CLAIM_AGAIN, &[&shard, &most_rows, &most_bytes, &record_bytes, &claim.ceiling]).await?;
        let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
        if !ids.is_empty() {
            again = query(tx, sql::CLAIM_MANIFEST, &[&ids, &record_bytes]).await?;
        }
        for row in &again {
            bytes += i64::try_from(rows::event(row)?.bytes).unwrap_or(i64::MAX).min(record_bytes);
        }
        most_rows -= again.len() as i64;
    }
    let rest = most_bytes.saturating_sub(bytes);
    if most_rows <= 0 || rest <= 0 {
        return Ok(Found { rows: again, first_waiting: None });
    }
    let params: [&(dyn ToSql + Sync); 6] = [&shard, &low_id, &most_rows, &rest, &record_bytes, &claim.ceiling];
    let waiting = match ahead {
        None => query(tx, sql::CLAIM, &params).await?,
        Some(ahead) => {
            let last = ahead.last().copied().unwrap_or(0);
            let mut params = params.to_vec();
            params.extend([&ahead as &(dyn ToSql + Sync), &last]);
            query(tx, sql::CLAIM_WATERMARK, &params).await?
        }
    };
    let first_waiting = match waiting.first() {
        Some(row) => rows::event(row)?.id,
        None => i64::MAX,
    };
    again.extend(waiting);
    Ok(Found { rows: again, first_waiting: Some(first_waiting) })
}

async fn query(tx: &Transaction<'_>, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, OutboxError> {
    let statement = tx.prepare_cached(statement).await?;
    Ok(tx.query_raw(&statement, params.iter().copied()).await?.try_collect().await?)
}
