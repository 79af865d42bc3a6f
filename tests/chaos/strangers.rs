//! Rows of strangers among the load, for `--hostile`: every odd value of the integration tests in keys of their own,
//! and events that cannot be published in keys that are judged, which hold them until an operator discards them.
//!
//! The rows of the generator have no partition key, the others have the aggregate type [`HOLDING`]: by that the judge
//! leaves them out.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::it::support::{NewRow, TestDatabase, Topic, outbox_relay, unique};
use crate::rows::{Targets, oddities};
use crate::writers::LOCKED;

/// Aggregate type of events that hold a judged key.
pub const HOLDING: &str = "Hostile";
/// Between two rows of the generator.
const ROW_EVERY: Duration = Duration::from_millis(40);
/// So many rows of the generator have one key.
const ROWS_PER_KEY: usize = 8;
/// Between two judged keys that are held.
const HOLD_EVERY: Duration = Duration::from_millis(700);
/// Between two looks of the operator.
const DISCARD_EVERY: Duration = Duration::from_secs(4);
/// Until all of them are discarded, in the end.
const HOLDERS: &str = "select count(*) from outbox_current where aggregate_type = $1 and partition_key is not null \
     and status not in ('DISCARDED', 'PUBLISHED')";

pub struct Strangers {
    database: TestDatabase,
    /// Of the brokers, past the proxies.
    direct: String,
    targets: Targets,
    seed: u64,
    stop: watch::Sender<bool>,
}

impl Strangers {
    pub async fn new(database: &TestDatabase, direct: String, seed: u64) -> Self {
        let topic = async |name: &str, settings: &[(&str, &str)]| {
            let topic = Topic { name: unique(name), bootstrap: direct.clone() };
            topic.created_with(3, settings).await.name
        };
        let targets = Targets {
            good: topic("hostile-good", &[]).await,
            small: topic("hostile-small", &[("max.message.bytes", "20000")]).await,
            punctual: topic("hostile-punctual", &[("message.timestamp.after.max.ms", "3600000")]).await,
            compacted: topic("hostile-compacted", &[("cleanup.policy", "compact")]).await,
            starved: topic("hostile-starved", &[("min.insync.replicas", "4")]).await,
            doomed: topic("hostile-doomed", &[]).await,
            missing: unique("hostile-missing"),
            secret: "secret".to_owned(),
        };
        Self { database: database.clone(), direct, targets, seed, stop: watch::Sender::new(false) }
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Until [`Strangers::stop`], and until nothing of theirs holds a judged key any more. Returns how many rows there
    /// were.
    pub async fn run(&self) -> usize {
        let ((rows, ()), holders) = join(join(self.write(), self.discard()), self.hold()).await;
        let client = self.database.reconnect().await;
        self.let_go(client).await;
        rows + holders
    }

    async fn write(&self) -> usize {
        let mut random = Rng::with_seed(self.seed ^ 0x5eed);
        let (mut client, mut rows) = (self.database.reconnect().await, 0);
        while self.goes_on(ROW_EVERY).await {
            let oddity = &oddities()[random.usize(..oddities().len())];
            if oddity.is_heavy() {
                continue;
            }
            let row = oddity.row(&self.targets, &format!("hostile-{}", rows / ROWS_PER_KEY));
            match client.query_one(&row.statement(), &[]).await {
                Ok(_) => rows += 1,
                // The table refuses it.
                Err(error) if error.code().is_some() && !client.is_closed() => {}
                Err(_) => client = self.database.reconnect().await,
            }
        }
        rows
    }

    async fn hold(&self) -> usize {
        let mut random = Rng::with_seed(self.seed ^ 0x401d);
        let (mut client, mut rows) = (self.database.reconnect().await, 0);
        while self.goes_on(HOLD_EVERY).await {
            let key = format!("{LOCKED}{}", random.usize(0..40));
            let row = NewRow::new("no topic", &key, "{}").text("partition_key", &key).text("aggregate_type", HOLDING);
            match client.query_one(&row.statement(), &[]).await {
                Ok(_) => rows += 1,
                Err(_) => client = self.database.reconnect().await,
            }
        }
        rows
    }

    async fn discard(&self) {
        while self.goes_on(DISCARD_EVERY).await {
            self.discard_once().await;
        }
    }

    /// May fail while PostgreSQL is away.
    async fn discard_once(&self) {
        let call =
            ["events", "discard", "--aggregate-type", HOLDING, "--status", "failed", "--yes", "--reason", "chaos"];
        let call = outbox_relay(&call).env("DATABASE_URL", &self.database.url);
        drop(call.env("KAFKA_BOOTSTRAP_SERVERS", &self.direct).run().await);
    }

    /// One at a time of each key fails, so it takes several looks.
    async fn let_go(&self, mut client: Client) {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            match client.query_one(HOLDERS, &[&HOLDING]).await {
                Ok(row) if row.get::<_, i64>(0) == 0 => return,
                Ok(row) if Instant::now() > end => {
                    println!("{} events that hold judged keys could not be discarded", row.get::<_, i64>(0));
                    return;
                }
                Ok(_) => self.discard_once().await,
                Err(_) => client = self.database.reconnect().await,
            }
        }
    }

    /// After `wait`: whether it has not been stopped.
    async fn goes_on(&self, wait: Duration) -> bool {
        let mut stop = self.stop.subscribe();
        timeout_at(Instant::now() + wait, stop.wait_for(|stop| *stop)).await.is_err()
    }
}
