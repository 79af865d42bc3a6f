//! Two databases that were one: a copy beside the original never takes part in its work, and a database that was moved
//! goes on once somebody has said so.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, insert_many, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, PrivatePostgres, Relay, Signal, TestDatabase, Topic, order, outbox_relay, parts::parts, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn settings(database: &TestDatabase, delivery: &str, deployment: &str) -> RelaySettings {
    let settings = RelaySettings::new(database, &parts().kafka).steady();
    settings.set("relay.delivery", delivery).set("run.deployment", deployment)
}

async fn expect_each_once(database: &TestDatabase, topic: &Topic) {
    let client = database.connect().await;
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
}

/// A copy on the same server, as staging databases are made. Nobody may be connected to the original.
async fn copy_of(original: &TestDatabase) -> TestDatabase {
    let (server, _) = original.url.rsplit_once('/').expect("a URL with a database");
    let name = format!("it_{}", unique("copy").replace('-', "_"));
    let admin = TestDatabase { url: parts().database_url.clone() }.connect().await;
    let copied = format!("create database {name} template {}", original.name());
    wait_until("the original is copied", PATIENCE, async || {
        admin.batch_execute(&copied).await.map_err(|error| error.to_string())
    })
    .await;
    TestDatabase { url: format!("{server}/{name}") }
}

async fn adopt(database: &TestDatabase, how: &[&str]) -> serde_json::Value {
    let args: Vec<&str> = ["adopt", "-o", "json"].iter().chain(how).copied().collect();
    outbox_relay(&args).env("DATABASE_URL", &database.url).run().await.expect_code(0).json()
}

async fn installation(client: &Client) -> String {
    client.query_one("select id::text from outbox_installation", &[]).await.expect("its name").get(0)
}

async fn expect_refused(mut relay: Relay, code: &str) {
    assert_eq!(relay.wait_for_exit(PATIENCE).await, Some(78), "{}", relay.log_text());
    assert!(relay.log_text().contains(code), "{}", relay.log_text());
}

/// How often a relay has opened a shard, once it has opened all of them. In at-least-once delivery it opens none.
async fn opens(relay: &Relay, delivery: &str) -> f64 {
    let least = if delivery == "exactly-once" { 8.0 } else { 0.0 };
    relay.wait_for_metric("outbox_relay_opens_total", |opens| opens >= least).await
}

/// The original is at work, and is not fenced even once.
async fn a_copy_is_refused(delivery: &str) {
    let (original, topic) = tokio::join!(TestDatabase::migrated("original"), Topic::create("original", 3));
    let deployment = unique("original");
    let mut first = settings(&original, delivery, &deployment).start_ready().await;
    insert_many(&original.connect().await, &topic.name, 40, 200).await;
    wait_until_published(&original, PATIENCE).await;
    first.terminate().await;
    let copy = copy_of(&original).await;

    let mut relay = settings(&original, delivery, &deployment).start_ready().await;
    insert_many(&original.connect().await, &topic.name, 40, 200).await;
    wait_until_published(&original, PATIENCE).await;
    let opens = opens(&relay, delivery).await;
    insert_many(&copy.connect().await, &topic.name, 40, 200).await;
    expect_refused(settings(&copy, delivery, &deployment).start(), "OR-R004").await;
    let checked = outbox_relay(&["check"])
        .env("DATABASE_URL", &copy.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
        .run()
        .await
        .expect_code(6);
    assert!(checked.stdout.contains("outbox-relay adopt"), "{}", checked.stdout);
    let recovered = outbox_relay(&["recover"])
        .env("DATABASE_URL", &copy.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
        .run()
        .await
        .expect_code(78);
    assert!(recovered.stderr.contains("OR-R004"), "{}", recovered.stderr);

    insert_many(&original.connect().await, &topic.name, 40, 200).await;
    assert_eq!(wait_until_published(&original, PATIENCE).await, 600);
    assert!((relay.metric("outbox_relay_opens_total").await - opens).abs() < 0.5, "{}", relay.log_text());
    relay.terminate().await;
    expect_each_once(&original, &topic).await;
    assert_eq!(counts(&copy.connect().await).await.get("PENDING"), Some(&200), "nothing of the copy was sent");
}

/// Promise: copies.
#[tokio::test]
async fn a_copy_beside_the_original_is_refused_before_it_fences() {
    a_copy_is_refused("exactly-once").await;
}

/// Promise: copies.
#[tokio::test]
async fn a_copy_beside_the_original_is_refused_in_at_least_once_delivery_too() {
    a_copy_is_refused("at-least-once").await;
}

/// A staging database becomes an outbox of its own. Under the original's deployment name it is still refused, by the
/// markers.
///
/// Promise: copies.
#[tokio::test]
async fn a_copy_that_is_adopted_has_a_name_of_its_own() {
    let (original, topic) = tokio::join!(TestDatabase::migrated("adopt"), Topic::create("adopt", 3));
    let staging = Topic::create("adopt-staging", 3).await;
    let deployment = unique("adopt");
    let mut first = settings(&original, "exactly-once", &deployment).start_ready().await;
    insert_many(&original.connect().await, &topic.name, 40, 200).await;
    wait_until_published(&original, PATIENCE).await;
    first.terminate().await;
    let name = installation(&original.connect().await).await;
    let copy = copy_of(&original).await;
    let client = copy.connect().await;

    outbox_relay(&["adopt"]).env("DATABASE_URL", &copy.url).run().await.expect_code(2);
    outbox_relay(&["adopt", "--copy"]).env("DATABASE_URL", &copy.url).run().await.expect_code(2);
    let dry = adopt(&copy, &["--copy", "--dry-run"]).await;
    assert_eq!((dry["adopted_as"].as_str(), installation(&client).await), (None, name.clone()));
    let adopted = adopt(&copy, &["--copy", "--yes", "--reason", "staging"]).await;
    assert_eq!(adopted["adopted_as"], "copy", "{adopted:#}");
    assert_eq!(adopted["installation"], installation(&client).await);
    assert_ne!(installation(&client).await, name);
    let audit = "select count(*) from outbox_audit where action = 'adopt' and reason = 'staging'";
    assert_eq!(client.query_one(audit, &[]).await.unwrap().get::<_, i64>(0), 1);
    let again = adopt(&copy, &["--copy", "--yes"]).await;
    assert!(again["adopted_as"].is_null(), "{again:#}");

    insert_many(&client, &staging.name, 40, 200).await;
    expect_refused(settings(&copy, "exactly-once", &deployment).start(), "OR-R003").await;
    let mut relay = settings(&copy, "exactly-once", &unique("adopt-staging")).start_ready().await;
    assert_eq!(wait_until_published(&copy, PATIENCE).await, 400);
    relay.terminate().await;
    assert_eq!(staging.records().await.len(), 200);
    assert_eq!(topic.records().await.len(), 200, "what the original had sent was not sent again");
}

/// The original is gone, and the copy goes on with its markers: what was in flight is resolved by them.
///
/// Promise: copies.
#[tokio::test]
async fn a_database_that_was_moved_goes_on_when_it_is_adopted() {
    let (original, topic) = tokio::join!(TestDatabase::migrated("moved"), Topic::create("moved", 3));
    let deployment = unique("moved");
    let mut first = settings(&original, "exactly-once", &deployment).start_ready().await;
    insert_many(&original.connect().await, &topic.name, 40, 5_000).await;
    let client = original.connect().await;
    wait_until("some are published", PATIENCE, async || {
        let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
        if published > 500 { Ok(()) } else { Err(published.to_string()) }
    })
    .await;
    first.kill().await;
    drop(client);
    let moved = copy_of(&original).await;
    let name = installation(&moved.connect().await).await;
    expect_refused(settings(&moved, "exactly-once", &deployment).start(), "outbox-relay adopt --moved").await;
    let adopted = adopt(&moved, &["--moved", "--yes"]).await;
    assert_eq!((adopted["adopted_as"].as_str(), adopted["installation"].as_str()), (Some("moved"), Some(&*name)));
    let mut relay = settings(&moved, "exactly-once", &deployment).start_ready().await;
    assert_eq!(wait_until_published(&moved, PATIENCE).await, 5_000);
    relay.terminate().await;
    expect_each_once(&moved, &topic).await;
}

/// A server and a copy of its files: the same system, the same oid, the same names and numbers.
struct Twins {
    original: TestDatabase,
    copy: TestDatabase,
    _servers: [PrivatePostgres; 2],
}

impl Twins {
    /// Both take writes, and know `rows` published events. No relay runs.
    async fn part(topic: &Topic, deployment: &str, rows: i64) -> Self {
        let server = PrivatePostgres::start().await;
        let twin = server.standby().await;
        let (original, copy) = (TestDatabase::migrated_at(&server.url).await, TestDatabase { url: twin.url.clone() });
        let mut relay = settings(&original, "exactly-once", deployment).start_ready().await;
        insert_many(&original.connect().await, &topic.name, 40, rows).await;
        wait_until_published(&original, PATIENCE).await;
        relay.terminate().await;
        let position = "select pg_current_wal_lsn()::text";
        let position: String = original.connect().await.query_one(position, &[]).await.expect("a position").get(0);
        let (client, caught_up) = (copy.connect().await, format!("select pg_last_wal_replay_lsn() >= '{position}'"));
        wait_until("the copy is complete", PATIENCE, async || {
            let complete: bool = client.query_one(&caught_up, &[]).await.expect("a position").get(0);
            if complete { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        client.query_one("select pg_promote()", &[]).await.expect("a server of its own");
        Self { original, copy, _servers: [server, twin] }
    }
}

async fn published_events(client: &Client) -> BTreeSet<String> {
    let rows = client.query("select event_id::text from outbox_current where status = 'PUBLISHED'", &[]).await;
    rows.expect("rows").iter().map(|row| row.get(0)).collect()
}

async fn sent_events(topic: &Topic) -> BTreeSet<String> {
    let records = topic.records().await;
    records.iter().map(|record| record.header("outbox-event-id").expect("its event").to_owned()).collect()
}

/// The original has gone on since. Only Kafka can tell them apart, and it does before anybody is fenced.
///
/// Promise: copies.
#[tokio::test]
async fn a_copy_of_the_files_learns_from_the_markers_that_the_original_has_gone_on() {
    let topic = Topic::create("twins", 3).await;
    let deployment = unique("twins");
    let twins = Twins::part(&topic, &deployment, 400).await;
    let mut relay = settings(&twins.original, "exactly-once", &deployment).start_ready().await;
    insert_many(&twins.original.connect().await, &topic.name, 40, 400).await;
    assert_eq!(wait_until_published(&twins.original, PATIENCE).await, 800);
    let opens = opens(&relay, "exactly-once").await;
    // Ids and numbers of batches are those of the original, and its events are others.
    insert_many(&twins.copy.connect().await, &topic.name, 40, 400).await;
    expect_refused(settings(&twins.copy, "exactly-once", &deployment).start(), "OR-R003").await;
    insert_many(&twins.original.connect().await, &topic.name, 40, 400).await;
    assert_eq!(wait_until_published(&twins.original, PATIENCE).await, 1_200);
    assert!((relay.metric("outbox_relay_opens_total").await - opens).abs() < 0.5, "{}", relay.log_text());
    relay.terminate().await;
    expect_each_once(&twins.original, &topic).await;
    assert_eq!(counts(&twins.copy.connect().await).await.get("PENDING"), Some(&400));
}

/// Both are at work from the same state on, with the same ids under the same numbers. One of them has to stop, and
/// neither marks a row that Kafka does not have.
///
/// Promise: exactly-once.
#[tokio::test]
async fn two_histories_with_the_same_ids_never_settle_the_batches_of_each_other() {
    let topic = Topic::create("twins", 3).await;
    let deployment = unique("twins");
    let twins = Twins::part(&topic, &deployment, 40).await;
    let (original, copy) = (twins.original.connect().await, twins.copy.connect().await);
    let mut relays = [
        settings(&twins.original, "exactly-once", &deployment).start(),
        settings(&twins.copy, "exactly-once", &deployment).start(),
    ];
    let ended = wait_until("one of them stops", PATIENCE, async || {
        for client in [&original, &copy] {
            for key in 0..8 {
                NewRow::new(&topic.name, &format!("k{key}"), "{}").insert(client).await;
            }
        }
        let ended = relays.iter_mut().position(|relay| !relay.is_running());
        ended.ok_or_else(|| "both run".to_owned())
    })
    .await;
    assert_eq!(relays[ended].wait_for_exit(PATIENCE).await, Some(78), "{}", relays[ended].log_text());
    // The other one may have met batches of it in other shards.
    let other = &mut relays[1 - ended];
    if other.is_running() {
        other.signal(Signal::Terminate);
    }
    let code = other.wait_for_exit(PATIENCE).await;
    assert!(matches!(code, Some(0 | 78)), "{code:?}: {}", other.log_text());
    let sent = sent_events(&topic).await;
    for client in [&original, &copy] {
        let published = published_events(client).await;
        let lost: Vec<&String> = published.difference(&sent).collect();
        assert!(lost.is_empty(), "PUBLISHED and not in Kafka: {lost:?}");
    }
}

/// Insert the same rows on both: the same ids, and events of their own.
async fn insert_on_both(twins: &Twins, topic: &Topic) {
    for database in [&twins.original, &twins.copy] {
        insert_many(&database.connect().await, &topic.name, 40, 40).await;
    }
}

/// The smallest case: batch n is in flight in the original, and the copy has committed a batch n of the same ids.
#[tokio::test]
async fn a_batch_in_flight_is_not_settled_by_the_marker_of_a_copy() {
    let topic = Topic::create("twins", 3).await;
    let deployment = unique("twins");
    let twins = Twins::part(&topic, &deployment, 40).await;
    insert_on_both(&twins, &topic).await;
    let original = twins.original.connect().await;
    // As a lane leaves it that was killed before it sent the first record.
    original
        .batch_execute(
            "update outbox_shards s set batch_seq = batch_seq + 1, marked = true, \
               batch_tag = (lpad(to_hex(batch_seq + 1), 16, '0') || left(md5(random()::text), 16))::uuid, batch_ids = w.ids \
             from (select e.shard, array_agg(e.id order by e.id) as ids from outbox_current e where e.status = 'PENDING' \
               group by e.shard) w \
             where w.shard = s.shard",
        )
        .await
        .expect("batches in flight");
    let mut relay = settings(&twins.copy, "exactly-once", &deployment).start_ready().await;
    wait_until_published(&twins.copy, PATIENCE).await;
    relay.terminate().await;
    let numbers = "select string_agg(batch_seq::text, ',' order by shard) from outbox_shards";
    let ours: String = original.query_one(numbers, &[]).await.expect("numbers").get(0);
    let theirs: String = twins.copy.connect().await.query_one(numbers, &[]).await.expect("numbers").get(0);
    assert_eq!(ours, theirs);
    expect_refused(settings(&twins.original, "exactly-once", &deployment).start(), "another batch").await;
    assert_eq!(counts(&original).await.get("PENDING"), Some(&40), "none of them was ever sent");
}
