//! Order per key and nothing lost, whatever happens to the instances and however transactions commit.

mod faults;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::order::{self, Report};
use crate::support::outbox::{committed_ids, counts, make_due, row, wait_for_status, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{NewRow, TestDatabase, Topic, holds_for, parts::parts, wait_until};

/// What Kafka has against what was committed.
async fn report(client: &Client, topic: &Topic) -> Report {
    let (mut committed, mut sent) = (committed_ids(client).await, sent_ids(&topic.records().await));
    // Without a key there is no order, but nothing may be lost either.
    for ids in [committed.get_mut(""), sent.get_mut("")].into_iter().flatten() {
        ids.sort_unstable();
    }
    order::check(&committed, &sent)
}

/// Ids are drawn before the commit: rows with lower ids appear after higher ones were published. And 10 % never appear.
///
/// Promise: no-loss.
#[tokio::test]
async fn transactions_that_commit_late_or_roll_back_lose_nothing() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("late"), Topic::create("late", 6));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
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
    let ticking = holds_for("someone commits at once", Duration::from_secs(900), async || {
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
    let relay = RelaySettings::new(&database, &parts().kafka).set("relay.lease", "20s").start_ready().await;
    let leases_end = "select extract(epoch from min(lease_until))::bigint from outbox_shards";
    let mut first_end = i64::MAX;
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
        if round == 0 {
            first_end = client.query_one(leases_end, &[]).await.expect("leases").get(0);
        }
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
    wait_until("its leases are renewed", Duration::from_secs(30), async || {
        let end: i64 = client.query_one(leases_end, &[]).await.expect("leases").get(0);
        if end > first_end + 3 { Ok(()) } else { Err(format!("they end at {end}, as they began {first_end}")) }
    })
    .await;
    let epoch = client.query_one("select max(epoch) from outbox_shards", &[]).await.expect("epoch");
    assert_eq!(epoch.get::<_, i64>(0), 1, "none of them was lost");
}

/// Should the bound pass a row all the same, through a fault of ours, the row is found, sent and reported.
#[tokio::test]
async fn a_row_below_the_scan_bound_is_found_by_the_sweep() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("sweep"), Topic::create("sweep", 1));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
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
    // It is done in intervals.
    wait_until("the row is published", Duration::from_secs(60), async || {
        let row = row(&client, id).await;
        if row.status == "PUBLISHED" { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    // It is counted a moment after the row can be claimed.
    relay.wait_for_metric("outbox_relay_sweep_found_below_watermark_total", |found| found == 1.0).await;
}

#[tokio::test]
async fn a_delayed_row_holds_its_key_until_it_is_due_and_nobody_else() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("delayed"), Topic::create("delayed", 6));
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    let row_of = |key: &str| NewRow::new(&topic.name, key, "{}");
    let before = row_of("late").insert(&client).await;
    let delayed = row_of("late").sql("available_at", "now() + interval '1 hour'").insert(&client).await;
    let after = row_of("late").insert(&client).await;
    let keyless = NewRow::new(&topic.name, "", "{}").without("aggregate_id");
    let delayed_keyless = keyless.clone().sql("available_at", "now() + interval '1 hour'").insert(&client).await;
    let mut others = vec![before, keyless.insert(&client).await];
    for n in 0..30 {
        others.push(row_of(&format!("other-{n}")).insert(&client).await);
    }
    for id in others {
        wait_for_status(&client, id, "PUBLISHED").await;
    }
    for id in [delayed, after, delayed_keyless] {
        wait_for_status(&client, id, "HELD").await;
    }
    for id in [delayed, delayed_keyless] {
        make_due(&client, id).await;
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
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.batch_rows", "7");
    let mut relay = settings.start_ready().await;
    let row_of = |key: &str| NewRow::new(&topic.name, key, "{}");
    let first = row_of("k").sql("available_at", "now() + interval '1 hour'").insert(&client).await;
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
    make_due(&client, first).await;
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
    let settings = |name: &str| RelaySettings::new(&database, &parts().kafka).set("relay.lease", "10m").instance(name);
    let mut a = settings("a").start_ready().await;
    wait_for_shares(&client, &[("a", 8)], Duration::from_secs(20)).await;
    let b = settings("b").start_ready().await;
    wait_for_shares(&client, &[("a", 4), ("b", 4)], Duration::from_secs(20)).await;
    let c = settings("c").start_ready().await;
    wait_for_shares(&client, &[("a", 3), ("b", 3), ("c", 2)], Duration::from_secs(20)).await;
    // Under load, and one that leaves in order is followed at once, long before its lease would be over.
    crate::support::outbox::insert_many(&client, &topic.name, 100, 5_000).await;
    a.terminate().await;
    wait_for_shares(&client, &[("b", 4), ("c", 4)], Duration::from_secs(20)).await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 5_000);
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    for relay in [&a, &b, &c] {
        relay.expect_no_error_lines();
    }
}
