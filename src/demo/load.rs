//! Writers: the shop's business as real transactions, business rows and outbox rows together.
//!
//! Each writer has its own connection and [`Shop`] and keeps its pace whatever the relay does (open loop). Some
//! transactions roll back, and one extra writer keeps each of its transactions open for a while: its events get low ids
//! and appear late, after higher ids were published long ago. Knows nothing of the relay and Kafka, like an
//! application.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement, Transaction};
use tokio_util::sync::CancellationToken;

use crate::config::DatabaseConfig;
use crate::db::DbError;
use crate::demo::kafka::Topics;
use crate::demo::ledger::Ledger;
use crate::demo::shop::{Change, NewEvent, Order, Shop, Work};
use crate::error::{Code, Error, Result};
use crate::supervisor::{Supervisor, detach};

const INSERT_EVENTS: &str = include_str!("sql/insert_events.sql");
const INSERT_LIKES: &str = include_str!("sql/insert_likes.sql");
const DELETE_LIKES: &str = include_str!("sql/delete_likes.sql");
const INSERT_ORDERS: &str = include_str!("sql/insert_orders.sql");
const PAY_ORDERS: &str = include_str!("sql/pay_orders.sql");
const CANCEL_ORDERS: &str = include_str!("sql/cancel_orders.sql");

const WRITERS: u16 = 16;
/// Transactions per second that all writers aim at together; above this rate of events, transactions get larger. Two
/// cores and a virtual disk made 600 to 1,000 durable commits per second beside everything else that the demo does.
const TRANSACTIONS_PER_SECOND: u32 = 500;
/// Bounds what one transaction holds; reached at 100,000 events/s.
const EVENTS_PER_TRANSACTION_MAX: u32 = 200;
const ROLLBACKS_PERCENT: u8 = 2;
/// The late writer begins a transaction this often and keeps it open for a part of [`LATE_OPEN_MILLIS`].
const LATE_EVERY: Duration = Duration::from_millis(400);
const LATE_OPEN_MILLIS: std::ops::Range<u64> = 100..1_500;
const LATE_EVENTS: usize = 3;

/// What the writers do.
#[derive(Debug, Clone, Copy)]
pub struct LoadSettings {
    /// Events per second that commit, all writers together; what rolls back comes on top.
    pub rate: u32,
    /// The same seed gives the same business.
    pub seed: u64,
}

/// What the writers did beside commits, which the [`Ledger`] counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events of transactions that rolled back.
    pub rolled_back_events: AtomicU64,
    pub transactions: AtomicU64,
    /// Transactions that were kept open.
    pub late_transactions: AtomicU64,
}

/// Runs all writers until `stop`; each finishes the transaction in hand. The first that fails stops the others.
pub async fn run(
    database: DatabaseConfig,
    topics: Topics,
    settings: LoadSettings,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) -> Result<()> {
    let config: tokio_postgres::Config = database.url.expose().parse().map_err(DbError::from)?;
    let topics = Arc::new(topics);
    let mut writers = Supervisor::new(stop.clone());
    for number in 0..=WRITERS {
        let writer = Writer {
            session: Session::open(&config).await?,
            shop: Shop::new(settings.seed, number, WRITERS + 1),
            chance: fastrand::Rng::with_seed(settings.seed ^ u64::from(number)),
            topics: Arc::clone(&topics),
            ledger: Arc::clone(&ledger),
            tally: Arc::clone(&tally),
        };
        let stop = stop.clone();
        if number == WRITERS {
            writers.spawn("late writer", writer.write_late(stop));
        } else {
            writers.spawn("writer", writer.write(Pace::of_writer(settings.rate, number), stop));
        }
    }
    writers.wait().await
}

/// How many events a writer puts into a transaction, and how often it begins one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    events: usize,
    every: Duration,
    /// Writers take turns.
    first_after: Duration,
}

impl Pace {
    fn of_writer(rate: u32, number: u16) -> Self {
        let written = f64::from(rate.max(1)) * 100.0 / f64::from(100 - ROLLBACKS_PERCENT);
        let events = (rate / TRANSACTIONS_PER_SECOND).clamp(1, EVENTS_PER_TRANSACTION_MAX);
        let every = Duration::from_secs_f64(f64::from(events) * f64::from(WRITERS) / written);
        Self { events: events as usize, every, first_after: every.mul_f64(f64::from(number) / f64::from(WRITERS)) }
    }
}

struct Writer {
    session: Session,
    shop: Shop,
    chance: fastrand::Rng,
    topics: Arc<Topics>,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
}

impl Writer {
    async fn write(mut self, pace: Pace, stop: CancellationToken) -> Result<()> {
        let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + pace.first_after, pace.every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = turns.tick() => {}
            }
            let work = self.shop.work(pace.events);
            self.transact(work, std::future::ready(())).await?;
        }
    }

    async fn write_late(mut self, stop: CancellationToken) -> Result<()> {
        let mut turns = tokio::time::interval(LATE_EVERY);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = turns.tick() => {}
            }
            let work = self.shop.work(LATE_EVENTS);
            let open = tokio::time::sleep(Duration::from_millis(self.chance.u64(LATE_OPEN_MILLIS)));
            let stop = stop.clone();
            self.transact(work, async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = open => {}
                }
            })
            .await?;
            self.tally.late_transactions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One transaction: all of `work`, `before_commit`, then COMMIT or, now and then, ROLLBACK.
    async fn transact(&mut self, work: Work, before_commit: impl Future<Output = ()>) -> Result<()> {
        let transaction = self.session.client.transaction().await.map_err(DbError::from)?;
        let ids = write_work(&transaction, &self.session.statements, &work, &self.topics).await?;
        before_commit.await;
        self.tally.transactions.fetch_add(1, Ordering::Relaxed);
        if self.chance.u8(0..100) < ROLLBACKS_PERCENT {
            transaction.rollback().await.map_err(DbError::from)?;
            self.shop.undo(&work);
            self.tally.rolled_back_events.fetch_add(ids.len() as u64, Ordering::Relaxed);
        } else {
            transaction.commit().await.map_err(DbError::from)?;
            self.ledger.committed(&ids, Instant::now());
        }
        Ok(())
    }
}

/// The statements of one transaction, pipelined. Returns the ids of the events.
async fn write_work(
    transaction: &Transaction<'_>,
    statements: &Statements,
    work: &Work,
    topics: &Topics,
) -> Result<Vec<i64>> {
    let rows = Rows::of(work);
    let (liked, ordered) = (&rows.liked, &rows.ordered);
    let (ids, ..) = tokio::try_join!(
        insert_events(transaction, &statements.insert_events, &work.events, topics),
        change(transaction, &statements.insert_likes, liked.0.len(), [&liked.0, &liked.1, &liked.2]),
        change(transaction, &statements.insert_orders, ordered.0.len(), [&ordered.0, &ordered.1, &ordered.2]),
        change(transaction, &statements.delete_likes, rows.unliked.len(), [&rows.unliked]),
        change(transaction, &statements.pay_orders, rows.paid.len(), [&rows.paid]),
        change(transaction, &statements.cancel_orders, rows.cancelled.len(), [&rows.cancelled]),
    )?;
    Ok(ids)
}

async fn insert_events(
    transaction: &Transaction<'_>,
    statement: &Statement,
    events: &[NewEvent],
    topics: &Topics,
) -> Result<Vec<i64>, WriteError> {
    let aggregate_types: Vec<_> = events.iter().map(|event| event.aggregate_type).collect();
    let aggregate_ids: Vec<_> = events.iter().map(|event| event.aggregate_id.to_string()).collect();
    let event_types: Vec<_> = events.iter().map(|event| event.event_type).collect();
    let versions: Vec<_> = events.iter().map(|event| event.event_version).collect();
    let topics: Vec<_> = events.iter().map(|event| topics.name_of(event.topic)).collect();
    let payloads: Vec<_> = events.iter().map(|event| event.payload.as_str()).collect();
    let rows = transaction
        .query(statement, &[&aggregate_types, &aggregate_ids, &event_types, &versions, &topics, &payloads])
        .await?;
    rows.iter().map(|row| row.try_get(0).map_err(WriteError::from)).collect()
}

/// Runs a statement that must change exactly `expected` rows; none at all are not worth a round trip.
async fn change<const N: usize>(
    transaction: &Transaction<'_>,
    statement: &Statement,
    expected: usize,
    columns: [&(dyn ToSql + Sync); N],
) -> Result<(), WriteError> {
    if expected == 0 {
        return Ok(());
    }
    let changed = transaction.execute(statement, &columns).await?;
    if changed == expected as u64 { Ok(()) } else { Err(WriteError::Rows { changed, expected }) }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("statement of the shop failed")]
    Database(#[source] DbError),
    #[error("{changed} rows of the shop changed instead of {expected}")]
    Rows { changed: u64, expected: usize },
}

impl From<tokio_postgres::Error> for WriteError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Database(error) => error.into(),
            WriteError::Rows { .. } => {
                Self::new(Code::Unexpected, "the demo's shop and its tables disagree").caused_by(error)
            }
        }
    }
}

/// The changes of a transaction as columns: ids, users, then products or lines.
#[derive(Default)]
struct Rows {
    liked: (Vec<i64>, Vec<i64>, Vec<i64>),
    unliked: Vec<i64>,
    ordered: (Vec<i64>, Vec<i64>, Vec<String>),
    paid: Vec<i64>,
    cancelled: Vec<i64>,
}

impl Rows {
    fn of(work: &Work) -> Self {
        let mut rows = Self::default();
        for change in &work.changes {
            match change {
                Change::Viewed { .. } => {}
                Change::Liked(like) => {
                    rows.liked.0.push(like.id);
                    rows.liked.1.push(like.user);
                    rows.liked.2.push(like.product);
                }
                Change::Unliked(like) => rows.unliked.push(like.id),
                Change::Ordered(order) => {
                    rows.ordered.0.push(order.id);
                    rows.ordered.1.push(order.user);
                    rows.ordered.2.push(order.lines_json());
                }
                Change::Paid(Order { id, .. }) => rows.paid.push(*id),
                Change::Cancelled(Order { id, .. }) => rows.cancelled.push(*id),
            }
        }
        rows
    }
}

/// A connection of the shop: an application's, not one of the relay's.
struct Session {
    client: Client,
    statements: Statements,
}

struct Statements {
    insert_events: Statement,
    insert_likes: Statement,
    delete_likes: Statement,
    insert_orders: Statement,
    pay_orders: Statement,
    cancel_orders: Statement,
}

impl Session {
    async fn open(config: &tokio_postgres::Config) -> Result<Self, DbError> {
        let (client, connection) = config.clone().application_name("outbox-relay demo shop").connect(NoTls).await?;
        detach("connection of the demo's shop", async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %DbError::from(error).chain(), "a connection of the demo's shop closed");
            }
        });
        let statements = Statements {
            insert_events: client.prepare(INSERT_EVENTS).await?,
            insert_likes: client.prepare(INSERT_LIKES).await?,
            delete_likes: client.prepare(DELETE_LIKES).await?,
            insert_orders: client.prepare(INSERT_ORDERS).await?,
            pay_orders: client.prepare(PAY_ORDERS).await?,
            cancel_orders: client.prepare(CANCEL_ORDERS).await?,
        };
        Ok(Self { client, statements })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paces_of_all_writers_add_up_to_the_rate() {
        for rate in [1, 50, 999, 2_000, 20_000, 150_000] {
            let paces: Vec<_> = (0..WRITERS).map(|number| Pace::of_writer(rate, number)).collect();
            let sum: f64 = paces.iter().map(|pace| pace.events as f64 / pace.every.as_secs_f64()).sum();
            let committed = sum * f64::from(100 - ROLLBACKS_PERCENT) / 100.0;
            assert!((committed / f64::from(rate) - 1.0).abs() < 0.01, "{committed} instead of {rate}");
            assert!(paces.iter().all(|pace| pace.first_after < pace.every), "a writer misses its first turn at {rate}");
        }
    }
}
