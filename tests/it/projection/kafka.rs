//! The whole consumer between Kafka and PostgreSQL: assignment, offsets, rebalances, lost records. Outages are in
//! `away`.

mod away;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::broker::client_config;
use outbox_relay::config::{ConsumerConfig, KafkaConfig};
use outbox_relay::error::{Code, Result};
use outbox_relay::metrics::ConsumerLabels;
use outbox_relay::projection::{Consumer, ConsumerStatus, IsLost};
use outbox_relay::supervisor::Supervisor;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::support::{Topic, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A topic, a database and a group of their own.
pub struct Bench {
    pub topic: Topic,
    pub database: Database,
    pub client: Client,
    pub test: TestDatabase,
    pub settings: ConsumerConfig,
    pub kafka: ClientConfig,
}

impl Bench {
    pub async fn new(name: &str, partitions: i32) -> Self {
        Self::between(Topic::create(name, partitions).await, TestDatabase::migrated(name).await, name).await
    }

    pub async fn between(topic: Topic, test: TestDatabase, name: &str) -> Self {
        let settings = ConsumerConfig { group: unique(name), topics: vec![topic.name.clone()], ..Default::default() };
        // Longer than the scheduler stops a process: no partition is taken away from a member that lives.
        let properties = [("session.timeout.ms".to_owned(), "45000".to_owned())].into();
        let settings_of_kafka =
            KafkaConfig { bootstrap_servers: topic.bootstrap.clone(), properties, ..KafkaConfig::default() };
        let kafka = client_config::common(&settings_of_kafka, "test");
        Self { topic, database: database(&test), client: test.connect().await, test, settings, kafka }
    }

    pub fn start(&self) -> Running {
        self.start_with(vec![Projection::product_metrics()])
    }

    pub fn start_with(&self, projections: Vec<Projection>) -> Running {
        self.start_watched(projections, Box::new(|_| false))
    }

    /// `lost` says when the client is to be replaced.
    fn start_watched(&self, projections: Vec<Projection>, lost: IsLost) -> Running {
        let metrics = Metrics::new();
        let consumer = Consumer::new(
            &self.database,
            self.kafka.clone(),
            lost,
            self.settings.clone(),
            projections,
            metrics.clone(),
        );
        let status = consumer.status();
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.spawn("consumer", consumer.run(stop.clone()));
        let labels = (self.settings.group.clone(), self.topic.name.clone());
        Running { supervisor, stop, status, metrics, labels }
    }

    /// Writes likes of product 1, round and round over the partitions.
    pub async fn produce_likes(&self, count: usize, partitions: i32) {
        let values = (0..count).map(|_| (Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#.to_owned()));
        self.produce(values.collect(), partitions).await;
    }

    pub async fn produce(&self, events: Vec<(Uuid, &'static str, String)>, partitions: i32) {
        self.topic.write_events(events, partitions).await;
    }

    /// Waits until the offsets in PostgreSQL sum up to this.
    pub async fn wait_for_offset(&self, sum: i64) {
        wait_until(&format!("the consumer stands at {sum}"), PATIENCE, async || {
            let now = next_offset(&self.client).await;
            if now == sum { Ok(()) } else { Err(format!("at {now}")) }
        })
        .await;
    }

    /// Waits until they sum up to at least this.
    pub async fn wait_for_offset_from(&self, sum: i64) {
        wait_until(&format!("the consumer is past {sum}"), PATIENCE, async || {
            let now = next_offset(&self.client).await;
            if now >= sum { Ok(()) } else { Err(format!("at {now}")) }
        })
        .await;
    }

    pub async fn wait_for_likes(&self, likes: i64) {
        let sum = "select coalesce(sum(like_count), 0)::bigint from product_metrics";
        wait_until(&format!("{likes} likes"), PATIENCE, async || {
            let now = number(&self.client, sum).await;
            if now == likes { Ok(()) } else { Err(format!("{now} likes")) }
        })
        .await;
    }
}

/// A consumer that runs; dropped, it dies without ceremony.
pub struct Running {
    supervisor: Supervisor,
    stop: CancellationToken,
    pub status: ConsumerStatus,
    metrics: Metrics,
    labels: (String, String),
}

impl Running {
    pub async fn ready(self) -> Self {
        wait_until("the consumer is ready", PATIENCE, async || self.status.reason().map_or(Ok(()), Err)).await;
        self
    }

    /// Waits for a reason that holds these words.
    pub async fn wait_for_reason(&self, words: &str) {
        wait_until(&format!("it says {words}"), PATIENCE, async || match self.status.reason() {
            Some(reason) if reason.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// What the gauges of lag say, if there are any.
    pub fn lags(&self) -> Vec<String> {
        let text = self.metrics.encode();
        let lags = text.lines().filter(|line| line.starts_with("outbox_relay_consumer_lag_records{"));
        lags.filter_map(|line| line.rsplit_once(' ').map(|(_, value)| value.to_owned())).collect()
    }

    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.supervisor.wait()).await.expect("it stops in time")
    }

    /// Waits until it has counted so many records, stops it, and then these are all: a record is counted a moment after
    /// its position is committed.
    async fn stop_after(self, applied: u64, duplicate: u64) {
        let counters = |metrics: &Metrics, labels: &(String, String)| {
            ["applied", "duplicate"].map(|outcome| {
                let (group, topic) = labels.clone();
                metrics.consumer_events.get_or_create(&ConsumerLabels { group, topic, outcome }).get()
            })
        };
        wait_until(&format!("{applied} are applied, {duplicate} are duplicates"), PATIENCE, async || {
            let counted = counters(&self.metrics, &self.labels);
            if counted[0] >= applied && counted[1] >= duplicate { Ok(()) } else { Err(format!("{counted:?}")) }
        })
        .await;
        let (metrics, labels) = (self.metrics.clone(), self.labels.clone());
        self.stop().await.expect("a clean stop");
        assert_eq!(counters(&metrics, &labels), [applied, duplicate], "applied, duplicate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_postgresql_says_and_reads_nothing_twice() {
    let bench = Bench::new("restart", 3).await;
    bench.produce_likes(3_000, 3).await;
    let first = bench.start();
    bench.wait_for_offset(3_000).await;
    first.ready().await.stop_after(3_000, 0).await;
    bench.produce_likes(600, 3).await;
    let second = bench.start();
    bench.wait_for_offset(3_600).await;
    let status = second.status.clone();
    second.stop_after(600, 0).await;
    assert_eq!(status.reason().as_deref(), Some("the consumer has stopped"));
    // Back by hand: the records come again and are known.
    bench.client.batch_execute("update consumer_partitions set next_offset = 100").await.unwrap();
    let third = bench.start();
    bench.wait_for_offset(3_600).await;
    third.stop_after(0, 3_300).await;
    assert_eq!(product_metrics(&bench.client).await, ["1 3600 0 0 0"]);
}

/// A client that will never find a broker again is replaced in the middle, and again; nothing is missed or counted
/// twice.
#[tokio::test(flavor = "multi_thread")]
async fn another_client_goes_on_where_postgresql_says() {
    let mut bench = Bench::new("another-client", 3).await;
    bench.settings.batch_records = std::num::NonZeroU32::new(50).unwrap();
    let replace = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&replace);
    let lost: IsLost = Box::new(move |_| asked.swap(false, Ordering::Relaxed));
    let running = bench.start_watched(vec![Projection::product_metrics()], lost);
    for round in 1..=3 {
        bench.produce_likes(3_000, 3).await;
        bench.wait_for_offset_from(round * 3_000 - 2_000).await;
        replace.store(true, Ordering::Relaxed);
        bench.wait_for_offset(round * 3_000).await;
    }
    running.ready().await.stop().await.expect("a clean stop");
    assert_eq!(product_metrics(&bench.client).await, ["1 9000 0 0 0"]);
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 9_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_later_is_read_from_its_beginning() {
    let mut bench = Bench::new("early", 1).await;
    let planned = Topic::planned("late");
    bench.settings.topics = vec![planned.name.clone()];
    let running = bench.start().ready().await;
    bench.topic = planned.created(2).await;
    bench.produce_likes(10, 2).await;
    bench.wait_for_offset(10).await;
    running.ready().await.stop().await.expect("a clean stop");
}

/// Members come and go, batches are cut anywhere, and each event counts once.
///
/// Promise: projections.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_that_come_and_go_count_each_event_once() {
    let mut bench = Bench::new("members", 6).await;
    bench.settings.batch_records = std::num::NonZeroU32::new(50).unwrap();
    // One of them dies.
    bench.kafka.set("session.timeout.ms", "6000");
    bench.produce_likes(20_000, 6).await;
    let stays = bench.start();
    for n in 1..=3 {
        bench.wait_for_offset_from(n * 2_000).await;
        let epochs = "select sum(epoch)::bigint from consumer_partitions";
        let before = number(&bench.client, epochs).await;
        let comes = bench.start();
        wait_until("a rebalance", PATIENCE, async || {
            let now = number(&bench.client, epochs).await;
            if now > before { Ok(()) } else { Err(format!("epochs {now}")) }
        })
        .await;
        if n == 2 { drop(comes) } else { comes.stop().await.expect("a clean stop") }
    }
    bench.wait_for_offset(20_000).await;
    assert_eq!(product_metrics(&bench.client).await, ["1 20000 0 0 0"]);
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 20_000);
    stays.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_gone_stop_their_partition_alone_until_somebody_decides() {
    let bench = Bench::new("gone", 2).await;
    bench.produce_likes(20, 2).await;
    let running = bench.start();
    bench.wait_for_offset(20).await;
    running.stop().await.expect("a clean stop");
    bench.produce_likes(20, 2).await;
    bench.topic.delete_records_before(1, 15).await;
    let running = bench.start();
    running.wait_for_reason(&format!("{}/1: the records from 10 to 14 are gone", bench.topic.name)).await;
    bench.wait_for_offset(20 + 10).await;
    assert!(!running.status.is_ready());
    // The other one still flows.
    bench.produce_likes(2, 1).await;
    bench.wait_for_offset(20 + 12).await;
    running.stop().await.expect("a clean stop");
    bench.client.batch_execute("update consumer_partitions set next_offset = 15 where partition = 1").await.unwrap();
    let running = bench.start();
    bench.wait_for_offset(22 + 20).await;
    running.ready().await.stop().await.expect("a clean stop");
    assert_eq!(product_metrics(&bench.client).await, ["1 37 0 0 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_vanish_while_it_reads_are_noticed() {
    let bench = Bench::new("vanish", 1).await;
    bench.produce_likes(10, 1).await;
    let lock = bench.test.connect().await;
    let waits =
        projection("waits", &[], "select ordinal, event_type from new_events where pg_advisory_xact_lock(1) is null");
    let running = bench.start_with(vec![Projection::product_metrics(), waits]);
    bench.wait_for_offset(10).await;
    // Stops it in the middle of a batch while the log behind that batch goes.
    lock.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    bench.produce_likes(1, 1).await;
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database = \
                   (select oid from pg_database where datname = current_database())";
    wait_until("it is in the middle of a batch", PATIENCE, async || match number(&bench.client, waiting).await {
        1 => Ok(()),
        n => Err(format!("{n} wait")),
    })
    .await;
    // More than it prefetches, so that it has to ask for offsets that are gone.
    let padding = "x".repeat(100_000);
    let event = || (Uuid::new_v4(), "LikeAddedEvent", format!(r#"{{"productId": 1, "note": "{padding}"}}"#));
    bench.produce((0..500).map(|_| event()).collect(), 1).await;
    bench.topic.delete_records_before(0, 511).await;
    lock.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    running.wait_for_reason("are gone").await;
    running.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_behind_the_end_of_the_log_is_reported() {
    let bench = Bench::new("remade", 1).await;
    bench.produce_likes(10, 1).await;
    let running = bench.start();
    bench.wait_for_offset(10).await;
    running.stop().await.expect("a clean stop");
    bench.client.batch_execute("update consumer_partitions set next_offset = 11").await.unwrap();
    let running = bench.start();
    running.wait_for_reason("the log ends at 10, before offset 11").await;
    running.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_projection_is_reported_and_goes_on_once_repaired() {
    let bench = Bench::new("repair", 1).await;
    bench.client.batch_execute("create table copies (n bigint)").await.unwrap();
    let copies = projection("copies", &[], "insert into copies select \"offset\" from new_events");
    let running = bench.start_with(vec![copies]);
    bench.produce_likes(10, 1).await;
    bench.wait_for_offset(10).await;
    bench.client.batch_execute("alter table copies rename to away").await.unwrap();
    bench.produce_likes(10, 1).await;
    running.wait_for_reason("projection copies: relation \"copies\" does not exist").await;
    bench.client.batch_execute("alter table away rename to copies").await.unwrap();
    bench.wait_for_offset(20).await;
    running.ready().await.stop().await.expect("a clean stop");
    assert_eq!(number(&bench.client, "select count(distinct n) from copies").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_does_not_prepare_ends_the_consumer_at_its_start() {
    let bench = Bench::new("invalid", 1).await;
    let running = bench.start_with(vec![projection("mine", &[], "insert into no_such_table select 1 from new_events")]);
    let error = tokio::time::timeout(PATIENCE * 2, running.supervisor.wait()).await.expect("it ends").unwrap_err();
    assert_eq!(error.code(), Code::ProjectionInvalid, "{}", error.report());
}

/// A commit that is taken back by Kafka's transaction is no event; its markers are no lag.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_are_not_read() {
    let bench = Bench::new("aborted", 1).await;
    let topic = bench.topic.clone();
    let write = move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.bootstrap).set("transactional.id", &topic.name);
        let producer: BaseProducer = config.create().expect("producer");
        producer.init_transactions(PATIENCE).expect("init");
        for (commit, n) in [(true, 3), (false, 5), (true, 4)] {
            producer.begin_transaction().expect("begin");
            for _ in 0..n {
                let headers = OwnedHeaders::new().insert(Header { key: "ce_type", value: Some("LikeAddedEvent") });
                let record = BaseRecord::to(&topic.name).key("k").payload(r#"{"productId": 1}"#).headers(headers);
                producer.send(record).map_err(|(error, _)| error).expect("send");
            }
            producer.flush(PATIENCE).expect("flush");
            if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }
                .expect("end");
        }
    };
    tokio::task::spawn_blocking(write).await.expect("produce");
    let running = bench.start().ready().await;
    bench.wait_for_likes(7).await;
    // 3, a marker, 5 that are aborted, a marker, 4, a marker: the offset passes all of it, and nothing is left as lag.
    bench.wait_for_offset(15).await;
    wait_until("no lag is left", PATIENCE, async || {
        let lags = running.lags();
        if lags == ["0"] { Ok(()) } else { Err(format!("{lags:?}")) }
    })
    .await;
    running.stop().await.expect("a clean stop");
    // Nor does it look like a loss when retention takes the whole log.
    bench.topic.delete_records_before(0, 15).await;
    bench.start().ready().await.stop().await.expect("a clean stop");
}
