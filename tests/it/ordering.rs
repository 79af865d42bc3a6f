//! Order per key and nothing lost, whatever happens to the instances and however transactions commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::order::{self, Report};
use crate::support::outbox::{committed_ids, counts, most_attempts, row, wait_for_status, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{NewRow, Relay, Signal, TestDatabase, Topic, holds_for, parts::parts, unique, wait_until};

const SHARDS: i64 = 8;
/// Transactions of 250 rows, at most.
const MOST_BATCHES: i64 = 400;

/// What Kafka has against what was committed.
async fn report(client: &Client, topic: &Topic) -> Report {
    let (mut committed, mut sent) = (committed_ids(client).await, sent_ids(&topic.records().await));
    // Without a key there is no order, but nothing may be lost either.
    for ids in [committed.get_mut(""), sent.get_mut("")].into_iter().flatten() {
        ids.sort_unstable();
    }
    order::check(&committed, &sent)
}

/// Three instances behind a supervisor that starts an ended one again, as systemd or Kubernetes would.
struct Fleet {
    settings: Vec<RelaySettings>,
    relays: Vec<Relay>,
    kills: usize,
    zombies: usize,
}

impl Fleet {
    async fn start(database: &TestDatabase, settings: impl Fn(RelaySettings) -> RelaySettings) -> Self {
        let settings: Vec<_> = ["a", "b", "c"]
            .map(|name| settings(RelaySettings::new(database, &parts().kafka).instance(name)))
            .into_iter()
            .collect();
        let relays = join_all(settings.iter().map(RelaySettings::start_ready)).await;
        Self { settings, relays, kills: 0, zombies: 0 }
    }

    fn name(n: usize) -> &'static str {
        ["a", "b", "c"][n]
    }

    /// SIGKILL in the middle of the work, and a new process at once.
    async fn kill(&mut self, client: &Client, n: usize) {
        wait_for_work(client, Self::name(n)).await;
        self.relays[n].kill().await;
        self.kills += 1;
        self.relays[n] = self.settings[n].start();
    }

    /// SIGSTOP in the middle of the work until others have its shards, then SIGCONT: the zombie must end with 75.
    async fn freeze(&mut self, client: &Client, n: usize) {
        wait_for_work(client, Self::name(n)).await;
        let owned = shards_of(client, Self::name(n)).await;
        self.relays[n].signal(Signal::Stop);
        wait_until("others took the shards of a frozen instance", Duration::from_secs(30), async || {
            let left: Vec<i16> = shards_of(client, Self::name(n)).await.intersection(&owned).copied().collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} of {owned:?} still belong to it")) }
        })
        .await;
        self.relays[n].signal(Signal::Continue);
        let code = self.relays[n].wait_for_exit(Duration::from_secs(20)).await;
        assert_eq!(code, Some(75), "a zombie says that it was fenced:\n{}", self.relays[n].log_text());
        self.zombies += 1;
        self.relays[n] = self.settings[n].start();
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

/// Waits until an instance has a batch in flight.
async fn wait_for_work(client: &Client, name: &str) {
    wait_until(&format!("{name} has a batch in flight"), Duration::from_secs(30), async || {
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

/// Inserts rows over 1,000 keys in transactions of 250, never more than 6,000 ahead of the relays, until there are
/// 30,000 and the faults are enough: a quick machine writes more meanwhile. Returns how many.
async fn write_until(database: &TestDatabase, topic: &Topic, enough: &AtomicBool) -> i64 {
    let client = database.connect().await;
    for batch in 0..MOST_BATCHES {
        if batch >= 120 && enough.load(Relaxed) {
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
/// Returns what Kafka has then, the kills and the zombies.
async fn faults_while_rows_are_relayed(delivery: &str) -> (Report, usize, usize) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("chaos"), Topic::create("chaos", 12));
    let client = database.connect().await;
    let deployment = unique("chaos");
    let mut fleet = Fleet::start(&database, |settings| {
        settings.set("relay.batch_rows", "200").set("relay.delivery", delivery).set("run.deployment", &deployment)
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
    // The faults stop, wherever they are, and it converges.
    for n in 0..3 {
        if !fleet.relays[n].is_running() {
            fleet.relays[n] = fleet.settings[n].start();
        }
        fleet.relays[n].signal(Signal::Continue);
    }
    // A frozen one that was woken here may have been fenced: the supervisor starts it again, so let the others finish.
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, rows);
    let Fleet { kills, zombies, .. } = fleet;
    assert!(kills >= 3 && zombies >= 2, "too few faults to show anything: {kills} {zombies}");
    assert_eq!(most_attempts(&client).await, 0, "a crash is not an attempt");
    let report = report(&client, &topic).await;
    println!("{delivery}, {kills} kills, {zombies} zombies: {report:?}");
    (report, kills, zombies)
}

/// Promises 1 and 2, and the bound of 3.
///
/// Promise: no-loss, key-order.
#[tokio::test]
async fn three_instances_killed_and_frozen_lose_nothing_and_keep_the_order_of_every_key() {
    let (report, kills, zombies) = faults_while_rows_are_relayed("at-least-once").await;
    report.expect_kept();
    // A crash sends at most one batch per shard again.
    let most = (kills + zombies + 1) * usize::try_from(SHARDS).unwrap() * 200;
    assert!(report.repeats <= most, "{} records repeated, at most {most} expected", report.repeats);
    // Only what the buffers of a woken zombie held may come late.
    assert!(report.late <= (zombies + 1) * 200 * 3, "{} late records", report.late);
}

/// The same faults in the other mode.
///
/// Promise: exactly-once.
#[tokio::test]
async fn three_instances_killed_and_frozen_repeat_nothing_in_exactly_once_delivery() {
    let (report, _, _) = faults_while_rows_are_relayed("exactly-once").await;
    report.expect_kept().expect_no_repeats();
}

/// Ids are drawn before the commit: rows with lower ids appear after higher ones were published. And 10 % never appear.
///
/// Promise: no-loss.
#[tokio::test]
async fn transactions_that_commit_late_or_roll_back_lose_nothing() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("late"), Topic::create("late", 6));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    // 20 writers, each with keys of its own: order per key is promised to writers that serialise per key.
    let writers = (0..20_i64).map(|writer| {
        let (database, topic) = (database.clone(), topic.clone());
        async move {
            let mut client = database.connect().await;
            let observer = database.connect().await;
            for round in 0..15_i64 {
                let transaction = client.transaction().await.expect("begin");
                let mut last = 0;
                for n in 0..5_i64 {
                    let key = format!("w{writer}-{}", n % 2);
                    let statement = NewRow::new(&topic.name, &key, "{}").statement();
                    last = transaction.query_one(&statement, &[]).await.expect("insert").get(0);
                }
                // Two thirds stay open until a higher id than theirs has been published.
                if (writer + round) % 3 != 0 {
                    wait_until("a later id was published", Duration::from_secs(30), async || {
                        let found = observer
                            .query_one(
                                "select coalesce(max(id), 0) from outbox_current where status = 'PUBLISHED'",
                                &[],
                            )
                            .await
                            .expect("the highest");
                        let highest: i64 = found.get(0);
                        if highest > last { Ok(()) } else { Err(format!("{highest} of {last}")) }
                    })
                    .await;
                }
                if (writer * 15 + round) % 10 == 0 {
                    transaction.rollback().await.expect("rollback");
                } else {
                    transaction.commit().await.expect("commit");
                }
            }
        }
    });
    // Someone always commits at once, so that there is a later id to wait for.
    let mut ticks = 0;
    let ticking = holds_for("someone commits at once", Duration::from_secs(300), async || {
        NewRow::new(&topic.name, "tick", "{}").insert(&client).await;
        ticks += 1;
        Ok(())
    });
    tokio::select! {
        _ = join_all(writers) => {}
        () = ticking => panic!("the writers take minutes"),
    }
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, ticks + 20 * 15 * 5 * 9 / 10);
    let report = report(&client, &topic).await;
    report.expect_kept().expect_no_repeats();
    assert_eq!(relay.metric("outbox_relay_sweep_found_below_watermark_total").await, 0.0);
    relay.expect_no_error_lines();
}

/// The scan bound may only pass ids that can no longer appear, for however long a transaction is open.
///
/// Promise: key-order.
#[tokio::test]
async fn a_transaction_that_stays_open_while_thousands_pass_is_not_forgotten() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("long"), Topic::create("long", 6));
    let mut writer = database.connect().await;
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).set("relay.lease", "5s").start_ready().await;
    let open = writer.transaction().await.expect("begin");
    let mut early = Vec::new();
    for n in 0..16 {
        // A row in every shard, with the lowest ids of all.
        let statement = NewRow::new(&topic.name, &format!("early-{n}"), "{}").statement();
        early.push(open.query_one(&statement, &[]).await.expect("insert").get::<_, i64>(0));
    }
    // Enough time and rows for the bound to have moved, if it would: it is looked at about once a second.
    for round in 0..8 {
        crate::support::outbox::insert_many(&client, &topic.name, 50, 500).await;
        let expected = (round + 1) * 500;
        wait_until("the others are published", Duration::from_secs(30), async || {
            let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
            if published == expected { Ok(()) } else { Err(format!("{published} of {expected}")) }
        })
        .await;
        holds_for("the bound stays below the open transaction", Duration::from_millis(600), async || {
            let low: i64 = client.query_one("select max(low_id) from outbox_shards", &[]).await.expect("low_id").get(0);
            if low <= early[0] { Ok(()) } else { Err(format!("low_id is {low}, id {} is not committed", early[0])) }
        })
        .await;
    }
    open.commit().await.expect("commit");
    for id in &early {
        wait_for_status(&client, *id, "PUBLISHED").await;
    }
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    // And then the bound follows, though the lanes have nothing to do any more: everybody who looks for work begins at
    // it.
    wait_until("the bound passes what was published", Duration::from_secs(30), async || {
        let behind = "select count(*) from outbox_events e join outbox_shards s using (shard) where e.id >= s.low_id";
        let behind: i64 = client.query_one(behind, &[]).await.expect("a count").get(0);
        if behind == 0 { Ok(()) } else { Err(format!("{behind} rows at or above it")) }
    })
    .await;
    assert_eq!(relay.metric("outbox_relay_sweep_found_below_watermark_total").await, 0.0);
    let epoch = client.query_one("select max(epoch) from outbox_shards", &[]).await.expect("epoch");
    assert_eq!(epoch.get::<_, i64>(0), 1, "its leases were renewed all the time");
}

/// Should the bound pass a row all the same, through a fault of ours, the row is found, sent and reported.
#[tokio::test]
async fn a_row_below_the_scan_bound_is_found_by_the_sweep() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("sweep"), Topic::create("sweep", 1));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    // Below the last id drawn, since a bound above it would say that ids began again.
    let late = database.connect().await;
    late.batch_execute("begin").await.expect("begin");
    let id = NewRow::new(&topic.name, "k", "{}").insert(&late).await;
    for n in 0..10 {
        let other = NewRow::new(&topic.name, &format!("other-{n}"), "{}").insert(&client).await;
        wait_for_status(&client, other, "PUBLISHED").await;
    }
    client.execute("update outbox_shards set low_id = $1", &[&(id + 5)]).await.expect("update");
    late.batch_execute("commit").await.expect("commit");
    // Half a minute lies between two sweeps.
    wait_until("the row is published", Duration::from_secs(60), async || {
        let row = row(&client, id).await;
        if row.status == "PUBLISHED" { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    assert_eq!(relay.metric("outbox_relay_sweep_found_below_watermark_total").await, 1.0);
}

#[tokio::test]
async fn a_delayed_row_holds_its_key_until_it_is_due_and_nobody_else() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("delayed"), Topic::create("delayed", 6));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    let row_of = |key: &str| NewRow::new(&topic.name, key, "{}");
    let before = row_of("late").insert(&client).await;
    let delayed = row_of("late").sql("available_at", "now() + interval '4 seconds'").insert(&client).await;
    let after = row_of("late").insert(&client).await;
    let keyless = NewRow::new(&topic.name, "", "{}").without("aggregate_id");
    let delayed_keyless = keyless.clone().sql("available_at", "now() + interval '4 seconds'").insert(&client).await;
    let mut others = vec![before, keyless.insert(&client).await];
    for n in 0..30 {
        others.push(row_of(&format!("other-{n}")).insert(&client).await);
    }
    for id in others {
        wait_for_status(&client, id, "PUBLISHED").await;
    }
    for id in [delayed, after, delayed_keyless] {
        assert_ne!(row(&client, id).await.status, "PUBLISHED", "it is not due");
    }
    for id in [delayed, after, delayed_keyless] {
        let row = wait_for_status(&client, id, "PUBLISHED").await;
        assert_eq!((row.retry_count, row.last_error), (0, None));
    }
    let early = client
        .query_one("select count(*) from outbox_current where published_at < available_at", &[])
        .await
        .expect("rows that were published early");
    assert_eq!(early.get::<_, i64>(0), 0);
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    let held: i64 = client.query_one("select count(*) from outbox_held_keys", &[]).await.expect("held keys").get(0);
    assert_eq!(held, 0, "nothing is held any more");
    relay.expect_no_error_lines();
}

/// Rows that arrive while their key waits queue up behind it, also over a restart of the relay.
#[tokio::test]
async fn rows_behind_a_delayed_row_keep_their_order_over_a_restart() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("delayed-restart"), Topic::create("delayed", 1));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka).set("relay.batch_rows", "7");
    let mut relay = settings.start_ready().await;
    let row_of = |key: &str| NewRow::new(&topic.name, key, "{}");
    let first = row_of("k").sql("available_at", "now() + interval '5 seconds'").insert(&client).await;
    for _ in 0..20 {
        row_of("k").insert(&client).await;
    }
    wait_until("the rows behind it are held", Duration::from_secs(20), async || {
        let counts = counts(&client).await;
        if counts.get("HELD").is_some_and(|held| *held >= 20) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    relay.terminate().await;
    for _ in 0..20 {
        row_of("k").insert(&client).await;
    }
    let _relay = settings.start_ready().await;
    wait_for_status(&client, first, "PUBLISHED").await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 41);
    report(&client, &topic).await.expect_kept().expect_no_repeats();
}

/// Waits until the instances named share all shards as evenly as can be.
async fn wait_for_shares(client: &Client, shares: &[(&str, i64)], limit: Duration) {
    let expected: BTreeMap<String, i64> = shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    wait_until(&format!("the shards are shared as {expected:?}"), limit, async || {
        let found = leases(client).await;
        let mut counts: Vec<i64> = found.values().copied().collect();
        counts.sort_unstable();
        let mut wanted: Vec<i64> = expected.values().copied().collect();
        wanted.sort_unstable();
        if found.keys().eq(expected.keys()) && counts == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn instances_share_the_shards_evenly_and_a_third_gets_its_share() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("share"), Topic::create("share", 6));
    let client = database.connect().await;
    let settings = |name: &str| RelaySettings::new(&database, &parts().kafka).instance(name);
    let mut a = settings("a").start_ready().await;
    wait_for_shares(&client, &[("a", 8)], Duration::from_secs(20)).await;
    let b = settings("b").start_ready().await;
    wait_for_shares(&client, &[("a", 4), ("b", 4)], Duration::from_secs(20)).await;
    let c = settings("c").start_ready().await;
    wait_for_shares(&client, &[("a", 3), ("b", 3), ("c", 2)], Duration::from_secs(20)).await;
    // Under load, and one that leaves in order is followed at once.
    crate::support::outbox::insert_many(&client, &topic.name, 100, 5_000).await;
    a.terminate().await;
    wait_for_shares(&client, &[("b", 4), ("c", 4)], Duration::from_secs(5)).await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 5_000);
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    for relay in [&a, &b, &c] {
        relay.expect_no_error_lines();
    }
}
