//! Failover of PostgreSQL to a real streaming standby, behind an address that stays the same: with a synchronous
//! standby nothing is lost, with an asynchronous one the last commits are, and Kafka knows more than PostgreSQL.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio_postgres::Client;

use crate::proxy::Proxy;
use crate::support::kafka::sent_ids;
use crate::support::order::{self, Report};
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{
    PrivateKafka, PrivatePostgres, Record, Signal, StopMode, TestDatabase, Topic, outbox_relay, parts::parts, unique,
    wait_until,
};
use crate::traps::Protocol;

const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: i64 = 40;

/// A primary, its standby, and the address by which relays and applications know whoever is the primary.
struct Pair {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
    proxy: Proxy,
    database: TestDatabase,
}

impl Pair {
    async fn start() -> Self {
        let primary = PrivatePostgres::start().await;
        let (standby, proxy) = tokio::join!(primary.standby(), Proxy::to(Protocol::Postgres, port_of(&primary.url)));
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
        let database = TestDatabase::migrated_at(&url).await;
        Self { primary, standby, proxy, database }
    }

    /// A connection to the standby, which answers questions only.
    async fn standby(&self) -> Client {
        TestDatabase { url: self.standby.url.clone() }.connect().await
    }

    /// Waits until the standby shows everything that is committed now.
    async fn wait_for_standby(&self) {
        let (primary, standby) = (self.database.connect().await, self.standby().await);
        let written = "select pg_current_wal_lsn()::text";
        let written: String = primary.query_one(written, &[]).await.expect("a position").get(0);
        let caught_up = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        wait_until("the standby has caught up", PATIENCE, async || {
            let caught_up: bool = standby.query_one(&caught_up, &[]).await.expect("a position").get(0);
            if caught_up { Ok(()) } else { Err(format!("it is not at {written}")) }
        })
        .await;
    }

    /// The standby hears no more of the primary, which goes on: all that is committed from now on will be lost.
    async fn cut_replication(&self) {
        let standby = self.standby().await;
        standby.execute("alter system set primary_conninfo = ''", &[]).await.expect("the setting");
        standby.execute("select pg_reload_conf()", &[]).await.expect("a reload");
        self.wait_for_standbys("no standby", 0).await;
    }

    async fn wait_for_standbys(&self, what: &str, expected: i64) {
        let primary = self.database.connect().await;
        wait_until(what, PATIENCE, async || {
            let standbys = "select count(*) from pg_stat_replication where state = 'streaming'";
            let standbys: i64 = primary.query_one(standbys, &[]).await.expect("standbys").get(0);
            if standbys == expected { Ok(()) } else { Err(format!("{standbys} standbys")) }
        })
        .await;
    }

    /// The primary is gone for good, and the address leads to the standby, which takes writes.
    async fn fail_over(&self) {
        self.primary.stop(StopMode::Crash).await;
        self.standby.promote().await;
        self.proxy.lead_to(port_of(&self.standby.url));
    }
}

fn port_of(url: &str) -> u16 {
    let server = url.rsplit('@').next().and_then(|rest| rest.split('/').next());
    server.and_then(|server| server.rsplit(':').next()).and_then(|port| port.parse().ok()).expect("host:port")
}

fn settings(pair: &Pair, delivery: &str, deployment: &str) -> RelaySettings {
    RelaySettings::new(&pair.database, &parts().kafka)
        .steady()
        .set("relay.delivery", delivery)
        .set("run.deployment", deployment)
        .set("relay.batch_rows", "50")
}

/// event_id of rows, by id.
async fn events(client: &Client, which: &str) -> HashMap<i64, String> {
    let rows = client.query(&format!("select id, event_id::text from outbox_current where {which}"), &[]).await;
    rows.expect("rows").iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn event_of(record: &Record) -> &str {
    record.header("outbox-event-id").expect("every record has outbox-event-id")
}

/// What a failover that lost commits left behind.
struct LostTail {
    pair: Pair,
    topic: Topic,
    deployment: String,
    relay: crate::support::Relay,
    /// Rows that were published and that PostgreSQL has never heard of since.
    lost: BTreeSet<String>,
}

/// 400 rows are published and known to both servers. 200 are published, and the standby knows them as PENDING. 200 are
/// published, and the standby does not know them at all. After the failover applications insert 200 more, under ids
/// that were given before.
async fn lose_the_tail(delivery: &str) -> LostTail {
    let (pair, topic) = tokio::join!(Pair::start(), Topic::create("failover", 3));
    let deployment = unique("failover");
    let relay = settings(&pair, delivery, &deployment).start_ready().await;
    let client = pair.database.connect().await;
    insert_many(&client, &topic.name, KEYS, 400).await;
    wait_until_published(&pair.database, PATIENCE).await;

    relay.signal(Signal::Stop);
    insert_many(&client, &topic.name, KEYS, 200).await;
    pair.wait_for_standby().await;
    pair.cut_replication().await;
    relay.signal(Signal::Continue);
    insert_many(&client, &topic.name, KEYS, 200).await;
    assert_eq!(wait_until_published(&pair.database, PATIENCE).await, 800);
    let known = events(&pair.standby().await, "true").await;
    let before = events(&client, "true").await;
    let lost: BTreeSet<String> =
        before.iter().filter(|(id, _)| !known.contains_key(*id)).map(|(_, event)| event.clone()).collect();
    assert_eq!(lost.len(), 200);

    pair.fail_over().await;
    let client = pair.database.reconnect().await;
    insert_many(&client, &topic.name, KEYS, 200).await;
    let again = events(&client, "true").await;
    assert!(
        again.iter().any(|(id, event)| before.get(id).is_some_and(|other| other != event)),
        "ids are given a second time, so an id alone says nothing"
    );
    LostTail { pair, topic, deployment, relay, lost }
}

impl LostTail {
    /// Loss, order and repeats of what PostgreSQL has now. What it lost is in Kafka once, and nobody's business.
    async fn report(&self) -> Report {
        let client = self.pair.database.connect().await;
        assert_eq!(most_attempts(&client).await, 0, "a failover is not an attempt");
        let (lost, kept): (Vec<Record>, Vec<Record>) =
            self.topic.records().await.into_iter().partition(|record| self.lost.contains(event_of(record)));
        assert_eq!(lost.len(), 200);
        let rows = events(&client, "true").await;
        for record in &kept {
            assert_eq!(rows.get(&record.outbox_id()).map(String::as_str), Some(event_of(record)));
        }
        order::check(&committed_ids(&client).await, &sent_ids(&kept))
    }
}

/// Fault 9 of the design: nothing may be guessed. The relay stops, an operator has Kafka asked, and then it goes on.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_failover_that_lost_commits_stops_the_relay_with_78_until_kafka_was_asked() {
    let mut after = lose_the_tail("exactly-once").await;
    let (code, log) = (after.relay.wait_for_exit(PATIENCE).await, after.relay.log_text());
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("OR-R003") && log.contains("went back in time"), "{log}");
    let client = after.pair.database.connect().await;
    let (marked, sent) = (events(&client, "status = 'PUBLISHED'").await, after.topic.records().await);
    let sent: BTreeSet<&str> = sent.iter().map(event_of).collect();
    assert!(marked.values().all(|event| sent.contains(event.as_str())), "a row was marked that Kafka does not have");
    assert_eq!(counts(&client).await.get("PENDING"), Some(&400), "every shard had a batch that was forgotten");

    let recover = |options: &[&str]| {
        let args: Vec<&str> = ["recover", "-o", "json"].iter().chain(options).copied().collect();
        outbox_relay(&args)
            .env("DATABASE_URL", &after.pair.database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
            .env("OUTBOX_RELAY_RUN__DEPLOYMENT", &after.deployment)
            .run()
    };
    let looked = recover(&[]).await.expect_code(6).json();
    let behind = |line: &serde_json::Value| line["verdict"].as_str().is_some_and(|text| text.contains("back in time"));
    assert!(looked.as_array().expect("shards").iter().any(behind), "{looked:#}");
    let sum = |lines: &serde_json::Value, field: &str| -> i64 {
        lines.as_array().expect("shards").iter().filter_map(|line| line[field].as_i64()).sum()
    };
    recover(&["--scan"]).await.expect_code(6);
    let scanned = recover(&["--from-kafka"]).await.expect_code(6);
    let lines = scanned.json();
    assert_eq!((sum(&lines, "found"), sum(&lines, "missing")), (200, 200), "{lines:#}");
    assert!(scanned.stderr.contains("200 events in Kafka are no rows"), "{}", scanned.stderr);
    assert_eq!(counts(&client).await.get("PENDING"), Some(&400), "it only looked");
    recover(&["--from-kafka", "--apply"]).await.expect_code(0);

    let _relay = settings(&after.pair, "exactly-once", &after.deployment).start_ready().await;
    assert_eq!(wait_until_published(&after.pair.database, PATIENCE).await, 800);
    after.report().await.expect_kept().expect_no_repeats();
}

/// The same at least once: what is PENDING again is sent again, whole and in order, and nobody has to act.
#[tokio::test]
async fn a_failover_that_lost_commits_repeats_what_is_pending_again_in_at_least_once_delivery() {
    let mut after = lose_the_tail("at-least-once").await;
    assert_eq!(wait_until_published(&after.pair.database, PATIENCE).await, 800);
    assert!(after.relay.is_running(), "{}", after.relay.log_text());
    let report = after.report().await;
    report.expect_kept().expect_no_late_repeats();
    // And what was in flight when a connection to the former primary ended, which depends on the moment.
    assert!(report.repeats >= 200, "what was lost is sent again: {report:?}");
}

/// Fault 8 of the design: a commit counts when the standby has it, so the relay needs nobody, nor does it repeat
/// anything.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_failover_to_a_synchronous_standby_loses_and_repeats_nothing() {
    let (pair, topic) = tokio::join!(Pair::start(), Topic::create("synchronous", 3));
    let client = pair.database.connect().await;
    client.execute("alter system set synchronous_standby_names = 'standby'", &[]).await.expect("the setting");
    client.execute("select pg_reload_conf()", &[]).await.expect("a reload");
    wait_until("the standby is synchronous", PATIENCE, async || {
        let state = "select sync_state from pg_stat_replication";
        let state: String = client.query_one(state, &[]).await.expect("the standby").get(0);
        if state == "sync" { Ok(()) } else { Err(state) }
    })
    .await;
    let mut relay = settings(&pair, "exactly-once", &unique("synchronous")).start_ready().await;
    // The lane of one shard waits until the failover ends this session: there is work left, however quick it is.
    let mut lock = pair.database.connect().await;
    let lock = lock.transaction().await.expect("begin");
    lock.execute("select from outbox_shards where shard = 3 for update", &[]).await.expect("the lock");
    let mut acknowledged: BTreeSet<i64> = BTreeSet::new();
    let mut written = 0;
    for _ in 0..6 {
        insert_many(&client, &topic.name, KEYS, 500).await;
        written += 500;
        acknowledged.extend(events(&client, "true").await.into_keys());
    }
    wait_until("it is in the middle of the work", PATIENCE, async || {
        let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
        if published > 1_000 { Ok(()) } else { Err(format!("{published}")) }
    })
    .await;
    pair.fail_over().await;

    let client = pair.database.reconnect().await;
    let kept: BTreeSet<i64> = events(&client, "true").await.into_keys().collect();
    assert!(acknowledged.is_subset(&kept), "a commit was lost: this standby was not synchronous");
    insert_many(&client, &topic.name, KEYS, 500).await;
    assert_eq!(wait_until_published(&pair.database, PATIENCE).await, written + 500);
    assert!(relay.is_running(), "{}", relay.log_text());
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    assert_eq!(most_attempts(&client).await, 0, "a failover is not an attempt");
}

/// A batch is acknowledged and not settled when the primary dies, and the standby has never heard of its rows.
/// Applications are quicker than the relay and insert others, under the same ids: those must not be taken for what was
/// sent.
///
/// Promise: no-loss.
#[tokio::test]
async fn what_was_acknowledged_before_a_failover_marks_no_other_rows() {
    let (pair, kafka) = tokio::join!(Pair::start(), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "acknowledged", 3).await;
    let (client, mut lock) = (pair.database.connect().await, pair.database.connect().await);
    let relay = RelaySettings::new(&pair.database, &kafka.bootstrap)
        .steady()
        .set("relay.parallel_batches", "8")
        .start_ready()
        .await;
    insert_many(&client, &topic.name, KEYS, 100).await;
    wait_until_published(&pair.database, PATIENCE).await;
    pair.wait_for_standby().await;
    pair.cut_replication().await;

    kafka.pause().await;
    insert_many(&client, &topic.name, KEYS, 200).await;
    wait_until("all of it is in flight", PATIENCE, async || {
        let flight = "select coalesce(sum(cardinality(batch_ids)), 0)::bigint from outbox_shards";
        let flight: i64 = client.query_one(flight, &[]).await.expect("flight").get(0);
        if flight == 200 { Ok(()) } else { Err(format!("{flight}")) }
    })
    .await;
    let transaction = lock.transaction().await.expect("begin");
    transaction.execute("select from outbox_shards for update", &[]).await.expect("the lock");
    kafka.resume().await;
    topic.wait_for_records(300).await;
    let lost: BTreeSet<String> = events(&client, "status = 'PENDING'").await.into_values().collect();
    assert_eq!(lost.len(), 200, "nothing of it is settled");

    pair.primary.stop(StopMode::Crash).await;
    pair.standby.promote().await;
    let client = pair.standby().await;
    insert_many(&client, &topic.name, KEYS, 200).await;
    pair.proxy.lead_to(port_of(&pair.standby.url));
    assert_eq!(wait_until_published(&pair.database, PATIENCE).await, 300);
    let kept: Vec<Record> =
        topic.records().await.into_iter().filter(|record| !lost.contains(event_of(record))).collect();
    order::check(&committed_ids(&client).await, &sent_ids(&kept)).expect_kept().expect_no_repeats();
    drop(relay);
}
