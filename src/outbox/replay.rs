//! Replays: copies of published events, appended behind all waiting events, in portions.
//!
//! Old rows are never reopened: a copy has its own id, so it takes its turn behind the live rows of its key.
//! Invariants: a portion is one transaction that locks the row of the replay, makes copies and advances `last_id`, so a
//! crash repeats nothing; the table is walked by its primary key in windows of bounded size, so no statement grows with
//! the table, whatever the filter.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{self, Author};
use super::grants::{self, For, Who};
use super::inspect::{self, is_timeout};
use super::isolate::{self, Blame, MayBlame};
use super::rows;
use crate::db::{DbError, Pool, StoredTime, stored_text};
use crate::event::EventStatus;

/// Run on every connection of the pools that are given to this module.
pub const SESSION: &str = include_str!("replay/sql/session.sql");
const BEGIN: &str = include_str!("replay/sql/begin.sql");
const COPY: &str = include_str!("replay/sql/copy.sql");
const COUNT: &str = include_str!("replay/sql/count.sql");
const CREATE: &str = include_str!("replay/sql/create.sql");
const LOCK: &str = include_str!("replay/sql/lock.sql");
const NAMED: &str = include_str!("replay/sql/named.sql");
const NEXT: &str = include_str!("replay/sql/next.sql");
const PROGRESS: &str = include_str!("replay/sql/progress.sql");
const SHOW: &str = include_str!("replay/sql/show.sql");
const TAKE: &str = include_str!("replay/sql/take.sql");

/// Rows of the first window. Guesses all three: a portion of this size takes some 50 ms.
const WINDOW_ROWS: i64 = 5_000;
/// A window grows to this while nothing matches, since looking is cheap then.
const WINDOW_ROWS_MAX: i64 = 100_000;
/// Stored bytes of one portion, so that rows of a megabyte do not make a transaction of gigabytes.
const PORTION_BYTES: i64 = 16 * 1024 * 1024;
/// How often a single copy fails with an error by which PostgreSQL blames itself before other copies are tried, the wait
/// in between, and how many others are tried. Guesses: a deadlock is over sooner.
const DOUBTS: u32 = 3;
const DOUBT_WAIT: Duration = Duration::from_millis(500);
const PROBES: u32 = 20;

/// Which events. All conditions must hold; no condition matches every event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", with = "text")]
    pub from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", with = "text")]
    pub to: Option<Timestamp>,
    /// How `from` was given, if as an age in seconds: the same command later means another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ago: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ago: Option<f64>,
}

/// Times as RFC 3339 text.
mod text {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            None => to.serialize_none(),
            Some(time) => to.collect_str(time),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

impl Filter {
    /// Whether the same was asked for.
    pub fn same(&self, other: &Self) -> bool {
        let asked = |filter: &Self| {
            let mut asked = filter.clone();
            asked.from = asked.from.filter(|_| asked.from_ago.is_none());
            asked.to = asked.to.filter(|_| asked.to_ago.is_none());
            asked
        };
        asked(self) == asked(other)
    }

    /// For `outbox_audit`: without keys and ids of aggregates, which may be those of people.
    fn for_audit(&self) -> Value {
        let hidden = |value: &Option<String>| value.as_ref().map(|_| "given".to_owned());
        let shown = Self { key: hidden(&self.key), aggregate_id: hidden(&self.aggregate_id), ..self.clone() };
        serde_json::to_value(shown).unwrap_or_default()
    }
}

/// Where a replay ends, and the time by the clock of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub upto_id: i64,
    pub now: Timestamp,
}

/// Events that name the same topic and have the same types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `None`: the rows name no topic, routing decides.
    pub topic: Option<String>,
    pub event_type: String,
    pub aggregate_type: Option<String>,
    pub events: i64,
    /// When the oldest was created.
    pub oldest: StoredTime,
}

/// A replay as `outbox_replays` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub id: Uuid,
    pub filter: Filter,
    /// False: another version wrote a filter that this one does not understand, and it must not be guessed at.
    pub readable: bool,
    pub to_topic: Option<String>,
    pub new_ids: bool,
    pub rate: Option<i32>,
    pub upto_id: i64,
    pub last_id: i64,
    /// Counted before the first copy.
    pub matched: i64,
    pub copied: i64,
    pub created_at: Timestamp,
    pub finished: bool,
}

/// A row that was asked for by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: i64,
    pub status: EventStatus,
    pub dead_letter: bool,
}

/// What a portion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portion {
    Done,
    /// The table does not take a copy of this row, because of a constraint or a trigger. The replay has gone past it.
    Refused {
        id: i64,
        reason: String,
    },
    /// Another process has taken the replay. Nothing was changed.
    Taken,
}

/// How the table is walked: by windows of a size that follows from what was met.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rows: i64,
    /// Maximum number of copies in a portion.
    copies: i64,
}

impl Pace {
    /// At most `copies` in one transaction.
    pub fn new(copies: u32) -> Self {
        Self { rows: WINDOW_ROWS, copies: i64::from(copies).clamp(1, WINDOW_ROWS) }
    }

    fn met(&mut self, matching: i64) {
        self.rows = if matching == 0 { (self.rows * 2).min(WINDOW_ROWS_MAX) } else { self.rows.min(WINDOW_ROWS) };
    }

    /// A statement took longer than it may: the next one does less. False when it cannot do less.
    fn slow(&mut self) -> bool {
        let could = self.rows > 1;
        self.rows = (self.rows / 8).max(1);
        self.copies = self.copies.min(self.rows);
        could
    }
}

/// What the role lacks, as in GRANT. Asked before anything is written.
pub async fn missing_grants(pool: &Pool) -> Result<Vec<String>, DbError> {
    let mut wanted = grants::wanted(&[(Who::Operator, For::Work)]);
    wanted.retain(|one| {
        matches!(
            (one.object, one.privilege),
            ("outbox_events", "select" | "insert") | ("outbox_replays", _) | ("outbox_audit", "insert")
        )
    });
    let connection = pool.get().await?;
    let answers = inspect::server::ask(&connection, &wanted).await?;
    connection.done();
    let refused = answers.iter().filter(|grant| grant.granted == Some(false)).map(|grant| grant.wanted);
    // Without the columns: a role that lacks one lacks them all.
    let mut missing: Vec<String> = refused.map(|wanted| format!("{} on {}", wanted.privilege, wanted.object)).collect();
    missing.dedup();
    Ok(missing)
}

pub async fn begin(pool: &Pool) -> Result<Bounds, DbError> {
    let connection = pool.get().await?;
    let row = connection.query_one(BEGIN, &[]).await?;
    connection.done();
    Ok(Bounds { upto_id: row.get("upto_id"), now: row.get("now") })
}

/// The rows with these ids.
pub async fn named(pool: &Pool, ids: &[i64]) -> Result<Vec<Named>, DbError> {
    let connection = pool.get().await?;
    let found = connection.query(NAMED, &[&ids]).await?;
    connection.done();
    let named = found.iter().map(|row| {
        let status = rows::status(row, "status")?;
        Ok(Named { id: row.get("id"), status, dead_letter: row.get::<_, Option<i64>>("dead_letter_of").is_some() })
    });
    named.collect()
}

/// Counts what matches between two ids, by topic and types. `each` hears the id reached after every window; false from
/// it ends the walk, and there is no count.
pub async fn count(
    pool: &Pool,
    filter: &Filter,
    after: i64,
    up_to: i64,
    mut each: impl FnMut(i64) -> bool,
) -> Result<Option<Vec<Group>>, DbError> {
    let mut groups = BTreeMap::<(Option<String>, String, Option<String>), (i64, StoredTime)>::new();
    let (mut pace, mut last) = (Pace::new(1), after);
    loop {
        if !each(last) {
            return Ok(None);
        }
        let connection = pool.get().await?;
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&last, &up_to, &pace.rows];
        params.extend(conditions(filter));
        let rows = match connection.query(COUNT, &params).await {
            Err(error) if is_timeout(&error) && pace.slow() => continue,
            other => other?,
        };
        connection.done();
        let (mut seen, mut reached) = (0, None);
        for row in &rows {
            (seen, reached) = (row.get::<_, i64>("seen"), row.get::<_, Option<i64>>("last_id"));
            if let Some(event_type) = stored_text(row, "event_type")? {
                let (events, oldest): (i64, StoredTime) = (row.try_get("events")?, row.try_get("oldest")?);
                let of = (stored_text(row, "topic")?, event_type, stored_text(row, "aggregate_type")?);
                let group = groups.entry(of).or_insert((0, oldest));
                *group = (group.0 + events, group.1.min(oldest));
            }
        }
        let Some(reached) = reached.filter(|_| seen >= pace.rows) else { break };
        last = reached;
        // Nothing is written here, so a large window costs no more when something matches.
        pace.met(0);
    }
    let group = |((topic, event_type, aggregate_type), (events, oldest))| Group {
        topic,
        event_type,
        aggregate_type,
        events,
        oldest,
    };
    Ok(Some(groups.into_iter().map(group).collect()))
}

/// Records a replay that starts, and who asked for it.
pub async fn create(pool: &Pool, replay: &mut Replay, runner: Uuid, author: &Author) -> Result<(), DbError> {
    let filter = serde_json::to_value(&replay.filter).unwrap_or_default();
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let params: [&(dyn ToSql + Sync); 10] = [
        &replay.id,
        &filter,
        &replay.to_topic,
        &replay.new_ids,
        &replay.rate,
        &replay.upto_id,
        &replay.matched,
        &author.actor,
        &author.reason,
        &runner,
    ];
    let row = tx.query_one(CREATE, &params).await?;
    audit::record(&tx, author, "replay", &details(replay)).await?;
    tx.commit().await?;
    connection.done();
    replay.created_at = row.get("created_at");
    Ok(())
}

/// The replay with this id, or with `None` every one that is not finished, the newest first.
pub async fn show(pool: &Pool, id: Option<Uuid>) -> Result<Vec<Replay>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(SHOW, &[&id]).await?;
    connection.done();
    Ok(rows.iter().map(replay).collect())
}

/// Makes an unfinished replay that of process `runner`. `None`: there is none, or it is finished.
pub async fn take(
    pool: &Pool,
    id: Uuid,
    runner: Uuid,
    rate: Option<i32>,
    author: &Author,
) -> Result<Option<Replay>, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let taken = tx.query_opt(TAKE, &[&id, &runner, &rate]).await?.as_ref().map(replay);
    if let Some(replay) = &taken {
        audit::record(&tx, author, "replay resumed", &details(replay)).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(taken)
}

/// Looks at the next window of a replay and copies what matches, in one transaction. `replay` is moved on with it.
///
/// After [`DbError::Unavailable`] the portion may have been committed; the row in `outbox_replays` knows, and the next
/// call goes by it.
pub async fn portion(
    pool: &Pool,
    replay: &mut Replay,
    runner: Uuid,
    pace: &mut Pace,
    author: &Author,
) -> Result<Portion, DbError> {
    let mut doubts = 0;
    loop {
        match try_portion(pool, replay, runner, pace, author).await {
            Err(error) if is_timeout(&error) && pace.slow() => {}
            // Some row of the window cannot be copied: the window shrinks to it.
            Err(error) if error.blame() != Blame::Nobody => {
                if pace.slow() {
                    continue;
                }
                if error.blame() == Blame::Doubtful {
                    doubts += 1;
                    if doubts < DOUBTS {
                        tokio::time::sleep(DOUBT_WAIT).await;
                        continue;
                    }
                    if !copies_of_others_pass(pool, replay).await? {
                        return Err(error);
                    }
                }
                return skip(pool, replay, runner, &error, author).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether another event can be copied, so that an error by which PostgreSQL blames itself is about the next one alone.
/// The first event of the replay and some behind the next one are tried, and taken back.
async fn copies_of_others_pass(pool: &Pool, replay: &Replay) -> Result<bool, DbError> {
    let mut after = 0;
    for tried in 0..=PROBES {
        let mut connection = pool.get().await?;
        let tx = connection.transaction().await?;
        let probe = Pace { rows: WINDOW_ROWS, copies: 1 };
        match tx.query_one(COPY, &copy_params(replay, &after, &probe)).await {
            Ok(row) if row.get::<_, i64>("copied") > 0 => {
                tx.rollback().await?;
                connection.done();
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if error.blame() == Blame::Nobody => return Err(error),
            Err(_) => {}
        }
        tx.rollback().await?;
        let from = if tried == 0 { replay.last_id } else { after };
        let next = connection.query_one(NEXT, &[&from, &replay.upto_id, &replay.filter.ids]).await?;
        connection.done();
        let Some(next) = next.get("next_id") else { return Ok(false) };
        after = next;
    }
    Ok(false)
}

/// The parameters of the statement that copies.
fn copy_params<'p>(replay: &'p Replay, after: &'p i64, pace: &'p Pace) -> Vec<&'p (dyn ToSql + Sync)> {
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![after, &replay.upto_id, &pace.rows];
    params.extend(conditions(&replay.filter));
    params.extend([
        &pace.copies as &(dyn ToSql + Sync),
        &PORTION_BYTES,
        &replay.to_topic,
        &replay.new_ids,
        &replay.created_at,
    ]);
    params
}

/// Goes past the next row, which the table does not take a copy of.
async fn skip(
    pool: &Pool,
    replay: &mut Replay,
    runner: Uuid,
    why: &DbError,
    author: &Author,
) -> Result<Portion, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let Some(row) = tx.query_opt(LOCK, &[&replay.id, &runner]).await? else {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    };
    let last: i64 = row.get("last_id");
    let next: Option<i64> = tx.query_one(NEXT, &[&last, &replay.upto_id, &replay.filter.ids]).await?.get("next_id");
    let reached = next.unwrap_or(replay.upto_id);
    let finished = next.is_none() || reached >= replay.upto_id;
    tx.execute(PROGRESS, &[&replay.id, &reached, &0_i64, &finished]).await?;
    (replay.last_id, replay.finished) = (reached, finished);
    if finished {
        audit::record(&tx, author, "replay finished", &details(replay)).await?;
    }
    tx.commit().await?;
    connection.done();
    match next {
        Some(id) => Ok(Portion::Refused { id, reason: isolate::reason(why.sqlstate()) }),
        None => Ok(Portion::Done),
    }
}

async fn try_portion(
    pool: &Pool,
    replay: &mut Replay,
    runner: Uuid,
    pace: &mut Pace,
    author: &Author,
) -> Result<Portion, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let Some(row) = tx.query_opt(LOCK, &[&replay.id, &runner]).await? else {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Taken);
    };
    // The row knows better than we do, if the answer to a commit was lost.
    (replay.last_id, replay.copied, replay.finished) = (row.get("last_id"), row.get("copied"), row.get("finished"));
    if replay.finished {
        tx.rollback().await?;
        connection.done();
        return Ok(Portion::Done);
    }
    let row = tx.query_one(COPY, &copy_params(replay, &replay.last_id, pace)).await?;
    let (copied, seen): (i64, i64) = (row.get("copied"), row.get("seen"));
    let reached = row.get::<_, Option<i64>>("last_id").unwrap_or(replay.upto_id);
    let finished = (seen < pace.rows && !row.get::<_, bool>("cut")) || reached >= replay.upto_id;
    tx.execute(PROGRESS, &[&replay.id, &reached, &copied, &finished]).await?;
    (replay.last_id, replay.copied, replay.finished) = (reached, replay.copied + copied, finished);
    if finished {
        audit::record(&tx, author, "replay finished", &details(replay)).await?;
    }
    tx.commit().await?;
    connection.done();
    pace.met(copied);
    Ok(Portion::Done)
}

/// The parameters $4 to $11 of the walk.
fn conditions(filter: &Filter) -> [&(dyn ToSql + Sync); 8] {
    [
        &filter.ids,
        &filter.topic,
        &filter.event_type,
        &filter.aggregate_type,
        &filter.aggregate_id,
        &filter.key,
        &filter.from,
        &filter.to,
    ]
}

fn replay(row: &Row) -> Replay {
    // Not even every number of jsonb is one of ours.
    let filter = row.try_get("filter").ok().and_then(|filter| serde_json::from_value(filter).ok());
    Replay {
        id: row.get("id"),
        readable: filter.is_some(),
        filter: filter.unwrap_or_default(),
        to_topic: row.get("to_topic"),
        new_ids: row.get("new_ids"),
        rate: row.get("rate"),
        upto_id: row.get("upto_id"),
        last_id: row.get("last_id"),
        matched: row.get("matched"),
        copied: row.get("copied"),
        created_at: row.get::<_, StoredTime>("created_at").clamped(),
        finished: row.get::<_, Option<StoredTime>>("finished_at").is_some(),
    }
}

fn details(replay: &Replay) -> Value {
    serde_json::json!({
        "replay": replay.id.to_string(),
        "filter": replay.filter.for_audit(),
        "to_topic": replay.to_topic,
        "new_ids": replay.new_ids,
        "upto_id": replay.upto_id,
        "matched": replay.matched,
        "copied": replay.copied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_is_recognised_although_its_times_were_ages() {
        let ago = |now: i64| Filter {
            topic: Some("t".to_owned()),
            from: Some(Timestamp::from_second(now - 60).unwrap()),
            from_ago: Some(60.0),
            ..Filter::default()
        };
        assert!(ago(1_000).same(&ago(2_000)));
        let fixed = |at: i64| Filter { from: Some(Timestamp::from_second(at).unwrap()), ..Filter::default() };
        assert!(fixed(5).same(&fixed(5)) && !fixed(5).same(&fixed(6)) && !fixed(940).same(&ago(1_000)));
        assert!(!ago(1_000).same(&Filter { key: Some("k".to_owned()), ..ago(1_000) }));
    }

    #[test]
    fn the_audit_says_that_there_was_a_key_and_not_which() {
        let filter =
            Filter { key: Some("customer@example.org".to_owned()), topic: Some("t".to_owned()), ..Filter::default() };
        assert_eq!(filter.for_audit(), serde_json::json!({"key": "given", "topic": "t"}));
    }

    #[test]
    fn a_filter_survives_being_stored_with_every_digit() {
        let filter = Filter {
            from: Some("2026-05-01T12:00:00.123456Z".parse().unwrap()),
            ids: Some(vec![1]),
            ..Filter::default()
        };
        let stored = serde_json::to_value(&filter).unwrap();
        assert_eq!(serde_json::from_value::<Filter>(stored).unwrap(), filter);
    }

    #[test]
    fn windows_grow_while_nothing_matches_and_shrink_when_a_statement_is_slow() {
        let mut pace = Pace::new(1_000_000);
        assert_eq!((pace.rows, pace.copies), (WINDOW_ROWS, WINDOW_ROWS));
        for _ in 0..10 {
            pace.met(0);
        }
        assert_eq!(pace.rows, WINDOW_ROWS_MAX);
        pace.met(1);
        assert_eq!(pace.rows, WINDOW_ROWS);
        while pace.slow() {}
        assert_eq!((pace.rows, pace.copies), (1, 1));
        pace.met(0);
        assert_eq!(pace.rows, 2);
    }
}
