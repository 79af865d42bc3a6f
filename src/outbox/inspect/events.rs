//! Events by filter, and one event in full.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::db::fragments::assemble;
use crate::db::{DbError, Pool, StoredTime, stored_text};
use crate::event::EventStatus;
use crate::outbox::{rows, statements as sql};

const OUTCOMES_IN_STATE: &str = include_str!("sql/outcomes_in_state.sql");
const SHOW_EVENT: &str = include_str!("sql/show_event.sql");
static LIST_EVENTS: LazyLock<String> = LazyLock::new(|| assemble(include_str!("sql/list_events.sql"), &[sql::FILTER]));

/// Maximum number of events that are looked for among the outcomes, the newest.
const OUTCOMES: i64 = 10_000;

/// Maximum bytes of a payload, or of headers, that are read to be shown: more than Kafka takes by default.
pub const SHOWN_BYTES: i64 = 1 << 20;

/// Farthest time before now, in seconds: PostgreSQL has no time that is much longer ago, 4713 BC is its first year.
const AGO_MAX: f64 = 2e11;

/// Which events to list; all conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub id: Option<i64>,
    pub event_id: Option<Uuid>,
    pub key: Option<String>,
    /// Empty: any.
    pub status: Vec<EventStatus>,
    pub topic: Option<String>,
    pub event_type: Option<String>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub correlation_id: Option<String>,
    pub since: Moment,
    pub until: Moment,
}

/// A bound on `created_at`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Moment {
    #[default]
    Any,
    At(Timestamp),
    /// Before now, by the clock of the database.
    Ago(Duration),
}

impl Moment {
    fn parameters(self) -> (Option<Timestamp>, Option<f64>) {
        match self {
            Self::Any => (None, None),
            Self::At(at) => (Some(at), None),
            Self::Ago(ago) => (None, Some(ago.as_secs_f64().min(AGO_MAX))),
        }
    }
}

impl Filter {
    /// Whether there is any condition besides the state.
    pub fn narrows(&self) -> bool {
        let Self {
            id,
            event_id,
            key,
            status: _,
            topic,
            event_type,
            aggregate_type,
            aggregate_id,
            correlation_id,
            since,
            until,
        } = self;
        id.is_some()
            || event_id.is_some()
            || [key, topic, event_type, aggregate_type, aggregate_id, correlation_id].iter().any(|text| text.is_some())
            || [since, until].iter().any(|moment| **moment != Moment::Any)
    }

    /// The conditions as the parameters $1 to $13 of `list_events.sql` and of statements like it.
    pub(in crate::outbox) fn bound(&self) -> Bound<'_> {
        let status = self.status.iter().map(|status| status.as_str()).collect::<Vec<_>>();
        Bound {
            filter: self,
            status: (!status.is_empty()).then_some(status),
            since: self.since.parameters(),
            until: self.until.parameters(),
        }
    }
}

/// A filter with the values that its parameters refer to.
pub(in crate::outbox) struct Bound<'a> {
    filter: &'a Filter,
    status: Option<Vec<&'static str>>,
    since: (Option<Timestamp>, Option<f64>),
    until: (Option<Timestamp>, Option<f64>),
}

impl Bound<'_> {
    pub(in crate::outbox) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let Filter { id, event_id, key, topic, event_type, aggregate_type, aggregate_id, correlation_id, .. } =
            self.filter;
        vec![
            id,
            event_id,
            key,
            &self.status,
            topic,
            event_type,
            aggregate_type,
            aggregate_id,
            correlation_id,
            &self.since.0,
            &self.since.1,
            &self.until.0,
            &self.until.1,
        ]
    }
}

/// Part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The last id of the page before.
    pub after: Option<i64>,
    pub oldest_first: bool,
    pub limit: u32,
}

/// An event without its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub id: i64,
    pub event_id: Uuid,
    pub status: EventStatus,
    pub topic: Option<String>,
    pub key: Option<String>,
    pub event_type: String,
    pub event_version: i32,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub correlation_id: Option<String>,
    pub retry_count: i32,
    pub last_error: Option<String>,
    pub created_at: StoredTime,
    pub available_at: Option<StoredTime>,
    pub published_at: Option<StoredTime>,
    pub published_partition: Option<i32>,
    pub published_offset: Option<i64>,
}

/// An event with everything that is known of it.
#[derive(Clone, PartialEq)]
pub struct Details {
    pub summary: Summary,
    pub causation_id: Option<String>,
    pub source: Option<String>,
    pub traceparent: Option<String>,
    pub shard: i16,
    /// `payload` as PostgreSQL prints it: numbers keep all their digits.
    pub payload: Option<String>,
    pub payload_raw: Option<Vec<u8>>,
    pub payload_base64: Option<String>,
    /// There is a payload of more than [`SHOWN_BYTES`], which was not read.
    pub payload_omitted: bool,
    /// JSON text.
    pub headers: Option<String>,
    /// As `payload_omitted`.
    pub headers_omitted: bool,
    pub hold: Option<Hold>,
}

/// Why the events of a key wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The event that holds the key: the first one that failed or is delayed.
    pub first_id: i64,
    /// `failed`, `retry`, `delayed`, `paused`, `no-topic`, `denied` or `partition`.
    pub reason: String,
    /// What is wrong, in words, where it is known.
    pub detail: Option<String>,
    pub since: StoredTime,
    /// `None`: until it is released.
    pub release_at: Option<StoredTime>,
}

/// The events that match, without their payload. A filter that no index serves reads the table from one end until the
/// page is full, and may meet the statement timeout on a large one.
pub async fn list(pool: &Pool, filter: &Filter, page: Page) -> Result<Vec<Summary>, DbError> {
    let bound = filter.bound();
    let limit = i64::from(page.limit);
    let mut params = bound.params();
    params.extend([&page.after as &(dyn ToSql + Sync), &page.oldest_first, &limit]);
    let connection = pool.get().await?;
    let rows = connection.query(LIST_EVENTS.as_str(), &with_ids(&params, &None)).await?;
    let mut events = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
    if let Some(states) = &bound.status {
        let outcomes = connection.query(OUTCOMES_IN_STATE, &[states, &OUTCOMES]).await?;
        if !outcomes.is_empty() {
            let ids = Some(outcomes.iter().map(|row| row.get(0)).collect());
            let rows = connection.query(LIST_EVENTS.as_str(), &with_ids(&params, &ids)).await?;
            for event in rows.iter().map(summary) {
                events.push(event?);
            }
            events.sort_unstable_by_key(|event| if page.oldest_first { event.id } else { -event.id });
            events.dedup_by_key(|event| event.id);
            events.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        }
    }
    connection.done();
    Ok(events)
}

/// The parameters of `list_events.sql` with its last one.
fn with_ids<'a>(params: &[&'a (dyn ToSql + Sync)], ids: &'a Option<Vec<i64>>) -> Vec<&'a (dyn ToSql + Sync)> {
    params.iter().copied().chain([ids as &(dyn ToSql + Sync)]).collect()
}

/// The row with this id; none or one.
pub async fn by_id(pool: &Pool, id: i64) -> Result<Vec<Details>, DbError> {
    show(pool, Some(id), None).await
}

/// The rows with this `event_id`, oldest first: replays append copies.
pub async fn by_event_id(pool: &Pool, event_id: Uuid) -> Result<Vec<Details>, DbError> {
    show(pool, None, Some(event_id)).await
}

async fn show(pool: &Pool, id: Option<i64>, event_id: Option<Uuid>) -> Result<Vec<Details>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(SHOW_EVENT, &[&id, &event_id, &SHOWN_BYTES]).await?;
    connection.done();
    rows.iter().map(details).collect()
}

fn summary(row: &Row) -> Result<Summary, DbError> {
    Ok(Summary {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        status: rows::status(row, "status")?,
        topic: stored_text(row, "topic")?,
        key: stored_text(row, "key")?,
        event_type: stored_text(row, "event_type")?.unwrap_or_default(),
        event_version: row.try_get("event_version")?,
        aggregate_type: stored_text(row, "aggregate_type")?,
        aggregate_id: stored_text(row, "aggregate_id")?,
        correlation_id: stored_text(row, "correlation_id")?,
        retry_count: row.try_get("retry_count")?,
        last_error: stored_text(row, "last_error")?,
        created_at: row.try_get("created_at")?,
        available_at: row.try_get("available_at")?,
        published_at: row.try_get("published_at")?,
        published_partition: row.try_get("published_partition")?,
        published_offset: row.try_get("published_offset")?,
    })
}

fn details(row: &Row) -> Result<Details, DbError> {
    let first_id: Option<i64> = row.try_get("held_by")?;
    let hold = match first_id {
        None => None,
        Some(first_id) => Some(Hold {
            first_id,
            reason: row.try_get("held_reason")?,
            detail: row.try_get("held_detail")?,
            since: row.try_get("held_at")?,
            release_at: row.try_get("release_at")?,
        }),
    };
    Ok(Details {
        summary: summary(row)?,
        causation_id: stored_text(row, "causation_id")?,
        source: stored_text(row, "source")?,
        traceparent: stored_text(row, "traceparent")?,
        shard: row.try_get("shard")?,
        payload: stored_text(row, "payload")?,
        payload_raw: row.try_get("payload_raw")?,
        payload_base64: row.try_get("payload_base64")?,
        payload_omitted: row.try_get("payload_omitted")?,
        headers: stored_text(row, "headers")?,
        headers_omitted: row.try_get("headers_omitted")?,
        hold,
    })
}
