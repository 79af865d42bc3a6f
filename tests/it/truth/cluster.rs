//! One of three brokers is gone, or silent for clients alone: what is said of its partitions, and that nothing else
//! suffers.

use std::collections::BTreeMap;

use outbox_relay::broker::admin::Admin;
use outbox_relay::config::KafkaConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use uuid::Uuid;

use super::stage::{PATIENCE, Ready, Says, Stage, readiness};
use crate::positions::likes_of;
use crate::proxy::Proxy;
use crate::support::kafka::client_config;
use crate::support::outbox::insert_many;
use crate::support::relay::RelaySettings;
use crate::support::{PrivateKafka, Relay, StopMode, TestDatabase, Topic, http, unique, wait_until};
use crate::traps::Protocol;
use crate::weather::{Direction, Weather};

const CONSUMER: Says<'_> = Says { part: "consumer", situation: "", ready: Ready::No, lag: 6, words: "", since: false };

/// Three brokers, a topic that lives on the last of them alone, and one that all of them have.
struct Cluster {
    brokers: [PrivateKafka; 3],
    stage: Stage,
    sturdy: Topic,
}

impl Cluster {
    /// With a proxy between clients and the last broker, if there is one.
    async fn start(name: &str, proxy: Option<&Proxy>) -> Self {
        let advertised = [None, None, proxy.map(|proxy| proxy.port)];
        let (database, brokers) = tokio::join!(TestDatabase::migrated(name), PrivateKafka::cluster(advertised));
        if let Some(proxy) = proxy {
            let port = brokers[2].bootstrap.rsplit(':').next().and_then(|port| port.parse().ok());
            proxy.lead_to(port.expect("host:port"));
        }
        let bootstrap = brokers[..2].iter().map(|broker| broker.bootstrap.as_str()).collect::<Vec<_>>().join(",");
        let fragile = Topic { name: unique(&format!("a-{name}")), bootstrap: bootstrap.clone() };
        let admin: AdminClient<DefaultClientContext> = client_config(&bootstrap).create().expect("admin client");
        let replicas: &[i32] = &[3];
        let topic = NewTopic::new(&fragile.name, 1, TopicReplication::Variable(std::slice::from_ref(&replicas)))
            .set("min.insync.replicas", "1");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.create_topics([&topic], &options).await.expect("the cluster answers");
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        let sturdy = Topic::create_on(&bootstrap, &format!("b-{name}"), 3).await;
        let mut stage = Stage::between(database, fragile, name).reading(&sturdy.name);
        stage.group = group_led_by(&bootstrap, name, false).await;
        Self { brokers, stage, sturdy }
    }

    fn settings(&self) -> RelaySettings {
        self.stage.settings("relay,consumer,admin")
    }

    /// Likes of a product in the topic that everybody has.
    async fn like(&self, product: i64, count: usize) {
        let value = format!(r#"{{"productId": {product}}}"#);
        let events = (0..count).map(|_| (Uuid::new_v4(), "LikeAddedEvent", value.clone()));
        self.sturdy.write_events(events.collect(), 3).await;
    }

    async fn wait_for_likes(&self, product: i64, likes: i64) {
        let client = self.stage.database.connect().await;
        wait_until(&format!("{likes} likes of {product}"), PATIENCE, async || {
            let now = likes_of(&client, product).await;
            if now == likes { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
    }

    /// The lag of the lost partition is not shown, and `top` does not say how far the group is behind. That of at least
    /// so many others is.
    async fn expect_unknown(&self, process: &Relay, shown: usize) {
        let name = &self.stage.topic.name;
        wait_until("the gauge of its lag is absent", PATIENCE, async || {
            let (_, text) = http::get(process.admin(), "/metrics").await?;
            let lags = text.lines().filter(|line| line.starts_with("outbox_relay_consumer_lag_records{"));
            let lags: Vec<&str> = lags.collect();
            let others = lags.iter().filter(|line| line.contains(&self.sturdy.name)).count();
            let lost = lags.iter().any(|line| line.contains(name));
            if !lost && others >= shown { Ok(()) } else { Err(format!("{lags:?}")) }
        })
        .await;
        let top = self.stage.command(&["top", "--once", "-o", "json"]).run().await.json();
        let lines = top["consumers"].as_array().expect("consumers");
        let line = lines.iter().find(|line| line["topic"] == name.as_str()).expect("its topic");
        assert!(line["behind"].is_null(), "{line}");
        let lag = self.stage.lag().await.json();
        let partitions = lag["consumer"]["partitions"].as_array().expect("partitions");
        let partition = partitions.iter().find(|line| line["topic"] == name.as_str()).expect("its topic");
        assert!(partition["lag"].is_null(), "{partition}");
    }
}

/// A group that the last broker coordinates, or another one, so that its members stay in it.
async fn group_led_by(bootstrap: &str, name: &str, last: bool) -> String {
    let settings = KafkaConfig { bootstrap_servers: bootstrap.to_owned(), ..KafkaConfig::default() };
    // The first question makes the brokers create the topic of the offsets.
    wait_until("there is a coordinator", PATIENCE, async || {
        let group = Admin::new(&settings).expect("a client").group(name).await;
        group.map(drop).map_err(|error| error.chain())
    })
    .await;
    let bootstrap = bootstrap.to_owned();
    let leaders = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client_config(&bootstrap).create().expect("a consumer");
        let found = consumer.fetch_metadata(Some("__consumer_offsets"), PATIENCE).expect("metadata");
        let leaders = found.topics()[0].partitions().iter().map(|partition| (partition.id(), partition.leader()));
        leaders.collect::<BTreeMap<i32, i32>>()
    })
    .await
    .expect("no panic");
    // As Kafka chooses the partition of a group: by the hash of its name in Java.
    let hash = |name: &str| name.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    let leader = |name: &str| {
        let partitions = i32::try_from(leaders.len()).expect("few");
        leaders[&((hash(name) & i32::MAX) % partitions)]
    };
    (0..100).map(|_| unique(name)).find(|name| (leader(name) == 3) == last).expect("every broker leads something")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader() {
    let cluster = Cluster::start("truth-leader", None).await;
    let process = cluster.settings().start_ready().await;
    cluster.like(1, 6).await;
    cluster.wait_for_likes(1, 6).await;
    let last = (Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 9}"#.to_owned());
    cluster.stage.topic.write_events(vec![last], 1).await;
    cluster.wait_for_likes(9, 1).await;

    cluster.brokers[2].stop(StopMode::Crash).await;
    let topic = cluster.stage.topic.name.clone();
    let leaderless = Says { situation: "no-leader", words: &topic, ..CONSUMER };
    // The status of `lag` is that of the partition without a leader.
    let refused = Says {
        part: "relay",
        situation: "partition-unavailable",
        ready: Ready::Noted,
        lag: 6,
        words: &topic,
        since: true,
    };
    let client = cluster.stage.database.connect().await;
    insert_many(&client, &topic, 3, 3).await;
    cluster.stage.expect(&process, &leaderless).await;
    cluster.stage.expect(&process, &refused).await;
    cluster.expect_unknown(&process, 3).await;
    cluster.like(2, 6).await;
    cluster.wait_for_likes(2, 6).await;
    drop(process);

    // One that begins while the partition has no leader reads the others, and says nothing else of them.
    let process = cluster.settings().start();
    cluster.like(3, 6).await;
    cluster.wait_for_likes(3, 6).await;
    cluster.stage.expect(&process, &leaderless).await;
    cluster.stage.expect(&process, &refused).await;
    cluster.expect_unknown(&process, 3).await;
    assert!(!process.log_text().contains("\"situation\":\"unmeasured\""), "{}", process.log_text());
    cluster.brokers[2].start_again().await;
    cluster.stage.expect_over(&process, &leaderless).await;
    cluster.stage.expect_over(&process, &refused).await;
}

/// The brokers hear each other, so the partition has a leader; clients do not hear it.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_leader_is_silent() {
    let proxy = Proxy::start(Protocol::Kafka).await;
    let cluster = Cluster::start("truth-silent", Some(&proxy)).await;
    let process = cluster.settings().start_ready().await;
    let last = (Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 9}"#.to_owned());
    cluster.stage.topic.write_events(vec![last], 1).await;
    cluster.wait_for_likes(9, 1).await;

    proxy.set_weather(Direction::Both, Some(Weather::Swallow));
    let topic = cluster.stage.topic.name.clone();
    let silent = Says { situation: "unmeasured", words: &topic, ..CONSUMER };
    cluster.stage.expect(&process, &silent).await;
    cluster.expect_unknown(&process, 1).await;
    drop(process);

    // One that begins now asks for the ends of the partition, and is not kept by it from reading others.
    let process = cluster.settings().start();
    cluster.stage.expect(&process, &silent).await;
    cluster.expect_unknown(&process, 1).await;
    proxy.set_weather(Direction::Both, None);
    cluster.stage.expect_over(&process, &silent).await;
}

/// The broker that coordinates the group is silent for clients: the consumer loses its partitions and cannot join
/// again. That is no instance without a share, which would be ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_coordinator_is_silent() {
    let proxy = Proxy::start(Protocol::Kafka).await;
    let mut cluster = Cluster::start("truth-coordinator", Some(&proxy)).await;
    cluster.stage.group = group_led_by(&cluster.sturdy.bootstrap, "truth-coordinator", true).await;
    let process = cluster.settings().start_ready().await;
    proxy.set_weather(Direction::Both, Some(Weather::Swallow));
    let out = Says { situation: "not-joined", ..CONSUMER };
    readiness(&process, &out).await;
    proxy.set_weather(Direction::Both, None);
    wait_until("it is ready again", PATIENCE, async || match http::get(process.admin(), "/readyz?verbose").await? {
        (200, body) if !body.contains("not-joined") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
}
