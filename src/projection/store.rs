//! The consumer's tables: taking partitions ([`positions`]), folding a part of a batch in one transaction, comparing.
//!
//! Decides nothing: which events are folded, parked or skipped is [`super::fold`]'s affair, and what to do when a fold
//! fails too. Invariant: [`Store::fold_in`] moves the offset first. That proves ownership, and its row lock holds off a
//! new owner until the transaction ends; nothing before it may change a table.

mod apart;
mod columns;
pub mod locks;
pub mod parked;
mod passes;
pub mod positions;

use std::collections::HashSet;
use std::time::Instant;

use jiff::Timestamp;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use self::positions::{LOOK, NOTE_IDENTITY, STOP, TAKE_FENCES};
use super::Projection;
use super::failure::{Cause, FoldError};
use super::position::{Landmark, Standing};
use super::record::{Place, Record};
use super::suspicion::Ground;
use crate::db::{Connection, Database, DbError, Pool, Role, Transaction};
use crate::error::{Code, Error, Result};
use crate::failpoint::{self, Point};
use crate::metrics::{Metrics, ProjectionLabel};
use columns::{Columns, NewEvents, kept};
use locks::{LockWait, Turns};
use passes::Passes;

/// Runs on each new connection of the consumer.
const SESSION: &str = include_str!("store/sql/async_commit.sql");
const ADVANCE: &str = include_str!("store/sql/advance.sql");
const STANDING: &str = include_str!("store/sql/standing.sql");
const INSERT_HANDLED: &str = include_str!("store/sql/insert_handled.sql");
const INSERT_PARKED: &str = include_str!("store/sql/insert_parked.sql");
const BE_BRIEF: &str = include_str!("store/sql/be_brief.sql");
const PRODUCT_METRICS_DIFFERENCES: &str = include_str!("store/sql/product_metrics_differences.sql");

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
    /// The same, and PostgreSQL refuses to keep it as it is: what is no ASCII is written in another way, from which
    /// every byte is known.
    ParkEscaped(String),
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

/// How a part is folded.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// It has failed with [`Cause::Data`]: finds out which events fail, and parks them. The same cause again is about
    /// something that concerns no projection alone.
    pub apart: bool,
    /// It has failed with [`Cause::TooSlow`], and holds more records than one: less time.
    pub brief: bool,
    pub wait: &'a LockWait,
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

/// An event to keep in `consumer_parked`.
#[derive(Debug, Clone, Copy)]
struct Parked<'a> {
    record: &'a Record,
    reason: &'a str,
    escaped: bool,
}

/// The tables of one consumer group.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
    /// To look at the sessions of the pool from outside.
    watch: Pool,
    group: String,
    /// Whose positions and parked events these are. `None`: of all projections of the group, the only way so far.
    projection: Option<String>,
    projections: Vec<Projection>,
    metrics: Metrics,
    turns: Turns,
    passes: Passes,
}

impl Store {
    /// Opens nothing yet.
    pub fn new(database: &Database, group: String, projections: Vec<Projection>, metrics: Metrics) -> Self {
        let pool = database.pool_with_setup(Role::Consumer, FOLDS_AT_ONCE, SESSION);
        let watch = database.pool(Role::Admin, 1);
        Self {
            pool,
            watch,
            group,
            projection: None,
            projections,
            metrics,
            turns: Turns::default(),
            passes: Passes::default(),
        }
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
        for sql in positions.into_iter().chain(parked::ALL).chain([INSERT_HANDLED, INSERT_PARKED, BE_BRIEF]) {
            connection.prepare_cached(sql).await?;
        }
        for projection in &self.projections {
            prepare(&connection, projection).await?;
        }
        connection.done();
        Ok(())
    }

    /// How many folds have passed of the projection that failed, or of all where none is to blame.
    pub fn passed(&self, ground: &Ground) -> u64 {
        self.passes.of(ground)
    }

    /// Folds the part in one transaction. The part must not be empty.
    ///
    /// Cancel safe: dropping the future throws the connection away, and PostgreSQL rolls back what was not committed.
    pub async fn fold_in(&self, part: Part<'_>, manner: Manner<'_>) -> Result<Outcome, FoldError> {
        let _turn = self.turns.take(manner.wait).await;
        let mut connection = self.pool.get().await?;
        manner.wait.is_in(&connection).await?;
        let mut transaction = connection.transaction().await?;
        if manner.brief {
            let be_brief = transaction.prepare_cached(BE_BRIEF).await?;
            transaction.query(&be_brief, &[]).await?;
        }
        match self.fold_within(&mut transaction, part, manner.apart).await {
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
                // A statement failed but the session is sound: keep it, because a search fails many times.
                let sound = matches!(error.cause(), Cause::Data | Cause::Locked | Cause::TooSlow);
                if sound && transaction.rollback().await.is_ok() {
                    connection.done();
                }
                Err(error)
            }
        }
    }

    /// Runs the projections over records that are not folded yet, and rolls it back: [`Store::passed`] tells what has
    /// passed.
    pub async fn try_and_take_back(&self, part: Part<'_>) -> Result<(), FoldError> {
        let mut connection = self.pool.get().await?;
        let transaction = connection.transaction().await?;
        self.project(&transaction, part, &vec![true; part.records.len()]).await?;
        transaction.rollback().await?;
        connection.done();
        Ok(())
    }

    async fn fold_within(
        &self,
        transaction: &mut Transaction<'_>,
        part: Part<'_>,
        apart: bool,
    ) -> Result<Outcome, FoldError> {
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
                    &self.projection,
                ],
            )
            .await?;
        if moved == 0 {
            let standing = transaction.prepare_cached(STANDING).await?;
            let own: [&(dyn ToSql + Sync); 4] = [group, &place.topic, &place.partition, &self.projection];
            let row = transaction.query_opt(&standing, &own).await?;
            return Ok(Outcome::Elsewhere(row.map(|row| Standing {
                epoch: row.get(0),
                next_offset: row.get(1),
                written_offset: row.get(2),
                stopped: row.get::<_, Option<String>>(3).is_some(),
            })));
        }
        let fresh = self.insert_handled(transaction, part).await?;
        let found: Vec<Fate>;
        let part = if apart {
            found = self.find(transaction, part, &fresh).await?;
            Part { fates: &found, ..part }
        } else {
            let refused = self.project(transaction, part, &fresh).await?;
            if !refused.is_empty() {
                return Ok(Outcome::Refused(refused));
            }
            part
        };
        let counts = self.park(transaction, part, &fresh).await?;
        self.passes.count(None);
        Ok(Outcome::Folded(counts))
    }

    /// Keeps what is to be parked, and counts what became of the part.
    async fn park(&self, transaction: &Transaction<'_>, part: Part<'_>, fresh: &[bool]) -> Result<Counts, FoldError> {
        let mut counts = Counts::default();
        let mut parked = Vec::new();
        for (index, fate) in part.fates.iter().enumerate() {
            let (reason, escaped) = match fate {
                Fate::Skip => {
                    counts.skipped += 1;
                    continue;
                }
                Fate::Fold | Fate::Park(_) | Fate::ParkEscaped(_) if !fresh[index] => {
                    counts.duplicate += 1;
                    continue;
                }
                Fate::Fold => {
                    counts.applied += 1;
                    continue;
                }
                Fate::Park(reason) => (reason, false),
                Fate::ParkEscaped(reason) => (reason, true),
            };
            counts.parked += 1;
            parked.push(Parked { record: &part.records[index], reason, escaped });
        }
        if !parked.is_empty() {
            self.insert_parked(transaction, part.place, &parked).await?;
        }
        Ok(counts)
    }

    /// Records the events of the part as handled. Returns for each record whether it is new: the first of its id, and
    /// not in `event_handled` yet.
    async fn insert_handled(&self, transaction: &Transaction<'_>, part: Part<'_>) -> Result<Vec<bool>, FoldError> {
        let mut seen = HashSet::with_capacity(part.records.len());
        let firsts: Vec<usize> = (0..part.records.len())
            .filter(|index| part.fates[*index] != Fate::Skip && seen.insert(part.records[*index].event.id))
            .collect();
        let mut fresh = vec![false; part.records.len()];
        if firsts.is_empty() {
            return Ok(fresh);
        }
        let events = Columns::of(part, &firsts);
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
        let mut given: Option<NewEvents<'_>> = None;
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
            let events = match given.take() {
                Some(same) if same.chosen == wanted => same,
                Some(_) | None => NewEvents::of(part, wanted),
            };
            let started = Instant::now();
            let name = || projection.name().to_owned();
            let run = async {
                let statement = transaction.prepare_cached(projection.statement()).await?;
                transaction.query(&statement, &events.parameters()).await
            };
            let rows = run.await.map_err(|error| FoldError::Database { projection: Some(name()), source: error })?;
            let label = ProjectionLabel { projection: name() };
            self.metrics.process_duration.get_or_create(&label).observe(started.elapsed().as_secs_f64());
            for row in rows {
                let ordinal = row.get::<_, Option<i32>>(0).unwrap_or(-1);
                let reason = row.get::<_, Option<String>>(1).unwrap_or_else(|| "no reason given".to_owned());
                // Parking an event that the projection was not given would change nothing, over and over.
                match usize::try_from(ordinal).ok().filter(|index| events.chosen.binary_search(index).is_ok()) {
                    Some(index) => refused.push((index, format!("projection {}: {reason}", projection.name()))),
                    None => return Err(FoldError::Ordinal { projection: name(), ordinal }),
                }
            }
            self.passes.count(Some(projection.name()));
            given = Some(events);
        }
        Ok(refused)
    }

    async fn insert_parked(
        &self,
        transaction: &Transaction<'_>,
        place: &Place,
        parked: &[Parked<'_>],
    ) -> Result<(), FoldError> {
        let records = || parked.iter().map(|parked| parked.record);
        let ids: Vec<Uuid> = records().map(|record| record.event.id).collect();
        let types: Vec<_> =
            parked.iter().map(|parked| kept(parked.record.event.event_type.as_deref(), parked.escaped)).collect();
        let offsets: Vec<i64> = records().map(|record| record.offset).collect();
        let keys: Vec<Option<&[u8]>> = records().map(|record| record.key.as_deref()).collect();
        let values: Vec<Option<&[u8]>> = records().map(|record| record.value.as_deref()).collect();
        let headers: Vec<String> = parked.iter().map(|parked| parked.record.headers_list(parked.escaped)).collect();
        let times: Vec<Option<Timestamp>> = records().map(|record| record.recorded_at).collect();
        let reasons: Vec<_> = parked.iter().map(|parked| kept(Some(parked.reason), parked.escaped)).collect();
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
                    &self.projection,
                ],
            )
            .await?;
        Ok(())
    }
}

/// Whether PostgreSQL takes every projection, for `check`. Opens one connection of its own.
///
/// Errors: [`Code::ProjectionInvalid`] for the first that it does not take; what [`DbError`] becomes if it is
/// unreachable.
pub async fn prepare_all(database: &Database, projections: &[Projection]) -> Result<()> {
    let connection = database.pool(Role::Admin, 1).get().await?;
    for projection in projections {
        prepare(&connection, projection).await?;
    }
    Ok(())
}

async fn prepare(connection: &Connection, projection: &Projection) -> Result<()> {
    let invalid = |problem: String| {
        Error::new(Code::ProjectionInvalid, format!("projection {}: {problem}", projection.name()))
            .hint("it must be one statement without parameters that reads new_events and returns either nothing or (ordinal int, reason text)")
    };
    let statement = match connection.prepare(&projection.checked_statement()).await {
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
