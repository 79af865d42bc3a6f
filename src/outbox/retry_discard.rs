//! What operators and the schedule do about failed or waiting events: retry them, or discard them.
//!
//! Nothing here publishes. A retry makes the event HELD and its key due, and the owner of the shard releases it in its
//! next step, under its fence and in order. A retry is therefore safe while relays run, and a million events behind a
//! key need no long transaction.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::TryStreamExt;
use serde_json::json;
use tokio_postgres::types::ToSql;

use super::audit::{self, Author};
use super::inspect::events::Filter;
use super::isolate::{self, Blame, MayBlame, Refused};
use super::locks::Lead;
use super::{outcomes, rows, statements as sql};
use crate::clock::monotonic;
use crate::db::fragments::assemble;
use crate::db::{DbError, Pool, Transaction, stored_text};
use crate::event::EventStatus;

const STATES: &str = include_str!("retry_discard/sql/states.sql");
const FAILED_LONG_AGO: &str = include_str!("retry_discard/sql/failed_long_ago.sql");
const REPROCESS_LOCK: &str = include_str!("retry_discard/sql/reprocess_lock.sql");
const LOCK_SHARDS: &str = include_str!("sql/lock_shards.sql");
const DECIDE: &str = include_str!("sql/lock_decided_rows.sql");
const REHOME: &str = include_str!("sql/rehome.sql");
const WITH_HOLDERS: &str = include_str!("retry_discard/sql/with_holders.sql");
const REKEY: &str = include_str!("retry_discard/sql/rekey.sql");
const RETRY: &str = include_str!("retry_discard/sql/retry.sql");
const MAKE_DUE: &str = include_str!("retry_discard/sql/make_due.sql");
const DISCARD: &str = include_str!("retry_discard/sql/discard.sql");
const RELEASE_BEHIND: &str = include_str!("retry_discard/sql/release_behind.sql");
static MATCHING: LazyLock<String> =
    LazyLock::new(|| assemble(include_str!("retry_discard/sql/matching.sql"), &[sql::FILTER]));

/// Events of one transaction. A guess: it takes some ten milliseconds, for which the lanes of their shards wait.
const PORTION: usize = 1_000;
/// Time for the search for rows that make a portion fail, for which the lanes of their shards wait as well. The rest is
/// done in the next transaction.
const SEARCH: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Retry,
    Discard,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }
}

/// Which events: FAILED and HELD ones that match all conditions.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `None`: any.
    pub ids: Option<Vec<i64>>,
    /// Its states are at least one of FAILED and HELD.
    pub filter: Filter,
    /// Class of the error: the first word of `last_error`.
    pub class: Option<String>,
}

/// What a selection has found.
#[derive(Debug, Default)]
pub struct Found {
    /// In order; eight bytes of memory for each.
    pub ids: Vec<i64>,
    /// By state and topic (`None`: routing decides).
    pub counts: BTreeMap<(EventStatus, Option<String>), u64>,
}

/// The events of a selection as they are now. Changes nothing.
pub async fn find(pool: &Pool, selection: &Selection) -> Result<Found, DbError> {
    let connection = pool.get().await?;
    let bound = selection.filter.bound();
    let mut params = bound.params();
    params.extend([&selection.class as &(dyn ToSql + Sync), &selection.ids]);
    let mut rows = pin!(connection.query_raw(MATCHING.as_str(), params).await?);
    let mut found = Found::default();
    while let Some(row) = rows.try_next().await? {
        found.ids.push(row.get("id"));
        *found.counts.entry((rows::status(&row, "status")?, stored_text(&row, "topic")?)).or_default() += 1;
    }
    connection.done();
    Ok(found)
}

/// What was done to some events.
#[derive(Debug, Default)]
pub struct Acted {
    pub changed: u64,
    /// Of these, discarded events whose rows do not say so because they cannot be changed.
    pub by_outcome: u64,
    /// Events that the table does not let be changed, because of a constraint or a trigger. They stay as they were.
    pub refused: Vec<Refused<i64>>,
    /// Events that were neither FAILED nor HELD any more, and stay as they are.
    pub unchanged: Vec<i64>,
}

/// How many of some events are in which state now; `None`: their rows are gone.
pub async fn states(pool: &Pool, ids: &[i64]) -> Result<BTreeMap<Option<EventStatus>, u64>, DbError> {
    let (mut states, connection) = (BTreeMap::new(), pool.get().await?);
    for portion in ids.chunks(PORTION) {
        for row in connection.query(STATES, &[&portion]).await? {
            *states.entry(rows::status_if_any(&row, "status")?).or_default() +=
                u64::try_from(row.try_get::<_, i64>("events")?).unwrap_or(0);
        }
    }
    connection.done();
    Ok(states)
}

/// Acts on events, a portion per transaction. `progress` hears after each portion how many of `ids` are behind it, and
/// says whether to go on. Events that are neither FAILED nor HELD any more stay as they are.
pub async fn act(
    pool: &Pool,
    ids: &[i64],
    action: Action,
    author: &Author,
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Acted, DbError> {
    let (mut acted, mut behind) = (Acted::default(), 0);
    for portion in ids.chunks(PORTION) {
        let whole = act_on(pool, portion, action, author, false).await;
        match whole {
            Ok((done, _)) => acted.add(done),
            Err(error) if error.blame() == Blame::Row => {
                let mut left = portion.to_vec();
                while !left.is_empty() {
                    let (done, rest) = act_on(pool, &left, action, author, true).await?;
                    acted.add(done);
                    left = rest;
                }
            }
            Err(error) => return Err(error),
        }
        behind += portion.len();
        if !progress(behind) {
            break;
        }
    }
    Ok(acted)
}

/// One transaction; `apart`: rows that make it fail are found, and left as they are. Returns as well what there was no
/// time for.
async fn act_on(
    pool: &Pool,
    ids: &[i64],
    action: Action,
    author: &Author,
    apart: bool,
) -> Result<(Acted, Vec<i64>), DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let (acted, left) = match apart {
        true => apply_apart(&tx, ids, action).await?,
        false => (apply(&tx, ids, action).await?.into(), Vec::new()),
    };
    if acted.changed > 0 {
        let spared: HashSet<i64> =
            left.iter().chain(&acted.unchanged).copied().chain(acted.refused.iter().map(|no| no.item)).collect();
        let changed: Vec<i64> = ids.iter().copied().filter(|id| !spared.contains(id)).collect();
        let details = json!({ "events": acted.changed, "ids": changed });
        audit::record(&tx, author, action.as_str(), &details).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok((acted, left))
}

impl Acted {
    fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.by_outcome += other.by_outcome;
        self.refused.extend(other.refused);
        self.unchanged.extend(other.unchanged);
    }
}

impl From<Applied> for Acted {
    fn from(applied: Applied) -> Self {
        Self { changed: applied.changed, unchanged: applied.unchanged, ..Self::default() }
    }
}

/// Tries events again that are FAILED for longer than `older_than`, `most` at a time. Of several instances one does it.
pub async fn reprocess(pool: &Pool, older_than: Duration, most: u32) -> Result<Acted, DbError> {
    match try_reprocess(pool, older_than, most, false).await {
        Err(error) if error.blame() == Blame::Row => try_reprocess(pool, older_than, most, true).await,
        outcome => outcome,
    }
}

async fn try_reprocess(pool: &Pool, older_than: Duration, most: u32, apart: bool) -> Result<Acted, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let mut acted = Acted::default();
    if tx.query_one(REPROCESS_LOCK, &[&(Lead::Reprocess as i32)]).await?.get("locked") {
        let rows = tx.query(FAILED_LONG_AGO, &[&older_than.as_secs_f64(), &i64::from(most)]).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
        acted = match apart {
            true => apply_apart(&tx, &ids, Action::Retry).await?.0,
            false => apply(&tx, &ids, Action::Retry).await?.into(),
        };
        if acted.changed > 0 {
            let author = Author { actor: "reprocess".to_owned(), reason: None };
            audit::record(&tx, &author, "retry", &json!({ "events": acted.changed })).await?;
        }
    }
    tx.commit().await?;
    connection.done();
    Ok(acted)
}

/// As [`apply`], and what makes it fail is found. Returns as well what there was no time for.
async fn apply_apart(tx: &Transaction<'_>, ids: &[i64], action: Action) -> Result<(Acted, Vec<i64>), DbError> {
    // Once for all, since the savepoints would give the locks of a part back, and lanes would see half of it.
    tx.query(LOCK_SHARDS, &[&ids]).await?;
    let work = move |part: Vec<i64>| async move { apply(tx, &part, action).await };
    let cut = isolate::cut(tx, ids, monotonic() + SEARCH, work).await?;
    let mut acted = Acted { refused: cut.refused, ..Acted::default() };
    cut.done.into_iter().for_each(|applied| acted.add(applied.into()));
    if action == Action::Discard && !acted.refused.is_empty() {
        give_up(tx, &mut acted).await?;
    }
    Ok((acted, cut.left))
}

/// A row that rejects every change can still be discarded: its outcome says so.
async fn give_up(tx: &Transaction<'_>, acted: &mut Acted) -> Result<(), DbError> {
    let given_up = outcomes::give_up(tx, &acted.refused).await?;
    tx.execute(RELEASE_BEHIND, &[&given_up]).await?;
    tx.execute(DECIDE, &[&given_up, &Action::Discard.as_str()]).await?;
    acted.refused.retain(|refused| !given_up.contains(&refused.item));
    acted.by_outcome = given_up.len() as u64;
    acted.changed += acted.by_outcome;
    Ok(())
}

/// What came of some events.
#[derive(Debug, Default)]
struct Applied {
    changed: u64,
    unchanged: Vec<i64>,
}

/// Acts on some events. Those that are neither FAILED nor HELD by now stay as they are.
async fn apply(tx: &Transaction<'_>, ids: &[i64], action: Action) -> Result<Applied, DbError> {
    if ids.is_empty() {
        return Ok(Applied::default());
    }
    let asked = ids;
    // Like a step of their owners, so that no claim sees half of it.
    tx.query(LOCK_SHARDS, &[&ids]).await?;
    let retry = action == Action::Retry;
    // An event whose key is held by another one that failed cannot go before that one.
    let rows = tx.query(WITH_HOLDERS, &[&ids, &retry]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
    if retry {
        tx.execute(REHOME, &[&ids]).await?;
    }
    let reopened = outcomes::reopen(tx, &ids, retry).await?;
    if retry {
        tx.execute(REKEY, &[&ids]).await?;
    }
    let (change, release) = match action {
        Action::Retry => (RETRY, MAKE_DUE),
        Action::Discard => (DISCARD, RELEASE_BEHIND),
    };
    let changed = tx.execute(change, &[&ids]).await?;
    let left: &[EventStatus] = if retry { &[EventStatus::Failed] } else { &[EventStatus::Failed, EventStatus::Held] };
    outcomes::expect_left(tx, &ids, left).await?;
    tx.execute(release, &[&ids]).await?;
    tx.execute(DECIDE, &[&ids, &action.as_str()]).await?;
    // The rows of the others are among those that were changed.
    let by_outcome = reopened.iter().filter(|reopened| !reopened.row_waits).count();
    let acted_on: HashSet<i64> = ids.iter().copied().collect();
    let unchanged = asked.iter().copied().filter(|id| !acted_on.contains(id)).collect();
    Ok(Applied { changed: changed + by_outcome as u64, unchanged })
}
