//! Questions to the cluster: brokers, topics and their settings, offsets. Read-only, except for creating the marker
//! topic and deleting dead letters.

mod facts;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::call::{Question, answered, close_later};
use super::client_config;
use super::partitions::Place;
use super::raw::{self, Group};
use crate::config::KafkaConfig;
use crate::error::{Code, Error, Result};
use facts::Found;
pub use facts::{ClusterFacts, PartitionOffsets, Timestamps, TopicFacts};

/// Maximum wait for one answer of the cluster.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const METADATA: Question = Question::new("metadata", ANSWER_TIMEOUT);
const WATERMARKS: Question = Question::new("watermarks", ANSWER_TIMEOUT);
const GROUP: Question = Question::new("group", ANSWER_TIMEOUT);
const COMMITTED: Question = Question::new("committed_offsets", ANSWER_TIMEOUT);

/// Topics whose settings are asked for in one request.
const SETTINGS_AT_ONCE: usize = 500;

/// librdkafka's own log lines at debug level: what matters of them we report ourselves, once.
pub struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", error = %error, reason, "client error");
    }
}

impl ConsumerContext for QuietContext {}

/// A connection for questions. Cheap to clone. Every call waits at most five seconds for each answer.
#[derive(Clone)]
pub struct Admin {
    client: Arc<RwLock<Arc<AdminClient<QuietContext>>>>,
    settings: KafkaConfig,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Connects in the background. Errors: [`Code::KafkaConfig`] for settings that librdkafka refuses.
    pub fn new(settings: &KafkaConfig) -> Result<Self> {
        let client = connect(settings)?;
        Ok(Self { client: Arc::new(RwLock::new(Arc::new(client))), settings: settings.clone() })
    }

    pub(super) fn client(&self) -> Arc<AdminClient<QuietContext>> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The brokers. When none answers, the next call uses a new client, because the old one may have lost every address
    /// that it knew (see [`reconnect`](super::reconnect)).
    pub async fn cluster(&self) -> Result<ClusterFacts> {
        self.look(HashSet::new()).await.map(|(cluster, _)| cluster)
    }

    /// The brokers, and the partitions of those of these topics that the cluster lists.
    pub async fn look(&self, topics: HashSet<String>) -> Result<(ClusterFacts, HashMap<String, Vec<Place>>)> {
        let answer = self.ask_cluster(topics).await;
        if answer.is_err() {
            let client = Arc::new(connect(&self.settings)?);
            let old = std::mem::replace(&mut *self.client.write().unwrap_or_else(PoisonError::into_inner), client);
            close_later(old);
        }
        answer
    }

    async fn ask_cluster(&self, topics: HashSet<String>) -> Result<(ClusterFacts, HashMap<String, Vec<Place>>)> {
        let read = move |metadata: &Metadata| {
            let brokers = metadata
                .brokers()
                .iter()
                .map(|broker| (broker.id(), format!("{}:{}", broker.host(), broker.port())))
                .collect();
            let found = metadata.topics().iter().filter(|topic| topics.contains(topic.name()));
            let places =
                found.filter_map(|topic| Some((topic.name().to_owned(), Found::read(topic).ok()??.places))).collect();
            Ok((ClusterFacts { brokers }, places))
        };
        METADATA.metadata(self.client(), None, read).await
    }

    /// `None` when the topic does not exist. Errors: [`Code::KafkaDenied`] without the right to describe it.
    pub async fn topic(&self, name: &str) -> Result<Option<TopicFacts>> {
        if !super::is_topic_name(name) {
            return Ok(None);
        }
        let topic = name.to_owned();
        let read = move |metadata: &Metadata| {
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
            Ok(Found::read(found)?.map(|found| (found, metadata.orig_broker_id())))
        };
        let found = METADATA.metadata(self.client(), Some(name.to_owned()), read).await?;
        let Some((found, broker)) = found else { return Ok(None) };
        let mut settings = self.topic_settings(&[name], broker).await;
        Ok(Some(found.with(&settings.remove(name).unwrap_or_default())))
    }

    /// The partitions of a topic, without its settings. `None` when it does not exist. Errors: as of [`Admin::topic`].
    pub async fn places(&self, name: &str) -> Result<Option<Vec<Place>>> {
        if !super::is_topic_name(name) {
            return Ok(None);
        }
        let topic = name.to_owned();
        let read = move |metadata: &Metadata| {
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
            Ok(Found::read(found)?.map(|found| found.places))
        };
        METADATA.metadata(self.client(), Some(name.to_owned()), read).await
    }

    /// Those of these topics that the cluster lists, with one question for all. A topic that is missing here does not
    /// exist, or this client may not see it.
    pub async fn listed(&self, names: &HashSet<String>) -> Result<HashMap<String, TopicFacts>> {
        let wanted = names.clone();
        let read = move |metadata: &Metadata| {
            let topics = metadata.topics().iter().filter(|topic| wanted.contains(topic.name()));
            let found: HashMap<String, Found> =
                topics.filter_map(|topic| Some((topic.name().to_owned(), Found::read(topic).ok()??))).collect();
            Ok((found, metadata.orig_broker_id()))
        };
        let (mut found, broker) = METADATA.metadata(self.client(), None, read).await?;
        let names: Vec<String> = found.keys().cloned().collect();
        let mut facts = HashMap::with_capacity(names.len());
        for some in names.chunks(SETTINGS_AT_ONCE) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            let mut settings = self.topic_settings(&names, broker).await;
            for name in some {
                let Some(found) = found.remove(name) else { continue };
                facts.insert(name.clone(), found.with(&settings.remove(name).unwrap_or_default()));
            }
        }
        Ok(facts)
    }

    /// Creates a topic with the cluster's default replication. One that exists already is left as it is.
    pub async fn create_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let answers =
            answered("create_topics", self.client().create_topics([&topic], &options)).await?.map_err(unreachable)?;
        match answers.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(Error::new(
                Code::KafkaUnreachable,
                format!("the topic {name} does not exist and cannot be created: {code}"),
            )
            .hint(format!("create {name} with {partitions} partitions, or grant this client the right to create it"))),
            _ => Ok(()),
        }
    }

    /// Adds partitions to a topic, up to `partitions`. The records of those that are there stay where they are.
    pub async fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let wanted = NewPartitions::new(name, partitions);
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let answers = answered("create_partitions", self.client().create_partitions([&wanted], &options))
            .await?
            .map_err(unreachable)?;
        let Some(Err((_, code))) = answers.into_iter().next() else { return Ok(()) };
        // Another instance may have been faster.
        if self.topic(name).await?.is_some_and(|facts| facts.partitions >= partitions) {
            return Ok(());
        }
        let retriable = matches!(code, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController);
        let kind = if retriable { Code::KafkaUnreachable } else { Code::KafkaConfig };
        Err(Error::new(
            kind,
            format!("the topic {name} has fewer than {partitions} partitions, and they cannot be added: {code}"),
        )
        .hint(format!("add partitions to {name}, or grant this client the right to alter it")))
    }

    /// Deletes the records of each partition below an offset. Returns the partitions that refused, with the reason.
    pub async fn delete_records(&self, below: &[(String, i32, i64)]) -> Result<Vec<(String, i32, String)>> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in below {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(unreachable)?;
        }
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT));
        let answers =
            answered("delete_records", self.client().delete_records(&list, &options)).await?.map_err(unreachable)?;
        let refused = answers.elements().into_iter().filter_map(|element| {
            let error = element.error().err()?;
            Some((element.topic().to_owned(), element.partition(), error.to_string()))
        });
        Ok(refused.collect())
    }

    /// Low and end offset of each partition. Empty when the topic does not exist.
    pub async fn offsets(&self, topic: &str) -> Result<Vec<PartitionOffsets>> {
        let Some(facts) = self.topic(topic).await? else { return Ok(Vec::new()) };
        let partitions = (0..facts.partitions).map(|partition| i32::try_from(partition).unwrap_or(i32::MAX)).collect();
        let found = WATERMARKS.watermarks(self.client(), topic.to_owned(), partitions).await?;
        Ok(found.into_iter().map(|(partition, low, end)| PartitionOffsets { partition, low, end }).collect())
    }

    /// Who is in a consumer group and how it shares its partitions. A group that does not exist has no members.
    pub async fn group(&self, name: &str) -> Result<Group> {
        GROUP.group(self.client(), name.to_owned()).await
    }

    /// What a group has committed in Kafka; `None` for a partition without a commit.
    pub async fn committed(
        &self,
        group: &str,
        partitions: &[(String, i32)],
    ) -> Result<Vec<(String, i32, Option<i64>)>> {
        let committed = self.committed_with_notes(group, partitions).await?;
        let offset_alone = |found: Option<(i64, String)>| found.map(|(offset, _)| offset);
        Ok(committed.into_iter().map(|(topic, partition, found)| (topic, partition, offset_alone(found))).collect())
    }

    /// As [`Admin::committed`], with the text that was committed beside each offset.
    pub async fn committed_with_notes(
        &self,
        group: &str,
        partitions: &[(String, i32)],
    ) -> Result<Vec<(String, i32, Option<(i64, String)>)>> {
        let mut config = client_config::common(&self.settings, "outbox-relay-admin");
        config.set("group.id", group).set("enable.auto.commit", "false");
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let read = |committed: &TopicPartitionList| {
            let found = committed.elements().into_iter().map(|element| {
                let found = match element.offset() {
                    Offset::Offset(offset) => {
                        Some((offset, raw::committed_note(committed, element.topic(), element.partition())))
                    }
                    Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
                };
                (element.topic().to_owned(), element.partition(), found)
            });
            found.collect()
        };
        // By a consumer of the group that never subscribes, so it takes nothing over.
        let consumer = move || config.create_with_context(QuietContext).map_err(refused_settings);
        COMMITTED.committed_by(consumer, list, read).await
    }

    /// Settings of topics by name; none of a topic where the broker does not tell. Any broker may be asked; we ask one
    /// that has just answered, so that a cluster without a controller (as librdkafka's mock) says no at once instead of
    /// never.
    async fn topic_settings(&self, topics: &[&str], broker: i32) -> HashMap<String, HashMap<String, String>> {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).broker_id(broker);
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let client = self.client();
        let asked = answered("describe_configs", client.describe_configs(&resources, &options)).await;
        match asked.and_then(|answer| answer.map_err(unreachable)) {
            Ok(resources) => resources
                .into_iter()
                .flatten()
                .filter_map(|resource| {
                    let OwnedResourceSpecifier::Topic(name) = resource.specifier else { return None };
                    let entries = resource.entries.into_iter();
                    Some((name, entries.filter_map(|entry| Some((entry.name, entry.value?))).collect()))
                })
                .collect(),
            Err(error) => {
                tracing::debug!(topics = topics.len(), error = %error, "the broker does not return topic settings");
                HashMap::new()
            }
        }
    }
}

pub(super) fn unreachable(error: KafkaError) -> Error {
    Error::new(Code::KafkaUnreachable, "cannot reach Kafka")
        .caused_by(error)
        .hint("check kafka.bootstrap_servers and the security settings; for details run: outbox-relay check")
}

fn connect(settings: &KafkaConfig) -> Result<AdminClient<QuietContext>> {
    use rdkafka::config::FromClientConfigAndContext;
    let config = client_config::common(settings, "outbox-relay-admin");
    AdminClient::from_config_and_context(&config, QuietContext).map_err(refused_settings)
}

pub(super) use client_config::refused as refused_settings;
