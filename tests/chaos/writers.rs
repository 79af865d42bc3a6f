//! The load: applications that write business events, in three ways at once.
//!
//! *Locked* writers take turns per key by a row lock, so that the order of ids is the order of commits: their keys are
//! checked strictly. *Concurrent* writers share keys without taking turns. *Slow* transactions hold low ids open for
//! seconds while thousands pass, and one in ten rolls back. What was committed is asked of the table afterwards, so a
//! writer need not know whether its last COMMIT arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Error, Transaction};

use crate::it::support::{TestDatabase, Topic};
use crate::time::pass_until;

const LOCKED_WRITERS: u64 = 4;
const CONCURRENT_WRITERS: u64 = 2;
const SLOW_WRITERS: u64 = 4;
const KEYS: usize = 400;
const PRODUCTS: i64 = 50;
/// Waiting rows beyond which the writers pause: an outage should not leave more than can be sent within the time that
/// the liveness check allows.
const BACKLOG_MAX: i64 = 6_000;
/// Between two looks at the rows that wait.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The beginning of a key tells how its writers behave.
pub const LOCKED: &str = "locked-";
const CONCURRENT: &str = "concurrent-";
const SLOW: &str = "slow-";

pub struct Writers {
    database: TestDatabase,
    topics: [String; 2],
    seed: u64,
    /// Events per second, all writers together.
    rate: u32,
    pause: watch::Sender<bool>,
    /// A fault keeps them from writing.
    held: AtomicBool,
    stop: watch::Sender<bool>,
}

impl Writers {
    pub fn new(database: &TestDatabase, topics: &[Topic; 2], seed: u64, rate: u32) -> Arc<Self> {
        let topics = [topics[0].name.clone(), topics[1].name.clone()];
        let (pause, stop) = (watch::Sender::new(false), watch::Sender::new(false));
        Arc::new(Self { database: database.clone(), topics, seed, rate, pause, held: AtomicBool::new(false), stop })
    }

    /// Tells the writers to finish what they have begun.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Keeps the writers from beginning anything, or lets them go on.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
        self.pause.send_replace(held);
    }

    /// Writes until [`Writers::stop`].
    pub async fn run(&self) {
        let client = self.connect().await;
        let keys = "insert into chaos_keys (key) select $1 || n from generate_series(0, $2::bigint - 1) as n";
        client.execute(keys, &[&LOCKED, &(KEYS as i64)]).await.expect("the keys");
        let all = (0..LOCKED_WRITERS + CONCURRENT_WRITERS + SLOW_WRITERS).map(|n| self.write(n));
        tokio::join!(join_all(all), self.watch_backlog());
    }

    async fn write(&self, number: u64) {
        let mut rng = Rng::with_seed(self.seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut client = self.connect().await;
        // Most of the rate is the locked writers', since their keys are checked most strictly.
        let (share, writers) = match number {
            0..LOCKED_WRITERS => (0.7, LOCKED_WRITERS),
            _ => (0.3, CONCURRENT_WRITERS),
        };
        let per_event = Duration::from_secs_f64(writers as f64 / (f64::from(self.rate) * share));
        while !self.stopped() {
            if *self.pause.borrow() {
                self.while_paused().await;
                continue;
            }
            let events = rng.usize(1..=40);
            let begun = Instant::now();
            let written = if number < LOCKED_WRITERS {
                self.locked(&mut client, &mut rng, events).await
            } else if number < LOCKED_WRITERS + CONCURRENT_WRITERS {
                self.concurrent(&mut client, &mut rng, events).await
            } else {
                self.slow(&mut client, &mut rng).await
            };
            if written.is_err() {
                client = self.connect().await;
            }
            // The rate that was asked for.
            pass_until(begun + per_event * u32::try_from(events).expect("a few")).await;
        }
    }

    /// A few keys, each under its lock, taken in order so that writers never wait in a circle.
    async fn locked(&self, client: &mut Client, rng: &mut Rng, events: usize) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        let mut keys: Vec<String> = (0..rng.usize(1..=6)).map(|_| format!("{LOCKED}{}", rng.usize(0..KEYS))).collect();
        keys.sort();
        keys.dedup();
        let lock = "select from chaos_keys where key = any($1) order by key for update";
        transaction.execute(lock, &[&keys]).await?;
        let keys: Vec<&str> = (0..events).map(|_| keys[rng.usize(0..keys.len())].as_str()).collect();
        self.insert(&transaction, rng, &keys).await?;
        end(transaction, rng.u8(0..20) == 0).await
    }

    async fn concurrent(&self, client: &mut Client, rng: &mut Rng, events: usize) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        let keys: Vec<String> = (0..events).map(|_| format!("{CONCURRENT}{}", rng.usize(0..KEYS / 4))).collect();
        self.insert(&transaction, rng, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        end(transaction, false).await
    }

    /// Ids first, then a wait of seconds, then the end.
    async fn slow(&self, client: &mut Client, rng: &mut Rng) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        let keys: Vec<String> = (0..rng.usize(1..=5)).map(|_| format!("{SLOW}{}", rng.usize(0..KEYS))).collect();
        self.insert(&transaction, rng, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        self.until_stopped_or(Instant::now() + Duration::from_millis(rng.u64(200..6_000))).await;
        end(transaction, rng.u8(0..10) == 0).await
    }

    async fn insert(&self, transaction: &Transaction<'_>, rng: &mut Rng, keys: &[&str]) -> Result<(), Error> {
        let (mut types, mut topics, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            // A key has one topic: between topics there is no order.
            let of_product = key.bytes().last().is_some_and(|last| last % 2 == 0);
            let (event_type, payload) = if of_product { product_event(rng) } else { order_event(rng) };
            types.push(event_type);
            payloads.push(payload);
            topics.push(self.topics[usize::from(!of_product)].as_str());
        }
        let insert = "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, partition_key, payload) \
             select 'Chaos', key, event_type, topic, key, payload::jsonb \
             from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as new(key, event_type, topic, payload, n) \
             order by n";
        transaction.execute(insert, &[&keys, &types, &topics, &payloads]).await.map(drop)
    }

    /// Pauses the writers while too many rows wait.
    async fn watch_backlog(&self) {
        let mut client = self.connect().await;
        while !self.stopped() {
            self.until_stopped_or(Instant::now() + LOOK_EVERY).await;
            let waiting =
                "select count(*) from (select from outbox_events where status = 'PENDING' limit $1) as waiting";
            match client.query_one(waiting, &[&(BACKLOG_MAX + 1)]).await {
                Ok(row) => {
                    let held = self.held.load(Ordering::Relaxed);
                    self.pause.send_replace(held || row.get::<_, i64>(0) > BACKLOG_MAX);
                }
                Err(_) => client = self.connect().await,
            }
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn until_stopped_or(&self, moment: Instant) {
        let mut stop = self.stop.subscribe();
        drop(timeout_at(moment, stop.wait_for(|stop| *stop)).await);
    }

    async fn while_paused(&self) {
        let (mut pause, mut stop) = (self.pause.subscribe(), self.stop.subscribe());
        tokio::select! {
            _ = pause.wait_for(|pause| !*pause) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// A connection, as soon as the server gives one.
    async fn connect(&self) -> Client {
        self.database.reconnect().await
    }
}

async fn end(transaction: Transaction<'_>, roll_back: bool) -> Result<(), Error> {
    if roll_back { transaction.rollback().await } else { transaction.commit().await }
}

fn product_event(rng: &mut Rng) -> (&'static str, String) {
    let event_type = ["LikeAddedEvent", "LikeRemovedEvent", "ProductViewEvent"][rng.usize(0..3)];
    let (product, user, pad) = (rng.i64(0..PRODUCTS), rng.u32(..), "x".repeat(rng.usize(0..300)));
    (event_type, format!(r#"{{"productId": {product}, "userId": {user}, "pad": "{pad}"}}"#))
}

fn order_event(rng: &mut Rng) -> (&'static str, String) {
    let event_type = ["OrderCreatedEvent", "OrderCancelledEvent", "PaymentCompletedEvent"][rng.usize(0..3)];
    let lines: Vec<String> = (0..rng.usize(1..=3))
        .map(|_| {
            let (product, quantity, amount) = (rng.i64(0..PRODUCTS), rng.u8(1..5), rng.u32(0..100_000));
            format!(r#"{{"productId": {product}, "quantity": {quantity}, "amount": {amount}.25}}"#)
        })
        .collect();
    (event_type, format!(r#"{{"orderId": {}, "items": [{}]}}"#, rng.u32(..), lines.join(", ")))
}
