//! The consumer's tables: taking partitions ([`positions`]), folding a part of a batch in one transaction, comparing.
//!
//! Decides nothing: which events are folded, parked or skipped is [`super::fold`]'s affair, and what to do when a fold
//! fails too. Invariant: [`Store::fold_in`] moves the offset first. That proves ownership, and its row lock holds off a
//! new owner until the transaction ends; nothing before it may change a table.

mod apart;
mod columns;
mod differences;
pub mod locks;
pub mod parked;
mod parking;
mod part;
mod passes;
pub mod positions;
mod prepare;

use std::collections::HashSet;
use std::time::Instant;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Projection;
use super::failure::{Cause, FoldError};
use super::position::{Landmark, Standing};
use super::record::Place;
use super::suspicion::Ground;
use crate::clock::monotonic;
use crate::db::{Database, DbError, Pool, Role, Transaction};
use crate::failpoint::{self, Point};
use crate::metrics::{Metrics, ProjectionLabel};
use columns::{Columns, NewEvents};
pub use differences::{Difference, differences};
use locks::Turns;
pub use part::{Counts, Fate, Manner, Outcome, Part};
use passes::Passes;
pub use prepare::prepare_all;

/// Runs on each new connection of the consumer.
const SESSION: &str = include_str!("store/sql/async_commit.sql");
const ADVANCE: &str = include_str!("store/sql/advance.sql");
const STANDING: &str = include_str!("store/sql/standing.sql");
const INSERT_HANDLED: &str = include_str!("store/sql/insert_handled.sql");
const BE_BRIEF: &str = include_str!("store/sql/be_brief.sql");

/// What is deferred to the commit happens now.
const IMMEDIATE: &str = "set constraints all immediate";

/// Partitions folded at the same time. A fold keeps one core of PostgreSQL busy; more connections gain little. A guess.
const FOLDS_AT_ONCE: usize = 4;

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

    /// How many folds have passed of the projection that failed, or of all where none is to blame.
    pub fn passed(&self, ground: &Ground) -> u64 {
        self.passes.of(ground)
    }

    /// The partition fails for this reason.
    pub fn fails(&self, place: &Place, ground: &Ground) {
        self.passes.fails(place, ground, monotonic());
    }

    /// Whether another partition has failed for the same reason a short while ago.
    pub fn fails_elsewhere(&self, place: &Place, ground: &Ground) -> bool {
        self.passes.fails_elsewhere(place, ground, monotonic())
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
                // Not before: what a deferred trigger refuses has not passed.
                self.passes.count(None);
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
                let sound = matches!(error.cause(), Cause::Data | Cause::Locked | Cause::TooSlow | Cause::Doubtful);
                if sound && transaction.rollback().await.is_ok() {
                    connection.done();
                }
                Err(error)
            }
        }
    }

    /// Does everything that folding these records takes, but for moving the offset, and rolls it back:
    /// [`Store::passed`] tells what has passed.
    pub async fn try_and_take_back(&self, part: Part<'_>) -> Result<(), FoldError> {
        let mut connection = self.pool.get().await?;
        let transaction = connection.transaction().await?;
        self.insert_handled(&transaction, part).await?;
        self.project(&transaction, part, &vec![true; part.records.len()]).await?;
        transaction.batch_execute(IMMEDIATE).await?;
        transaction.rollback().await?;
        connection.done();
        self.passes.count(None);
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
        Ok(Outcome::Folded(counts))
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
}
