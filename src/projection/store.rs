//! The consumer's tables: taking partitions ([`positions`]), folding a part of a batch in one transaction, comparing.
//!
//! Decides nothing: which events are folded, parked or skipped is [`super::fold`]'s affair, and what to do when a fold
//! fails too.
//! Invariant: [`Store::fold`] moves the offset first. That proves ownership, and its row lock holds off a new owner until
//! the transaction ends; nothing before it may change a table.

pub mod parked;
pub mod positions;

use std::collections::HashSet;
use std::time::Instant;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::positions::{LOOK, NOTE_IDENTITY, STOP, TAKE_FENCES};
use super::Projection;
use super::failure::{Cause, FoldError};
use super::position::{Landmark, Standing};
use super::record::{Place, Record};
use crate::db::{Connection, Database, DbError, Pool, Role, Transaction};
use crate::error::{Code, Error, Result};
use crate::failpoint::{self, Point};
use crate::metrics::{Metrics, ProjectionLabel};

/// Runs on each new connection of the consumer.
const SESSION: &str = concat!(include_str!("sql/new_events.sql"), ";", include_str!("sql/async_commit.sql"));
const ADVANCE: &str = include_str!("sql/advance.sql");
const STANDING: &str = include_str!("sql/standing.sql");
const INSERT_HANDLED: &str = include_str!("sql/insert_handled.sql");
const FILL_NEW_EVENTS: &str = include_str!("sql/fill_new_events.sql");
const CLEAR_NEW_EVENTS: &str = include_str!("sql/clear_new_events.sql");
const INSERT_PARKED: &str = include_str!("sql/insert_parked.sql");
const PRODUCT_METRICS_DIFFERENCES: &str = include_str!("sql/product_metrics_differences.sql");

/// Partitions folded at the same time. A fold keeps one core of PostgreSQL busy; more connections gain little. A guess.
const FOLDS_AT_ONCE: usize = 4;

/// What is to happen to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Into every projection that handles it.
    Fold,
    /// No projection handles it.
    Skip,
    /// It cannot be folded, for this reason.
    Park(String),
}

/// Part of a batch of one partition, offsets ascending. `fates` is as long as `records`.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub place: &'a Place,
    pub epoch: i64,
    /// Where the partition stands, as far as its reader knows.
    pub next_offset: i64,
    pub records: &'a [Record],
    pub fates: &'a [Fate],
}

/// What became of the records of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub applied: u64,
    pub duplicate: u64,
    pub skipped: u64,
    pub parked: u64,
}

/// How a fold ended, if the database did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Folded(Counts),
    /// Nothing changed: a projection refuses these records (index in the part, reason).
    Refused(Vec<(usize, String)>),
    /// Nothing changed: the partition is not where its reader believes. `None`: its row is gone.
    Elsewhere(Option<Standing>),
}

/// The tables of one consumer group.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
    group: String,
    projections: Vec<Projection>,
    metrics: Metrics,
}

impl Store {
    /// Opens nothing yet.
    pub fn new(database: &Database, group: String, projections: Vec<Projection>, metrics: Metrics) -> Self {
        let pool = database.pool_with_setup(Role::Consumer, FOLDS_AT_ONCE, SESSION);
        Self { pool, group, projections, metrics }
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// Whether the statements prepare. Errors: [`Code::ProjectionInvalid`], and what [`DbError`] becomes.
    pub async fn prepare(&self) -> Result<()> {
        let connection = self.pool.get().await?;
        let positions = [TAKE_FENCES, NOTE_IDENTITY, STOP, LOOK, ADVANCE, STANDING];
        for sql in positions.into_iter().chain(parked::ALL).chain([INSERT_HANDLED, FILL_NEW_EVENTS, INSERT_PARKED]) {
            connection.prepare_cached(sql).await?;
        }
        for projection in &self.projections {
            prepare(&connection, projection).await?;
        }
        connection.done();
        Ok(())
    }

    /// Folds the part in one transaction. The part must not be empty.
    ///
    /// Cancel safe: dropping the future throws the connection away, and PostgreSQL rolls back what was not committed.
    pub async fn fold(&self, part: Part<'_>) -> Result<Outcome, FoldError> {
        let mut connection = self.pool.get().await?;
        let transaction = connection.transaction().await?;
        match self.fold_within(&transaction, part).await {
            Ok(outcome @ Outcome::Folded(_)) => {
                failpoint::reach(Point::FoldBeforeCommit).map_err(DbError::of_a_test)?;
                transaction.commit().await?;
                connection.done();
                failpoint::reach(Point::FoldAfterCommit).map_err(DbError::of_a_test)?;
                Ok(outcome)
            }
            Ok(outcome) => {
                transaction.rollback().await?;
                connection.done();
                Ok(outcome)
            }
            Err(error) => {
                // A statement failed but the session is sound: keep it, because halving a batch fails many times.
                if error.cause() == Cause::Data && transaction.rollback().await.is_ok() {
                    connection.done();
                }
                Err(error)
            }
        }
    }

    async fn fold_within(&self, transaction: &Transaction<'_>, part: Part<'_>) -> Result<Outcome, FoldError> {
        let (group, place) = (&self.group, part.place);
        let last = part.records.last().expect("a part is not empty");
        let (landmark, next) = (Landmark::of(last), last.offset + 1);
        let advance = transaction.prepare_cached(ADVANCE).await?;
        let moved = transaction
            .execute(
                &advance,
                &[
                    group,
                    &place.topic,
                    &place.partition,
                    &part.epoch,
                    &part.next_offset,
                    &next,
                    &landmark.offset,
                    &landmark.digest,
                    &last.recorded_at,
                ],
            )
            .await?;
        if moved == 0 {
            let standing = transaction.prepare_cached(STANDING).await?;
            let row = transaction.query_opt(&standing, &[group, &place.topic, &place.partition]).await?;
            return Ok(Outcome::Elsewhere(row.map(|row| Standing {
                epoch: row.get(0),
                next_offset: row.get(1),
                written_offset: row.get(2),
                stopped: row.get::<_, Option<String>>(3).is_some(),
            })));
        }
        let fresh = self.insert_handled(transaction, part).await?;
        let refused = self.project(transaction, part, &fresh).await?;
        if !refused.is_empty() {
            return Ok(Outcome::Refused(refused));
        }
        let mut counts = Counts::default();
        let mut parked = Vec::new();
        for (index, fate) in part.fates.iter().enumerate() {
            match fate {
                Fate::Skip => counts.skipped += 1,
                Fate::Fold | Fate::Park(_) if !fresh[index] => counts.duplicate += 1,
                Fate::Fold => counts.applied += 1,
                Fate::Park(reason) => {
                    counts.parked += 1;
                    parked.push((&part.records[index], reason.as_str()));
                }
            }
        }
        if !parked.is_empty() {
            self.insert_parked(transaction, place, &parked).await?;
        }
        Ok(Outcome::Folded(counts))
    }

    /// Records the events of the part as handled. Returns for each record whether it is new: the first of its id, and not
    /// in `event_handled` yet.
    async fn insert_handled(&self, transaction: &Transaction<'_>, part: Part<'_>) -> Result<Vec<bool>, FoldError> {
        let mut seen = HashSet::with_capacity(part.records.len());
        let firsts: Vec<usize> = (0..part.records.len())
            .filter(|index| part.fates[*index] != Fate::Skip && seen.insert(part.records[*index].event.id))
            .collect();
        let mut fresh = vec![false; part.records.len()];
        if firsts.is_empty() {
            return Ok(fresh);
        }
        let events = Columns::of(part.records, &firsts);
        let statement = transaction.prepare_cached(INSERT_HANDLED).await?;
        let rows = transaction
            .query(
                &statement,
                &[
                    &self.group,
                    &part.place.topic,
                    &part.place.partition,
                    &events.ids,
                    &events.event_types,
                    &events.aggregate_types,
                    &events.aggregate_ids,
                    &events.versions,
                    &events.offsets,
                ],
            )
            .await?;
        let new: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        for index in firsts {
            fresh[index] = new.contains(&part.records[index].event.id);
        }
        Ok(fresh)
    }

    /// Runs each projection over the new events that it handles. Returns what they refuse.
    async fn project(
        &self,
        transaction: &Transaction<'_>,
        part: Part<'_>,
        fresh: &[bool],
    ) -> Result<Vec<(usize, String)>, FoldError> {
        let mut refused = Vec::new();
        let mut filled: Option<Vec<usize>> = None;
        for projection in &self.projections {
            let wanted: Vec<usize> = (0..part.records.len())
                .filter(|index| {
                    part.fates[*index] == Fate::Fold
                        && fresh[*index]
                        && projection.handles(&part.place.topic, part.records[*index].event.event_type.as_deref())
                })
                .collect();
            if wanted.is_empty() {
                continue;
            }
            if filled.as_ref() != Some(&wanted) {
                if filled.is_some() {
                    let clear = transaction.prepare_cached(CLEAR_NEW_EVENTS).await?;
                    transaction.execute(&clear, &[]).await?;
                }
                fill(transaction, part, &wanted).await?;
                filled = Some(wanted);
            }
            let started = Instant::now();
            let name = || projection.name().to_owned();
            let run = async {
                let statement = transaction.prepare_cached(projection.sql()).await?;
                transaction.query(&statement, &[]).await
            };
            let rows = run.await.map_err(|error| FoldError::Database { projection: Some(name()), source: error })?;
            let label = ProjectionLabel { projection: name() };
            self.metrics.process_duration.get_or_create(&label).observe(started.elapsed().as_secs_f64());
            let given = filled.as_deref().unwrap_or_default();
            for row in rows {
                let ordinal = row.get::<_, Option<i32>>(0).unwrap_or(-1);
                let reason = row.get::<_, Option<String>>(1).unwrap_or_else(|| "no reason given".to_owned());
                // Parking an event that the projection was not given would change nothing, over and over.
                match usize::try_from(ordinal).ok().filter(|index| given.binary_search(index).is_ok()) {
                    Some(index) => refused.push((index, format!("projection {}: {reason}", projection.name()))),
                    None => return Err(FoldError::Ordinal { projection: name(), ordinal }),
                }
            }
        }
        Ok(refused)
    }

    async fn insert_parked(
        &self,
        transaction: &Transaction<'_>,
        place: &Place,
        parked: &[(&Record, &str)],
    ) -> Result<(), FoldError> {
        let ids: Vec<Uuid> = parked.iter().map(|(record, _)| record.event.id).collect();
        let types: Vec<Option<&str>> = parked.iter().map(|(record, _)| record.event.event_type.as_deref()).collect();
        let offsets: Vec<i64> = parked.iter().map(|(record, _)| record.offset).collect();
        let keys: Vec<Option<&[u8]>> = parked.iter().map(|(record, _)| record.key.as_deref()).collect();
        let values: Vec<Option<&[u8]>> = parked.iter().map(|(record, _)| record.value.as_deref()).collect();
        let headers: Vec<String> = parked.iter().map(|(record, _)| record.headers_list()).collect();
        let times: Vec<Option<Timestamp>> = parked.iter().map(|(record, _)| record.recorded_at).collect();
        let reasons: Vec<&str> = parked.iter().map(|(_, reason)| *reason).collect();
        let statement = transaction.prepare_cached(INSERT_PARKED).await?;
        transaction
            .execute(
                &statement,
                &[
                    &self.group,
                    &place.topic,
                    &place.partition,
                    &ids,
                    &types,
                    &offsets,
                    &keys,
                    &values,
                    &headers,
                    &times,
                    &reasons,
                ],
            )
            .await?;
        Ok(())
    }
}

/// Fills `new_events` with the chosen records of the part; the ordinal is the index in the part.
async fn fill(transaction: &Transaction<'_>, part: Part<'_>, chosen: &[usize]) -> Result<(), FoldError> {
    let events = Columns::of(part.records, chosen);
    let chosen_records = || chosen.iter().map(|index| &part.records[*index]);
    let ordinals: Vec<i32> =
        chosen.iter().map(|index| i32::try_from(*index).expect("a batch is far smaller")).collect();
    let keys: Vec<Option<String>> = chosen_records().map(Record::key_text).collect();
    let payloads: Vec<Option<&str>> = chosen_records()
        .map(|record| record.value.as_deref().map(|value| std::str::from_utf8(value).expect("only JSON is folded")))
        .collect();
    let headers: Vec<String> = chosen_records().map(Record::headers_object).collect();
    let times: Vec<Option<Timestamp>> = chosen_records().map(|record| record.event.time).collect();
    let correlations: Vec<Option<&str>> =
        chosen_records().map(|record| record.event.correlation_id.as_deref()).collect();
    let statement = transaction.prepare_cached(FILL_NEW_EVENTS).await?;
    transaction
        .execute(
            &statement,
            &[
                &part.place.topic,
                &part.place.partition,
                &ordinals,
                &events.ids,
                &events.event_types,
                &events.aggregate_types,
                &events.aggregate_ids,
                &events.versions,
                &events.offsets,
                &keys,
                &payloads,
                &headers,
                &times,
                &correlations,
            ],
        )
        .await?;
    Ok(())
}

/// The heads of some records, one array per column, as the statements take them.
struct Columns<'a> {
    ids: Vec<Uuid>,
    event_types: Vec<Option<&'a str>>,
    aggregate_types: Vec<Option<&'a str>>,
    aggregate_ids: Vec<Option<&'a str>>,
    versions: Vec<i32>,
    offsets: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(records: &'a [Record], chosen: &[usize]) -> Self {
        let chosen = || chosen.iter().map(|index| &records[*index]);
        Self {
            ids: chosen().map(|record| record.event.id).collect(),
            event_types: chosen().map(|record| record.event.event_type.as_deref()).collect(),
            aggregate_types: chosen().map(|record| record.event.aggregate_type.as_deref()).collect(),
            aggregate_ids: chosen().map(|record| record.event.aggregate_id.as_deref()).collect(),
            versions: chosen().map(|record| record.event.version).collect(),
            offsets: chosen().map(|record| record.offset).collect(),
        }
    }
}

/// Whether PostgreSQL takes every projection, for `check`. Opens one connection of its own.
///
/// Errors: [`Code::ProjectionInvalid`] for the first that it does not take; what [`DbError`] becomes if it is unreachable.
pub async fn prepare_all(database: &Database, projections: &[Projection]) -> Result<()> {
    let connection = database.pool_with_setup(Role::Admin, 1, SESSION).get().await?;
    for projection in projections {
        prepare(&connection, projection).await?;
    }
    Ok(())
}

async fn prepare(connection: &Connection, projection: &Projection) -> Result<()> {
    let invalid = |problem: String| {
        Error::new(Code::ProjectionInvalid, format!("projection {}: {problem}", projection.name()))
            .hint("it has to be one statement without parameters that reads new_events and returns nothing, or (ordinal int, reason text)")
    };
    let statement = match connection.prepare(projection.sql()).await {
        Ok(statement) => statement,
        Err(DbError::Statement(error)) => return Err(invalid(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if !statement.params().is_empty() {
        return Err(invalid("it has parameters".to_owned()));
    }
    let columns: Vec<&Type> = statement.columns().iter().map(|column| column.type_()).collect();
    if columns.is_empty() || columns == [&Type::INT4, &Type::TEXT] {
        return Ok(());
    }
    let types: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    Err(invalid(format!("it returns ({})", types.join(", "))))
}

/// A product whose metrics are not what the outbox says. Each side as text, `None` where it has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub product_id: i64,
    pub folded: Option<String>,
    pub expected: Option<String>,
}

/// Compares `product_metrics` with a recomputation from all published rows of `outbox_events`, less what `group` has
/// parked. Empty when they agree. Reads the whole outbox: for demos and tests, once the consumer has caught up.
pub async fn differences(database: &Database, group: &str) -> Result<Vec<Difference>, DbError> {
    let mut client = database.connect(Role::Admin).await?;
    client.without_statement_limit().await?;
    let rows = client.query(PRODUCT_METRICS_DIFFERENCES, &[&group]).await?;
    let differences =
        rows.iter().map(|row| Difference { product_id: row.get(0), folded: row.get(1), expected: row.get(2) });
    Ok(differences.collect())
}
