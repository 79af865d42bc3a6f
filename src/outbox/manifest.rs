//! The shard's row at the end of a step: the batch in flight, and the progress of the shard.

use tokio_postgres::types::ToSql;

use super::{BatchTag, Fence, OutboxError, Watermark};
use crate::db::Transaction;

const WRITE_MANIFEST: &str = include_str!("manifest/sql/write_manifest.sql");

/// What a step writes of its shard; it renews the lease on the way.
pub(super) struct Manifest {
    pub(super) fence: Fence,
    pub(super) seq: i64,
    /// `None`: nothing is in flight.
    pub(super) ids: Option<Vec<i64>>,
    pub(super) low_id: i64,
    pub(super) marked: bool,
    /// `None`: the one that is there stays.
    pub(super) tag: Option<BatchTag>,
    pub(super) watermark: Watermark,
}

/// Writes the rows of shards of one owner. `lease` in seconds. Errors: one of them is fenced.
pub(super) async fn write(tx: &Transaction<'_>, manifests: &[Manifest], lease: f64) -> Result<(), OutboxError> {
    let Some(Manifest { fence, .. }) = manifests.first() else { return Ok(()) };
    let of = |value: fn(&Manifest) -> i64| manifests.iter().map(value).collect::<Vec<_>>();
    let shards: Vec<_> = manifests.iter().map(|manifest| manifest.fence.shard).collect();
    let marked: Vec<_> = manifests.iter().map(|manifest| manifest.marked).collect();
    let (mut ids, mut ids_to, mut ahead, mut ahead_to) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for manifest in manifests {
        ids.extend(manifest.ids.iter().flatten().copied());
        ahead.extend_from_slice(manifest.watermark.ahead());
        ids_to.push(ids.len() as i32);
        ahead_to.push(ahead.len() as i32);
    }
    let (epochs, seqs) = (of(|manifest| manifest.fence.epoch), of(|manifest| manifest.seq));
    let (low_ids, done_ids) = (of(|manifest| manifest.low_id), of(|manifest| manifest.watermark.done_id()));
    let tags: Vec<_> = manifests.iter().map(|manifest| manifest.tag.map(BatchTag::as_uuid)).collect();
    #[rustfmt::skip]
    let params: [&(dyn ToSql + Sync); 13] = [
        &fence.owner, &lease, &shards, &epochs, &seqs, &low_ids, &marked, &done_ids, &ids_to, &ahead_to, &ids, &ahead, &tags,
    ];
    let written = tx.execute(&tx.prepare_cached(WRITE_MANIFEST).await?, &params).await?;
    if written == manifests.len() as u64 { Ok(()) } else { Err(OutboxError::Fenced(*fence)) }
}
