//! Dead letters as the outbox knows them: the state of each, and the way back to its topic.
//!
//! Invariants: a dead letter goes back once, since its entry in `outbox_redriven` and the row that is published are
//! written in one transaction; a row becomes PENDING again only under the lock of its shard, together with `low_id`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::clock::monotonic;
use crate::db::{DbError, Pool, Transaction, stored_text};
use crate::event::EventStatus;
use crate::outbox::audit::{self, Author};
use crate::outbox::isolate::{self, Blame, MayBlame};
use crate::outbox::jobs::{self, Advance, Handle, Part};
use crate::outbox::{outcomes, rows};

const DECIDE: &str = include_str!("../sql/lock_decided_rows.sql");
const FORGET: &str = include_str!("sql/redrive_forget.sql");
const INSERT: &str = include_str!("sql/redrive_insert.sql");
const LOCK_SHARDS: &str = include_str!("../sql/lock_shards.sql");
const NOTE_ROWS: &str = include_str!("sql/redrive_note_rows.sql");
const REHOME: &str = include_str!("../sql/rehome.sql");
const REOPEN: &str = include_str!("sql/redrive_reopen.sql");
const STATES: &str = include_str!("sql/redrive_states.sql");
const TAKE: &str = include_str!("sql/redrive_take.sql");
const TOPICS: &str = include_str!("sql/redrive_topics.sql");

/// Newest rows that are asked for their topics. A guess: enough to meet every topic that is in use, and read in
/// milliseconds.
const TOPIC_ROWS: i64 = 50_000;

/// Time for the search for dead letters that make a transaction fail, for which the lanes of their shards wait as well.
/// A guess.
const SEARCH: Duration = Duration::from_secs(5);

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// The identity of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub place: Place,
    pub event_id: Uuid,
    /// The header, as it is.
    pub failed_at: Option<String>,
    /// The row that it came from; `None` when a consumer wrote it.
    pub row_id: Option<i64>,
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its row is FAILED. `true`: it holds its key.
    Waiting { holds_key: bool },
    /// It went back, as this row if known, or its row was tried again by hand.
    Redriven(Option<i64>),
    /// Its row was discarded.
    Discarded,
    /// There is no row: a consumer wrote it, or the row was cleaned up.
    UnknownRow,
}

/// An event to append in the stead of a dead letter without a row.
#[derive(Clone, PartialEq)]
pub struct NewEvent {
    pub topic: String,
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    /// An object of strings.
    pub headers: Option<Value>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub event_type: String,
    pub event_version: i32,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    pub source: Option<String>,
    pub traceparent: Option<String>,
    pub created_at: Timestamp,
}

/// What a redrive did with one dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its row waits again.
    Reopened(i64),
    /// A new row was made of it.
    Appended(i64),
    /// Nothing was done: it went back before, or its row is not FAILED.
    LeftAlone(&'static str),
    /// It cannot go back as it is.
    Refused(String),
}

/// Follows the figures of progress.
pub const SENT_BACK: &str = "sent back";

/// How many dead letters had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub reopened: u64,
    pub appended: u64,
    pub left_alone: u64,
    pub refused: u64,
}

impl Counts {
    pub fn sent(self) -> u64 {
        self.reopened + self.appended
    }

    #[must_use]
    pub fn with(mut self, outcomes: &[Outcome]) -> Self {
        for outcome in outcomes {
            match outcome {
                Outcome::Reopened(_) => self.reopened += 1,
                Outcome::Appended(_) => self.appended += 1,
                Outcome::LeftAlone(_) => self.left_alone += 1,
                Outcome::Refused(_) => self.refused += 1,
            }
        }
        self
    }

    pub fn to_json(self) -> Value {
        let Self { reopened, appended, left_alone, refused } = self;
        serde_json::json!({ "reopened": reopened, "appended": appended, "left_alone": left_alone, "refused": refused })
    }

    /// What cannot be read counts as nothing.
    pub fn from_json(json: &Value) -> Self {
        // More than any topic has, and far from an overflow.
        let count = |name: &str| json[name].as_u64().unwrap_or(0).min(1 << 53);
        Self {
            reopened: count("reopened"),
            appended: count("appended"),
            left_alone: count("left_alone"),
            refused: count("refused"),
        }
    }
}

/// What a job records with each transaction, counted from its start.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub job: Handle,
    pub before: Counts,
    pub total: u64,
    /// What has not been read after this transaction.
    pub cursor: Value,
}

impl Recorded {
    /// False: the job was lost, and the transaction must be rolled back.
    async fn advance(&self, tx: &Transaction<'_>, outcomes: &[Outcome]) -> Result<bool, DbError> {
        let counts = self.before.with(outcomes);
        let part = Part { what: SENT_BACK.to_owned(), done: counts.sent(), total: self.total };
        let to = Advance { parts: vec![part], cursor: Some(self.cursor.clone()), result: counts.to_json() };
        jobs::advance(tx, self.job, &to).await
    }
}

/// Topics that the outbox knows: those that events name, and those that are dead-letter topics already.
pub async fn topics(pool: &Pool) -> Result<(BTreeSet<String>, BTreeSet<String>), DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(TOPICS, &[&TOPIC_ROWS]).await?;
    connection.done();
    let (mut events, mut letters) = (BTreeSet::new(), BTreeSet::new());
    for row in rows {
        let Some(topic) = stored_text(&row, "topic")? else { continue };
        let names = if row.try_get("is_dead_letter_topic")? { &mut letters } else { &mut events };
        names.insert(topic);
    }
    Ok((events, letters))
}

/// The state of each, in the same order.
pub async fn states(pool: &Pool, letters: &[&Letter]) -> Result<Vec<State>, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let states = states_in(&tx, letters).await?;
    tx.commit().await?;
    connection.done();
    Ok(states)
}

async fn states_in(tx: &Transaction<'_>, letters: &[&Letter]) -> Result<Vec<State>, DbError> {
    let columns = Columns::of(letters);
    let row_ids: Vec<Option<i64>> = letters.iter().map(|letter| letter.row_id).collect();
    let mut params = columns.params();
    params.push(&row_ids);
    let found = tx.query(STATES, &params).await?;
    let states = found.iter().map(|row| {
        if row.get("redriven") {
            return Ok(State::Redriven(row.get("redriven_as")));
        }
        Ok(match rows::status_if_any(row, "status")? {
            None => State::UnknownRow,
            Some(EventStatus::Failed) => State::Waiting { holds_key: row.get("holds_key") },
            Some(EventStatus::Discarded) => State::Discarded,
            Some(EventStatus::Pending | EventStatus::Published | EventStatus::Held) => State::Redriven(None),
        })
    });
    states.collect()
}

/// Sends dead letters back, in one transaction. `event` is what to append if there is no row, or why that cannot be.
/// `None`: the job was lost, and nothing was changed.
///
/// After [`DbError::Unavailable`] it may have happened; a repeat leaves alone what went back.
pub async fn redrive(
    pool: &Pool,
    letters: &[(Letter, Result<NewEvent, String>)],
    author: &Author,
    recorded: Option<&Recorded>,
) -> Result<Option<Vec<Outcome>>, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    match redrive_in(&tx, letters, author).await {
        Ok(outcomes) => {
            let ours = commit(tx, recorded, &outcomes).await?;
            connection.done();
            return Ok(ours.then_some(outcomes));
        }
        Err(error) if error.blame() == Blame::Row => tx.rollback().await?,
        Err(error) => return Err(error),
    }
    let tx = connection.transaction().await?;
    let row_ids: Vec<i64> = letters.iter().filter_map(|(letter, _)| letter.row_id).collect();
    tx.query(LOCK_SHARDS, &[&row_ids]).await?;
    // By place among `letters`, which are not to be copied.
    let places: Vec<usize> = (0..letters.len()).collect();
    let tx_ref = &tx;
    let work = move |part: Vec<usize>| async move {
        let range = part.first().map_or(0..0, |first| *first..*first + part.len());
        let outcomes = redrive_in(tx_ref, letters.get(range.clone()).unwrap_or_default(), author).await?;
        Ok::<_, DbError>((range.start, outcomes))
    };
    let cut = isolate::cut(tx_ref, &places, monotonic() + SEARCH, work).await?;
    let unreached = || {
        Outcome::Refused(
            "the search for the rows that the table rejects took too long; run the command again".to_owned(),
        )
    };
    let mut outcomes: Vec<Outcome> = letters.iter().map(|_| unreached()).collect();
    for (first, done) in cut.done {
        outcomes.iter_mut().skip(first).zip(done).for_each(|(outcome, done)| *outcome = done);
    }
    for refused in cut.refused {
        if let Some(outcome) = outcomes.get_mut(refused.item) {
            *outcome = Outcome::Refused(format!("the table outbox_events rejects the event: {}", refused.reason()));
        }
    }
    let ours = commit(tx, recorded, &outcomes).await?;
    connection.done();
    Ok(ours.then_some(outcomes))
}

/// False: the job was lost, and the transaction was rolled back.
async fn commit(tx: Transaction<'_>, recorded: Option<&Recorded>, outcomes: &[Outcome]) -> Result<bool, DbError> {
    if let Some(recorded) = recorded
        && !recorded.advance(&tx, outcomes).await?
    {
        tx.rollback().await?;
        return Ok(false);
    }
    tx.commit().await?;
    Ok(true)
}

async fn redrive_in(
    tx: &Transaction<'_>,
    letters: &[(Letter, Result<NewEvent, String>)],
    author: &Author,
) -> Result<Vec<Outcome>, DbError> {
    let row_ids: Vec<i64> = letters.iter().filter_map(|(letter, _)| letter.row_id).collect();
    tx.query(LOCK_SHARDS, &[&row_ids]).await?;
    let all: Vec<&Letter> = letters.iter().map(|(letter, _)| letter).collect();
    let states = states_in(tx, &all).await?;
    let mut outcomes: Vec<Outcome> =
        states.iter().zip(letters).map(|(state, (letter, event))| plan(*state, letter, event)).collect();

    let wanted: Vec<&Letter> =
        all.iter().zip(&outcomes).filter(|(_, outcome)| goes_back(outcome)).map(|(l, _)| *l).collect();
    let taken = take(tx, &wanted, author).await?;
    let to_reopen: Vec<i64> = all
        .iter()
        .zip(&outcomes)
        .filter(|(letter, outcome)| matches!(outcome, Outcome::Reopened(_)) && taken.contains(&letter.place))
        .filter_map(|(letter, _)| letter.row_id)
        .collect();
    let reopened = reopen(tx, &to_reopen).await?;
    let mut rows: HashMap<&Place, i64> = HashMap::new();
    for ((letter, event), outcome) in letters.iter().zip(&mut outcomes) {
        if !goes_back(outcome) {
            continue;
        }
        if !taken.contains(&letter.place) {
            *outcome = Outcome::LeftAlone("it went back before");
        } else if let Outcome::Reopened(id) = outcome {
            if reopened.contains(id) {
                rows.insert(&letter.place, *id);
            } else {
                *outcome = Outcome::LeftAlone("its row is no longer FAILED");
            }
        } else if let Ok(event) = event {
            let id = append(tx, letter.event_id, event).await?;
            *outcome = Outcome::Appended(id);
            rows.insert(&letter.place, id);
        }
    }
    note(tx, &rows, author).await?;
    Ok(outcomes)
}

/// Lets FAILED events wait again. Returns those that had still failed.
async fn reopen(tx: &Transaction<'_>, ids: &[i64]) -> Result<HashSet<i64>, DbError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    // One that `shards set` could not move may still be in another shard.
    tx.execute(REHOME, &[&ids]).await?;
    let outcomes = outcomes::reopen(tx, ids, true).await?;
    let held: Vec<i64> = outcomes.iter().filter(|outcome| outcome.row_waits).map(|outcome| outcome.id).collect();
    let rows = tx.query(REOPEN, &[&ids, &held]).await?;
    outcomes::expect_left(tx, ids, &[EventStatus::Failed]).await?;
    // Kafka may have the dead letter twice, and the second one must not go back when the row is gone.
    tx.execute(DECIDE, &[&ids, &"retry"]).await?;
    let rows = rows.iter().map(|row| row.get(0));
    Ok(rows.chain(outcomes.iter().map(|outcome| outcome.id)).collect())
}

/// What is to be done, if nobody else has the dead letter in hand. The id of an appended row is not known yet.
fn plan(state: State, letter: &Letter, event: &Result<NewEvent, String>) -> Outcome {
    match (state, letter.row_id) {
        (State::Waiting { holds_key: true }, Some(id)) => Outcome::Refused(format!(
            "event {id} holds its key; to continue with both run: outbox-relay events retry {id}"
        )),
        (State::Waiting { holds_key: false }, Some(id)) => Outcome::Reopened(id),
        (State::Redriven(_), _) => Outcome::LeftAlone("it went back before"),
        (State::Discarded, _) => Outcome::LeftAlone("its row was discarded"),
        (State::UnknownRow | State::Waiting { .. }, _) => match event {
            Ok(_) => Outcome::Appended(0),
            Err(why) => Outcome::Refused(why.clone()),
        },
    }
}

/// What a redrive would do with a dead letter in this state.
pub fn preview(state: State, letter: &Letter, event: &Result<NewEvent, String>) -> Outcome {
    plan(state, letter, event)
}

fn goes_back(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Reopened(_) | Outcome::Appended(_))
}

async fn take(tx: &Transaction<'_>, letters: &[&Letter], author: &Author) -> Result<HashSet<Place>, DbError> {
    if letters.is_empty() {
        return Ok(HashSet::new());
    }
    let columns = Columns::of(letters);
    let mut params = columns.params();
    params.push(&author.actor);
    let rows = tx.query(TAKE, &params).await?;
    let place = |row: &tokio_postgres::Row| Place {
        topic: row.get("topic"),
        partition: row.get("partition"),
        offset: row.get("offset"),
    };
    Ok(rows.iter().map(place).collect())
}

async fn append(tx: &Transaction<'_>, event_id: Uuid, event: &NewEvent) -> Result<i64, DbError> {
    let params: [&(dyn ToSql + Sync); 14] = [
        &event_id,
        &event.aggregate_type,
        &event.aggregate_id,
        &event.event_type,
        &event.event_version,
        &event.topic,
        &event.key,
        &event.value,
        &event.headers,
        &event.correlation_id,
        &event.causation_id,
        &event.source,
        &event.traceparent,
        &event.created_at,
    ];
    Ok(tx.query_one(&tx.prepare_cached(INSERT).await?, &params).await?.get(0))
}

async fn note(tx: &Transaction<'_>, rows: &HashMap<&Place, i64>, author: &Author) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<(&&Place, &i64)> = rows.iter().collect();
    sorted.sort_unstable();
    let topics: Vec<&str> = sorted.iter().map(|(place, _)| place.topic.as_str()).collect();
    let partitions: Vec<i32> = sorted.iter().map(|(place, _)| place.partition).collect();
    let offsets: Vec<i64> = sorted.iter().map(|(place, _)| place.offset).collect();
    let ids: Vec<i64> = sorted.iter().map(|(_, id)| **id).collect();
    tx.execute(NOTE_ROWS, &[&topics, &partitions, &offsets, &ids]).await?;
    let list: Vec<Value> =
        sorted.iter().map(|(place, id)| serde_json::json!([place.topic, place.partition, place.offset, id])).collect();
    audit::record(tx, author, "dlq redrive", &serde_json::json!({ "topic_partition_offset_row": list })).await
}

/// Records in `outbox_audit` what is about to be deleted from Kafka: topic, partition, first offset that stays, and
/// counts. This happens before the deletion, since Kafka takes part in no transaction: an entry means that the deletion
/// was at least requested.
pub async fn note_purge(pool: &Pool, details: &Value, author: &Author) -> Result<(), DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    audit::record(&tx, author, "dlq purge", details).await?;
    tx.commit().await?;
    connection.done();
    Ok(())
}

/// Forgets what went back of a part of a partition that Kafka has deleted.
pub async fn forget(pool: &Pool, topic: &str, partition: i32, first_left: i64) -> Result<(), DbError> {
    let connection = pool.get().await?;
    connection.execute(FORGET, &[&topic, &partition, &first_left]).await?;
    connection.done();
    Ok(())
}

/// Maximum length of the text that distinguishes one failure of an event from another.
const FAILED_AT_CHARS: usize = 100;

/// A header as a text of PostgreSQL, whatever the encoding of the database is. It is the same text each time, and of a
/// time the header itself.
fn storable(header: &str) -> String {
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    header.chars().take(FAILED_AT_CHARS).map(shown).collect()
}

/// The parameters that identify dead letters, as arrays.
struct Columns<'a> {
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    event_ids: Vec<Uuid>,
    failed_at: Vec<Option<String>>,
}

impl<'a> Columns<'a> {
    fn of(letters: &[&'a Letter]) -> Self {
        Self {
            topics: letters.iter().map(|letter| letter.place.topic.as_str()).collect(),
            partitions: letters.iter().map(|letter| letter.place.partition).collect(),
            offsets: letters.iter().map(|letter| letter.place.offset).collect(),
            event_ids: letters.iter().map(|letter| letter.event_id).collect(),
            failed_at: letters.iter().map(|letter| letter.failed_at.as_deref().map(storable)).collect(),
        }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![&self.topics, &self.partitions, &self.offsets, &self.event_ids, &self.failed_at]
    }
}
