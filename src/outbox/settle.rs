//! What is written at the end of a batch: published rows, failed rows, and newly held keys.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::care::Care;
use super::failure::{Failed, FailedEvent, FailureAction, FailurePolicy};
use super::outcomes::{self, DueLetter, Outcome, answers};
use super::statements as sql;
use super::{OutboxError, SettleMode, rows};
use crate::db::{Transaction, stored_text};
use crate::event::{EventStatus, FailureClass, HoldReason, Place, ShardId};
use crate::failpoint::{Fault, fault};

const ATTEMPTS: &str = include_str!("settle/sql/attempts.sql");
const HOLD_KEYS: &str = include_str!("settle/sql/hold_keys.sql");
const HOLD_ROWS: &str = include_str!("settle/sql/hold_rows.sql");
const SETTLE_DELETED: &str = include_str!("settle/sql/deleted.sql");
const SETTLE_FAILED: &str = include_str!("settle/sql/failed.sql");
const SETTLE_HELD: &str = include_str!("settle/sql/held.sql");

/// An event that is durably in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Published {
    pub id: i64,
    /// `None`: nobody knows where.
    pub place: Option<Place>,
}

impl Published {
    pub fn at(id: i64, place: Place) -> Self {
        Self { id, place: Some(place) }
    }

    pub fn somewhere(id: i64) -> Self {
        Self { id, place: None }
    }
}

/// The result of the current batch. An event in neither list stays PENDING and is claimed again.
#[derive(Debug, Clone, Hash, Default)]
pub struct Settlement {
    /// Durably in Kafka.
    pub published: Vec<Published>,
    pub failed: Vec<Failed>,
}

impl Settlement {
    pub fn is_empty(&self) -> bool {
        self.published.is_empty() && self.failed.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.published.len() + self.failed.len()
    }

    /// One of the published events was claimed again in the transaction that settled it: its row was not changed as
    /// requested. `claimed` is in id order.
    pub(super) fn comes_back_in(&self, claimed: &[Row]) -> Result<bool, OutboxError> {
        let Some(last) = self.published.iter().map(|event| event.id).max() else { return Ok(false) };
        for row in claimed {
            let id = rows::id(row)?;
            if id > last {
                break;
            }
            if self.published.iter().any(|event| event.id == id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.published.iter().map(|event| event.id).chain(self.failed.iter().map(|failed| failed.id))
    }
}

/// What waits with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// The event alone.
    None,
    Text(String),
    /// The key of the row, which cannot be read.
    OfRow,
}

impl Key {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::None | Self::OfRow => None,
        }
    }
}

/// A key, or an event without a key, that waits from now on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wait {
    pub(super) first_id: i64,
    pub(super) key: Key,
    pub(super) why: HoldReason,
    /// The topic that is paused or does not exist.
    pub(super) topic: Option<String>,
    /// What is wrong, in words.
    pub(super) detail: Option<String>,
    /// `None`: until it is released.
    pub(super) release_in: Option<Duration>,
}

/// Finishes published rows of one or several shards. Returns how many of them no longer had a PENDING row, if rows are
/// updated.
pub(super) async fn settle(
    tx: &Transaction<'_>,
    care: Care,
    settlements: impl Iterator<Item = &Settlement> + Clone,
    mode: SettleMode,
) -> Result<u64, OutboxError> {
    let published = settlements.flat_map(|settlement| &settlement.published);
    let all = published.clone().count() as u64;
    let mut settled = 0;
    match mode {
        // The shard's watermark accounts for it.
        SettleMode::Watermark => return Ok(0),
        SettleMode::Delete if all > 0 => {
            let ids: Vec<i64> = published.clone().map(|event| event.id).collect();
            let statement = &tx.prepare_cached(SETTLE_DELETED).await?;
            let cut =
                care.over(tx, &ids, |ids: Vec<i64>| async move { Ok(tx.execute(statement, &[&ids]).await?) }).await?;
            settled = cut.done.iter().sum();
        }
        SettleMode::Delete | SettleMode::Mark => {}
    }
    if settled < all {
        settled += mark(tx, care, published).await?;
    }
    Ok(all.saturating_sub(settled))
}

/// Rows that an update has taken to another state, of those that it returns.
fn moved(rows: &[Row]) -> u64 {
    rows.iter().filter(|row| row.get::<_, bool>("moved")).count() as u64
}

/// Makes sure that the rows of an update have left the state `from`. For an ordinary update the number of changed rows
/// is enough.
pub(super) async fn left_state(
    tx: &Transaction<'_>,
    care: Care,
    ids: &[i64],
    changed: u64,
    from: EventStatus,
) -> Result<(), OutboxError> {
    if ids.is_empty() || (matches!(care, Care::Plain) && changed == ids.len() as u64) {
        return Ok(());
    }
    // Rows that were deleted or changed by another session have left it, too.
    Ok(outcomes::expect_left(tx, ids, &[from]).await?)
}

/// Marks rows PUBLISHED. Returns how many were PENDING. The outcome of a row that cannot be marked is stored.
pub(super) async fn mark(
    tx: &Transaction<'_>,
    care: Care,
    published: impl Iterator<Item = &Published>,
) -> Result<u64, OutboxError> {
    let published: Vec<Published> = published.copied().collect();
    if published.is_empty() {
        return Ok(0);
    }
    let statement = &tx.prepare_cached(sql::SETTLE_PUBLISHED).await?;
    let mark = |part: Vec<Published>| async move {
        let ids: Vec<i64> = part.iter().map(|event| event.id).collect();
        let partitions: Vec<Option<i32>> = part.iter().map(|event| event.place.map(|place| place.partition)).collect();
        let offsets: Vec<Option<i64>> = part.iter().map(|event| event.place.map(|place| place.offset)).collect();
        let changed = tx.execute(statement, &[&ids, &partitions, &offsets]).await?;
        left_state(tx, care, &ids, changed, EventStatus::Pending).await?;
        Ok(changed)
    };
    let cut = care.over(tx, &published, mark).await?;
    let kept: Vec<_> = answers(cut.refused, cut.left).map(|(event, code)| Outcome::published(event, code)).collect();
    Ok(cut.done.iter().sum::<u64>() + outcomes::keep(tx, &kept).await?)
}

/// Takes events that wait behind another one out of the claim.
pub(super) async fn mark_held(tx: &Transaction<'_>, care: Care, ids: &[i64]) -> Result<(), OutboxError> {
    if ids.is_empty() {
        return Ok(());
    }
    let statement = &tx.prepare_cached(SETTLE_HELD).await?;
    let mark = |ids: Vec<i64>| async move {
        let moved = moved(&tx.query(statement, &[&ids]).await?);
        left_state(tx, care, &ids, moved, EventStatus::Pending).await
    };
    let cut = care.over(tx, ids, mark).await?;
    let kept: Vec<_> = answers(cut.refused, cut.left).map(|(id, code)| Outcome::held(id, code)).collect();
    outcomes::keep(tx, &kept).await?;
    Ok(())
}

/// An event that failed, read or not.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) id: i64,
    pub(super) key: Key,
    pub(super) class: FailureClass,
    pub(super) topic: Option<String>,
    pub(super) reason: String,
}

impl From<&Failed> for Refusal {
    fn from(failed: &Failed) -> Self {
        let key = failed.key.clone().map_or(Key::None, Key::Text);
        let Failed { id, class, topic, reason, .. } = failed.clone();
        Self { id, key, class, topic, reason }
    }
}

/// A failed event and what happens to it.
#[derive(Debug, Clone)]
struct Decided {
    id: i64,
    state: EventStatus,
    reason: String,
    dead_letter_topic: Option<String>,
    topic: Option<String>,
    wait: Option<Wait>,
    /// If its row cannot be changed as needed: its key then waits, unless its dead letter is written, or the event
    /// would be lost track of.
    key: Key,
}

/// Counts the attempt of each failed event, and applies the policy.
pub(super) async fn fail(
    tx: &Transaction<'_>,
    care: Care,
    shard: ShardId,
    failed: &[Refusal],
    policy: &dyn FailurePolicy,
) -> Result<(), OutboxError> {
    if failed.is_empty() {
        return Ok(());
    }
    let decided = decide(tx, care, failed, policy).await?;
    let statement = &tx.prepare_cached(SETTLE_FAILED).await?;
    let settle = |part: Vec<Decided>| async move {
        let ids: Vec<i64> = part.iter().map(|event| event.id).collect();
        let states: Vec<&str> = part.iter().map(|event| event.state.as_str()).collect();
        let reasons: Vec<&str> = part.iter().map(|event| event.reason.as_str()).collect();
        let letters: Vec<Option<&str>> = part.iter().map(|event| event.dead_letter_topic.as_deref()).collect();
        let topics: Vec<Option<&str>> = part.iter().map(|event| event.topic.as_deref()).collect();
        let params: [&(dyn ToSql + Sync); 5] = [&ids, &states, &reasons, &letters, &topics];
        let moved = moved(&tx.query(statement, &params).await?);
        left_state(tx, care, &ids, moved, EventStatus::Pending).await
    };
    let cut = care.over(tx, &decided, settle).await?;
    let refused: Vec<_> = answers(cut.refused, cut.left).collect();
    let mut waits: Vec<Wait> = decided
        .into_iter()
        .filter(|event| refused.iter().all(|(refused, _)| refused.id != event.id))
        .filter_map(|event| event.wait)
        .collect();
    let mut kept = Vec::new();
    for (event, code) in refused {
        let reason = format!("{} (PostgreSQL rejects changes to the row: SQLSTATE {})", event.reason, code.code());
        let (topic, outcome) = (event.topic, Outcome::failed(event.id, reason, code));
        if let Some(to) = event.dead_letter_topic {
            kept.push(Outcome { letter: Some(DueLetter { to, from: topic }), ..outcome });
            continue;
        }
        kept.push(outcome);
        if event.key != Key::None {
            waits.push(Wait {
                first_id: event.id,
                key: event.key,
                why: HoldReason::Failed,
                topic: None,
                detail: None,
                release_in: None,
            });
        }
    }
    outcomes::keep(tx, &kept).await?;
    hold(tx, care, shard, &waits).await
}

/// Asks the policy about each event that is still PENDING.
async fn decide(
    tx: &Transaction<'_>,
    care: Care,
    failed: &[Refusal],
    policy: &dyn FailurePolicy,
) -> Result<Vec<Decided>, OutboxError> {
    let ids: Vec<i64> = failed.iter().map(|failed| failed.id).collect();
    let statement = &tx.prepare_cached(ATTEMPTS).await?;
    let cut = care.over(tx, &ids, |ids: Vec<i64>| async move { Ok(tx.query(statement, &[&ids]).await?) }).await?;
    // What the row says: attempts, type, whether it is a dead letter. Nothing of one that cannot be read.
    let mut read = Vec::with_capacity(failed.len());
    for row in cut.done.iter().flatten() {
        let attempts = u32::try_from(row.try_get::<_, i32>("retry_count")?).unwrap_or(0);
        let event_type = stored_text(row, "event_type")?.unwrap_or_default();
        read.push((row.try_get("id")?, attempts, event_type, row.try_get("is_dead_letter")?));
    }
    let unread = answers(cut.refused.clone(), cut.left.clone()).map(|(id, _)| (id, 0, String::new(), false));
    let mut decided = Vec::with_capacity(failed.len());
    for (id, attempts, event_type, is_dead_letter) in read.into_iter().chain(unread) {
        let Some(failed) = failed.iter().find(|failed| failed.id == id) else { continue };
        let event = FailedEvent {
            class: failed.class,
            topic: failed.topic.as_deref(),
            event_type: &event_type,
            attempts: attempts.saturating_add(1),
        };
        let mut action = policy.decide(&event);
        if is_dead_letter && matches!(action, FailureAction::Hold | FailureAction::DeadLetter { .. }) {
            // A dead letter of a dead letter would never end, and nothing waits behind it.
            action = FailureAction::Skip;
        }
        let key = if is_dead_letter { Key::None } else { failed.key.clone() };
        let wait =
            |why, release_in| Wait { first_id: id, key: key.clone(), why, topic: None, detail: None, release_in };
        let (state, dead_letter_topic, wait) = match action {
            FailureAction::Retry { after } => (EventStatus::Held, None, Some(wait(HoldReason::Retry, Some(after)))),
            // An event without a key holds no other event, nor itself: it is FAILED.
            FailureAction::Hold => {
                (EventStatus::Failed, None, (key != Key::None).then(|| wait(HoldReason::Failed, None)))
            }
            FailureAction::DeadLetter { topic } => (EventStatus::Failed, Some(topic), None),
            FailureAction::Skip => (EventStatus::Failed, None, None),
        };
        decided.push(Decided {
            id,
            state,
            reason: format!("{}: {}", failed.class, failed.reason),
            dead_letter_topic,
            topic: failed.topic.clone(),
            wait,
            key,
        });
    }
    Ok(decided)
}

/// Holds the given keys. Updating the row status is up to the caller.
pub(super) async fn hold(tx: &Transaction<'_>, care: Care, shard: ShardId, waits: &[Wait]) -> Result<(), OutboxError> {
    if fault(Fault::KeyNotHeld) {
        return Ok(());
    }
    let (of_rows, known): (Vec<Wait>, Vec<Wait>) = waits.iter().cloned().partition(|wait| wait.key == Key::OfRow);
    let seconds = |part: &[Wait]| -> Vec<Option<f64>> {
        part.iter().map(|wait| wait.release_in.map(|wait| wait.as_secs_f64())).collect()
    };
    let mut unheld = Vec::new();
    if !known.is_empty() {
        let statement = &tx.prepare_cached(HOLD_KEYS).await?;
        let hold = |part: Vec<Wait>| async move {
            let ids: Vec<i64> = part.iter().map(|wait| wait.first_id).collect();
            let keys: Vec<Option<&str>> = part.iter().map(|wait| wait.key.text()).collect();
            let reasons: Vec<&str> = part.iter().map(|wait| wait.why.as_str()).collect();
            let topics: Vec<Option<&str>> = part.iter().map(|wait| wait.topic.as_deref()).collect();
            let details: Vec<Option<&str>> = part.iter().map(|wait| wait.detail.as_deref()).collect();
            let params: [&(dyn ToSql + Sync); 7] = [&shard, &ids, &keys, &reasons, &seconds(&part), &topics, &details];
            Ok(tx.execute(statement, &params).await?)
        };
        let cut = care.over(tx, &known, hold).await?;
        unheld.extend(answers(cut.refused, cut.left));
    }
    if !of_rows.is_empty() {
        let statement = &tx.prepare_cached(HOLD_ROWS).await?;
        let hold = |part: Vec<Wait>| async move {
            let ids: Vec<i64> = part.iter().map(|wait| wait.first_id).collect();
            let reasons: Vec<&str> = part.iter().map(|wait| wait.why.as_str()).collect();
            Ok(tx.execute(statement, &[&ids, &reasons, &seconds(&part)]).await?)
        };
        let cut = care.over(tx, &of_rows, hold).await?;
        unheld.extend(answers(cut.refused, cut.left));
    }
    for (wait, code) in unheld {
        tracing::error!(
            shard,
            id = wait.first_id,
            sqlstate = code.code(),
            "could not hold the key of a failed event; later events of the key may be published before it"
        );
    }
    Ok(())
}
