//! A partition loses its leader while a transaction is at it: its keys wait, everything else of the shard flows.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::sync::Barrier;
use tokio_postgres::Client;

use crate::support::kafka::{client_config, sent_ids};
use crate::support::outbox::{committed_ids, most_attempts, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{PrivateKafka, Relay, StopMode, TestDatabase, Topic, order, unique, wait_until};

/// Three brokers on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three brokers.
struct Cluster {
    brokers: [PrivateKafka; 3],
    bootstrap: String,
}

impl Cluster {
    async fn start() -> Self {
        let brokers = PrivateKafka::cluster([None; 3]).await;
        let bootstrap = brokers.iter().map(|broker| broker.bootstrap.as_str()).collect::<Vec<_>>().join(",");
        Self { brokers, bootstrap }
    }

    /// The broker that has the fragile topics.
    fn owner(&self) -> &PrivateKafka {
        &self.brokers[2]
    }
}

/// An outbox with a topic that lives on the last broker alone, and one that all of them have.
struct Shop {
    database: TestDatabase,
    client: Client,
    fragile: Topic,
    sturdy: Topic,
    settings: RelaySettings,
    mode: &'static str,
}

impl Shop {
    async fn open(cluster: &Cluster, mode: &'static str) -> Self {
        let bootstrap = &cluster.bootstrap;
        let (database, sturdy) =
            tokio::join!(TestDatabase::migrated("leaderless"), Topic::create_on(bootstrap, "sturdy", 3));
        let fragile = Topic { name: unique("fragile"), bootstrap: bootstrap.clone() };
        let admin: AdminClient<DefaultClientContext> = client_config(bootstrap).create().expect("admin client");
        let replicas: &[i32] = &[3];
        let topic = NewTopic::new(&fragile.name, 1, TopicReplication::Variable(std::slice::from_ref(&replicas)))
            .set("min.insync.replicas", "1");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.create_topics([&topic], &options).await.expect("the cluster answers");
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        let client = database.connect().await;
        let settings = RelaySettings::new(&database, bootstrap)
            .steady()
            .set("relay.delivery", mode)
            .set("run.deployment", &unique("leaderless"));
        Self { database, client, fragile, sturdy, settings, mode }
    }

    /// As many rows of each topic, by turns, over ten keys each.
    async fn insert(&self, count: i64) {
        let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
            select t.kind || n % 10, 'E', t.topic, '{}' from generate_series(1, $3::bigint) n, \
              (values ('fragile-', $1::text), ('sturdy-', $2::text)) t (kind, topic)";
        let inserted = self.client.execute(statement, &[&self.fragile.name, &self.sturdy.name, &count]).await;
        inserted.expect("rows are inserted");
    }

    /// Waits until as many rows of the sturdy topic are PUBLISHED and at least as many of the fragile one HELD, and
    /// none has FAILED.
    async fn flows(&self, what: &str, published: i64, held: i64) {
        wait_until(&format!("{}: {what}", self.mode), PATIENCE, async || {
            let query = "select count(*) filter (where topic = $1 and status = 'PUBLISHED'), \
                count(*) filter (where topic = $2 and status = 'HELD'), count(*) filter (where status = 'FAILED') from outbox_current";
            let found = self.client.query_one(query, &[&self.sturdy.name, &self.fragile.name]).await;
            let found = found.map_err(|error| error.to_string())?;
            let found: [i64; 3] = [found.get(0), found.get(1), found.get(2)];
            if found[0] == published && found[1] >= held && found[2] == 0 { Ok(()) } else { Err(format!("PUBLISHED, HELD, FAILED: {found:?}")) }
        })
        .await;
    }

    async fn all_are_published(&self) {
        wait_until_published(&self.database, PATIENCE).await;
    }

    async fn expect_in_order(&self) {
        let records = [self.fragile.records().await, self.sturdy.records().await].concat();
        let report = order::check(&committed_ids(&self.client).await, &sent_ids(&records));
        report.expect_kept();
        if self.mode == "exactly-once" {
            report.expect_no_repeats();
        }
        assert_eq!(most_attempts(&self.client).await, 0, "{}: a partition is no event's fault", self.mode);
    }
}

/// When the broker stands still, goes on, and is needed no more by the first of the two.
struct Story {
    stopped: Barrier,
    back: Barrier,
    first_done: Barrier,
}

/// The partition stops answering in the middle of a transaction and then has no leader: that transaction cannot be
/// ended, nor its producer used again, and the rest of the shard must not care. Neither must a relay that is started
/// meanwhile.
async fn inside_a_transaction(shop: &Shop, mut relay: Relay, story: &Story) {
    story.stopped.wait().await;
    // The transactions of these begin, and cannot be ended.
    shop.insert(100).await;
    shop.flows("the others are published, the keys of the partition wait", 150, 100).await;
    shop.insert(100).await;
    shop.flows("the others still are, the keys of the partition still wait", 250, 200).await;
    relay.wait_for_readiness(200, &format!("partition 0 of {}", shop.fragile.name)).await;
    // A transaction could not be ended.
    relay.wait_for_metric("outbox_relay_producers_left_total", |left| left >= 1.0).await;

    // Another process, which knows nothing of what happened.
    relay.terminate().await;
    let mut relay = shop.settings.start_ready().await;
    shop.insert(100).await;
    shop.flows("a successor publishes the others", 350, 0).await;

    story.back.wait().await;
    shop.all_are_published().await;
    shop.expect_in_order().await;
    relay.terminate().await;
    story.first_done.wait().await;
}

/// In at-least-once delivery nothing has to be ended. The second time the broker dies.
async fn at_least_once(shop: &Shop, relay: Relay, owner: &PrivateKafka, story: &Story) {
    story.stopped.wait().await;
    shop.insert(100).await;
    shop.flows("the others are published, the keys of the partition wait", 150, 100).await;
    story.back.wait().await;
    shop.all_are_published().await;

    story.first_done.wait().await;
    owner.pause().await;
    shop.insert(100).await;
    owner.stop(StopMode::Crash).await;
    shop.flows("the others are published again, the keys of the partition wait again", 250, 100).await;
    owner.start_again().await;
    shop.all_are_published().await;
    shop.expect_in_order().await;
    drop(relay);
}

/// In both delivery modes the keys of the partition wait, and nobody else.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_partition_that_loses_its_leader_inside_a_transaction_holds_its_own_keys_alone() {
    let cluster = Cluster::start().await;
    let shops = [Shop::open(&cluster, "exactly-once").await, Shop::open(&cluster, "at-least-once").await];
    let relays = [shops[0].settings.start_ready().await, shops[1].settings.start_ready().await];
    for shop in &shops {
        shop.insert(50).await;
        shop.all_are_published().await;
    }
    let story = Story { stopped: Barrier::new(3), back: Barrier::new(3), first_done: Barrier::new(2) };
    let [first, second] = relays;
    let broker = async {
        cluster.owner().pause().await;
        story.stopped.wait().await;
        story.back.wait().await;
        cluster.owner().resume().await;
    };
    tokio::join!(
        Box::pin(inside_a_transaction(&shops[0], first, &story)),
        Box::pin(at_least_once(&shops[1], second, cluster.owner(), &story)),
        broker
    );
}
