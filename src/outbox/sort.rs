//! A claim, sorted by what happens to each event next. Walks in id order, so that nothing of a key goes past an event of that
//! key which has to wait.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::Row;

use super::failure::{Failed, FailurePolicy};
use super::settle::{Wait, fail, hold};
use super::statements as sql;
use super::{Claimed, OutboxError, rows};
use crate::db::Transaction;
use crate::event::{OutboxEvent, ShardId};

/// How long events wait behind one that another transaction has locked, when there are too many of them to be left where they are.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// What the caller makes of one claimed event, in id order.
pub enum Verdict<R> {
    /// Publish this record.
    Publish(R),
    /// The event cannot be published as it is: an attempt of it has failed.
    Refuse { class: &'static str, topic: Option<String>, reason: String },
    /// Its topic cannot take it now: its key waits, and no attempt is counted.
    Wait(TopicWait),
    /// Not now, nor anything after it of its key; the rest goes on.
    Later,
    /// Not now, and nothing after it either: the batch ends before this event.
    Stop,
}

/// A topic that events wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicWait {
    /// Until an operator says otherwise.
    Paused(String),
    /// It does not exist yet: look again after this time.
    Missing(String, Duration),
    /// Kafka does not let the relay write to it: look again after this time, or when it does.
    Denied(String, Duration),
    /// Its partition takes no records: look again after this time, or when it does.
    Partition { topic: String, detail: String, retry: Duration },
}

/// Claimed events by what happens to them next. Those in no list stay as they are.
pub(super) struct Sorted<R> {
    pub(super) publish: Vec<Claimed<R>>,
    failed: Vec<Failed>,
    /// They wait behind another event of their key.
    held: Vec<i64>,
    /// They are the first of their key that waits.
    waits: Vec<Wait>,
    /// The first one that was left alone.
    pub(super) left: Option<i64>,
    /// The rest of the claim was left alone.
    pub(super) stopped: bool,
}

/// `any_held`: some key of the shard is held. `full`: there may be more rows behind these.
pub(super) async fn sort_out<R>(
    tx: &Transaction<'_>,
    shard: ShardId,
    claim: Vec<Row>,
    any_held: bool,
    full: bool,
    judge: &mut impl FnMut(&OutboxEvent<'_>) -> Verdict<R>,
) -> Result<Sorted<R>, OutboxError> {
    let mut sorted = Sorted {
        publish: Vec::with_capacity(claim.len()),
        failed: Vec::new(),
        held: Vec::new(),
        waits: Vec::new(),
        left: None,
        stopped: false,
    };
    let mut held_keys = if any_held { held_among(tx, shard, &claim).await? } else { HashMap::new() };
    // Keys whose event has failed in this walk. What becomes of the key is decided when the walk is over, so the rest of
    // its events stays PENDING for the next one.
    let mut undecided: HashSet<String> = HashSet::new();
    // Keys of rows that another transaction has locked.
    let mut busy: HashSet<String> = HashSet::new();
    // Row by row, so that a row's buffer is free as soon as its record is made.
    for row in claim {
        let event = rows::event(&row)?;
        let id = event.id;
        // A dead letter is about an event that was given up, and waits for nobody.
        let key = event.key.filter(|_| event.dead_letter_of.is_none());
        let waits_behind = |upto: &Option<i64>| upto.is_none_or(|upto| id > upto);
        if rows::is_busy(&row)? {
            busy.extend(key.map(str::to_owned));
            sorted.left.get_or_insert(id);
            continue;
        }
        if key.is_some_and(|key| undecided.contains(key)) {
            sorted.left.get_or_insert(id);
            continue;
        }
        if key.is_some_and(|key| held_keys.get(key).is_some_and(waits_behind)) {
            sorted.held.push(id);
            continue;
        }
        if key.is_some_and(|key| busy.contains(key)) && !full {
            sorted.left.get_or_insert(id);
            continue;
        }
        let mut wait_for = |why, topic, detail, release_in| {
            held_keys.extend(key.map(|key| (key.to_owned(), None)));
            sorted.waits.push(Wait { first_id: id, key: key.map(str::to_owned), why, topic, detail, release_in });
        };
        let mut wait = |why, topic, release_in| wait_for(why, topic, None, release_in);
        if key.is_some_and(|key| busy.contains(key)) {
            // These rows are all that one claim can see: out of the way of other keys, until the locked row is free and goes first.
            wait("delayed", None, Some(BUSY_WAIT));
            continue;
        }
        if let Some(seconds) = event.due_in_seconds {
            wait("delayed", None, Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)));
            continue;
        }
        match judge(&event) {
            Verdict::Publish(record) => sorted.publish.push(Claimed { id, record }),
            Verdict::Refuse { class, topic, reason } => {
                let key = key.map(str::to_owned);
                undecided.extend(key.clone());
                sorted.failed.push(Failed { id, key, class, topic, reason });
            }
            Verdict::Wait(TopicWait::Paused(topic)) => wait("paused", Some(topic), None),
            Verdict::Wait(TopicWait::Missing(topic, retry)) => wait("no-topic", Some(topic), Some(retry)),
            Verdict::Wait(TopicWait::Denied(topic, retry)) => wait("denied", Some(topic), Some(retry)),
            Verdict::Wait(TopicWait::Partition { topic, detail, retry }) => {
                wait_for("partition", Some(topic), Some(detail), Some(retry));
            }
            Verdict::Later => {
                undecided.extend(key.map(str::to_owned));
                sorted.left.get_or_insert(id);
            }
            Verdict::Stop => {
                sorted.left.get_or_insert(id);
                sorted.stopped = true;
                break;
            }
        }
    }
    Ok(sorted)
}

/// The held keys among those of a claim, each with the id up to which its events may go.
async fn held_among(
    tx: &Transaction<'_>,
    shard: ShardId,
    claim: &[Row],
) -> Result<HashMap<String, Option<i64>>, OutboxError> {
    let mut keys = HashSet::new();
    for row in claim {
        keys.extend(rows::event(row)?.key);
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let rows = tx.query(&tx.prepare_cached(sql::HELD_AMONG).await?, &[&shard, &keys]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

impl<R> Sorted<R> {
    /// Rows that are not PENDING any more.
    pub(super) fn moved_ids(&self) -> impl Iterator<Item = i64> {
        let failed = self.failed.iter().map(|failed| failed.id);
        failed.chain(self.held.iter().copied()).chain(self.waits.iter().map(|wait| wait.first_id))
    }

    /// Writes what was sorted out. Returns how many rows changed their state without being published.
    pub(super) async fn apply(
        &self,
        tx: &Transaction<'_>,
        shard: ShardId,
        policy: &dyn FailurePolicy,
    ) -> Result<u64, OutboxError> {
        fail(tx, shard, &self.failed, policy).await?;
        let mut held = self.held.clone();
        held.extend(self.waits.iter().map(|wait| wait.first_id));
        if !held.is_empty() {
            tx.execute(&tx.prepare_cached(sql::SETTLE_HELD).await?, &[&held]).await?;
        }
        hold(tx, shard, &self.waits).await?;
        Ok((self.failed.len() + held.len()) as u64)
    }
}
