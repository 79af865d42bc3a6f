//! A partition loses its leader while a transaction is at it: its keys wait, everything else of the shard flows.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio_postgres::Client;

use crate::support::kafka::{client_config, sent_ids};
use crate::support::order;
use crate::support::outbox::{committed_ids, most_attempts, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{PrivateKafka, StopMode, TestDatabase, Topic, http, unique, wait_until};

/// Three brokers on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three brokers, a topic that lives on the last of them alone, and one that all of them have.
struct Cluster {
    brokers: [PrivateKafka; 3],
    bootstrap: String,
    fragile: Topic,
    sturdy: Topic,
}

impl Cluster {
    async fn start() -> Self {
        let brokers = PrivateKafka::cluster([None; 3]).await;
        let bootstrap = brokers.iter().map(|broker| broker.bootstrap.as_str()).collect::<Vec<_>>().join(",");
        let sturdy = Topic::create_on(&bootstrap, "sturdy", 3).await;
        let fragile = Topic { name: unique("fragile"), bootstrap: bootstrap.clone() };
        let admin: AdminClient<DefaultClientContext> = client_config(&bootstrap).create().expect("admin client");
        let replicas: &[i32] = &[3];
        let topic = NewTopic::new(&fragile.name, 1, TopicReplication::Variable(std::slice::from_ref(&replicas)))
            .set("min.insync.replicas", "1");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.create_topics([&topic], &options).await.expect("the cluster answers");
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        Self { brokers, bootstrap, fragile, sturdy }
    }

    /// The broker that has the fragile topic.
    fn owner(&self) -> &PrivateKafka {
        &self.brokers[2]
    }

    fn relay(&self, database: &TestDatabase, mode: &str, deployment: &str) -> RelaySettings {
        RelaySettings::new(database, &self.bootstrap)
            .set("relay.delivery", mode)
            .set("run.deployment", deployment)
            .set("relay.lease", "60s")
    }

    /// Rows of both topics by turns, over as many keys as `keys` each.
    async fn insert(&self, client: &Client, count: i64, keys: i64) {
        let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
            select t.kind || n % $4, 'E', t.topic, '{}' from generate_series(1, $3::bigint) n, \
              (values ('fragile-', $1::text), ('sturdy-', $2::text)) t (kind, topic)";
        client
            .execute(statement, &[&self.fragile.name, &self.sturdy.name, &count, &keys])
            .await
            .expect("rows are inserted");
    }
}

/// Waits until as many rows of a topic have this state, and none has failed.
async fn wait_for(client: &Client, what: &str, topic: &Topic, status: &str, wanted: i64) {
    wait_until(what, PATIENCE, async || {
        let query = "select count(*) filter (where status = $2), count(*) filter (where status = 'FAILED') \
            from outbox_current where topic = $1";
        let found = client.query_one(query, &[&topic.name, &status]).await.map_err(|error| error.to_string())?;
        let (count, failed): (i64, i64) = (found.get(0), found.get(1));
        if count == wanted && failed == 0 { Ok(()) } else { Err(format!("{count} {status}, {failed} FAILED")) }
    })
    .await;
}

async fn expect_in_order(client: &Client, cluster: &Cluster, mode: &str) {
    let records = [cluster.fragile.records().await, cluster.sturdy.records().await].concat();
    let report = order::check(&committed_ids(client).await, &sent_ids(&records));
    report.expect_kept();
    if mode == "exactly-once" {
        report.expect_no_repeats();
    }
    assert_eq!(most_attempts(client).await, 0, "{mode}: a partition is no event's fault");
}

/// The partition stops answering in the middle of a transaction and then has no leader: that transaction cannot be
/// ended, nor its producer used again, and the rest of the shard must not care. Neither must a relay that is started
/// meanwhile.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_partition_that_loses_its_leader_inside_a_transaction_holds_its_own_keys_alone() {
    let cluster = Cluster::start().await;
    let database = TestDatabase::migrated("leaderless").await;
    let client = database.connect().await;
    let deployment = unique("leaderless");
    let mut relay = cluster.relay(&database, "exactly-once", &deployment).start_ready().await;
    cluster.insert(&client, 50, 10).await;
    wait_until_published(&database, PATIENCE).await;

    cluster.owner().pause().await;
    // The transactions of these begin, and cannot be ended.
    cluster.insert(&client, 100, 10).await;
    wait_for(&client, "the others are published", &cluster.sturdy, "PUBLISHED", 150).await;
    wait_for(&client, "the keys of the partition wait", &cluster.fragile, "HELD", 100).await;
    cluster.insert(&client, 100, 10).await;
    wait_for(&client, "the others still are", &cluster.sturdy, "PUBLISHED", 250).await;
    wait_for(&client, "the keys of the partition still wait", &cluster.fragile, "HELD", 200).await;
    let (status, ready) = http::get(relay.admin(), "/readyz?verbose").await.expect("an answer");
    assert_eq!(status, 200, "{ready}");
    assert!(ready.contains(&format!("partition 0 of {}", cluster.fragile.name)), "{ready}");
    let left = relay.metric("outbox_relay_producers_left_total").await;
    assert!(left >= 1.0, "a transaction could not be ended: {}", relay.log_text());

    // Another process, which knows nothing of what happened.
    relay.terminate().await;
    let mut relay = cluster.relay(&database, "exactly-once", &deployment).start_ready().await;
    cluster.insert(&client, 100, 10).await;
    wait_for(&client, "a successor publishes the others", &cluster.sturdy, "PUBLISHED", 350).await;

    cluster.owner().resume().await;
    wait_until_published(&database, PATIENCE).await;
    expect_in_order(&client, &cluster, "exactly-once").await;
    relay.terminate().await;
}

/// The same in at-least-once delivery, where nothing has to be ended.
#[tokio::test]
async fn a_broker_that_dies_with_its_partition_holds_the_keys_of_that_partition_alone() {
    let cluster = Cluster::start().await;
    let database = TestDatabase::migrated("leaderless-alo").await;
    let client = database.connect().await;
    let relay = cluster.relay(&database, "at-least-once", &unique("leaderless")).start_ready().await;
    cluster.insert(&client, 50, 10).await;
    wait_until_published(&database, PATIENCE).await;
    cluster.owner().pause().await;
    cluster.insert(&client, 100, 10).await;
    cluster.owner().stop(StopMode::Crash).await;
    wait_for(&client, "the others are published", &cluster.sturdy, "PUBLISHED", 150).await;
    wait_for(&client, "the keys of the partition wait", &cluster.fragile, "HELD", 100).await;
    cluster.owner().start_again().await;
    wait_until_published(&database, PATIENCE).await;
    expect_in_order(&client, &cluster, "at-least-once").await;
    drop(relay);
}
