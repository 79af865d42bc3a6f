//! Exactly-once delivery, for readers with `read_committed`. `ordering.rs` has it under kills and stalls,
//! `failpoints.rs` at each step.

use std::time::Duration;

use crate::support::kafka::{Isolation, sent_ids};
use crate::support::order;
use crate::support::outbox::{
    committed_ids, counts, insert_many, most_attempts, wait_for_status, wait_until_published,
};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{
    NewRow, PrivateKafka, PrivatePostgres, StopMode, TestDatabase, Topic, parts::parts, repeats, side_by_side, unique,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A relay in exactly-once delivery, with markers of its own.
fn exactly_once(database: &TestDatabase, bootstrap: &str, deployment: &str) -> RelaySettings {
    let settings = RelaySettings::new(database, bootstrap).steady();
    settings.set("relay.delivery", "exactly-once").set("run.deployment", deployment)
}

async fn expect_each_once(database: &TestDatabase, topic: &Topic) {
    let client = database.connect().await;
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    assert_eq!(most_attempts(&client).await, 0);
}

#[tokio::test]
async fn rows_are_published_in_transactions_and_settled_with_their_place() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos"), Topic::create("eos", 6));
    let client = database.connect().await;
    let mut relay = exactly_once(&database, &parts().kafka, &unique("eos")).start_ready().await;
    insert_many(&client, &topic.name, 100, 3_000).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 3_000);
    let unplaced = "select count(*) from outbox_events where published_partition is null or published_offset is null";
    assert_eq!(client.query_one(unplaced, &[]).await.unwrap().get::<_, i64>(0), 0);
    // A transaction ends with a record of Kafka's own, so offsets have holes.
    let places = "select published_partition, published_offset, id from outbox_events";
    let rows = client.query(places, &[]).await.unwrap();
    let mut marked: Vec<(i32, i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let mut found: Vec<(i32, i64, i64)> =
        topic.records().await.iter().map(|record| (record.partition, record.offset, record.outbox_id())).collect();
    marked.sort_unstable();
    found.sort_unstable();
    assert_eq!(marked, found);
    // Each shard was opened.
    relay.wait_for_metric("outbox_relay_opens_total", |opens| opens >= 8.0).await;
    relay.terminate().await;
    expect_each_once(&database, &topic).await;
    relay.expect_no_error_lines();
}

/// Both sides crash while a backlog is relayed, more than once.
///
/// Promise: exactly-once.
#[tokio::test]
async fn crashes_of_postgresql_and_kafka_repeat_nothing() {
    let (postgres, kafka) = tokio::join!(PrivatePostgres::start(), PrivateKafka::start());
    let (database, topic) =
        tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create_on(&kafka.bootstrap, "eos-crashes", 6));
    let settings = exactly_once(&database, &kafka.bootstrap, "crashes").set("relay.batch_rows", "20");
    let mut relay = settings.start_ready().await;
    let pending_is_below = async |limit: i64| {
        wait_until(&format!("less than {limit} rows wait"), PATIENCE, async || {
            let client = database.try_connect().await.map_err(|error| error.to_string())?;
            let counts = crate::support::outbox::try_counts(&client).await.map_err(|error| error.to_string())?;
            let pending = counts.get("PENDING").copied().unwrap_or(0);
            if pending < limit { Ok(()) } else { Err(format!("{pending}")) }
        })
        .await;
    };
    for round in 0..2 {
        insert_many(&database.reconnect().await, &topic.name, 200, 1_600).await;
        pending_is_below(1_400).await;
        postgres.restart(StopMode::Crash).await;
        pending_is_below(1_000).await;
        kafka.stop(StopMode::Crash).await;
        kafka.start_again().await;
        pending_is_below(600).await;
        if round == 1 {
            kafka.pause().await;
            relay.kill().await;
            kafka.resume().await;
            relay = settings.start();
        }
    }
    assert_eq!(wait_until_published(&database, PATIENCE).await, 3_200);
    expect_each_once(&database, &topic).await;
    relay.terminate().await;
}

/// A row that only the broker can refuse, in the middle of a batch: its transaction is aborted, its key held, and
/// everybody else is published once and in order.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_record_that_the_broker_refuses_fails_alone_and_its_batch_is_sent_once() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos-refused"), Topic::create("eos-refused", 1));
    let client = database.connect().await;
    let relay = exactly_once(&database, &parts().kafka, &unique("eos-refused")).start_ready().await;
    // The relay learns the limit of the topic with the first row. Afterwards it is lowered.
    let first = NewRow::new(&topic.name, "first", "{}").insert(&client).await;
    wait_for_status(&client, first, "PUBLISHED").await;
    topic.set("max.message.bytes", "2000").await;
    let incompressible = |bytes: usize| {
        let hex = "string_agg(md5(n::text || random()::text), '')";
        format!("(select jsonb_build_object('x', {hex}) from generate_series(1, {}) n)", bytes / 32)
    };
    let mut transaction = database.connect().await;
    let batch = transaction.transaction().await.expect("begin");
    let mut good = Vec::new();
    let (mut bad, mut behind) = (0, 0);
    for n in 0..20 {
        if n == 10 {
            let row = NewRow::new(&topic.name, "bad", "{}").sql("payload", &incompressible(8_000)).statement();
            bad = batch.query_one(&row, &[]).await.expect("insert").get(0);
            let row = NewRow::new(&topic.name, "bad", "{}").statement();
            behind = batch.query_one(&row, &[]).await.expect("insert").get(0);
        }
        let row = NewRow::new(&topic.name, &format!("good-{}", n % 3), "{}").statement();
        good.push(batch.query_one(&row, &[]).await.expect("insert").get::<_, i64>(0));
    }
    batch.commit().await.expect("commit");
    for id in &good {
        wait_for_status(&client, *id, "PUBLISHED").await;
    }
    let failed = wait_for_status(&client, bad, "FAILED").await;
    assert!(failed.last_error.as_deref().is_some_and(|text| text.starts_with("too-large")), "{failed:?}");
    wait_for_status(&client, behind, "HELD").await;
    let sent = sent_ids(&topic.records().await);
    let mut committed = committed_ids(&client).await;
    committed.remove("bad");
    order::check(&committed, &sent).expect_kept().expect_no_repeats();
    assert!(topic.read(Isolation::ReadUncommitted).await.len() >= 21);
    drop(relay);
}

/// The modes follow each other on one outbox, each time over a SIGKILL with batches in flight.
///
/// Promise: exactly-once.
#[tokio::test]
async fn switching_the_delivery_mode_loses_nothing() {
    const BATCH_ROWS: usize = 20;
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos-switch"), Topic::create("eos-switch", 6));
    let client = database.connect().await;
    let deployment = unique("eos-switch");
    // Successors wait for the leases of an instance that delivered at least once.
    let settings = |mode: &str| {
        let settings = RelaySettings::new(&database, &parts().kafka).set("relay.batch_rows", &BATCH_ROWS.to_string());
        settings.set("run.deployment", &deployment).set("relay.delivery", mode)
    };
    let (mut written, mut log) = (0, String::new());
    for (round, mode) in
        ["at-least-once", "exactly-once", "exactly-once", "at-least-once", "exactly-once"].iter().enumerate()
    {
        let mut relay = settings(mode).start();
        insert_many(&client, &topic.name, 40, 640).await;
        written += 640;
        wait_until("half of it is out", PATIENCE, async || {
            let pending = counts(&client).await.get("PENDING").copied().unwrap_or(0);
            if pending < 320 { Ok(()) } else { Err(format!("{mode}: {pending}\n{}", relay.log_text())) }
        })
        .await;
        if round % 2 == 0 {
            relay.kill().await;
        } else {
            relay.terminate().await;
        }
        log += &relay.log_text();
    }
    let relay = settings("exactly-once").start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, written);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_late_repeats();
    // What was in flight when an instance that delivered at least once died, or lost its leases.
    let allowed = repeats::allowed_by(&(log + &relay.log_text()), BATCH_ROWS, true);
    assert!(report.repeats <= allowed, "{allowed} may repeat: {report:?}");
}

/// PostgreSQL is restored from a backup: Kafka has batches that it knows nothing of. Nobody guesses.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_database_that_went_back_in_time_stops_the_relay_with_78() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos-back"), Topic::create("eos-back", 3));
    let client = database.connect().await;
    let settings = exactly_once(&database, &parts().kafka, &unique("eos-back"));
    let mut relay = settings.start_ready().await;
    for _ in 0..3 {
        insert_many(&client, &topic.name, 40, 200).await;
        wait_until_published(&database, PATIENCE).await;
    }
    relay.terminate().await;
    let back = "update outbox_shards set batch_seq = batch_seq - 2 where shard = 3";
    assert_eq!(client.execute(back, &[]).await.expect("update"), 1);
    insert_many(&client, &topic.name, 40, 200).await;
    let mut relay = settings.start();
    assert_eq!(relay.wait_for_exit(PATIENCE).await, Some(78), "{}", relay.log_text());
    let log = relay.log_text();
    assert!(log.contains("OR-R003") && log.contains("shard 3") && log.contains("went back in time"), "{log}");
    let waits = "select count(*) from outbox_current where shard = 3 and status = 'PENDING'";
    assert!(client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0, "nothing of the shard was marked");
    let pending: Vec<i64> = client
        .query("select id from outbox_current where shard = 3 and status = 'PENDING'", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let sent: Vec<i64> = topic.records().await.iter().map(crate::support::kafka::Record::outbox_id).collect();
    assert!(pending.iter().all(|id| !sent.contains(id)), "nothing of the shard was sent");
}

/// Two outboxes with one deployment name on one cluster would believe each other's markers.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_marker_of_another_outbox_is_not_believed() {
    let (ours, theirs) = tokio::join!(TestDatabase::migrated("eos-ours"), TestDatabase::migrated("eos-theirs"));
    let topic = Topic::create("eos-name", 3).await;
    // The databases of the tests are copies of one.
    let renamed = "update outbox_installation set id = gen_random_uuid()";
    assert_eq!(theirs.connect().await.execute(renamed, &[]).await.expect("update"), 1);
    let deployment = unique("eos-name");
    let mut first = exactly_once(&ours, &parts().kafka, &deployment).start_ready().await;
    insert_many(&ours.connect().await, &topic.name, 40, 200).await;
    wait_until_published(&ours, PATIENCE).await;
    first.terminate().await;
    let mut second = exactly_once(&theirs, &parts().kafka, &deployment).start();
    assert_eq!(second.wait_for_exit(PATIENCE).await, Some(78), "{}", second.log_text());
    assert!(second.log_text().contains("another outbox with the same run.deployment"), "{}", second.log_text());
}

/// In strict order nothing overtakes a transaction that drew its ids first, though it commits last.
///
/// Promise: strict-order.
#[tokio::test]
async fn strict_order_waits_for_transactions_with_lower_ids() {
    side_by_side(["at-least-once", "exactly-once"], async |delivery| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("strict"), Topic::create("strict", 3));
        let (client, mut writer) = (database.connect().await, database.connect().await);
        let relay = exactly_once(&database, &parts().kafka, &unique("strict"))
            .set("relay.delivery", delivery)
            .set("relay.ordering", "strict")
            .start_ready()
            .await;
        let open = writer.transaction().await.expect("begin");
        let statement = NewRow::new(&topic.name, "k", "{}").statement();
        let early: i64 = open.query_one(&statement, &[]).await.expect("insert").get(0);
        // The same key, committed at once: with `ordering = "key"` it would be out in milliseconds.
        let later = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
        crate::support::holds_for("the later row waits", Duration::from_secs(2), async || {
            let status = crate::support::outbox::row(&client, later).await.status;
            if status == "PENDING" { Ok(()) } else { Err(format!("{delivery}: it is {status}")) }
        })
        .await;
        open.commit().await.expect("commit");
        wait_for_status(&client, later, "PUBLISHED").await;
        let sent: Vec<i64> = topic.records().await.iter().map(crate::support::kafka::Record::outbox_id).collect();
        assert_eq!(sent, [early, later], "{delivery}");
        drop(relay);
    })
    .await;
}

async fn wait_until_all_shards_belong_to(database: &TestDatabase, name: &str, limit: Duration) {
    let client = database.connect().await;
    wait_until(&format!("{name} has all shards"), limit, async || {
        let leases = leases(&client).await;
        if leases.get(name) == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
}

/// A killed process loses its session in PostgreSQL at once, and its producers can be fenced: nobody waits for its
/// lease.
///
/// Promise: takeover.
#[tokio::test]
async fn a_successor_need_not_wait_for_the_lease_of_a_killed_instance() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos-early"), Topic::create("eos-early", 6));
    let client = database.connect().await;
    let deployment = unique("eos-early");
    let settings =
        |name: &str| exactly_once(&database, &parts().kafka, &deployment).set("relay.lease", "10m").instance(name);
    let mut first = settings("first").start_ready().await;
    wait_until_all_shards_belong_to(&database, "first", PATIENCE).await;
    insert_many(&client, &topic.name, 100, 1_000).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 1_000);
    let _second = settings("second").start_ready().await;
    insert_many(&client, &topic.name, 100, 6_000).await;
    first.kill().await;
    // Long before the lease of the first is over.
    wait_until_all_shards_belong_to(&database, "second", PATIENCE).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 7_000);
    expect_each_once(&database, &topic).await;
}

/// A restart of PostgreSQL takes every session: nobody may believe the others dead for that.
///
/// Promise: takeover.
#[tokio::test]
async fn a_restart_of_postgresql_is_not_taken_for_the_death_of_the_others() {
    let (postgres, topic) = tokio::join!(PrivatePostgres::start(), Topic::create("eos-restart", 6));
    let database = TestDatabase::migrated_at(&postgres.url).await;
    let deployment = unique("eos-restart");
    let settings = |name: &str| exactly_once(&database, &parts().kafka, &deployment).instance(name);
    let mut relays = [settings("a").start_ready().await, settings("b").start_ready().await];
    let shared = async || {
        wait_until("both have four shards", PATIENCE, async || {
            let client = database.try_connect().await.map_err(|error| error.to_string())?;
            let leases = leases(&client).await;
            if leases.get("a") == Some(&4) && leases.get("b") == Some(&4) { Ok(()) } else { Err(format!("{leases:?}")) }
        })
        .await;
    };
    shared().await;
    for round in 1..=2 {
        postgres.restart(StopMode::Crash).await;
        insert_many(&database.reconnect().await, &topic.name, 100, 1_000).await;
        assert_eq!(wait_until_published(&database, PATIENCE).await, round * 1_000);
    }
    shared().await;
    for relay in &mut relays {
        assert!(relay.is_running(), "{}", relay.log_text());
    }
    expect_each_once(&database, &topic).await;
}

/// A backup was restored: rows that Kafka has are PENDING again. `recover` finds them there, marks them, and the relay
/// goes on with the rest; nothing is sent twice, and nothing that is really waiting is forgotten.
///
/// Promise: exactly-once.
#[tokio::test]
async fn recover_marks_what_kafka_has_and_lets_the_shards_go_on() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("eos-recover"), Topic::create("eos-recover", 3));
    let client = database.connect().await;
    let deployment = unique("eos-recover");
    let settings = exactly_once(&database, &parts().kafka, &deployment);
    let recover = |options: &[&str]| {
        let args: Vec<&str> = ["recover", "-o", "json"].iter().chain(options).copied().collect();
        crate::support::outbox_relay(&args)
            .env("DATABASE_URL", &database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
            .env("OUTBOX_RELAY_RUN__DEPLOYMENT", &deployment)
            .run()
    };
    let mut relay = settings.start_ready().await;
    for _ in 0..3 {
        insert_many(&client, &topic.name, 40, 200).await;
        wait_until_published(&database, PATIENCE).await;
    }
    let whole = recover(&[]).await.expect_code(0).json();
    assert!(whole.as_array().unwrap().iter().all(|line| line["verdict"] == "ok"), "{whole:#}");
    relay.terminate().await;
    // The database forgets the last batch of each shard, and has a batch in flight that Kafka knows nothing of.
    client
        .batch_execute(
            "update outbox_shards set batch_seq = batch_seq - 2; \
             update outbox_events set status = 'PENDING', published_at = null, published_partition = null, published_offset = null \
               where id > 400; \
             update outbox_shards s set batch_ids = \
               (select array_agg(id order by id) from outbox_events e where e.shard = s.shard and e.status = 'PENDING')",
        )
        .await
        .expect("back in time");
    insert_many(&client, &topic.name, 40, 200).await;
    let mut stopped = settings.start();
    assert_eq!(stopped.wait_for_exit(PATIENCE).await, Some(78), "{}", stopped.log_text());

    let refused = recover(&["--apply"]).await.expect_code(2);
    assert!(refused.stderr.contains("--scan"), "{}", refused.stderr);
    let looked = recover(&["--scan"]).await.expect_code(6).json();
    let sum = |lines: &serde_json::Value, field: &str| -> i64 {
        lines.as_array().unwrap().iter().filter_map(|line| line[field].as_i64()).sum()
    };
    assert_eq!((sum(&looked, "found"), sum(&looked, "missing")), (200, 0), "{looked:#}");
    assert_eq!(counts(&client).await.get("PENDING"), Some(&400), "it only looked");
    let applied = recover(&["--from-kafka", "--apply"]).await.expect_code(0).json();
    assert_eq!((sum(&applied, "found"), sum(&applied, "missing")), (200, 200), "{applied:#}");
    assert_eq!(counts(&client).await.get("PENDING"), Some(&200));
    let audit = "select count(*) from outbox_audit where action = 'recover'";
    assert_eq!(client.query_one(audit, &[]).await.unwrap().get::<_, i64>(0), 8);
    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 800);
    expect_each_once(&database, &topic).await;
}
