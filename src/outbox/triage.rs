//! Decides what happens to each event of a claim. Walks in id order, so that no event overtakes an earlier event of its
//! key that has to wait.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use md5::{Digest, Md5};
use tokio_postgres::Row;

use super::care::{Care, Unread};
use super::failure::FailurePolicy;
use super::isolate;
use super::settle::{Key, Refusal, Wait, fail, hold, mark_held};
use super::{Claimed, OutboxError, rows};
use crate::db::Transaction;
use crate::event::{FailureClass, HoldReason, OutboxEvent, ShardId};
use crate::failpoint::{Fault, fault};

const HELD_AMONG: &str = include_str!("triage/sql/held_among.sql");
const HELD_AMONG_ROWS: &str = include_str!("triage/sql/held_among_rows.sql");

/// How long events wait behind one that another transaction has locked, if there are too many of them to be left in
/// place.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// What the caller decides about one claimed event, in id order.
pub enum Screening<R> {
    /// Publish this record.
    Publish(R),
    /// The event cannot be published as it is: its attempt failed.
    Refuse { class: FailureClass, topic: Option<String>, reason: String },
    /// Its topic cannot accept it now: its key waits, and no attempt is counted.
    Wait(TopicWait),
    /// Not now, nor any later event of its key; the rest continues.
    Later,
    /// Not now, and nothing after it either: the batch ends before this event.
    Stop,
}

/// A topic that events wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicWait {
    /// Until an operator says otherwise.
    Paused(String),
    /// It does not exist yet: check again after this time.
    Missing(String, Duration),
    /// Kafka denies access to it: check again after this time, or once it allows it.
    Denied(String, Duration),
    /// Its partition does not accept records: check again after this time, or once it does.
    Partition { topic: String, detail: String, retry: Duration },
}

/// Claimed events by what happens to them next. Events in no list stay as they are.
pub(super) struct Sorted<R> {
    pub(super) publish: Vec<Claimed<R>>,
    failed: Vec<Refusal>,
    /// They wait behind another event of their key.
    held: Vec<i64>,
    /// They are the first waiting event of their key.
    waits: Vec<Wait>,
    /// The first one that was left alone.
    pub(super) left: Option<i64>,
    /// The rest of the claim was left alone.
    pub(super) stopped: bool,
}

/// Distinguishes waiting keys: `outbox_held_keys` knows only this, so two keys that share it wait for each other.
pub(super) fn identity(key: &str) -> [u8; 16] {
    Md5::digest(key).into()
}

/// Keys that wait, and up to which id their events may go.
#[derive(Default)]
struct Held {
    keys: HashMap<[u8; 16], Option<i64>>,
    /// Their event has failed in this walk. What becomes of the key is decided when the walk is over, so the rest of
    /// its events stays PENDING for the next one.
    undecided: HashSet<[u8; 16]>,
    /// Another transaction has locked a row of theirs.
    busy: HashSet<[u8; 16]>,
}

/// Keys of the events that this walk publishes. Their results are known only when the batch is settled. Until then
/// nothing behind them may hold their key, or a hold on a later event would let events pass that come after the one
/// Kafka rejects.
#[derive(Default)]
struct InFlight {
    hasher: RandomState,
    /// Hashes: two keys that share one only wait a step longer.
    keys: Vec<u64>,
    /// Where events could not be read, of which only the digest of the key is known.
    digests: Option<HashSet<[u8; 16]>>,
}

impl InFlight {
    fn add(&mut self, key: &str) {
        self.keys.push(self.hasher.hash_one(key));
        if let Some(digests) = &mut self.digests {
            digests.insert(identity(key));
        }
    }

    fn has(&self, key: &str) -> bool {
        !self.keys.is_empty() && self.keys.contains(&self.hasher.hash_one(key)) && !fault(Fault::HeldInFlight)
    }

    fn has_digest(&self, digest: [u8; 16]) -> bool {
        self.digests.as_ref().is_some_and(|digests| digests.contains(&digest))
    }
}

/// What the walk does with an event before it is examined.
#[derive(PartialEq, Eq)]
enum Turn {
    Goes,
    WaitsBehind,
    Undecided,
    BehindBusy,
}

impl Held {
    fn turn(&self, key: Option<[u8; 16]>, id: i64) -> Turn {
        match key {
            Some(key) if self.undecided.contains(&key) => Turn::Undecided,
            Some(key) if self.keys.get(&key).is_some_and(|up_to| up_to.is_none_or(|up_to| id > up_to)) => {
                Turn::WaitsBehind
            }
            Some(key) if self.busy.contains(&key) => Turn::BehindBusy,
            Some(_) | None => Turn::Goes,
        }
    }

    /// No key can be among them: there is no need to work out whether one is.
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.undecided.is_empty() && self.busy.is_empty()
    }
}

/// `unread` is in id order, as `claim` is. `any_held`: some key of the shard is held. `full`: there may be more rows
/// behind these.
pub(super) async fn triage<R>(
    tx: &Transaction<'_>,
    shard: ShardId,
    claim: Vec<Row>,
    unread: Vec<Unread>,
    any_held: bool,
    full: bool,
    screen: &mut impl FnMut(&OutboxEvent<'_>) -> Screening<R>,
) -> Result<Sorted<R>, OutboxError> {
    let mut walk = Walk::new(claim.len(), full);
    if any_held {
        walk.held.keys = held_among(tx, shard, &claim, &unread).await?;
    }
    walk.in_flight.digests = (!unread.is_empty()).then(HashSet::new);
    let mut unread = unread.into_iter().peekable();
    // Row by row, so that a row's buffer is free as soon as its record is made.
    for row in claim {
        let event = rows::event(&row)?;
        while let Some(before) = unread.next_if(|before| before.id < event.id) {
            walk.refuse_unread(before);
        }
        if rows::is_busy(&row)? {
            walk.meets_busy(&event);
        } else {
            walk.meets(&event, screen);
        }
        if walk.sorted.stopped {
            return Ok(walk.sorted);
        }
    }
    unread.for_each(|rest| walk.refuse_unread(rest));
    Ok(walk.sorted)
}

/// One walk through a claim, in id order.
struct Walk<R> {
    sorted: Sorted<R>,
    held: Held,
    in_flight: InFlight,
    /// There may be more rows behind those of the claim.
    full: bool,
}

impl<R> Walk<R> {
    fn new(rows: usize, full: bool) -> Self {
        let sorted = Sorted {
            publish: Vec::with_capacity(rows),
            failed: Vec::new(),
            held: Vec::new(),
            waits: Vec::new(),
            left: None,
            stopped: false,
        };
        Self { sorted, held: Held::default(), in_flight: InFlight::default(), full }
    }

    /// Another transaction has locked the row.
    fn meets_busy(&mut self, event: &OutboxEvent<'_>) {
        self.held.busy.extend(waiting_key(event).map(identity));
        self.leave(event.id);
    }

    fn meets(&mut self, event: &OutboxEvent<'_>, screen: &mut impl FnMut(&OutboxEvent<'_>) -> Screening<R>) {
        let (id, key) = (event.id, waiting_key(event));
        let mut behind_busy = false;
        if !self.held.is_empty() {
            match self.held.turn(key.map(identity), id) {
                Turn::Goes => {}
                Turn::WaitsBehind => return self.sorted.held.push(id),
                Turn::BehindBusy if self.full => behind_busy = true,
                Turn::BehindBusy | Turn::Undecided => return self.leave(id),
            }
        }
        let delay = match event.due_in_seconds {
            // These rows are all that one claim can see: out of the way of other keys, until the locked row is free and
            // goes first.
            _ if behind_busy => Some(BUSY_WAIT),
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
            None => None,
        };
        let screening = match delay {
            None => Some(screen(event)),
            Some(_) => None,
        };
        let holds_key = match &screening {
            None | Some(Screening::Refuse { .. } | Screening::Wait(_)) => true,
            Some(Screening::Publish(_) | Screening::Later | Screening::Stop) => false,
        };
        if holds_key && key.is_some_and(|key| self.in_flight.has(key)) {
            return self.decide_later(id, key);
        }
        match screening {
            None => self.wait(id, key, (HoldReason::Delayed, None, None), delay),
            Some(screening) => self.place(id, key, screening),
        }
    }

    fn place(&mut self, id: i64, key: Option<&str>, screening: Screening<R>) {
        match screening {
            Screening::Publish(record) => {
                if let Some(key) = key {
                    self.in_flight.add(key);
                }
                self.sorted.publish.push(Claimed { id, record });
            }
            Screening::Refuse { class, topic, reason } => {
                self.held.undecided.extend(key.map(identity));
                self.sorted.failed.push(Refusal { id, key: key_of(key), class, topic, reason });
            }
            Screening::Wait(wait) => {
                let (why, release_in) = match wait {
                    TopicWait::Paused(topic) => ((HoldReason::Paused, Some(topic), None), None),
                    TopicWait::Missing(topic, retry) => ((HoldReason::NoTopic, Some(topic), None), Some(retry)),
                    TopicWait::Denied(topic, retry) => ((HoldReason::Denied, Some(topic), None), Some(retry)),
                    TopicWait::Partition { topic, detail, retry } => {
                        ((HoldReason::Partition, Some(topic), Some(detail)), Some(retry))
                    }
                };
                self.wait(id, key, why, release_in);
            }
            Screening::Later => self.decide_later(id, key),
            Screening::Stop => {
                self.leave(id);
                self.sorted.stopped = true;
            }
        }
    }

    /// It is the first of its key that has to wait: for this reason, topic and detail.
    fn wait(
        &mut self,
        id: i64,
        key: Option<&str>,
        (why, topic, detail): (HoldReason, Option<String>, Option<String>),
        release_in: Option<Duration>,
    ) {
        self.held.keys.extend(key.map(|key| (identity(key), None)));
        self.sorted.waits.push(Wait { first_id: id, key: key_of(key), why, topic, detail, release_in });
    }

    /// Neither this event nor a later one of its key is decided in this walk.
    fn decide_later(&mut self, id: i64, key: Option<&str>) {
        self.held.undecided.extend(key.map(identity));
        self.leave(id);
    }

    /// The event stays as it is.
    fn leave(&mut self, id: i64) {
        self.sorted.left.get_or_insert(id);
    }

    /// An event that cannot be read fails in its turn, like any other.
    fn refuse_unread(&mut self, row: Unread) {
        let turn = match row.key {
            Some(key) if self.in_flight.has_digest(key) => Turn::Undecided,
            Some(_) | None => self.held.turn(row.key, row.id),
        };
        match turn {
            Turn::WaitsBehind => return self.sorted.held.push(row.id),
            Turn::Undecided | Turn::BehindBusy => {
                self.held.undecided.extend(row.key);
                self.sorted.left.get_or_insert(row.id);
                return;
            }
            Turn::Goes => {}
        }
        self.held.undecided.extend(row.key);
        if row.left {
            self.sorted.left.get_or_insert(row.id);
            return;
        }
        let reason = format!(
            "PostgreSQL cannot read the row ({}); fix the row, then retry the event",
            isolate::reason(row.sqlstate.as_ref())
        );
        let key = row.key.map_or(Key::None, |_| Key::OfRow);
        self.sorted.failed.push(Refusal { id: row.id, key, class: FailureClass::Unreadable, topic: None, reason });
    }
}

/// A dead letter is about an abandoned event, and waits for nobody.
fn waiting_key<'e>(event: &OutboxEvent<'e>) -> Option<&'e str> {
    event.key.filter(|_| event.dead_letter_of.is_none())
}

fn key_of(key: Option<&str>) -> Key {
    key.map_or(Key::None, |key| Key::Text(key.to_owned()))
}

/// The held keys among those of a claim, each with the id up to which its events may go.
async fn held_among(
    tx: &Transaction<'_>,
    shard: ShardId,
    claim: &[Row],
    unread: &[Unread],
) -> Result<HashMap<[u8; 16], Option<i64>>, OutboxError> {
    let mut keys = HashSet::new();
    for row in claim {
        keys.extend(rows::event(row)?.key);
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let found = tx.query(&tx.prepare_cached(HELD_AMONG).await?, &[&shard, &keys]).await?;
    let mut held = HashMap::new();
    for row in found {
        let place = usize::try_from(row.get::<_, i64>("place")).unwrap_or(0).saturating_sub(1);
        held.extend(keys.get(place).map(|key| (identity(key), row.get("released_to"))));
    }
    let ids: Vec<i64> = unread.iter().map(|row| row.id).collect();
    if !ids.is_empty() {
        for row in tx.query(&tx.prepare_cached(HELD_AMONG_ROWS).await?, &[&shard, &ids]).await? {
            let key = unread.iter().find(|unread| unread.id == row.get::<_, i64>("id")).and_then(|row| row.key);
            held.extend(key.map(|key| (key, row.get("released_to"))));
        }
    }
    Ok(held)
}

impl<R> Sorted<R> {
    /// Rows that are no longer PENDING.
    pub(super) fn moved_ids(&self) -> impl Iterator<Item = i64> {
        let failed = self.failed.iter().map(|failed| failed.id);
        failed.chain(self.held.iter().copied()).chain(self.waits.iter().map(|wait| wait.first_id))
    }

    /// Writes the result of the triage. Returns how many rows changed their state without being published.
    pub(super) async fn apply(
        &self,
        tx: &Transaction<'_>,
        care: Care,
        shard: ShardId,
        policy: &dyn FailurePolicy,
    ) -> Result<u64, OutboxError> {
        fail(tx, care, shard, &self.failed, policy).await?;
        let mut held = self.held.clone();
        held.extend(self.waits.iter().map(|wait| wait.first_id));
        mark_held(tx, care, &held).await?;
        hold(tx, care, shard, &self.waits).await?;
        Ok((self.failed.len() + held.len()) as u64)
    }
}
