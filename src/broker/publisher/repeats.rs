//! No record is sent twice while Kafka responds, however late, and whatever else in its batch goes wrong.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::client_config;
use super::super::partitions::Place;
use super::*;
use crate::broker::Headers;
use crate::config::KafkaConfig;

/// Of every publish here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two brokers. One leads `quick`, the other one `slow`, and `offline` has no leader.
struct Stage {
    publisher: Publisher,
    partitions: Partitions,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Stage {
    async fn set() -> Self {
        let cluster = MockCluster::new(2).expect("a cluster in this process");
        for (topic, leader) in [("quick", Some(1)), ("slow", Some(2)), ("offline", None)] {
            cluster.create_topic(topic, 1, 1).expect("a topic");
            cluster.partition_leader(topic, 0, leader).expect("its leader");
        }
        let settings = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        let partitions = Partitions::default();
        let publisher = Publisher::start(PublisherSettings {
            client: client_config::producer(&settings, "test", 1_000_000),
            publish_timeout: PATIENCE,
            partitions: partitions.clone(),
            name: "test".to_owned(),
        })
        .expect("a thread");
        let stage = Self { publisher, partitions, cluster };
        // The client is connected to both from now on.
        stage.publish(vec![record("quick", 0), record("slow", 0)]).await;
        stage
    }

    async fn publish(&self, records: Vec<Record>) -> Vec<Delivery> {
        let permit = Permit::new(monotonic() + Duration::from_secs(600));
        let published = self.publisher.publish(Arc::new(records), permit, 1);
        tokio::time::timeout(PATIENCE, published).await.expect("it is answered")
    }

    fn slow_down(&self, delay: Duration) {
        self.cluster.broker_round_trip_time(2, delay).expect("a delay");
    }

    /// Records in the log of `slow`, as the place of one more of them tells.
    async fn records_in_slow(&self) -> i64 {
        self.slow_down(Duration::ZERO);
        match self.publish(vec![record("slow", -1)]).await[..] {
            [Delivery::Acked { offset, .. }] => offset,
            ref other => panic!("{other:?}"),
        }
    }
}

fn record(topic: &str, key: i64) -> Record {
    Record {
        topic: topic.to_owned(),
        key: Some(format!("k{key}")),
        value: Some(b"{}".to_vec()),
        headers: Headers::default(),
        timestamp_ms: 0,
    }
}

/// A record is refused while another one is on its way to a broker that answers after `delay`, with `more` behind them.
async fn refused_beside_a_slow_one(refused_after: Duration, delay: Duration, more: i64) {
    let (nothing, refusal) =
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD);
    let stage = Stage::set().await;
    let mut sent = 1;
    for _ in 0..20 {
        stage.cluster.broker_round_trip_time(1, refused_after).expect("a delay");
        stage.slow_down(delay);
        stage.cluster.request_errors(RDKafkaApiKey::Produce, &[nothing, refusal]);
        let mut records = vec![record("slow", 0), record("quick", 0)];
        records.extend((1..=more).map(|n| record("slow", n)));
        let deliveries = stage.publish(records).await;
        let of_slow = deliveries.iter().enumerate().filter(|(place, _)| *place != 1);
        sent += of_slow.filter(|(_, delivery)| matches!(delivery, Delivery::Acked { .. })).count() as i64;
        stage.cluster.clear_request_errors(RDKafkaApiKey::Produce);
        assert_eq!(stage.records_in_slow().await, sent, "records in the log of the slow broker");
        sent += 1;
        // Otherwise the quick request came first, and the slow one was refused.
        if matches!(deliveries[1], Delivery::Refused { .. }) {
            return;
        }
    }
    panic!("the slow broker was never the first");
}

/// The refusal comes while records are still handed to the client.
#[tokio::test]
async fn a_refusal_in_the_middle_of_a_batch_repeats_nothing_of_it() {
    refused_beside_a_slow_one(Duration::ZERO, Duration::from_secs(1), 10_000).await;
}

#[tokio::test]
async fn a_refusal_waits_for_answers_that_take_seconds() {
    refused_beside_a_slow_one(Duration::from_millis(500), Duration::from_secs(5), 0).await;
}

#[tokio::test]
async fn a_partition_without_a_leader_repeats_nothing_of_the_others() {
    let stage = Stage::set().await;
    stage.slow_down(Duration::from_secs(5));
    let told = async {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            stage.partitions.seen("offline", &[Place { has_leader: false, in_sync: 0 }]);
        }
    };
    let deliveries = tokio::select! {
        deliveries = stage.publish(vec![record("offline", 1), record("slow", 2)]) => deliveries,
        () = told => unreachable!("the cluster tells it again and again"),
    };
    assert_eq!(deliveries[0], Delivery::Stuck);
    assert!(matches!(deliveries[1], Delivery::Acked { .. }), "{deliveries:?}");
    assert_eq!(stage.records_in_slow().await, 2, "records in the log of the slow broker");
}
