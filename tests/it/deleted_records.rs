//! Records that are deleted while they are read.

use outbox_relay::broker::reader::{self, Range};
use outbox_relay::config::KafkaConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::Topic;
use crate::support::kafka::client_config;

/// What retention or a purge has deleted between the look at the ends of a topic and the reading is not waited for.
#[tokio::test]
async fn a_reader_does_not_wait_for_records_that_are_gone() {
    for (deleted, left) in [(2, 3), (5, 0)] {
        let topic = Topic::create("deleted-records", 1).await;
        let producer: BaseProducer = client_config(&topic.bootstrap).create().expect("a producer");
        for _ in 0..5 {
            producer
                .send(BaseRecord::<(), str>::to(&topic.name).payload("x"))
                .map_err(|(error, _)| error)
                .expect("sent");
        }
        producer.flush(std::time::Duration::from_secs(60)).expect("acknowledged");
        let settings = KafkaConfig { bootstrap_servers: topic.bootstrap.clone(), ..KafkaConfig::default() };
        topic.delete_records_before(0, deleted).await;
        let range = Range { topic: topic.name.clone(), partition: 0, from: 0, to: 5 };
        let read = tokio::task::spawn_blocking(move || reader::read(&settings, &[range], |_| true));
        assert_eq!(read.await.expect("no panic").expect("a reader that ends in order"), left, "{deleted} deleted");
    }
}
