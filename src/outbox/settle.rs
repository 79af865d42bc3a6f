//! What is written at the end of a batch: published rows, failed ones, and the keys that wait from now on.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::failure::{Case, Failed, FailurePolicy, Sentence};
use super::statements as sql;
use super::{Finish, OutboxError};
use crate::db::Transaction;
use crate::event::ShardId;

/// What became of the batch in hand. An event of it that is in neither list stays PENDING and is claimed again.
#[derive(Debug, Default)]
pub struct Settlement {
    /// In Kafka for good: id, and partition and offset where they are known.
    pub published: Vec<(i64, Option<(i32, i64)>)>,
    pub failed: Vec<Failed>,
}

impl Settlement {
    pub fn is_empty(&self) -> bool {
        self.published.is_empty() && self.failed.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.published.len() + self.failed.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.published.iter().map(|(id, _)| *id).chain(self.failed.iter().map(|failed| failed.id))
    }
}

/// A key, or an event without one, that waits from now on.
#[derive(Debug, PartialEq)]
pub(super) struct Wait {
    pub(super) first_id: i64,
    pub(super) key: Option<String>,
    /// As the constraint of `outbox_held_keys` has it.
    pub(super) why: &'static str,
    /// The topic that is paused or does not exist.
    pub(super) topic: Option<String>,
    /// What is wrong, in words.
    pub(super) detail: Option<String>,
    /// `None`: until somebody releases it.
    pub(super) release_in: Option<Duration>,
}

/// Finishes published rows, of one shard or of several. Returns how many of them had no PENDING row any more, where rows are written to.
pub(super) async fn finish(
    tx: &Transaction<'_>,
    settlements: impl Iterator<Item = &Settlement> + Clone,
    finish: Finish,
) -> Result<u64, OutboxError> {
    let published = settlements.flat_map(|settlement| &settlement.published);
    let all = published.clone().count() as u64;
    let mut settled = 0;
    match finish {
        // It is told to the watermark of the shard.
        Finish::Watermark => return Ok(0),
        Finish::Delete if all > 0 => {
            let ids: Vec<i64> = published.clone().map(|(id, _)| *id).collect();
            settled = tx.execute(&tx.prepare_cached(sql::SETTLE_DELETED).await?, &[&ids]).await?;
        }
        Finish::Delete | Finish::Mark => {}
    }
    if settled < all {
        settled += mark(tx, published).await?;
    }
    Ok(all.saturating_sub(settled))
}

/// Marks rows PUBLISHED. Returns how many were PENDING.
pub(super) async fn mark(
    tx: &Transaction<'_>,
    published: impl Iterator<Item = &(i64, Option<(i32, i64)>)>,
) -> Result<u64, OutboxError> {
    let (mut ids, mut partitions, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (id, place) in published {
        ids.push(*id);
        partitions.push(place.map(|(partition, _)| partition));
        offsets.push(place.map(|(_, offset)| offset));
    }
    if ids.is_empty() {
        return Ok(0);
    }
    Ok(tx.execute(&tx.prepare_cached(sql::SETTLE_PUBLISHED).await?, &[&ids, &partitions, &offsets]).await?)
}

/// Counts the attempt of each failed event, and does with it what the policy says.
pub(super) async fn fail(
    tx: &Transaction<'_>,
    shard: ShardId,
    failed: &[Failed],
    policy: &dyn FailurePolicy,
) -> Result<(), OutboxError> {
    if failed.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = failed.iter().map(|failed| failed.id).collect();
    let rows = tx.query(&tx.prepare_cached(sql::ATTEMPTS).await?, &[&ids]).await?;
    let (mut ids, mut states, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dead_letter_topics, mut topics, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let id: i64 = row.get("id");
        let Some(failed) = failed.iter().find(|failed| failed.id == id) else { continue };
        let case = Case {
            class: failed.class,
            topic: failed.topic.as_deref(),
            event_type: row.get("event_type"),
            attempts: u32::try_from(row.get::<_, i32>("retry_count")).unwrap_or(0).saturating_add(1),
        };
        let is_dead_letter: bool = row.get("is_dead_letter");
        let mut sentence = policy.sentence(&case);
        if is_dead_letter && matches!(sentence, Sentence::Hold | Sentence::DeadLetter { .. }) {
            // A dead letter of a dead letter would never end, and nothing waits behind it.
            sentence = Sentence::Skip;
        }
        let key = failed.key.as_ref().filter(|_| !is_dead_letter);
        let wait =
            |why, release_in| Wait { first_id: id, key: key.cloned(), why, topic: None, detail: None, release_in };
        let (state, dead_letter_topic) = match sentence {
            Sentence::Retry { after } => {
                waits.push(wait("retry", Some(after)));
                ("HELD", None)
            }
            Sentence::Hold => {
                // An event without a key holds nobody, not even itself: it is FAILED.
                waits.extend(key.is_some().then(|| wait("failed", None)));
                ("FAILED", None)
            }
            Sentence::DeadLetter { topic } => ("FAILED", Some(topic)),
            Sentence::Skip => ("FAILED", None),
        };
        ids.push(id);
        states.push(state);
        reasons.push(format!("{}: {}", failed.class, failed.reason));
        dead_letter_topics.push(dead_letter_topic);
        topics.push(failed.topic.as_deref());
    }
    let params: [&(dyn ToSql + Sync); 5] = [&ids, &states, &reasons, &dead_letter_topics, &topics];
    tx.execute(&tx.prepare_cached(sql::SETTLE_FAILED).await?, &params).await?;
    hold(tx, shard, &waits).await
}

/// Holds keys. The state of the rows is the caller's affair.
pub(super) async fn hold(tx: &Transaction<'_>, shard: ShardId, waits: &[Wait]) -> Result<(), OutboxError> {
    if waits.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = waits.iter().map(|wait| wait.first_id).collect();
    let keys: Vec<Option<&str>> = waits.iter().map(|wait| wait.key.as_deref()).collect();
    let reasons: Vec<&str> = waits.iter().map(|wait| wait.why).collect();
    let seconds: Vec<Option<f64>> = waits.iter().map(|wait| wait.release_in.map(|wait| wait.as_secs_f64())).collect();
    let topics: Vec<Option<&str>> = waits.iter().map(|wait| wait.topic.as_deref()).collect();
    let details: Vec<Option<&str>> = waits.iter().map(|wait| wait.detail.as_deref()).collect();
    let params: [&(dyn ToSql + Sync); 7] = [&shard, &ids, &keys, &reasons, &seconds, &topics, &details];
    tx.execute(&tx.prepare_cached(sql::HOLD_KEYS).await?, &params).await?;
    Ok(())
}
