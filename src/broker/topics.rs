//! What is known of topics, so that a record that cannot be published is found before it is sent.
//!
//! Lanes look topics up without waiting and ask for the missing ones between two batches. A topic that is not there is
//! waited for before its events fail: services deploy before their topics exist more often than the other way round.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::admin::Admin;
use super::partitions::Partitions;
use crate::clock::monotonic;
use crate::error::{Code, Result};

/// What a lane may assume of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Never asked for, or missing for longer than the grace when the cluster was last asked, which is a while ago: call
    /// [`TopicCatalog::learn`].
    Unknown,
    Exists {
        /// The topic's `max.message.bytes`, where the broker tells.
        max_message_bytes: Option<u64>,
    },
    /// Does not exist, but may soon: wait.
    Awaited,
    /// Kafka does not let us write to it: its events wait.
    Denied,
    /// Has not existed for longer than the grace, nor a moment ago.
    Missing,
}

#[derive(Debug, Clone, Copy)]
enum Fact {
    Denied {
        /// When Kafka last said so.
        asked: Duration,
        /// The client may see the topic, so only an event can find out whether it may write by now.
        visible: bool,
    },
    Exists {
        max_message_bytes: Option<u64>,
    },
    Missing {
        since: Duration,
        /// When the cluster last said so.
        asked: Duration,
    },
}

/// An answer that is older than this blames no event: its topic may have been made meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// How long a topic counts as denied before it is tried with an event again. A grant is noticed after that time at most, and an attempt
/// costs one refused request, in exactly-once delivery an aborted transaction.
pub const DENIED_RETRY: Duration = Duration::from_secs(10);

/// Facts about topics, shared by all lanes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicCatalog {
    admin: Admin,
    grace: Duration,
    facts: Arc<RwLock<HashMap<String, Fact>>>,
    /// Topics that can be written to again, and since when.
    granted: Arc<Mutex<HashMap<String, Duration>>>,
    partitions: Partitions,
}

impl TopicCatalog {
    /// `grace`: how long a topic that does not exist is waited for.
    pub fn new(admin: Admin, grace: Duration) -> Self {
        Self { admin, grace, facts: Arc::default(), granted: Arc::default(), partitions: Partitions::default() }
    }

    /// What is known of the partitions.
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// `just_asked`: the caller has asked about it and looks up again because of that.
    pub fn look_up(&self, topic: &str, just_asked: bool) -> Topic {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let ago = |then: &Duration| monotonic().saturating_sub(*then);
        match facts.get(topic) {
            None => Topic::Unknown,
            Some(Fact::Exists { max_message_bytes }) => Topic::Exists { max_message_bytes: *max_message_bytes },
            Some(Fact::Denied { asked, .. }) if ago(asked) < DENIED_RETRY => Topic::Denied,
            Some(Fact::Denied { visible: true, .. }) => Topic::Exists { max_message_bytes: None },
            Some(Fact::Denied { visible: false, .. }) if just_asked => Topic::Denied,
            Some(Fact::Denied { visible: false, .. }) => Topic::Unknown,
            Some(Fact::Missing { since, asked }) => match ago(since) < self.grace {
                true => Topic::Awaited,
                false if just_asked || ago(asked) <= FRESH => Topic::Missing,
                false => Topic::Unknown,
            },
        }
    }

    /// Asks the cluster about topics and keeps the answers. Errors: Kafka cannot be reached; what was known stays.
    pub async fn learn(&self, topics: &HashSet<String>) -> Result<()> {
        for topic in topics {
            let answer = match self.admin.topic(topic).await {
                Err(error) if error.code() == Code::KafkaDenied => {
                    self.deny(topic, false);
                    continue;
                }
                answer => answer?,
            };
            let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
            match (answer, facts.get(topic)) {
                // That it can be seen does not mean that it can be written to.
                (Some(_), Some(Fact::Denied { visible: true, .. })) => {}
                (Some(found), before) => {
                    if matches!(before, Some(Fact::Denied { .. })) {
                        self.allow(topic);
                    }
                    facts.insert(topic.clone(), Fact::Exists { max_message_bytes: found.max_message_bytes });
                }
                (None, Some(Fact::Missing { since, .. })) => {
                    let since = *since;
                    facts.insert(topic.clone(), Fact::Missing { since, asked: monotonic() });
                }
                (None, _) => {
                    tracing::warn!(topic, "the topic does not exist; its events wait");
                    let now = monotonic();
                    facts.insert(topic.clone(), Fact::Missing { since: now, asked: now });
                }
            }
        }
        Ok(())
    }

    /// Kafka has not let this client write to a topic, or see it. Its events wait from now on.
    pub fn deny(&self, topic: &str, visible: bool) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        let asked = monotonic();
        if !matches!(facts.insert(topic.to_owned(), Fact::Denied { asked, visible }), Some(Fact::Denied { .. })) {
            let right = if visible { "WRITE" } else { "DESCRIBE and WRITE" };
            tracing::warn!(
                topic,
                "Kafka does not let the relay write to the topic; its events wait for a grant of {right}"
            );
        }
    }

    /// Whether Kafka has denied a topic that nothing went to since.
    pub fn any_denied(&self) -> bool {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.values().any(|fact| matches!(fact, Fact::Denied { .. }))
    }

    /// Records went to these topics: what waits for a grant can go on.
    pub fn written<'a>(&self, topics: impl Iterator<Item = &'a str>) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            if matches!(facts.get(topic), Some(Fact::Denied { .. })) {
                // To be asked about its limits.
                facts.remove(topic);
                self.allow(topic);
            }
        }
    }

    fn allow(&self, topic: &str) {
        tracing::info!(topic, "the relay may use the topic again");
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), monotonic());
    }

    /// Topics that can be written to again since a while ago. A topic stays here for some time, because others may not know yet.
    pub fn granted(&self) -> Vec<String> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.retain(|_, since| monotonic().saturating_sub(*since) < DENIED_RETRY * 3);
        granted.keys().cloned().collect()
    }

    /// Asks whether the cluster answers. Errors: it does not.
    pub async fn ping(&self) -> Result<()> {
        self.admin.cluster().await.map(drop)
    }

    /// Asks again about every topic that is known: limits may have been changed, topics deleted or created. Errors: Kafka
    /// cannot be reached.
    pub async fn refresh(&self) -> Result<()> {
        self.ping().await?;
        let known: HashSet<String> =
            self.facts.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        self.learn(&known).await
    }
}
