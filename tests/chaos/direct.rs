//! A topic that no relay writes to: other producers do, and the consumers fold it like the rest.
//!
//! It gets a few records a second, some with header names that are not text. Faults write single records into it while
//! everything else is idle, and delete it and create it again; then the consumers stop, and an operator accepts the new
//! log. Each life of the topic has a product of its own, so that the judge can compare the table with what is in the
//! topic in the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use outbox_relay::broker::raw;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::history;
use crate::it::support::kafka::client_config;
use crate::it::support::{TestDatabase, Topic, outbox_relay, wait_until};

/// The product of the first life of the topic; those of the outbox are below.
pub const FIRST_PRODUCT: i64 = 1_000_000;
const RECORD_EVERY: Duration = Duration::from_millis(40);
/// Between two looks of the operator.
const ACCEPT_EVERY: Duration = Duration::from_secs(1);
/// Until a topic is deleted or created while brokers come and go.
const PATIENCE: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(5);

/// How many events the group has not handled.
const UNHANDLED: &str = "select count(*) from unnest($2::uuid[]) as sent (id) where not exists \
     (select from event_handled h where h.consumer_group = $1 and h.event_id = sent.id)";
const LIKES: &str = "select coalesce(sum(like_count), 0)::bigint from product_metrics where product_id = $1";
/// What the operator has decided; only a partition that is stopped asks for it.
const ACCEPTED: &str = "select count(*) from outbox_audit where action = 'consumer positions accept'";
const STOPPED: &str =
    "select topic, partition, stopped_reason from consumer_partitions where stopped_reason is not null";

/// Notes what the broker has acknowledged.
struct Acknowledged(Arc<Mutex<Vec<Uuid>>>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<Uuid>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, id: Self::DeliveryOpaque) {
        if delivered.is_ok() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*id);
        }
    }
}

/// The topic between two deletions.
struct Life {
    number: i64,
    producer: Arc<BaseProducer<Acknowledged>>,
    acknowledged: Arc<Mutex<Vec<Uuid>>>,
    sent: Vec<Uuid>,
}

impl Life {
    fn new(topic: &Topic, number: i64) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut config = client_config(&topic.bootstrap);
        config.set("linger.ms", "2");
        let producer = config.create_with_context(Acknowledged(Arc::clone(&acknowledged))).expect("a producer");
        Self { number, producer: Arc::new(producer), acknowledged, sent: Vec::new() }
    }

    fn acknowledged(&self) -> Vec<Uuid> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub struct Direct {
    database: TestDatabase,
    topic: Topic,
    partitions: i32,
    group: String,
    seed: u64,
    life: tokio::sync::Mutex<Life>,
    /// What was sent in the lives before.
    former: Mutex<Vec<Vec<Uuid>>>,
    stop: watch::Sender<bool>,
}

impl Direct {
    pub fn new(database: &TestDatabase, topic: &Topic, partitions: i32, group: &str, seed: u64) -> Self {
        let life = tokio::sync::Mutex::new(Life::new(topic, 0));
        let (database, topic, group) = (database.clone(), topic.clone(), group.to_owned());
        let stop = watch::Sender::new(false);
        Self { database, topic, partitions, group, seed, life, former: Mutex::default(), stop }
    }

    /// No more records. The operator goes on until the run ends.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Writes until [`Direct::stop`].
    pub async fn write(&self) {
        let mut random = Rng::with_seed(self.seed ^ 0xd1_4ec7);
        while self.goes_on(RECORD_EVERY).await {
            let partition = random.i32(0..self.partitions);
            let mut life = self.life.lock().await;
            self.send(&mut life, partition, random.u8(0..4) == 0);
        }
    }

    /// Writes one record into each partition, and waits a little until the group has handled them. Returns their ids.
    pub async fn write_singles(&self, limit: Duration) -> Vec<Uuid> {
        let ids: Vec<Uuid> = {
            let mut life = self.life.lock().await;
            let ids = (0..self.partitions).map(|partition| self.send(&mut life, partition, false)).collect();
            flush(&life, limit).await;
            ids
        };
        let end = Instant::now() + limit;
        let handled = async {
            let Ok(client) = self.database.try_connect().await else { return };
            while !matches!(self.unhandled(&client, &ids).await, Ok(0)) {
                crate::time::pass(Duration::from_millis(5)).await;
            }
        };
        drop(timeout_at(end, handled).await);
        ids
    }

    fn send(&self, life: &mut Life, partition: i32, odd: bool) -> Uuid {
        let id = Uuid::new_v4();
        let (text, value) = (id.to_string(), format!(r#"{{"productId": {}}}"#, FIRST_PRODUCT + life.number));
        let mut headers = OwnedHeaders::new();
        if odd {
            let name = Vec::from([0xff, 0xfe]);
            #[expect(unsafe_code, reason = "rdkafka takes names as text, and only reads their bytes and length")]
            // SAFETY: the text goes to `OwnedHeaders::insert` alone, which hands its bytes and its length to
            // librdkafka.
            let key = unsafe { std::str::from_utf8_unchecked(&name) };
            headers = headers.insert(Header { key, value: Some(b"\xff") });
        }
        let headers = headers
            .insert(Header { key: "outbox-event-id", value: Some(&text) })
            .insert(Header { key: "ce_type", value: Some("LikeAddedEvent") });
        let record = BaseRecord::with_opaque_to(&self.topic.name, Box::new(id)).partition(partition).headers(headers);
        // A full queue is an outage: then there is one record less.
        if life.producer.send(record.key(&text).payload(&value)).is_ok() {
            life.sent.push(id);
        }
        life.producer.poll(Duration::ZERO);
        id
    }

    /// Deletes the topic and creates it again under its name. Returns whether it did: not while a broker is away.
    pub async fn remake(&self) -> bool {
        let mut life = self.life.lock().await;
        if !flush(&life, ANSWER).await {
            return false;
        }
        let before = self.id().await;
        self.delete().await;
        self.create().await;
        self.in_place(before).await;
        let next = Life::new(&self.topic, life.number + 1);
        let before = std::mem::replace(&mut *life, next);
        self.former.lock().unwrap_or_else(PoisonError::into_inner).push(before.sent);
        true
    }

    async fn delete(&self) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.topic.bootstrap).create().expect("a client");
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        wait_until("the topic is deleted", PATIENCE, async || {
            let outcome =
                admin.delete_topics(&[&self.topic.name], &options).await.map_err(|error| error.to_string())?;
            match outcome.first() {
                // The answer to an earlier question may have been lost, so it is asked until it is gone.
                Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    async fn create(&self) {
        let admin: AdminClient<DefaultClientContext> = client_config(&self.topic.bootstrap).create().expect("a client");
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        let topic = NewTopic::new(&self.topic.name, self.partitions, TopicReplication::Fixed(-1));
        wait_until("the topic is created again", PATIENCE, async || {
            let outcome = admin.create_topics([&topic], &options).await.map_err(|error| error.to_string())?;
            match outcome.first() {
                Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until the broker has the new log in place. Until then it may take records into the old one, and they go
    /// with it although they were acknowledged.
    async fn in_place(&self, before: Option<Uuid>) {
        wait_until("the new topic is in place", PATIENCE, async || {
            match self.id().await {
                Some(id) if before != Some(id) => {}
                id => return Err(format!("its id is {id:?}")),
            }
            let (topic, partitions) = (self.topic.clone(), self.partitions);
            let looking = tokio::task::spawn_blocking(move || {
                let consumer: BaseConsumer = client_config(&topic.bootstrap).create().expect("a consumer");
                for partition in 0..partitions {
                    let log = consumer.fetch_watermarks(&topic.name, partition, ANSWER);
                    match log.map_err(|error| error.to_string())? {
                        (0, 0) => {}
                        log => return Err(format!("partition {partition} has the log {log:?}")),
                    }
                }
                Ok(())
            });
            looking.await.expect("the look does not panic")
        })
        .await;
    }

    /// `None`: the topic does not exist, or the broker does not answer.
    async fn id(&self) -> Option<Uuid> {
        let topic = self.topic.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let admin: AdminClient<DefaultClientContext> = client_config(&topic.bootstrap).create().expect("a client");
            raw::topic_ids(admin.inner(), &[&topic.name], ANSWER).ok()?.remove(&topic.name)
        });
        asking.await.expect("the question does not panic")
    }

    /// An operator who accepts the log of this topic as it is, for ever. Cancel safe.
    pub async fn accept(&self) {
        loop {
            crate::time::pass(ACCEPT_EVERY).await;
            let Ok(client) = self.database.try_connect().await else { continue };
            let Ok(stopped) = client.query(STOPPED, &[]).await else { continue };
            if !stopped.iter().any(|row| row.get::<_, String>(0) == self.topic.name) {
                continue;
            }
            let call =
                ["consumer", "positions", "accept", "--topic", &self.topic.name, "--group", &self.group, "--yes"];
            let call = outbox_relay(&call).env("DATABASE_URL", &self.database.url);
            // It may fail while a server is away.
            drop(call.env("KAFKA_BOOTSTRAP_SERVERS", &self.topic.bootstrap).run().await);
        }
    }

    pub async fn unhandled(&self, client: &Client, ids: &[Uuid]) -> Result<i64, Error> {
        Ok(client.query_one(UNHANDLED, &[&self.group, &ids]).await?.get(0))
    }

    /// How many records of the topic as it is now are not folded, as far as its broker has acknowledged them.
    pub async fn left(&self, client: &Client) -> Result<i64, Error> {
        let acknowledged = {
            let life = self.life.lock().await;
            life.producer.poll(Duration::ZERO);
            life.acknowledged()
        };
        self.unhandled(client, &acknowledged).await
    }

    /// What is wrong in the end, and how much there was.
    pub async fn judge(&self, client: &Client) -> Result<(Vec<String>, String), Error> {
        let life = self.life.lock().await;
        let topic = self.topic.clone();
        let sent: BTreeSet<Uuid> = tokio::task::spawn_blocking(move || {
            let mut ids = BTreeSet::new();
            history::read(&topic, |message, _| {
                let key = std::str::from_utf8(message.key().unwrap_or_default()).expect("our keys are text");
                ids.insert(key.parse::<Uuid>().expect("our keys are ids"));
            });
            ids
        })
        .await
        .expect("the reader does not panic");
        let mut complaints = Vec::new();
        let gone = life.acknowledged().iter().filter(|id| !sent.contains(*id)).count();
        if gone > 0 {
            complaints.push(format!("I8: {gone} acknowledged records of other producers are not in their topic"));
        }
        let sent: Vec<Uuid> = sent.into_iter().collect();
        let unhandled = self.unhandled(client, &sent).await?;
        if unhandled > 0 {
            complaints.push(format!("I8: {unhandled} of {} records of other producers are not folded", sent.len()));
        }
        let former = self.former.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let accepted: i64 = client.query_one(ACCEPTED, &[]).await?.get(0);
        let mut read_before = false;
        for ids in &former {
            read_before |= self.unhandled(client, ids).await? < i64::try_from(ids.len()).expect("few");
        }
        if read_before && accepted == 0 {
            complaints.push("I8: the topic of other producers was created again, and no partition said so".to_owned());
        }
        let folded = |ids: &[Uuid], unhandled: i64| i64::try_from(ids.len()).expect("few") - unhandled;
        for (number, ids) in (0..).zip(former.iter().chain([&sent])) {
            // What a topic that is gone held is unknown, but the table is the fold of what was handled.
            let expected = folded(ids, self.unhandled(client, ids).await?);
            let likes: i64 = client.query_one(LIKES, &[&(FIRST_PRODUCT + number)]).await?.get(0);
            if likes != expected {
                complaints
                    .push(format!("I8: life {number} of the topic of other producers: likes {likes} of {expected}"));
            }
        }
        for row in client.query(STOPPED, &[]).await? {
            let (topic, partition, reason): (String, i32, String) = (row.get(0), row.get(1), row.get(2));
            complaints.push(format!("I8: {topic}/{partition} is stopped: {reason}"));
        }
        let all = former.iter().map(Vec::len).sum::<usize>() + sent.len();
        Ok((complaints, format!("{all} records of other producers in {} lives of their topic", former.len() + 1)))
    }

    /// After `wait`: whether it has not been stopped.
    async fn goes_on(&self, wait: Duration) -> bool {
        let mut stop = self.stop.subscribe();
        timeout_at(Instant::now() + wait, stop.wait_for(|stop| *stop)).await.is_err()
    }
}

/// Whether everything that was sent is acknowledged, or given up.
async fn flush(life: &Life, limit: Duration) -> bool {
    let producer = Arc::clone(&life.producer);
    tokio::task::spawn_blocking(move || producer.flush(limit).is_ok()).await.expect("flush does not panic")
}
