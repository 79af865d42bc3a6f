//! Reading the rows of the next batch.

use std::pin::pin;
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::rows::{self, Content};
use super::{Claim, Limits, OutboxError, Source};
use crate::db::Transaction;
use crate::db::fragments::assemble;
use crate::event::ShardId;
use crate::failpoint::{Fault, fault};

const CLAIM_AGAIN: &str = include_str!("claim/sql/claim_again.sql");
/// What the statements that read rows have in common.
const SHARED: &[(&str, &str)] = &[
    ("columns", include_str!("claim/sql/columns.sql")),
    ("printed", include_str!("claim/sql/printed.sql")),
    ("takes", include_str!("claim/sql/takes.sql")),
];
static CLAIM: LazyLock<String> = LazyLock::new(|| assemble(include_str!("claim/sql/claim.sql"), SHARED));
static CLAIM_MANIFEST: LazyLock<String> =
    LazyLock::new(|| assemble(include_str!("claim/sql/claim_manifest.sql"), SHARED));
static CLAIM_WATERMARK: LazyLock<String> =
    LazyLock::new(|| assemble(include_str!("claim/sql/claim_watermark.sql"), SHARED));

/// Rows of the first claim, when nothing is known of their size yet.
const FIRST_ROWS: u64 = 256;

/// The least that a row must have to be counted while a claim is read: counting costs more than sending a smaller one.
const UNCOUNTED_BYTES: u64 = 2_048;

/// The rows of a claim.
#[derive(Default)]
pub(super) struct Found {
    /// In the order of their ids, and of the columns that `rows::event` knows.
    pub(super) rows: Vec<Row>,
    /// Every row that waits up to this id is among `rows`, those left out that wait again. `None`: nothing is known of
    /// it.
    pub(super) covered: Option<i64>,
    /// There may be more.
    pub(super) full: bool,
    /// What was received of them.
    pub(super) bytes: u64,
}

/// Reads what `claim` asks for, from the first id of `range` to the last. `has_requeued`: there may be events that wait
/// again below the watermark. `ahead`: where progress is kept as a watermark, the published rows above it.
pub(super) async fn rows(
    tx: &Transaction<'_>,
    shard: ShardId,
    range: (i64, i64),
    claim: Claim<'_>,
    has_requeued: bool,
    ahead: Option<&[i64]>,
) -> Result<Found, OutboxError> {
    let (low_id, ceiling) = range;
    let Limits { bytes, record_bytes, .. } = claim.limits;
    let mut found = Found::default();
    match claim.source {
        Source::Nothing => return Ok(found),
        Source::Manifest(ids) => {
            return by_ids(tx, ids, record_bytes, false).await;
        }
        Source::Waiting => {}
    }
    let mut most_rows = most_rows(claim.limits);
    if has_requeued {
        // All of them are below what the watermark has not passed, so they also come first in the batch.
        let ids = tx.query(&tx.prepare_cached(CLAIM_AGAIN).await?, &[&shard, &most_rows, &ceiling, &low_id]).await?;
        let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
        if !ids.is_empty() {
            // With a watermark, published rows are not updated, so it does not matter who has locked them.
            found.read_ids(tx, &ids, &Bounds::new(record_bytes, bytes, most_rows), ahead.is_none()).await?;
        }
        most_rows -= ids.len() as i64;
        if most_rows <= 0 || found.full {
            found.full = true;
            return Ok(found);
        }
    }
    let rest = Waiting { shard, range, rows: most_rows, bytes: bytes.saturating_sub(found.bytes), ahead };
    for rest in waiting(tx, claim.limits.record_bytes, &[rest]).await? {
        found.rows.extend(rest.rows);
        found.bytes += rest.bytes;
        (found.covered, found.full) = (rest.covered, rest.full);
    }
    Ok(found)
}

/// Reads events by their ids, however large they are together. `locks`: whether another transaction keeps one from
/// being settled is looked at.
pub(super) async fn by_ids(
    tx: &Transaction<'_>,
    ids: &[i64],
    record_bytes: u64,
    locks: bool,
) -> Result<Found, OutboxError> {
    let mut found = Found::default();
    found.read_ids(tx, ids, &Bounds::none(record_bytes), locks).await?;
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

/// Reads what waits in some shards, in one statement; the answers are in their order. All keep their progress in the
/// same way, and `record_bytes` is the most of one row. What one leaves of its rows and bytes another may have.
pub(super) async fn waiting(
    tx: &Transaction<'_>,
    record_bytes: u64,
    claims: &[Waiting<'_>],
) -> Result<Vec<Found>, OutboxError> {
    let mut found: Vec<Found> = claims.iter().map(|_| Found::default()).collect();
    let Some(first) = claims.first() else { return Ok(found) };
    let most_rows = claims.iter().map(|claim| claim.rows).max().unwrap_or(0);
    let most_bytes = claims.iter().map(|claim| claim.bytes).sum();
    let bounds = Bounds::new(record_bytes, most_bytes, most_rows.saturating_mul(claims.len() as i64));
    let shards: Vec<_> = claims.iter().map(|claim| claim.shard).collect();
    let (low_ids, ceilings): (Vec<i64>, Vec<i64>) = claims.iter().map(|claim| claim.range).unzip();
    let params: [&(dyn ToSql + Sync); 7] =
        [&bounds.record, &bounds.all, &bounds.uncounted, &shards, &low_ids, &ceilings, &most_rows];
    let mut all = Found::default();
    if first.ahead.is_some() {
        let ahead: Vec<i64> = claims.iter().filter_map(|claim| claim.ahead).flatten().copied().collect();
        let last = ahead.iter().max().copied().unwrap_or(0);
        let mut params = params.to_vec();
        params.extend([&ahead as &(dyn ToSql + Sync), &last]);
        all.read(tx, &CLAIM_WATERMARK, &params, &bounds).await?;
    } else {
        all.read(tx, &CLAIM, &params, &bounds).await?;
    }
    for row in all.rows {
        let shard = rows::shard(&row)?;
        let Some(place) = shards.iter().position(|own| *own == shard) else { continue };
        found[place].bytes += row.raw_size_bytes() as u64;
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

/// Bounds of one statement in bytes, as its parameters.
struct Bounds {
    /// Of one row. Of a larger one the contents are not sent.
    record: i64,
    /// Of all rows together. The contents of what follows the row that reaches it are neither printed nor sent.
    all: i64,
    /// Of a row that is not counted.
    uncounted: i32,
}

impl Bounds {
    fn new(record: u64, all: u64, rows: i64) -> Self {
        let record = if fault(Fault::LargeRowLoaded) { 1 << 40 } else { record };
        let all = if fault(Fault::BytesNotCounted) { u64::MAX } else { all };
        // Rows of an ordinary size, which is up to twice the average that fits, cost nothing to count.
        let ordinary = all.saturating_mul(2).checked_div(rows.unsigned_abs()).unwrap_or(all);
        // The texts and the payload of a row that is not counted have three times as much at most: it need not be
        // compared with `record`, either.
        let uncounted = ordinary.max(UNCOUNTED_BYTES).min(record / 4);
        Self {
            record: i64::try_from(record).unwrap_or(i64::MAX),
            all: i64::try_from(all).unwrap_or(i64::MAX),
            uncounted: i32::try_from(uncounted).unwrap_or(i32::MAX),
        }
    }

    /// For rows that have to be read whatever they have together.
    fn none(record: u64) -> Self {
        Self::new(record, u64::MAX, 1)
    }
}

impl Found {
    async fn read_ids(
        &mut self,
        tx: &Transaction<'_>,
        ids: &[i64],
        bounds: &Bounds,
        locks: bool,
    ) -> Result<(), OutboxError> {
        let params: [&(dyn ToSql + Sync); 5] = [&bounds.record, &bounds.all, &bounds.uncounted, &ids, &locks];
        self.read(tx, &CLAIM_MANIFEST, &params, bounds).await
    }

    /// Reads rows until there are as many bytes as may be, by what arrives or by what the server has counted. Rows that
    /// are not read stay on the way: the session reads past them before its next answer, and holds none in memory.
    async fn read(
        &mut self,
        tx: &Transaction<'_>,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
        bounds: &Bounds,
    ) -> Result<(), OutboxError> {
        let statement = tx.prepare_cached(statement).await?;
        let mut rows = pin!(tx.query_raw(&statement, params.iter().copied()).await?);
        while let Some(row) = rows.try_next().await? {
            if rows::content(&row)? == Content::Unread {
                self.full = true;
                break;
            }
            self.bytes = self.bytes.saturating_add(row.raw_size_bytes() as u64);
            self.rows.push(row);
            if self.bytes >= bounds.all.unsigned_abs() {
                self.full = true;
                break;
            }
        }
        Ok(())
    }
}
