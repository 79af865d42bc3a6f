//! SIGTERM and SIGINT: the batch in hand is finished, the leases are given back, and a stop is never an attempt.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{NewRow, PrivateKafka, Signal, TestDatabase, Topic, order, parts::parts, wait_until};

async fn wait_for_published(client: &Client, at_least: i64) {
    wait_until(&format!("{at_least} rows are published"), Duration::from_secs(60), async || {
        let counts = counts(client).await;
        let published = counts.get("PUBLISHED").copied().unwrap_or(0);
        if published >= at_least { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// Promise: at-least-once.
#[tokio::test]
async fn sigterm_under_load_repeats_nothing_and_gives_back_the_leases() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("sigterm"), Topic::create("sigterm", 6));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 500, 200_000).await;
    let settings = || RelaySettings::new(&database, &parts().kafka).steady();
    // Small batches, so that a fast machine has not finished before it is stopped: with 50 rows and a watermark one
    // had.
    let slow = settings().set("relay.batch_rows", "10");
    for round in 1..=3 {
        let mut relay = slow.start_ready().await;
        wait_for_published(&client, round * 2_000).await;
        relay.terminate().await;
        // By the shards: the instance itself is off the list, whatever it still owns.
        let state = "select count(owner), count(batch_ids) from outbox_shards";
        let state = client.query_one(state, &[]).await.expect("shards");
        assert_eq!(state.get::<_, i64>(0), 0, "leases are given back");
        assert_eq!(state.get::<_, i64>(1), 0, "every batch was settled");
        relay.expect_no_error_lines();
        let left = counts(&client).await.get("PENDING").copied().unwrap_or(0);
        assert!(left > 0, "it must have been stopped in the middle of the work; make the load larger");
    }
    let _relay = settings().start_ready().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 200_000);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    assert_eq!(most_attempts(&client).await, 0);
}

/// The successor need not wait for the lease to run out: with the default of 15 s that would be an outage per
/// deployment.
///
/// Promise: stops.
#[tokio::test]
async fn a_successor_takes_over_at_once_after_a_sigterm() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("successor"), Topic::create("successor", 6));
    let client = database.connect().await;
    let settings = |name: &str| {
        RelaySettings::new(&database, &parts().kafka)
            .set("relay.lease", "10m")
            .set("relay.poll_max", "100ms")
            .instance(name)
    };
    let mut first = settings("first").start_ready().await;
    wait_until("the first has all shards", Duration::from_secs(20), async || {
        let leases = leases(&client).await;
        if leases.get("first") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    let _second = settings("second").start_ready().await;
    first.terminate().await;
    wait_until("the second has all shards", Duration::from_secs(20), async || {
        let leases = leases(&client).await;
        if leases.get("second") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    for n in 0..20 {
        NewRow::new(&topic.name, &format!("k{n}"), "{}").insert(&client).await;
    }
    wait_for_published(&client, 20).await;
}

/// What is in flight cannot be acknowledged: it stays PENDING, unmarked, and the process ends in time all the same.
///
/// Promise: stops.
#[tokio::test]
async fn sigterm_while_kafka_is_away_ends_in_time_and_marks_nothing() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("sigterm-away"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "away", 3).await;
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("run.shutdown_timeout", "3s");
    let mut relay = settings.start_ready().await;
    insert_many(&client, &topic.name, 10, 100).await;
    wait_for_published(&client, 100).await;
    kafka.pause().await;
    insert_many(&client, &topic.name, 10, 100).await;
    wait_until("a batch is in flight", Duration::from_secs(20), async || {
        let busy = client.query_one("select count(*) from outbox_shards where batch_ids is not null", &[]).await;
        if busy.expect("shards").get::<_, i64>(0) > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    // Kafka does not answer before it has ended.
    relay.terminate().await;
    let rows = counts(&client).await;
    assert_eq!((rows.get("PUBLISHED"), rows.get("PENDING")), (Some(&100), Some(&100)), "{rows:?}");
    assert_eq!(most_attempts(&client).await, 0, "a stop is not an attempt");

    kafka.resume().await;
    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 200);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("second-signal"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "second", 1).await;
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("run.shutdown_timeout", "10m");
    let mut relay = settings.start_ready().await;
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_for_published(&client, 1).await;
    kafka.pause().await;
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_until("a batch is in flight", Duration::from_secs(20), async || {
        let busy = client.query_one("select count(*) from outbox_shards where batch_ids is not null", &[]).await;
        if busy.expect("shards").get::<_, i64>(0) > 0 {
            return Ok(());
        }
        Err(format!("none; {:?}", counts(&client).await))
    })
    .await;
    relay.signal(Signal::Terminate);
    relay.wait_for_log("stopping after the current work").await;
    relay.signal(Signal::Terminate);
    let code = relay.wait_for_exit(Duration::from_secs(20)).await;
    assert_ne!(code, Some(0), "what was in hand was given up");
}
