//! The PostgreSQL and the Kafka of the bench, whose addresses are in the environment as for the relay.

use std::env;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::Result;

pub const PARTITIONS: i32 = 6;
const KAFKA_TIMEOUT: Duration = Duration::from_secs(20);

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set; scripts/bench.sh sets it").into())
}

/// A connection of its own.
pub async fn connect() -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&variable("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("bench: PostgreSQL: {error}");
        }
    });
    Ok(client)
}

fn kafka() -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", variable("KAFKA_BOOTSTRAP_SERVERS")?).set("log_level", "3");
    Ok(config)
}

/// A producer as the relay tunes its own: idempotent, lz4, requests of up to a megabyte, the partitions of Java.
pub fn producer() -> Result<ClientConfig> {
    let mut config = kafka()?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("batch.size", "1000000")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "100000")
        .set("partitioner", "murmur2_random");
    Ok(config)
}

fn admin() -> Result<AdminClient<DefaultClientContext>> {
    Ok(kafka()?.create()?)
}

/// The broker's time of appending becomes that of the records, so that one clock stamps them whoever sent them.
pub async fn create_topic(name: &str) -> Result<()> {
    let topic =
        NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
    for outcome in admin()?.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT))).await?
    {
        outcome.map_err(|(topic, code)| format!("topic {topic} cannot be created: {code}"))?;
    }
    // Created is not yet led.
    Reader::new(name)?.offsets().await?;
    Ok(())
}

pub async fn delete_topics(names: &[String]) -> Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for outcome in admin()?.delete_topics(&names, &AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT))).await? {
        outcome.map_err(|(topic, code)| format!("topic {topic} cannot be deleted: {code}"))?;
    }
    Ok(())
}

/// Reads a topic from its beginning, committed records only.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
    at_end: Vec<bool>,
}

impl Reader {
    pub fn new(topic: &str) -> Result<Self> {
        let mut config = kafka()?;
        config
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true");
        Ok(Self { consumer: config.create()?, topic: topic.to_owned(), at_end: vec![false; PARTITIONS as usize] })
    }

    /// Begins to read.
    pub fn assign(&self) -> Result<()> {
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        self.consumer.assign(&partitions)?;
        Ok(())
    }

    /// The next record; `None` when there was none for a tenth of a second.
    pub fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>> {
        match self.consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end[partition as usize] = true;
                Ok(None)
            }
            Some(Err(error)) => Err(error.into()),
            None => Ok(None),
        }
    }

    /// The end of every partition has been seen.
    pub fn at_end(&self) -> bool {
        self.at_end.iter().all(|at_end| *at_end)
    }

    /// Offsets that the topic has given out: its records, and the markers of transactions.
    pub async fn offsets(&self) -> Result<u64> {
        let mut sum = 0;
        for partition in 0..PARTITIONS {
            sum += self.offsets_of(partition).await?;
        }
        Ok(sum)
    }

    /// Asks again: who asks soon after a topic was made is told that its leader is another one.
    async fn offsets_of(&self, partition: i32) -> Result<u64> {
        let began = Instant::now();
        loop {
            match self.consumer.fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT) {
                Ok((low, high)) => return Ok((high - low) as u64),
                Err(error) if began.elapsed() > KAFKA_TIMEOUT => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Reads to the end of every partition; `each` gets the records.
    pub fn read_all(&mut self, mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<()> {
        self.assign()?;
        while !self.at_end() {
            if let Some(message) = self.next()? {
                each(&message);
            }
        }
        Ok(())
    }
}

/// When the broker appended a record, in milliseconds.
pub fn appended_at(message: &BorrowedMessage<'_>) -> i64 {
    message.timestamp().to_millis().unwrap_or_default()
}
