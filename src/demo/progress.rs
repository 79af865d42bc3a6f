//! The progress of a running demo: writers and acknowledgements from the [`Ledger`], folds from the database.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::db::{Client, Database, DbError, Role};
use crate::demo::ledger::{Latency, Ledger};
use crate::error::Result;

const ASSIGNED: &str = include_str!("sql/assigned.sql");
const FOLDED: &str = include_str!("sql/folded.sql");
const PENDING: &str = include_str!("sql/pending.sql");

/// Counts since the load began, taken at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub at: Duration,
    pub inserted: u64,
    /// Acknowledged by Kafka.
    pub published: u64,
    /// In the projections.
    pub folded: u64,
}

/// Asks, on a connection of its own.
pub struct Progress {
    client: Client,
    ledger: Arc<Ledger>,
    group: &'static str,
    started: OnceLock<Instant>,
}

impl Progress {
    pub async fn new(database: &Database, ledger: Arc<Ledger>, group: &'static str) -> Result<Self> {
        let client = database.connect(Role::Admin).await?;
        Ok(Self { client, ledger, group, started: OnceLock::new() })
    }

    /// The clock of [`Counts::at`] starts with the first call.
    pub fn start_clock(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    pub async fn counts(&self) -> Result<Counts> {
        let row = self.client.query_one(FOLDED, &[&self.group]).await?;
        let folded: i64 = row.try_get(0).map_err(DbError::from)?;
        let done = self.ledger.counts();
        Ok(Counts {
            at: self.start_clock().elapsed(),
            inserted: done.committed,
            published: done.acknowledged,
            folded: u64::try_from(folded).unwrap_or(0),
        })
    }

    /// Latencies since the last call of this function.
    pub fn take_latency(&self) -> Latency {
        self.ledger.take_interval()
    }

    /// Whether an event is still to be published.
    pub async fn is_pending(&self) -> Result<bool> {
        let row = self.client.query_one(PENDING, &[]).await?;
        Ok(row.try_get(0).map_err(DbError::from)?)
    }

    /// Whether the consumer has taken its partitions.
    pub async fn is_assigned(&self) -> Result<bool> {
        let row = self.client.query_one(ASSIGNED, &[&self.group]).await?;
        Ok(row.try_get(0).map_err(DbError::from)?)
    }
}
