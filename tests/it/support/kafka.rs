//! Topics of a test, and all that is in them.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::{parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A topic on the shared broker or a private one.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub bootstrap: String,
}

/// Which records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// What consumers should use.
    ReadCommitted,
    /// Also what aborted transactions left.
    ReadUncommitted,
}

/// A record as it is in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In the order of the record.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// The text of the header; `None` when the record has none of that name. A name that occurs twice fails the test.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(other, _)| other == name);
        let header = found.next();
        assert!(found.next().is_none(), "header {name} occurs twice: {:?}", self.headers);
        header.map(|(_, value)| std::str::from_utf8(value.as_deref().expect("a value")).expect("UTF-8"))
    }

    pub fn key_text(&self) -> Option<&str> {
        self.key.as_deref().map(|key| std::str::from_utf8(key).expect("UTF-8"))
    }

    pub fn value_text(&self) -> Option<&str> {
        self.value.as_deref().map(|value| std::str::from_utf8(value).expect("UTF-8"))
    }

    /// The id of the row that the record came from.
    #[track_caller]
    pub fn outbox_id(&self) -> i64 {
        self.header("outbox-id").expect("every record has outbox-id").parse().expect("decimal")
    }
}

impl Topic {
    /// A topic on the shared broker.
    pub async fn create(name: &str, partitions: i32) -> Self {
        Self::planned(name).created(partitions).await
    }

    /// A topic on a private broker.
    pub async fn create_on(bootstrap: &str, name: &str, partitions: i32) -> Self {
        Self { name: unique(name), bootstrap: bootstrap.to_owned() }.created(partitions).await
    }

    /// A name for a topic on the shared broker that does not exist (yet).
    pub fn planned(name: &str) -> Self {
        Self { name: unique(name), bootstrap: parts().kafka.clone() }
    }

    /// Creates the topic and waits until the broker has leaders for it.
    pub async fn created(self, partitions: i32) -> Self {
        self.created_with(partitions, &[]).await
    }

    /// As [`Topic::created`], with settings of the topic.
    pub async fn created_with(self, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.bootstrap).create().expect("admin client");
        // As many replicas as the broker makes by default.
        let mut topic = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.create_topics([&topic], &options).await.expect("the broker answers");
        assert_eq!(outcome, [Ok(self.name.clone())]);
        wait_until("the new topic has leaders", PATIENCE, async || {
            let (topic, expected) = (self.clone(), usize::try_from(partitions).expect("not negative"));
            blocking(move || {
                let consumer: BaseConsumer = client_config(&topic.bootstrap).create().expect("consumer");
                let metadata =
                    consumer.fetch_metadata(Some(&topic.name), PATIENCE).map_err(|error| error.to_string())?;
                let partitions = metadata.topics().first().expect("the topic that was asked for").partitions();
                let led = partitions.iter().filter(|partition| partition.leader() >= 0).count();
                if led == expected { Ok(()) } else { Err(format!("{led} partitions with a leader")) }
            })
            .await
        })
        .await;
        self
    }

    /// Deletes the topic and waits until the broker does not know it any more.
    pub async fn delete(&self) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.bootstrap).create().expect("admin client");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.delete_topics(&[&self.name], &options).await.expect("the broker answers");
        assert_eq!(outcome, [Ok(self.name.clone())]);
        wait_until("the topic is gone", PATIENCE, async || {
            let topic = self.clone();
            blocking(move || {
                let consumer: BaseConsumer = client_config(&topic.bootstrap).create().expect("consumer");
                let metadata =
                    consumer.fetch_metadata(Some(&topic.name), PATIENCE).map_err(|error| error.to_string())?;
                let partitions = metadata.topics().first().map_or(0, |found| found.partitions().len());
                if partitions == 0 { Ok(()) } else { Err(format!("{partitions} partitions")) }
            })
            .await
        })
        .await;
    }

    /// Adds partitions, so that there are `partitions`.
    pub async fn grow(&self, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.bootstrap).create().expect("admin client");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let outcome = admin.create_partitions(&[NewPartitions::new(&self.name, partitions)], &options).await;
        assert_eq!(outcome.expect("the broker answers"), [Ok(self.name.clone())]);
    }

    /// Deletes the records of a partition below an offset, as retention does.
    pub async fn delete_records_before(&self, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.bootstrap).create().expect("admin client");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).expect("a valid offset");
        admin.delete_records(&list, &AdminOptions::new()).await.expect("delete records");
    }

    /// Writes events with their id and type in headers, as the relay does, round and round over the partitions.
    pub async fn write_events(&self, events: Vec<(Uuid, &'static str, String)>, partitions: i32) {
        let topic = self.clone();
        blocking(move || {
            let producer: BaseProducer =
                client_config(&topic.bootstrap).set("linger.ms", "20").create().expect("producer");
            for (n, (id, event_type, value)) in events.iter().enumerate() {
                let id = id.to_string();
                let headers = OwnedHeaders::new()
                    .insert(Header { key: "outbox-event-id", value: Some(&id) })
                    .insert(Header { key: "ce_type", value: Some(*event_type) });
                let partition = i32::try_from(n).expect("few events") % partitions;
                let mut record =
                    BaseRecord::to(&topic.name).partition(partition).key("k").payload(value).headers(headers);
                while let Err((error, back)) = producer.send(record) {
                    assert!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "{error}");
                    producer.poll(Duration::from_millis(10));
                    record = back;
                }
                producer.poll(Duration::ZERO);
            }
            producer.flush(PATIENCE * 2).expect("all are acknowledged");
        })
        .await;
    }

    /// Changes one setting of the topic.
    pub async fn set(&self, name: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.bootstrap).create().expect("admin client");
        let change = AlterConfig::new(ResourceSpecifier::Topic(&self.name)).set(name, value);
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let outcome = admin.alter_configs([&change], &options).await.expect("the broker answers");
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
        // The answer comes from the controller; the broker applies the change a moment later.
        wait_until(&format!("{name} of {} is {value}", self.name), PATIENCE, async || {
            let described = admin.describe_configs([&ResourceSpecifier::Topic(&self.name)], &options).await;
            let described = described.map_err(|error| error.to_string())?;
            let topic = described.into_iter().next().ok_or("no answer about the topic")?.map_err(|e| e.to_string())?;
            match topic.get(name).and_then(|entry| entry.value.as_deref()) {
                Some(found) if found == value => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }

    /// All records that a consumer with `read_committed` sees, by partition and offset.
    pub async fn records(&self) -> Vec<Record> {
        self.read(Isolation::ReadCommitted).await
    }

    /// Begins a transaction and leaves it open with acknowledged records; after the producer is dropped Kafka aborts it
    /// in a minute.
    pub async fn open_transaction(&self, records: usize) -> BaseProducer {
        let topic = self.clone();
        blocking(move || {
            let mut config = client_config(&topic.bootstrap);
            config.set("transactional.id", unique("open")).set("transaction.timeout.ms", "60000");
            let producer: BaseProducer = config.create().expect("producer");
            producer.init_transactions(PATIENCE).expect("init");
            producer.begin_transaction().expect("begin");
            for n in 0..records {
                producer.send(BaseRecord::to(&topic.name).key(&n.to_string()).payload("{}")).expect("queued");
            }
            producer.flush(PATIENCE).expect("acknowledged");
            producer
        })
        .await
    }

    /// All records up to the end of each partition at the time of the call, by partition and offset.
    pub async fn read(&self, isolation: Isolation) -> Vec<Record> {
        let topic = self.clone();
        blocking(move || topic.read_blocking(isolation)).await
    }

    /// Number of records, from the offsets: cheap, and exact as long as there are no transactions.
    pub async fn len(&self) -> i64 {
        let topic = self.clone();
        blocking(move || {
            let consumer: BaseConsumer = client_config(&topic.bootstrap).create().expect("consumer");
            topic.ends(&consumer).values().map(|(low, high)| high - low).sum()
        })
        .await
    }

    /// Waits until a consumer with `read_committed` sees at least `count` records, and returns all that it sees.
    #[track_caller]
    pub fn wait_for_records(&self, count: usize) -> impl Future<Output = Vec<Record>> {
        let topic = self.clone();
        let at_least = i64::try_from(count).expect("a small number");
        wait_until(&format!("{} has {count} records", self.name), PATIENCE, async move || {
            // Cheap, and more than there are records: the ends of transactions take offsets, too.
            let offsets = topic.len().await;
            if offsets < at_least {
                return Err(format!("{offsets} records"));
            }
            let records = topic.records().await;
            if records.len() >= count { Ok(records) } else { Err(format!("{} records", records.len())) }
        })
    }

    fn ends(&self, consumer: &BaseConsumer) -> HashMap<i32, (i64, i64)> {
        let partitions = self.patiently(consumer, "its partitions", || {
            let metadata = consumer.fetch_metadata(Some(&self.name), PATIENCE).map_err(|error| error.to_string())?;
            let topic = metadata.topics().first().ok_or("the broker does not know it")?;
            match topic.error() {
                Some(error) => Err(format!("{error:?}")),
                None => Ok(topic.partitions().iter().map(MetadataPartition::id).collect::<Vec<_>>()),
            }
        });
        let range = |partition: &i32| {
            let range =
                || consumer.fetch_watermarks(&self.name, *partition, PATIENCE).map_err(|error| error.to_string());
            (*partition, self.patiently(consumer, &format!("the range of partition {partition}"), range))
        };
        partitions.iter().map(range).collect()
    }

    /// Asks again and again. What was created or has moved a moment ago may be unknown to the broker that is asked.
    fn patiently<T>(&self, consumer: &BaseConsumer, what: &str, ask: impl Fn() -> Result<T, String>) -> T {
        let begin = std::time::Instant::now();
        loop {
            match ask() {
                Ok(answer) => return answer,
                Err(error) if begin.elapsed() > PATIENCE * 3 => panic!("topic {}: {what}: {error}", self.name),
                Err(_) => drop(consumer.poll(Duration::from_millis(50))),
            }
        }
    }

    fn read_blocking(&self, isolation: Isolation) -> Vec<Record> {
        let level = match isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        };
        let mut config = client_config(&self.bootstrap);
        config.set("group.id", unique("reader")).set("enable.auto.commit", "false").set("isolation.level", level);
        config.set("enable.partition.eof", "false").set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer = config.create().expect("consumer");
        // The end that a `read_committed` client is told is that of the last decided transaction; of one that was
        // committed a moment ago, and of all behind it, it would see nothing.
        let everything: BaseConsumer =
            client_config(&self.bootstrap).set("isolation.level", "read_uncommitted").create().expect("consumer");
        let mut left = self.ends(&everything);
        left.retain(|_, (low, high)| low < high);
        let mut assignment = TopicPartitionList::new();
        for (&partition, &(low, _)) in &left {
            assignment.add_partition_offset(&self.name, partition, Offset::Offset(low)).expect("a valid offset");
        }
        consumer.assign(&assignment).expect("assign");
        let mut records = Vec::new();
        let mut last_progress = std::time::Instant::now();
        while !left.is_empty() {
            // A transaction that nobody ends is aborted by the broker after 30 s and up to 10 s more.
            assert!(last_progress.elapsed() < PATIENCE * 2, "{}: no record for a minute, left: {left:?}", self.name);
            if let Some(message) = consumer.poll(Duration::from_millis(50)) {
                let message = message.expect("a record");
                last_progress = std::time::Instant::now();
                // A record that arrived after the ends were read is left out.
                if left.get(&message.partition()).is_some_and(|&(_, high)| message.offset() < high) {
                    records.push(to_record(&message));
                }
            }
            // The position also passes the markers of transactions, which are not records.
            let position = consumer.position().expect("position");
            for place in position.elements() {
                if let Offset::Offset(next) = place.offset()
                    && left.get(&place.partition()).is_some_and(|&(_, high)| next >= high)
                {
                    left.remove(&place.partition());
                }
            }
        }
        records.sort_by_key(|record: &Record| (record.partition, record.offset));
        records
    }
}

/// The ids per key in topic order: the other side of the order checker. A key that is in two partitions fails the test.
#[track_caller]
pub fn sent_ids(records: &[Record]) -> HashMap<String, Vec<i64>> {
    let mut ids: HashMap<String, Vec<i64>> = HashMap::new();
    let mut partition_of: HashMap<&str, i32> = HashMap::new();
    for record in records {
        let key = record.key_text().unwrap_or_default();
        if record.key.is_some() {
            let partition = *partition_of.entry(key).or_insert(record.partition);
            assert_eq!(partition, record.partition, "key {key} is in two partitions");
        }
        ids.entry(key.to_owned()).or_default().push(record.outbox_id());
    }
    ids
}

pub fn client_config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("log_level", "0");
    config
}

fn to_record(message: &impl Message) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis(),
    }
}

/// librdkafka's synchronous calls, away from the threads of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[tokio::test]
async fn a_reader_sees_every_record_of_every_partition_as_it_was_written() {
    use rdkafka::message::{Header, OwnedHeaders};

    let topic = Topic::create("reader", 3).await;
    let producer: BaseProducer = client_config(&topic.bootstrap).create().expect("producer");
    for n in 0..30 {
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        let headers = OwnedHeaders::new().insert(Header { key: "outbox-id", value: Some(&n.to_string()) });
        let record =
            BaseRecord::to(&topic.name).key(&key).headers(headers).timestamp(1_000 + n).partition((n % 3) as i32);
        let record = if n == 7 { record } else { record.payload(&value) };
        producer.send(record).expect("queued");
    }
    producer.flush(PATIENCE).expect("acknowledged");
    let records = topic.wait_for_records(30).await;
    assert_eq!(records.len(), 30);
    let seven = records.iter().find(|record| record.outbox_id() == 7).expect("the seventh");
    assert_eq!(
        (seven.key_text(), seven.value_text(), seven.timestamp_ms, seven.partition),
        (Some("k7"), None, Some(1_007), 1)
    );
    assert_eq!(seven.offset, 2);
    assert_eq!(sent_ids(&records)["k29"], [29]);
}

#[tokio::test]
async fn what_an_aborted_transaction_left_is_seen_by_uncommitted_readers_alone() {
    let topic = Topic::create("aborted", 1).await;
    let mut config = client_config(&topic.bootstrap);
    let producer: BaseProducer = config.set("transactional.id", unique("aborted")).create().expect("producer");
    producer.init_transactions(PATIENCE).expect("init");
    for (key, keep) in [("a", true), ("b", false), ("c", true)] {
        producer.begin_transaction().expect("begin");
        producer.send(BaseRecord::to(&topic.name).key(key).payload("{}")).expect("queued");
        producer.flush(PATIENCE).expect("acknowledged");
        let ended = if keep { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
        ended.expect("the end of the transaction");
    }
    let keys = async |isolation| -> Vec<String> {
        let records = topic.read(isolation).await;
        records.iter().map(|record| record.key_text().expect("a key").to_owned()).collect()
    };
    assert_eq!(keys(Isolation::ReadCommitted).await, ["a", "c"]);
    assert_eq!(keys(Isolation::ReadUncommitted).await, ["a", "b", "c"]);
}
