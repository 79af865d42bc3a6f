//! Order per key and nothing lost while instances are killed and frozen.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;

use super::report;
use crate::support::order::Report;
use crate::support::outbox::{counts, most_attempts};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{Relay, Signal, TestDatabase, Topic, parts::parts, repeats, unique, wait_until};

const SHARDS: usize = 8;

/// Transactions of 250 rows, at most.
const MOST_BATCHES: i64 = 400;

/// Rows of a batch of the relays.
const BATCH_ROWS: usize = 200;

/// Three instances behind a supervisor that starts an ended one again, as systemd or Kubernetes would.
struct Fleet {
    settings: Vec<RelaySettings>,
    relays: Vec<Relay>,
    kills: usize,
    /// Those that ended because they were fenced, also where a busy machine froze them.
    zombies: usize,
    /// Records that may be in Kafka twice, as the logs of those tell that have ended.
    may_repeat: usize,
}

impl Fleet {
    async fn start(database: &TestDatabase, settings: impl Fn(RelaySettings) -> RelaySettings) -> Self {
        let settings: Vec<_> = ["a", "b", "c"]
            .map(|name| settings(RelaySettings::new(database, &parts().kafka).instance(name)))
            .into_iter()
            .collect();
        let relays = join_all(settings.iter().map(RelaySettings::start_ready)).await;
        Self { settings, relays, kills: 0, zombies: 0, may_repeat: 0 }
    }

    fn name(n: usize) -> &'static str {
        ["a", "b", "c"][n]
    }

    /// SIGKILL in the middle of the work, and a new process at once.
    async fn kill(&mut self, client: &Client, n: usize) {
        self.wait_for_work(client, n).await;
        self.relays[n].kill().await;
        self.kills += 1;
        self.replace(n);
    }

    /// SIGSTOP in the middle of the work until others have its shards, then SIGCONT: the zombie must end with 75.
    async fn freeze(&mut self, client: &Client, n: usize) {
        self.wait_for_work(client, n).await;
        self.relays[n].signal(Signal::Stop);
        let owned = shards_of(client, Self::name(n)).await;
        wait_until("others took the shards of a frozen instance", Duration::from_secs(30), async || {
            self.start_what_has_ended();
            let left: Vec<i16> = shards_of(client, Self::name(n)).await.intersection(&owned).copied().collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} of {owned:?} still belong to it")) }
        })
        .await;
        self.relays[n].signal(Signal::Continue);
        let code = self.relays[n].wait_for_exit(Duration::from_secs(20)).await;
        assert_eq!(code, Some(75), "a zombie says that it was fenced:\n{}", self.relays[n].log_text());
        self.zombies += 1;
        self.replace(n);
    }

    /// Waits until an instance has a batch in flight.
    async fn wait_for_work(&mut self, client: &Client, n: usize) {
        let name = Self::name(n);
        wait_until(&format!("{name} has a batch in flight"), Duration::from_secs(30), async || {
            self.start_what_has_ended();
            let busy = client
                .query_one(
                    "select count(*) from outbox_shards join outbox_instances on instance = owner \
                     where name = $1 and batch_ids is not null and lease_until > clock_timestamp()",
                    &[&name],
                )
                .await
                .expect("shards");
            if busy.get::<_, i64>(0) > 0 { Ok(()) } else { Err(format!("leases: {:?}", leases(client).await)) }
        })
        .await;
    }

    fn replace(&mut self, n: usize) {
        self.may_repeat += repeats::allowed_by(&self.relays[n].log_text(), BATCH_ROWS, false);
        self.relays[n] = self.settings[n].start();
    }

    /// What a supervisor does. A machine that stalls for longer than a lease makes zombies, too.
    fn start_what_has_ended(&mut self) {
        for n in 0..3 {
            if !self.relays[n].is_running() {
                self.zombies += 1;
                self.replace(n);
            }
        }
    }
}

/// Shards that an instance of this name owns, their lease over or not.
async fn shards_of(client: &Client, name: &str) -> BTreeSet<i16> {
    let rows = client
        .query("select shard from outbox_shards join outbox_instances on instance = owner where name = $1", &[&name])
        .await
        .expect("shards");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Inserts rows over 1,000 keys in transactions of 250, never more than 6,000 ahead of the relays, until there are
/// 10,000 and the faults are enough: a quick machine writes more meanwhile. Returns how many.
async fn write_until(database: &TestDatabase, topic: &Topic, enough: &AtomicBool) -> i64 {
    let client = database.connect().await;
    for batch in 0..MOST_BATCHES {
        if batch >= 40 && enough.load(Relaxed) {
            return batch * 250;
        }
        wait_until("the relays keep up", Duration::from_secs(120), async || {
            let pending = counts(&client).await.get("PENDING").copied().unwrap_or(0);
            if pending < 6_000 { Ok(()) } else { Err(format!("{pending} rows are pending")) }
        })
        .await;
        // The keys walk, so that each transaction has 250 of them and each key comes back.
        client
            .execute(
                "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
                 select 'Order', 'key-' || (n * 7 + $1::bigint) % 1000, 'OrderCreatedEvent', $2, jsonb_build_object('n', n) \
                 from generate_series($1::bigint * 250, $1::bigint * 250 + 249) as n",
                &[&batch, &topic.name],
            )
            .await
            .expect("insert");
    }
    MOST_BATCHES * 250
}

/// What a deployment meets: crashes, stalls longer than a lease, restarts, while tens of thousands of rows are relayed.
/// Returns what Kafka has then, how many records may be there twice, and the zombies.
async fn faults_while_rows_are_relayed(delivery: &str) -> (Report, usize, usize) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("chaos"), Topic::create("chaos", 12));
    let client = database.connect().await;
    let deployment = unique("chaos");
    let mut fleet = Fleet::start(&database, |settings| {
        settings
            .set("relay.batch_rows", &BATCH_ROWS.to_string())
            .set("relay.delivery", delivery)
            .set("run.deployment", &deployment)
    })
    .await;
    let enough = AtomicBool::new(false);
    let written = write_until(&database, &topic, &enough);
    let faults = async {
        let mut turn = 0;
        loop {
            fleet.kill(&client, turn % 3).await;
            fleet.freeze(&client, (turn + 1) % 3).await;
            turn += 1;
            // One fault of each kind for each of the three.
            enough.store(turn >= 3, Relaxed);
        }
    };
    tokio::pin!(written);
    let rows = tokio::select! {
        rows = &mut written => rows,
        () = faults => unreachable!("the faults go on until the rows are written"),
    };
    // The faults stop, wherever they are, and it converges. One that was frozen and is woken here may have been fenced.
    for relay in &mut fleet.relays {
        if relay.is_running() {
            relay.signal(Signal::Continue);
        }
    }
    wait_until("every row is PUBLISHED", Duration::from_secs(60), async || {
        fleet.start_what_has_ended();
        let counts = counts(&client).await;
        if counts.len() == 1 && counts.get("PUBLISHED") == Some(&rows) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let Fleet { kills, zombies, mut may_repeat, relays, .. } = fleet;
    may_repeat += relays.iter().map(|relay| repeats::allowed_by(&relay.log_text(), BATCH_ROWS, false)).sum::<usize>();
    assert!(kills >= 3 && zombies >= 2, "too few faults to show anything: {kills} {zombies}");
    assert_eq!(most_attempts(&client).await, 0, "a crash is not an attempt");
    let report = report(&client, &topic).await;
    println!("{delivery}, {kills} kills, {zombies} zombies: {report:?}, {may_repeat} may repeat");
    (report, may_repeat, zombies)
}

/// Promises 1 and 2, and the bound of 3.
///
/// Promise: no-loss, key-order.
#[tokio::test]
async fn three_instances_killed_and_frozen_lose_nothing_and_keep_the_order_of_every_key() {
    let (report, may_repeat, zombies) = faults_while_rows_are_relayed("at-least-once").await;
    report.expect_kept();
    // A crash resends at most the batch in flight of each shard. A zombie may have sent another one before it ended.
    let most = may_repeat + (zombies + 1) * SHARDS * BATCH_ROWS;
    assert!(report.repeats <= most, "{} records repeated, at most {most} expected", report.repeats);
    // Only what the buffers of a woken zombie held may come late.
    assert!(report.late <= (zombies + 1) * BATCH_ROWS * 3, "{} late records", report.late);
}

/// The same faults in the other mode.
///
/// Promise: exactly-once.
#[tokio::test]
async fn three_instances_killed_and_frozen_repeat_nothing_in_exactly_once_delivery() {
    let (report, _, _) = faults_while_rows_are_relayed("exactly-once").await;
    report.expect_kept().expect_no_repeats();
}
