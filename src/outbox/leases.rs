//! Who owns which shard: heartbeats, leases and their hand-over, by the database's clock.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::home::{self, Standing};
use crate::clock::monotonic;
use crate::db::{Connection, DbError, Pool};
use crate::event::ShardId;

const ACQUIRE_LEASES: &str = include_str!("leases/sql/acquire_leases.sql");
const HEARTBEAT: &str = include_str!("leases/sql/heartbeat.sql");
const LEAVE: &str = include_str!("leases/sql/leave.sql");
const LOCK_SESSION: &str = include_str!("leases/sql/lock_session.sql");
const RELEASE_LEASE: &str = include_str!("leases/sql/release_lease.sql");
const RENEW_LEASES: &str = include_str!("leases/sql/renew_leases.sql");

/// What an instance learns with its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Instances that live, this one included.
    pub live: usize,
    pub shards: usize,
    /// Shards that can be taken, those of dead instances not counted.
    pub free: usize,
    /// The number of shards is about to change: all shards are to be released, and only those with a batch in flight
    /// can be taken.
    pub resharding: bool,
    /// Instances that died without their lease being over. Always none where early takeover is off.
    pub dead: usize,
}

/// A shard that was just taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquired {
    pub shard: ShardId,
    pub epoch: i64,
    /// The batch that was in flight, if the former owner did not end in order.
    pub batch_ids: Option<Vec<i64>>,
    /// The former owner's lease ran out: it crashed, hung or lost the database.
    pub taken_over: bool,
}

/// What became of a renewal. A shard in neither list belongs to another instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renewal {
    pub renewed: Vec<ShardId>,
    /// Still ours, but the row is locked: by the lane itself or by another session.
    pub locked: Vec<ShardId>,
}

impl Renewal {
    pub fn is_lost(&self, shard: ShardId) -> bool {
        !self.renewed.contains(&shard) && !self.locked.contains(&shard)
    }
}

/// How long an instance may be without its advisory lock before it counts as dead: time to reconnect after its
/// connection broke. A restart of PostgreSQL, which drops all locks, is detected by heartbeat.sql.
const ABSENCE: Duration = Duration::from_millis(700);

/// The lease tables. Every call is one statement; each says what a repeat does.
pub struct Leases {
    pool: Pool,
    instance: Uuid,
    name: String,
    lease: Duration,
    early: bool,
    /// The session that holds our advisory lock; heartbeats go through it.
    session: Option<Connection>,
    /// Instances that lack their lock, and since when we know.
    absent: HashMap<Uuid, Duration>,
}

impl Leases {
    /// `pool` is of [`Role::Lease`](crate::db::Role::Lease), so that a busy lane cannot keep a lease from being
    /// renewed. `early`: take over from a process that died before its lease is over. Only where a successor fences it
    /// in Kafka too.
    pub fn new(pool: Pool, instance: Uuid, name: String, lease: Duration, early: bool) -> Self {
        Self { pool, instance, name, lease, early, session: None, absent: HashMap::new() }
    }

    pub fn is_early(&self) -> bool {
        self.early
    }

    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Says that this instance lives. Repeating it does no harm.
    pub async fn heartbeat(&mut self) -> Result<Census, DbError> {
        // Taken out, so that a session that fails is not used again: with it goes the lock.
        let connection = match self.session.take() {
            Some(connection) => connection,
            None => {
                let connection = self.pool.get().await?;
                connection.query_one(LOCK_SESSION, &[&self.instance]).await?;
                connection
            }
        };
        let statement = connection.prepare_cached(HEARTBEAT).await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&self.instance, &self.name, &env!("CARGO_PKG_VERSION"), &self.lease.as_secs_f64()];
        let row = connection.query_one(&statement, &params).await?;
        // A session without its lock is useless: behind a pooler, or after another session took our key.
        if row.get("locked") {
            self.session = Some(connection);
        } else {
            connection.done();
        }
        let absent: Vec<Uuid> = row.get("absent");
        self.absent.retain(|instance, _| absent.contains(instance));
        for instance in absent {
            self.absent.entry(instance).or_insert_with(monotonic);
        }
        let count = |name: &str| usize::try_from(row.get::<_, i64>(name)).unwrap_or(0);
        let dead = self.dead().len();
        Ok(Census {
            live: count("live") - dead,
            shards: count("shards"),
            free: count("free"),
            resharding: row.get("resharding"),
            dead,
        })
    }

    fn dead(&self) -> Vec<Uuid> {
        let now = monotonic();
        let long = self.absent.iter().filter(|(_, since)| self.early && now.saturating_sub(**since) >= ABSENCE);
        long.map(|(instance, _)| *instance).collect()
    }

    /// Whether the database that leases are taken in is still the one where this outbox is: an address may come to
    /// point to a copy.
    pub async fn standing(&self) -> Result<Standing, DbError> {
        home::look(&self.pool).await
    }

    /// Takes at most `most` shards that are free, or whose owner is dead. When the answer is lost, the shards are ours
    /// without our knowing and become free again when their lease ends.
    pub async fn acquire(&self, most: usize) -> Result<Vec<Acquired>, DbError> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(ACQUIRE_LEASES).await?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows =
            connection.query(&statement, &[&self.instance, &self.lease.as_secs_f64(), &most, &self.dead()]).await?;
        connection.done();
        Ok(rows
            .iter()
            .map(|row| Acquired {
                shard: row.get("shard"),
                epoch: row.get("epoch"),
                batch_ids: row.get("batch_ids"),
                taken_over: row.get::<_, Option<Uuid>>("former_owner").is_some(),
            })
            .collect())
    }

    /// Renews the leases of `shards` (with their epochs), without waiting for locked rows.
    pub async fn renew(&self, shards: &[(ShardId, i64)]) -> Result<Renewal, DbError> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(RENEW_LEASES).await?;
        let (numbers, epochs): (Vec<ShardId>, Vec<i64>) = shards.iter().copied().unzip();
        let rows =
            connection.query(&statement, &[&self.instance, &numbers, &epochs, &self.lease.as_secs_f64()]).await?;
        connection.done();
        let (renewed, locked): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("renewed"));
        let shards = |rows: Vec<&tokio_postgres::Row>| rows.into_iter().map(|row| row.get("shard")).collect();
        Ok(Renewal { renewed: shards(renewed), locked: shards(locked) })
    }

    /// Gives a shard up. Repeating it does no harm.
    pub async fn release(&self, shard: ShardId, epoch: i64) -> Result<(), DbError> {
        let connection = self.pool.get().await?;
        connection.execute(RELEASE_LEASE, &[&shard, &self.instance, &epoch]).await?;
        connection.done();
        Ok(())
    }

    /// Takes this instance off the list. Repeating it does no harm.
    pub async fn leave(&self) -> Result<(), DbError> {
        let connection = self.pool.get().await?;
        connection.execute(LEAVE, &[&self.instance]).await?;
        connection.done();
        Ok(())
    }
}
