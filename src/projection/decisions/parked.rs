//! Parked events: listing and showing them, having them folded again, giving them up.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Author, audit};
use crate::db::{DbError, Pool, StoredTime};

const MATCHING: &str = include_str!("sql/parked.sql");
const FATES: &str = include_str!("sql/parked_fates.sql");
const DECIDE: &str = include_str!("sql/decide_parked.sql");

/// Event ids that a line of `outbox_audit` names.
const AUDITED: usize = 1_000;

/// Which parked events; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub group: Option<String>,
    /// Empty: any.
    pub ids: Vec<Uuid>,
    pub projection: Option<String>,
    pub event_type: Option<String>,
    pub topic: Option<String>,
    pub key: Option<String>,
    /// Part of the reason.
    pub error: Option<String>,
}

impl Filter {
    /// Whether it leaves anything out, besides other groups.
    pub fn narrows(&self) -> bool {
        let Self { group: _, ids, projection, event_type, topic, key, error } = self;
        !ids.is_empty() || [projection, event_type, topic, key, error].into_iter().any(Option::is_some)
    }

    fn ids(&self) -> Option<&[Uuid]> {
        if self.ids.is_empty() { None } else { Some(&self.ids) }
    }

    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref().map(str::as_bytes)
    }
}

/// What becomes of a parked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Parked,
    /// The running consumer folds it again.
    Releasing,
    /// Given up.
    Discarded,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Releasing => "releasing",
            Self::Discarded => "discarded",
        }
    }
}

/// A parked event, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub group: String,
    pub event_id: Uuid,
    pub event_type: Option<String>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// `None`: no projection of the group has folded it.
    pub projection: Option<String>,
    pub error: String,
    pub attempts: i32,
    pub parked_at: StoredTime,
    pub state: State,
}

/// A parked event with everything that is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    pub parked: Parked,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// `[[name, value], …]`.
    pub headers: Value,
    pub recorded_at: Option<StoredTime>,
}

impl Parked {
    fn place(&self) -> (&str, i32, i64, &str, Option<&str>) {
        (&self.topic, self.partition, self.offset, &self.group, self.projection.as_deref())
    }
}

fn parked(row: &Row) -> Result<Parked, DbError> {
    let state = state(row.try_get(10)?, row.try_get(11)?);
    Ok(Parked {
        group: row.try_get(0)?,
        event_id: row.try_get(1)?,
        event_type: row.try_get(2)?,
        topic: row.try_get(3)?,
        partition: row.try_get(4)?,
        offset: row.try_get(5)?,
        projection: row.try_get(6)?,
        error: row.try_get(7)?,
        attempts: row.try_get(8)?,
        parked_at: row.try_get(9)?,
        state,
    })
}

/// The rows that match. `whole`: with key, value, headers and time of the record.
async fn matching(
    pool: &Pool,
    filter: &Filter,
    discarded: bool,
    limit: Option<i64>,
    whole: bool,
) -> Result<Vec<Row>, DbError> {
    let Filter { group, projection, event_type, topic, error, .. } = filter;
    let (ids, key) = (filter.ids(), filter.key());
    let connection = pool.get().await?;
    let rows = connection
        .query(MATCHING, &[group, &ids, projection, event_type, topic, &key, error, &discarded, &limit, &whole])
        .await?;
    connection.done();
    Ok(rows)
}

/// The first `limit` that match, those that were parked last first. `discarded`: also those that were given up.
pub async fn list(pool: &Pool, filter: &Filter, discarded: bool, limit: i64) -> Result<Vec<Parked>, DbError> {
    matching(pool, filter, discarded, Some(limit), false).await?.iter().map(parked).collect()
}

/// Everything about these events, in the order of their places.
pub async fn show(pool: &Pool, group: Option<&str>, ids: &[Uuid]) -> Result<Vec<Whole>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let filter = Filter { group: group.map(str::to_owned), ids: ids.to_vec(), ..Filter::default() };
    let whole = |row: &Row| {
        Ok(Whole {
            parked: parked(row)?,
            key: row.try_get(12)?,
            value: row.try_get(13)?,
            headers: row.try_get(14)?,
            recorded_at: row.try_get(15)?,
        })
    };
    let rows = matching(pool, &filter, true, None, true).await?;
    let mut found = rows.iter().map(whole).collect::<Result<Vec<Whole>, DbError>>()?;
    found.sort_by(|one, other| one.parked.place().cmp(&other.parked.place()));
    Ok(found)
}

/// What an operator decides about parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The running consumer folds them once more, in the order of their partition.
    Release,
    /// They are never folded.
    Discard,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Discard => "discard",
        }
    }
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Decided {
    /// The events it was decided about.
    pub ids: Vec<Uuid>,
    /// Events that matched and were folded, released or given up by somebody else when their turn came.
    pub unchanged: Unchanged,
}

/// How many events were left as they are, by what had become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Unchanged {
    /// Folded, or taken over by another group.
    pub gone: u64,
    pub releasing: u64,
    pub discarded: u64,
    /// Parked again since.
    pub parked: u64,
}

impl Unchanged {
    fn count(&mut self, state: Option<State>) {
        match state {
            None => self.gone += 1,
            Some(State::Releasing) => self.releasing += 1,
            Some(State::Discarded) => self.discarded += 1,
            Some(State::Parked) => self.parked += 1,
        }
    }

    /// Empty when there is nothing of the kind.
    pub fn describe(self) -> String {
        let counts = [
            (self.gone, "folded meanwhile"),
            (self.releasing, "released already"),
            (self.discarded, "discarded already"),
            (self.parked, "parked again"),
        ];
        let some = counts.iter().filter(|(events, _)| *events > 0);
        some.map(|(events, what)| format!("{events} {what}")).collect::<Vec<_>>().join(", ")
    }
}

/// Decides about all that match and that nobody has decided about; a release may still be taken back by a discard.
pub async fn decide(pool: &Pool, filter: &Filter, decision: Decision, author: &Author) -> Result<Decided, DbError> {
    let mut found = list(pool, filter, false, i64::MAX).await?;
    found.retain(|event| decision == Decision::Discard || event.state == State::Parked);
    let groups: Vec<&str> = found.iter().map(|event| event.group.as_str()).collect();
    let ids: Vec<Uuid> = found.iter().map(|event| event.event_id).collect();
    let projections: Vec<Option<&str>> = found.iter().map(|event| event.projection.as_deref()).collect();
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let rows = tx.query(DECIDE, &[&groups, &ids, &projections, &decision.as_str()]).await?;
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    let audited: Vec<String> = ids.iter().take(AUDITED).map(Uuid::to_string).collect();
    let details = json!({ "group": filter.group, "events": ids.len(), "event_ids": audited });
    audit(&tx, author, &format!("consumer parked {}", decision.as_str()), &details).await?;
    tx.commit().await?;
    connection.done();
    let unchanged = unchanged(pool, &found, &ids).await?;
    Ok(Decided { ids, unchanged })
}

/// What had become of those that were found and not changed.
async fn unchanged(pool: &Pool, found: &[Parked], changed: &[Uuid]) -> Result<Unchanged, DbError> {
    let changed: HashSet<&Uuid> = changed.iter().collect();
    let mut by_group: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
    for event in found.iter().filter(|event| !changed.contains(&event.event_id)) {
        by_group.entry(&event.group).or_default().push(event.event_id);
    }
    let mut unchanged = Unchanged::default();
    for (group, ids) in by_group {
        let states: BTreeMap<Uuid, State> = fates(pool, group, &ids).await?.into_iter().collect();
        ids.iter().for_each(|id| unchanged.count(states.get(id).copied()));
    }
    Ok(unchanged)
}

/// The states of those of these events that are still parked. The others were folded.
pub async fn fates(pool: &Pool, group: &str, ids: &[Uuid]) -> Result<Vec<(Uuid, State)>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(FATES, &[&group, &ids]).await?;
    connection.done();
    rows.iter().map(|row| Ok((row.try_get(0)?, state(row.try_get(1)?, row.try_get(2)?)))).collect()
}

fn state(releasing: bool, discarded: bool) -> State {
    match (releasing, discarded) {
        (_, true) => State::Discarded,
        (true, false) => State::Releasing,
        (false, false) => State::Parked,
    }
}
