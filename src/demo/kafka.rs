//! The demo's Kafka: one inside this process, or topics of our own on a real one.
//!
//! The in-process one is librdkafka's mock cluster: real clients talk to it over TCP, produce idempotently and consume
//! in groups, but it keeps its records in memory, at most 5 MB per partition, and then forgets the oldest
//! (`rdkafka_mock.c`). It answers no admin requests, so topics are created through its handle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use crate::broker::client_config;
use crate::config::KafkaConfig;
use crate::demo::shop::{CATALOG_EVENTS, ORDER_EVENTS};
use crate::error::{Code, Error, Result};

const PARTITIONS: i32 = 6;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CLIENT_ID: &str = "outbox-relay demo";

/// The names of the shop's topics on this Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// The name of `topic`, one of [`CATALOG_EVENTS`] and [`ORDER_EVENTS`], on this Kafka.
    pub fn name_of(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    pub fn names(&self) -> Vec<String> {
        [CATALOG_EVENTS, ORDER_EVENTS].map(|topic| self.name_of(topic)).to_vec()
    }
}

/// A Kafka with empty topics. Dropping it ends the one in this process; topics on a real one are removed by
/// [`DemoKafka::remove_topics`].
pub struct DemoKafka {
    settings: KafkaConfig,
    topics: Topics,
    /// Owns the mock cluster, and reads end offsets.
    client: Arc<BaseConsumer>,
    in_process: bool,
}

impl DemoKafka {
    /// Errors: [`Code::Unexpected`] when librdkafka refuses, which would be a bug.
    pub fn in_process() -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("client.id", CLIENT_ID).set("test.mock.num.brokers", "1").set("group.id", CLIENT_ID);
        let refused =
            |error: KafkaError| Error::new(Code::Unexpected, "librdkafka refuses to be a Kafka").caused_by(error);
        let client: BaseConsumer = config.create().map_err(refused)?;
        let topics = Topics { prefix: String::new() };
        let bootstrap_servers = {
            let cluster = client.client().mock_cluster();
            let cluster =
                cluster.ok_or_else(|| Error::new(Code::Unexpected, "librdkafka was built without its mock cluster"))?;
            for topic in topics.names() {
                cluster.create_topic(&topic, PARTITIONS, 1).map_err(refused)?;
            }
            cluster.bootstrap_servers()
        };
        let settings = KafkaConfig { bootstrap_servers, ..KafkaConfig::default() };
        Ok(Self { settings, topics, client: Arc::new(client), in_process: true })
    }

    /// Makes new topics, named after `run`, on the Kafka at `bootstrap_servers`; nothing that is there is touched.
    ///
    /// Errors: [`Code::KafkaUnreachable`].
    pub async fn connect(bootstrap_servers: &str, run: &str) -> Result<Self> {
        let settings = KafkaConfig { bootstrap_servers: bootstrap_servers.to_owned(), ..KafkaConfig::default() };
        let topics = Topics { prefix: format!("outbox-relay-demo-{run}.") };
        let mut config = client_config::common(&settings, CLIENT_ID);
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(unreachable)?;
        let names = topics.names();
        let new: Vec<_> =
            names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1))).collect();
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
        for created in admin.create_topics(&new, &options).await.map_err(unreachable)? {
            created.map_err(|(topic, code)| {
                Error::new(Code::KafkaUnreachable, format!("Kafka does not create topic {topic}: {code}"))
                    .hint("the demo makes two topics of its own; give it a Kafka where it may")
            })?;
        }
        let client: BaseConsumer = config.set("group.id", CLIENT_ID).create().map_err(unreachable)?;
        let kafka = Self { settings, topics, client: Arc::new(client), in_process: false };
        kafka.wait_until_ready().await?;
        Ok(kafka)
    }

    pub fn settings(&self) -> &KafkaConfig {
        &self.settings
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    pub fn is_in_process(&self) -> bool {
        self.in_process
    }

    /// How many records a consumer may be behind before records that it still has to read are forgotten. At 10,000
    /// events/s a record took 85 to 120 bytes of its compressed batch and the busiest partition got 24 % of all, so 5
    /// MB there are 260,000 in all; smaller batches compress worse. `None` for a real Kafka, which keeps its records.
    pub fn lag_limit(&self) -> Option<u64> {
        self.in_process.then_some(100_000)
    }

    /// How many records the topics have ever received.
    pub async fn records(&self) -> Result<u64> {
        let (client, topics) = (Arc::clone(&self.client), self.topics.names());
        let count = move || {
            let mut records = 0;
            for topic in topics {
                for partition in 0..PARTITIONS {
                    let (_, end) = client.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT).map_err(unreachable)?;
                    records += u64::try_from(end).unwrap_or(0); // The topics are ours: they began at offset 0.
                }
            }
            Ok(records)
        };
        let counted = tokio::task::spawn_blocking(count).await;
        counted.map_err(|error| Error::new(Code::Unexpected, "counting records panicked").caused_by(error))?
    }

    /// Waits until every partition has a leader that answers: a topic that was just created may not have one yet.
    async fn wait_until_ready(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.records().await {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > REQUEST_TIMEOUT => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Removes the topics from a real Kafka. The one in this process goes with the process.
    pub async fn remove_topics(&self) -> Result<()> {
        if self.in_process {
            return Ok(());
        }
        let config = client_config::common(&self.settings, CLIENT_ID);
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(unreachable)?;
        let names = self.topics.names();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        for removed in admin.delete_topics(&names, &options).await.map_err(unreachable)? {
            removed.map_err(|(topic, code)| {
                Error::new(Code::KafkaUnreachable, format!("Kafka does not remove topic {topic}: {code}"))
            })?;
        }
        Ok(())
    }
}

fn unreachable(error: KafkaError) -> Error {
    Error::new(Code::KafkaUnreachable, "cannot work with Kafka")
        .caused_by(error)
        .hint("check the address given with --kafka")
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    #[tokio::test]
    async fn the_kafka_in_this_process_counts_what_it_receives() {
        let kafka = DemoKafka::in_process().unwrap();
        assert_eq!(kafka.records().await.unwrap(), 0);
        let mut config = client_config::common(kafka.settings(), "test");
        let producer: BaseProducer = config.set("enable.idempotence", "true").create().unwrap();
        for n in 0..100 {
            let (topic, key) =
                (kafka.topics().name_of(if n % 2 == 0 { CATALOG_EVENTS } else { ORDER_EVENTS }), n.to_string());
            producer.send(BaseRecord::to(&topic).key(&key).payload("{}")).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(REQUEST_TIMEOUT).unwrap();
        assert_eq!(kafka.records().await.unwrap(), 100);
    }
}
