//! What a replay looks at before it copies anything: bounds, counts, rows by id, and the role's grants.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::filter::{Filter, MATCHES, conditions};
use super::pace::Pace;
use crate::db::fragments::assemble;
use crate::db::{DbError, Pool, StoredTime, stored_text};
use crate::event::EventStatus;
use crate::outbox::grants::{self, For, Who};
use crate::outbox::inspect::{self, is_timeout};
use crate::outbox::rows;

const BEGIN: &str = include_str!("sql/begin.sql");
static COUNT: LazyLock<String> = LazyLock::new(|| assemble(include_str!("sql/count.sql"), &[MATCHES]));
const NAMED: &str = include_str!("sql/named.sql");

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

/// A row that was asked for by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: i64,
    pub status: EventStatus,
    pub dead_letter: bool,
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
        let rows = match connection.query(COUNT.as_str(), &params).await {
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
