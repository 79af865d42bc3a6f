//! What a round stands on: a database, topics, a group, and the process that relays and consumes.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio_postgres::Client;

use super::records::{ENDLESS, Made, REFUSED};
use crate::foreign_bytes::{produce, send};
use crate::support::cli::Finished;
use crate::support::kafka::client_config;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, outbox_relay, parts::parts, unique, wait_until};

/// Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
const CALL: Duration = Duration::from_secs(120);

pub struct Stage {
    pub database: TestDatabase,
    pub client: Client,
    /// The first half of its partitions has records of strangers.
    pub topic: Topic,
    pub partitions: i32,
    /// One partition, whose records are deleted.
    pub truncated: Topic,
    /// One partition, deleted and made anew.
    pub remade: Topic,
    /// Of the relay.
    pub own: Topic,
    pub group: String,
}

impl Stage {
    pub async fn set(partitions: i32) -> Self {
        const ANY: &[(&str, &str)] = &[
            ("max.message.bytes", "8000000"),
            ("message.timestamp.after.max.ms", "9223372036854775807"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            // Records with odd times must not be deleted for their age.
            ("retention.ms", "-1"),
        ];
        let (database, topic, truncated, remade, own) = tokio::join!(
            TestDatabase::migrated("records"),
            Topic::planned("records").created_with(partitions, ANY),
            Topic::planned("truncated").created_with(1, ANY),
            Topic::planned("remade").created_with(1, ANY),
            Topic::create("relayed", 2),
        );
        let client = database.connect().await;
        let rules = format!(
            "alter table product_metrics add constraint of_a_stranger check (product_id <> {REFUSED});
             create function loop_for_ever() returns trigger language plpgsql as $$ begin loop null; end loop; end $$;
             create trigger of_a_stranger before insert on product_metrics for each row
               when (new.product_id = {ENDLESS}) execute function loop_for_ever()"
        );
        client.batch_execute(&rules).await.expect("rules of somebody else");
        Self { database, client, topic, partitions, truncated, remade, own, group: unique("records") }
    }

    pub fn settings(&self) -> RelaySettings {
        let file = format!(
            "[consumer]\ngroup = \"{}\"\ntopics = [\"{}\", \"{}\", \"{}\"]\n[kafka.properties]\n\
             \"session.timeout.ms\" = \"6000\"\n",
            self.group, self.topic.name, self.truncated.name, self.remade.name
        );
        RelaySettings::new(&self.database, &parts().kafka)
            .file(&file)
            .steady()
            .only("relay,consumer,admin")
            .set("run.deployment", &self.group)
            .set("database.statement_timeout", "3s")
    }

    pub async fn write(&self, topic: &Topic, made: &[Made]) {
        produce(topic, made.iter().map(|made| made.record.clone()).collect()).await;
    }

    /// Writes in a transaction of its own, and leaves it open.
    pub async fn write_in_transaction(&self, made: &[Made]) -> BaseProducer {
        let (topic, records) = (self.topic.clone(), made.iter().map(|made| made.record.clone()).collect::<Vec<_>>());
        let write = move || {
            let mut config = client_config(&topic.bootstrap);
            config.set("transactional.id", unique("stranger")).set("message.max.bytes", "8000000");
            // Kafka must not abort it while the others are waited for.
            config.set("transaction.timeout.ms", "900000");
            let producer: BaseProducer = config.create().expect("a producer");
            producer.init_transactions(CALL).expect("init");
            producer.begin_transaction().expect("begin");
            for record in &records {
                send(&producer, &topic, record);
            }
            producer.flush(CALL).expect("acknowledged");
            producer
        };
        tokio::task::spawn_blocking(write).await.expect("written")
    }

    pub async fn end_transaction(producer: BaseProducer, commits: bool) {
        let end = move || {
            let ended = if commits { producer.commit_transaction(CALL) } else { producer.abort_transaction(CALL) };
            ended.expect("the end of the transaction");
        };
        tokio::task::spawn_blocking(end).await.expect("ended");
    }

    /// A member of the group that folds nothing, for as long as it takes to get partitions.
    pub async fn foreign_member(&self) {
        let (group, topic) = (self.group.clone(), self.topic.clone());
        let join = move || {
            let mut config = client_config(&topic.bootstrap);
            config.set("group.id", &group).set("session.timeout.ms", "6000").set("enable.auto.commit", "false");
            let consumer: BaseConsumer = config.create().expect("a consumer");
            consumer.subscribe(&[&topic.name]).expect("subscribed");
            let begin = std::time::Instant::now();
            while consumer.assignment().map_or(0, |list| list.count()) == 0 && begin.elapsed() < CALL {
                drop(consumer.poll(Duration::from_millis(100)));
            }
        };
        tokio::task::spawn_blocking(join).await.expect("joined and left");
    }

    /// Offsets of somebody else under the name of the group: far too low and far too high.
    pub async fn foreign_commits(&self) {
        let (group, topic, partitions) = (self.group.clone(), self.topic.clone(), self.partitions);
        let commit = move || {
            let consumer: BaseConsumer = client_config(&topic.bootstrap).set("group.id", &group).create().expect("one");
            let mut list = TopicPartitionList::new();
            for partition in 0..partitions {
                let offset = if partition % 2 == 0 { 0 } else { 1_000_000 };
                list.add_partition_offset(&topic.name, partition, Offset::Offset(offset)).expect("valid");
            }
            // While the group has members, Kafka refuses it.
            drop(consumer.commit(&list, CommitMode::Sync));
        };
        tokio::task::spawn_blocking(commit).await.expect("no panic");
    }

    pub async fn delete_records_before(topic: &Topic, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = client_config(&topic.bootstrap).create().expect("admin");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic.name, 0, Offset::Offset(offset)).expect("valid");
        admin.delete_records(&list, &AdminOptions::new()).await.expect("delete records");
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    async fn ends(&self) -> BTreeMap<(String, i32), i64> {
        let topics = [self.topic.clone(), self.truncated.clone(), self.remade.clone()];
        let partitions = [self.partitions, 1, 1];
        let ask = move || {
            let consumer: BaseConsumer = client_config(&topics[0].bootstrap).create().expect("a consumer");
            let mut ends = BTreeMap::new();
            for (topic, partitions) in topics.iter().zip(partitions) {
                for partition in 0..partitions {
                    let (_, end) = consumer.fetch_watermarks(&topic.name, partition, CALL).expect("offsets");
                    ends.insert((topic.name.clone(), partition), end);
                }
            }
            ends
        };
        tokio::task::spawn_blocking(ask).await.expect("no panic")
    }

    /// Until every partition is read to its end. `state` says why not.
    pub async fn wait_until_read(&self, what: &str, limit: Duration, state: impl Fn() -> String) {
        let ends = self.ends().await;
        wait_until(what, limit, async || {
            let sql = "select topic, partition, next_offset from consumer_partitions where consumer_group = $1";
            let rows = self.client.query(sql, &[&self.group]).await.map_err(|error| error.to_string())?;
            let at: BTreeMap<(String, i32), i64> =
                rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
            let left: Vec<String> = ends
                .iter()
                .filter(|(place, end)| **end > 0 && at.get(place).is_none_or(|at| at < end))
                .map(|(place, end)| format!("{place:?} at {:?} of {end}", at.get(place)))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}\n{}", state())) }
        })
        .await;
    }

    pub async fn wait_for_number(&self, what: &str, sql: &str, expected: i64) {
        wait_until(what, PATIENCE, async || {
            let now = self.number(sql).await;
            if now == expected { Ok(()) } else { Err(format!("{now} of {expected}")) }
        })
        .await;
    }

    pub async fn command(&self, args: &[&str]) -> Finished {
        outbox_relay(args)
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.topic.bootstrap)
            .env("OUTBOX_RELAY_CONSUMER__GROUP", &self.group)
            .run()
            .await
    }
}
