//! Kafka or PostgreSQL away: nothing is lost, no event's attempts are used up, memory stays flat, nobody has to act.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::acl::{Operation, forbid, strict_kafka};
use crate::support::kafka::sent_ids;
use crate::support::order::{self, Report};
use crate::support::outbox::{
    committed_ids, counts, insert_many, most_attempts, row, try_counts, wait_for_status, wait_until_published,
};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, PrivateKafka, PrivatePostgres, StopMode, TestDatabase, Topic, holds_for, http, parts::parts, repeats,
    side_by_side, unique, wait_until,
};

async fn report(client: &Client, topic: &Topic) -> Report {
    order::check(&committed_ids(client).await, &sent_ids(&topic.records().await))
}

/// First an orderly stop and an outage of twice `publish_timeout` while applications go on inserting, then a crash and
/// a pause.
///
/// Promise: outages, memory.
#[tokio::test]
async fn a_long_time_without_kafka_costs_no_event_an_attempt_and_no_memory() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("no-kafka"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "no-kafka", 6).await;
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("relay.publish_timeout", "20s");
    let relay = settings.start_ready().await;
    // Warm: the relay has sent what an outage will also make it hold in memory.
    insert_many(&client, &topic.name, 100, 20_000).await;
    wait_until_published(&database, Duration::from_secs(60)).await;
    let before = relay.resident_bytes();

    insert_many(&client, &topic.name, 100, 5_000).await;
    kafka.stop(StopMode::Orderly).await;
    insert_many(&client, &topic.name, 100, 5_000).await;
    relay.wait_for_readiness(503, "").await;
    let mut most = 0;
    let mut inserted = 30_000;
    let mut looked = Instant::now();
    holds_for("the relay waits", Duration::from_secs(40), async || {
        // To count rows at every look would starve the tests beside this one.
        if looked.elapsed() < Duration::from_millis(500) {
            return Ok(());
        }
        looked = Instant::now();
        // Applications know nothing of the outage.
        if inserted < 60_000 {
            insert_many(&client, &topic.name, 100, 1_000).await;
            inserted += 1_000;
        }
        most = most.max(relay.resident_bytes());
        let (attempts, counts) = (most_attempts(&client).await, counts(&client).await);
        let waits = attempts == 0 && counts.keys().all(|status| status == "PENDING" || status == "PUBLISHED");
        if waits { Ok(()) } else { Err(format!("retry_count {attempts}, {counts:?}")) }
    })
    .await;
    // One of PostgreSQL and Kafka is up.
    relay.wait_for_metric("outbox_relay_component_up", |up| up == 1.0).await;
    kafka.start_again().await;
    relay.wait_for_readiness(200, "").await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, inserted);

    // A crash and a pause while it sends.
    insert_many(&client, &topic.name, 100, 10_000).await;
    kafka.stop(StopMode::Crash).await;
    kafka.start_again().await;
    insert_many(&client, &topic.name, 100, 10_000).await;
    kafka.pause().await;
    holds_for("the relay waits", Duration::from_secs(4), async || {
        let attempts = most_attempts(&client).await;
        if attempts == 0 { Ok(()) } else { Err(format!("retry_count {attempts}")) }
    })
    .await;
    kafka.resume().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, inserted + 20_000);

    let report = report(&client, &topic).await;
    println!("memory {} MiB before, {} MiB at most; {report:?}", before >> 20, most >> 20);
    report.expect_kept().expect_no_late_repeats();
    assert!(most < before + (24 << 20), "memory grew from {before} to {most} bytes during the outage");
    assert_eq!(most_attempts(&client).await, 0, "an outage is not an attempt");
}

/// Promise: no-loss.
#[tokio::test]
async fn postgresql_restarted_and_crashed_under_load_loses_nothing() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) =
        tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("postgres-restart", 6));
    let settings = RelaySettings::new(&database, &parts().kafka).set("relay.batch_rows", "200");
    // Long enough for a restart. With less, the lanes lose their leases and repeat what was in flight.
    let mut relay = settings.steady().start_ready().await;
    let mut expected = 0;
    for mode in [StopMode::Orderly, StopMode::Crash, StopMode::Crash] {
        let client = database.reconnect().await;
        insert_many(&client, &topic.name, 200, 15_000).await;
        expected += 15_000;
        // In the middle of the work.
        wait_until("it works on them", Duration::from_secs(60), async || {
            let published = try_counts(&client).await.map_err(|error| error.to_string())?.get("PUBLISHED").copied();
            let published = published.unwrap_or(0);
            if published > expected - 14_000 { Ok(()) } else { Err(format!("{published} of {expected}")) }
        })
        .await;
        drop(client);
        postgres.restart(mode).await;
    }
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, expected);
    let client = database.reconnect().await;
    let report = report(&client, &topic).await;
    println!("{report:?}");
    // The relay went on all the time and knows what was acknowledged.
    report.expect_kept().expect_no_repeats();
    assert_eq!(most_attempts(&client).await, 0, "an outage is not an attempt");
    assert!(relay.is_running(), "the relay goes on");
}

/// The leases run out and nobody can renew them. No other instance took the shards, so nobody is fenced: it goes on.
#[tokio::test]
async fn postgresql_away_for_longer_than_a_lease_ends_no_relay() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("postgres-away", 6));
    let settings = RelaySettings::new(&database, &parts().kafka).set("relay.batch_rows", "200");
    let mut relay = settings.start_ready().await;
    let client = database.connect().await;
    insert_many(&client, &topic.name, 200, 15_000).await;
    wait_until("it works on them", Duration::from_secs(60), async || {
        let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
        if published > 1_000 { Ok(()) } else { Err(format!("{published} published")) }
    })
    .await;
    drop(client);
    postgres.stop(StopMode::Crash).await;
    relay.wait_for_readiness(503, "").await;
    holds_for("it waits and lives", Duration::from_secs(8), async || {
        if !relay.is_running() {
            return Err(relay.log_text());
        }
        match http::get(relay.admin(), "/livez").await? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("/livez says {status} {body}")),
        }
    })
    .await;
    postgres.start_again().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 15_000);
    let client = database.reconnect().await;
    let report = report(&client, &topic).await;
    println!("{report:?}");
    report.expect_kept().expect_no_late_repeats();
    // What was in flight is sent again by whoever has the lease next.
    let allowed = repeats::allowed_by(&relay.log_text(), 200, false);
    assert!(report.repeats <= allowed, "{} repeats, {allowed} are allowed", report.repeats);
    assert_eq!(most_attempts(&client).await, 0, "an outage is not an attempt");
    relay.wait_for_readiness(200, "").await;
}

/// A new service is deployed before its topic: its rows wait, without an attempt.
///
/// Promise: outages.
#[tokio::test]
async fn a_topic_created_long_after_its_first_row_gets_every_row_in_order() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("late-topic"), Topic::create("other", 3));
    let client = database.connect().await;
    let late = Topic::planned("late-topic");
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.unknown_topic_grace", "10m");
    let mut relay = settings.start_ready().await;
    for n in 0..50 {
        NewRow::new(&late.name, &format!("k{}", n % 5), "{}").insert(&client).await;
    }
    let first = client.query_one("select min(id) from outbox_events", &[]).await.expect("the first").get(0);
    let mut others = 0;
    holds_for("the rows wait without an attempt", Duration::from_secs(12), async || {
        NewRow::new(&topic.name, &format!("o{others}"), "{}").insert(&client).await;
        others += 1;
        let row = row(&client, first).await;
        let waits = (row.status == "PENDING" || row.status == "HELD") && row.retry_count == 0;
        if waits { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    let late = late.created(3).await;
    wait_for_status(&client, first, "PUBLISHED").await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    assert_eq!(most_attempts(&client).await, 0);
    let sent = sent_ids(&[late.records().await, topic.records().await].concat());
    order::check(&committed_ids(&client).await, &sent).expect_kept().expect_no_repeats();
    assert!(relay.is_running());
}

/// Started in the wrong order, or with both servers down: it waits and says so, and begins when they come. When it has
/// nothing to do it notices all the same that Kafka goes.
#[tokio::test]
async fn a_relay_begins_when_its_servers_come_and_notices_when_kafka_goes() {
    let (postgres, kafka) = tokio::join!(PrivatePostgres::start(), PrivateKafka::prepared());
    let topic = Topic { name: unique("early"), bootstrap: kafka.bootstrap.clone() };
    let database = TestDatabase::migrated_at(&postgres.url).await;
    NewRow::new(&topic.name, "k", "{}").insert(&database.connect().await).await;
    postgres.stop(StopMode::Crash).await;
    let relay = RelaySettings::new(&database, &kafka.bootstrap).set("relay.unknown_topic_grace", "10m").start();
    relay.wait_for_readiness(503, "").await;
    assert_eq!(http::get(relay.admin(), "/livez").await.expect("an answer").0, 200);
    postgres.start_again().await;
    kafka.start_again().await;
    topic.created(1).await;
    relay.wait_for_readiness(200, "").await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 1);
    kafka.stop(StopMode::Crash).await;
    relay.wait_for_readiness(503, "").await;
}

/// A topic that somebody deletes and makes again is an outage of that topic: its rows wait, and cost no attempts.
#[tokio::test]
async fn a_topic_deleted_while_it_is_used_and_made_anew_gets_the_rows_that_waited() {
    side_by_side(["at-least-once", "exactly-once"], async |delivery| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("deleted"), Topic::create("deleted", 3));
        let client = database.connect().await;
        let relay = RelaySettings::new(&database, &parts().kafka)
            .set("relay.delivery", delivery)
            .set("run.deployment", &unique("deleted"))
            .set("relay.unknown_topic_grace", "10m")
            .steady()
            .start_ready()
            .await;
        insert_many(&client, &topic.name, 10, 100).await;
        wait_until_published(&database, Duration::from_secs(60)).await;
        topic.delete().await;
        insert_many(&client, &topic.name, 10, 100).await;
        let ids = "select id from outbox_current where status in ('PENDING', 'HELD') order by id";
        let waiting: Vec<i64> = client.query(ids, &[]).await.expect("ids").iter().map(|row| row.get(0)).collect();
        assert_eq!(waiting.len(), 100, "they wait");
        let topic = topic.created(3).await;
        assert_eq!(wait_until_published(&database, Duration::from_secs(120)).await, 200);
        let mut sent: Vec<i64> = topic.records().await.iter().map(crate::support::Record::outbox_id).collect();
        sent.sort_unstable();
        assert_eq!(sent, waiting, "{delivery}: what was inserted after the end of the first topic, each once");
        assert_eq!(most_attempts(&client).await, 0);
        drop(relay);
    })
    .await;
}

/// Keys move when partitions are added, which is how Kafka is. Nothing else happens: no loss, no repeat, and within a
/// partition the order of each key stays.
#[tokio::test]
async fn partitions_added_while_events_flow_lose_and_repeat_nothing() {
    side_by_side(["at-least-once", "exactly-once"], async |delivery| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("grown"), Topic::create("grown", 3));
        let client = database.connect().await;
        let _relay = RelaySettings::new(&database, &parts().kafka)
            .set("relay.delivery", delivery)
            .set("relay.batch_rows", "50")
            .steady()
            .set("run.deployment", &unique("grown"))
            .file("[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = \"500\"\n")
            .start_ready()
            .await;
        let mut written = 0;
        insert_many(&client, &topic.name, 50, 500).await;
        wait_until_published(&database, Duration::from_secs(60)).await;
        topic.grow(6).await;
        wait_until("a new partition is used", Duration::from_secs(60), async || {
            insert_many(&client, &topic.name, 50, 200).await;
            written += 200;
            let used = "select count(*) from outbox_events where published_partition >= 3";
            let used: i64 = client.query_one(used, &[]).await.expect("partitions").get(0);
            if used > 0 { Ok(()) } else { Err(format!("{written} rows since")) }
        })
        .await;
        let written = usize::try_from(wait_until_published(&database, Duration::from_secs(60)).await).expect("a few");
        let mut last = HashMap::new();
        let mut sent = HashSet::new();
        for record in topic.records().await {
            let (key, id) = (record.key_text().expect("a key").to_owned(), record.outbox_id());
            assert!(sent.insert(id), "{delivery}: {id} was sent twice");
            let before = last.insert((record.partition, key.clone()), id).unwrap_or(0);
            assert!(before < id, "{delivery}: {id} came behind {before} of key {key}");
        }
        assert_eq!(sent.len(), written, "{delivery}");
        assert_eq!(most_attempts(&client).await, 0, "{delivery}");
    })
    .await;
}

/// A grant that is missing on one topic makes the keys of its events wait, however many, and nobody else; after the
/// grant they follow in order, with no attempt counted. `known`: the relay has written to the topic before.
async fn a_missing_grant(delivery: &str, known: bool) {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("denied"), strict_kafka());
    let (denied, free) =
        (Topic::create_on(&kafka.bootstrap, "denied", 3).await, Topic::create_on(&kafka.bootstrap, "free", 3).await);
    let client = database.connect().await;
    let relay = RelaySettings::new(&database, &kafka.bootstrap)
        .set("relay.delivery", delivery)
        .set("run.deployment", &unique("denied"))
        .set("relay.batch_rows", "100")
        .steady()
        .start_ready()
        .await;
    if known {
        insert_many(&client, &denied.name, 20, 100).await;
        wait_until_published(&database, Duration::from_secs(60)).await;
    }
    forbid(&denied, Operation::All, true).await;
    // More than a batch of every shard, and the others come after them.
    insert_many(&client, &denied.name, 20, 4_000).await;
    let others = async |up_to: i64| {
        let insert = "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
                      select 'Order', 'free-' || n % 40, 'OrderCreatedEvent', $1, '{}' from generate_series(1, 1000) n";
        client.execute(insert, &[&free.name]).await.expect("an insert");
        wait_until("the others are published", Duration::from_secs(60), async || {
            let query = "select count(*) from outbox_current where topic = $1 and status = 'PUBLISHED'";
            let published: i64 = client.query_one(query, &[&free.name]).await.expect("a count").get(0);
            if published == up_to { Ok(()) } else { Err(format!("{published}")) }
        })
        .await;
    };
    others(1_000).await;
    wait_until("all keys of the topic wait for it", Duration::from_secs(60), async || {
        let query = "select count(*) from outbox_held_keys where reason = 'denied' and topic = $1";
        let held: i64 = client.query_one(query, &[&denied.name]).await.expect("a count").get(0);
        if held == 20 { Ok(()) } else { Err(format!("{held}, {:?}", counts(&client).await)) }
    })
    .await;
    assert_eq!(counts(&client).await.get("FAILED"), None);
    others(2_000).await;
    if known {
        relay.wait_for_metric("outbox_relay_publish_failures_total", |failures| failures > 0.0).await;
    }

    forbid(&denied, Operation::All, false).await;
    wait_until_published(&database, Duration::from_secs(60)).await;
    let sent = sent_ids(&[denied.records().await, free.records().await].concat());
    let report = order::check(&committed_ids(&client).await, &sent);
    report.expect_kept().expect_no_late_repeats();
    if delivery == "exactly-once" {
        report.expect_no_repeats();
    }
    assert_eq!(most_attempts(&client).await, 0, "a grant that is missing is no attempt");
}

#[tokio::test]
async fn a_topic_that_must_not_be_written_to_delays_its_own_keys_alone() {
    a_missing_grant("at-least-once", true).await;
}

#[tokio::test]
async fn a_topic_that_must_not_be_written_to_delays_its_own_keys_alone_in_exactly_once_delivery() {
    a_missing_grant("exactly-once", true).await;
}

#[tokio::test]
async fn a_topic_that_must_not_be_seen_delays_its_own_keys_alone() {
    a_missing_grant("at-least-once", false).await;
}
