//! What is known of topics, so that a record that cannot be published is found before it is sent.
//!
//! Lanes look topics up without waiting and ask for the missing ones between two batches. A topic that is not there is
//! waited for before its events fail: services deploy before their topics exist more often than the other way round.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::admin::Admin;
use crate::clock::monotonic;
use crate::error::Result;

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
    /// Has not existed for longer than the grace, nor a moment ago.
    Missing,
}

#[derive(Debug, Clone, Copy)]
enum Fact {
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

/// Facts about topics, shared by all lanes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicCatalog {
    admin: Admin,
    grace: Duration,
    facts: Arc<RwLock<HashMap<String, Fact>>>,
}

impl TopicCatalog {
    /// `grace`: how long a topic that does not exist is waited for.
    pub fn new(admin: Admin, grace: Duration) -> Self {
        Self { admin, grace, facts: Arc::default() }
    }

    /// `just_asked`: the caller has asked about it and looks up again because of that.
    pub fn look_up(&self, topic: &str, just_asked: bool) -> Topic {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        match facts.get(topic) {
            None => Topic::Unknown,
            Some(Fact::Exists { max_message_bytes }) => Topic::Exists { max_message_bytes: *max_message_bytes },
            Some(Fact::Missing { since, asked }) => {
                let ago = |then: &Duration| monotonic().saturating_sub(*then);
                match ago(since) < self.grace {
                    true => Topic::Awaited,
                    false if just_asked || ago(asked) <= FRESH => Topic::Missing,
                    false => Topic::Unknown,
                }
            }
        }
    }

    /// Asks the cluster about topics and keeps the answers. Errors: Kafka cannot be reached; what was known stays.
    pub async fn learn(&self, topics: &HashSet<String>) -> Result<()> {
        for topic in topics {
            let answer = self.admin.topic(topic).await?;
            let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
            match (answer, facts.get(topic)) {
                (Some(found), _) => {
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
