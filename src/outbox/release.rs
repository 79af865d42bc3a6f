//! Releases the events of held keys when they are due.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::OutboxError;
use super::care::Care;
use super::outcomes::{self, Outcome};
use super::settle;
use super::statements as sql;
use crate::db::Transaction;
use crate::event::{EventStatus, ShardId};

const OUTCOMES_RELEASE: &str = include_str!("release/sql/outcomes_release.sql");
const RELEASE_DUE: &str = include_str!("release/sql/due.sql");
const RELEASE_KEYS: &str = include_str!("release/sql/keys.sql");
const RELEASE_NOTE: &str = include_str!("release/sql/note.sql");
const RELEASE_ROWS: &str = include_str!("release/sql/rows.sql");
const RELEASE_WAITING: &str = include_str!("release/sql/waiting.sql");

/// Delay before an event is checked again whose row was locked.
const LOCKED_WAIT: Duration = Duration::from_secs(5);

/// What a release has changed.
pub(super) struct Released {
    pub(super) low_id: i64,
    pub(super) events: u64,
}

/// Releases a portion of what is due, in one statement.
pub(super) async fn all(tx: &Transaction<'_>, shard: ShardId, portion: i64) -> Result<Released, OutboxError> {
    let params: [&(dyn ToSql + Sync); 3] = [&shard, &portion, &portion];
    let row = tx.query_one(&tx.prepare_cached(RELEASE_DUE).await?, &params).await?;
    if row.get::<_, i64>("unchanged") > 0 {
        return Err(OutboxError::Unchanged);
    }
    Ok(Released { low_id: row.get("low_id"), events: u64::try_from(row.get::<_, i64>("released")).unwrap_or(0) })
}

/// A key that is due.
struct Due {
    first_id: i64,
    share: i64,
    has_key: bool,
    /// Its next events, one more than its share if there are as many.
    waiting: Vec<i64>,
}

/// What `release/sql/note.sql` writes.
#[derive(Default)]
struct Note {
    finished: Vec<i64>,
    unfinished: Vec<(i64, i64)>,
    stopped: Vec<(i64, i64, Option<f64>)>,
    released: Vec<i64>,
}

/// The same event by event: one that refuses to go on fails, and its key waits for it. Events that wait without their
/// row saying so go on, too.
pub(super) async fn each(
    tx: &Transaction<'_>,
    care: Care,
    shard: ShardId,
    portion: i64,
) -> Result<Released, OutboxError> {
    let due = due(tx, shard, portion).await?;
    let ids: Vec<i64> = due.iter().flat_map(|key| key.waiting.iter().take(share(key))).copied().collect();
    let (rehome, release) = (&tx.prepare_cached(sql::REHOME).await?, &tx.prepare_cached(RELEASE_ROWS).await?);
    let work = |ids: Vec<i64>| async move {
        // Before they count as waiting: one that `shards set` could not move may still be in another shard.
        tx.execute(rehome, &[&ids]).await?;
        let changed = tx.execute(release, &[&ids]).await?;
        settle::left_state(tx, care, &ids, changed, EventStatus::Held).await
    };
    let cut = care.over(tx, &ids, work).await?;
    let stuck: BTreeMap<i64, SqlState> = outcomes::answers(cut.refused, cut.left).collect();
    let (mut note, mut failed, mut back) = (Note::default(), Vec::new(), HashSet::new());
    for key in due {
        let going = key.waiting.iter().copied().take(share(&key));
        let Some((stop, code)) = going.clone().find_map(|id| stuck.get(&id).map(|code| (id, code.clone()))) else {
            note.released.extend(going);
            match key.waiting.get(share(&key)).and(key.waiting.get(share(&key).saturating_sub(1))) {
                Some(last) => note.unfinished.push((key.first_id, *last)),
                None => note.finished.push(key.first_id),
            }
            continue;
        };
        // Nothing of the key may pass it.
        back.extend(going.clone().filter(|id| *id > stop && !stuck.contains_key(id)));
        note.released.extend(going.filter(|id| *id < stop));
        let for_now = code == SqlState::QUERY_CANCELED || code == SqlState::LOCK_NOT_AVAILABLE;
        if for_now {
            note.stopped.push((key.first_id, stop, Some(LOCKED_WAIT.as_secs_f64())));
            continue;
        }
        let reason = format!(
            "unchangeable: PostgreSQL rejects changes to the row (SQLSTATE {}); fix the row, then retry the event",
            code.code()
        );
        failed.push(Outcome::failed(stop, reason, code));
        if key.has_key {
            note.stopped.push((key.first_id, stop, None));
        } else {
            note.finished.push(key.first_id);
        }
    }
    tx.execute(&tx.prepare_cached(OUTCOMES_RELEASE).await?, &[&note.released]).await?;
    let back: Vec<i64> = back.into_iter().collect();
    settle::mark_held(tx, care, &back).await?;
    outcomes::keep(tx, &failed).await?;
    let low_id = write(tx, shard, &note).await?;
    Ok(Released { low_id, events: note.released.len() as u64 + failed.len() as u64 })
}

fn share(key: &Due) -> usize {
    usize::try_from(key.share).unwrap_or(usize::MAX)
}

async fn due(tx: &Transaction<'_>, shard: ShardId, portion: i64) -> Result<Vec<Due>, OutboxError> {
    let keys = tx.query(&tx.prepare_cached(RELEASE_KEYS).await?, &[&shard, &portion]).await?;
    // As release/sql/due.sql has it: a key starts with its first event alone.
    let shares = (portion / i64::try_from(keys.len()).unwrap_or(1).max(1)).max(1);
    let mut due: Vec<Due> = Vec::with_capacity(keys.len());
    let (mut digests, mut most) = (Vec::new(), Vec::new());
    for row in &keys {
        let share = if row.get("started") { shares } else { 1 };
        digests.push(row.get::<_, Option<&str>>("key_md5"));
        most.push(share + 1);
        let has_key = row.get::<_, Option<&str>>("key_md5").is_some();
        due.push(Due { first_id: row.get("first_id"), share, has_key, waiting: Vec::new() });
    }
    let first_ids: Vec<i64> = due.iter().map(|key| key.first_id).collect();
    let params: [&(dyn ToSql + Sync); 4] = [&shard, &first_ids, &digests, &most];
    for row in tx.query(&tx.prepare_cached(RELEASE_WAITING).await?, &params).await? {
        let first_id: i64 = row.get("first_id");
        if let Some(key) = due.iter_mut().find(|key| key.first_id == first_id) {
            key.waiting.push(row.get("id"));
        }
    }
    Ok(due)
}

async fn write(tx: &Transaction<'_>, shard: ShardId, note: &Note) -> Result<i64, OutboxError> {
    let (unfinished, released_to): (Vec<i64>, Vec<i64>) = note.unfinished.iter().copied().unzip();
    let stopped: Vec<i64> = note.stopped.iter().map(|(first_id, ..)| *first_id).collect();
    let stops: Vec<i64> = note.stopped.iter().map(|(_, stop, _)| *stop).collect();
    let again_in: Vec<Option<f64>> = note.stopped.iter().map(|(.., seconds)| *seconds).collect();
    let params: [&(dyn ToSql + Sync); 8] =
        [&shard, &note.finished, &unfinished, &released_to, &stopped, &stops, &again_in, &note.released];
    Ok(tx.query_one(&tx.prepare_cached(RELEASE_NOTE).await?, &params).await?.get("low_id"))
}
