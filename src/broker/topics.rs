//! Topic facts, so that a record that cannot be published is found before it is sent.
//!
//! Lanes look topics up without waiting, and request the unknown ones. One task outside the lanes queries the cluster
//! for all of them at once. A missing topic is waited for before its events fail: services are deployed before their
//! topics exist more often than the other way round.

mod fact;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::admin::{Admin, TopicFacts};
use super::partitions::Partitions;
use crate::clock::monotonic;
use crate::error::{Code, Result};
use fact::{Entry, Fact, is_fresh, millis};
pub use fact::{Limits, Topic};

/// How long a topic counts as denied before it is tried with an event again. A grant is noticed after that time at
/// most, and an attempt costs one refused request, in exactly-once delivery an aborted transaction.
pub const DENIED_RETRY: Duration = Duration::from_secs(10);

/// Time between two questions about topics that do not exist.
const MISSING_RETRY: Duration = Duration::from_secs(2);
/// Facts that were not needed for this long are forgotten.
const UNUSED: Duration = Duration::from_mins(10);
/// Up to this many topics are queried one by one; beyond that, everything that the cluster lists is read at once.
const FEW: usize = 4;
/// Recent facts are not queried again because of a rejection.
const DOUBT: Duration = Duration::from_secs(1);
/// Topics that are not in the list and are asked for by name in one go.
const BY_NAME: usize = 64;

/// Facts about topics, shared by all lanes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicCatalog {
    admin: Admin,
    grace: Duration,
    facts: Arc<RwLock<HashMap<String, Entry>>>,
    /// Topics that can be written to again, and since when.
    granted: Arc<Mutex<HashMap<String, Duration>>>,
    partitions: Partitions,
    wanted: Arc<Wanted>,
}

/// What lanes want to know.
#[derive(Debug, Default)]
struct Wanted {
    topics: Mutex<HashSet<String>>,
    asked: Notify,
    answered: Notify,
}

impl Wanted {
    fn topics(&self) -> MutexGuard<'_, HashSet<String>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ago(then: Duration) -> Duration {
    monotonic().saturating_sub(then)
}

impl TopicCatalog {
    /// `grace`: how long to wait for a missing topic.
    pub fn new(admin: Admin, grace: Duration) -> Self {
        Self {
            admin,
            grace,
            facts: Arc::default(),
            granted: Arc::default(),
            partitions: Partitions::default(),
            wanted: Arc::default(),
        }
    }

    /// What is known of the partitions.
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// `asked_at`: when the caller asked about it, and looks up again because of that.
    pub fn look_up(&self, topic: &str, asked_at: Option<Duration>) -> Topic {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = facts.get(topic) else { return Topic::Unknown };
        let now = monotonic();
        entry.used.store(millis(now), Ordering::Relaxed);
        let since = |then: Duration| now.saturating_sub(then);
        match entry.fact {
            Fact::Exists(limits) => Topic::Exists(limits),
            Fact::Denied { asked, .. } if since(asked) < DENIED_RETRY => Topic::Denied,
            Fact::Denied { visible: true, .. } => Topic::Exists(Limits::default()),
            Fact::Denied { visible: false, asked } if is_fresh(asked, asked_at) => Topic::Denied,
            Fact::Denied { visible: false, .. } => Topic::Unknown,
            Fact::Missing { since: missing, .. } if since(missing) < self.grace => {
                Topic::Awaited(self.grace.saturating_sub(since(missing)))
            }
            Fact::Missing { by_name: false, .. } => Topic::Awaited(MISSING_RETRY),
            Fact::Missing { asked, .. } if is_fresh(asked, asked_at) => Topic::Missing,
            Fact::Missing { .. } => Topic::Unknown,
        }
    }

    /// Requests facts about topics. The answer comes soon, from [`TopicCatalog::learn_wanted`].
    pub fn ask<'a>(&self, topics: impl Iterator<Item = &'a String>) {
        let mut wanted = self.wanted.topics();
        let before = wanted.len();
        for topic in topics {
            if !wanted.contains(topic) {
                wanted.insert(topic.clone());
            }
        }
        if wanted.len() > before {
            self.wanted.asked.notify_one();
        }
    }

    /// Until something is wanted, or a partition is suspected.
    pub async fn asked(&self) {
        tokio::select! {
            () = self.wanted.asked.notified() => {}
            () = self.partitions.suspected() => {}
        }
    }

    /// Waits until the cluster has answered about these topics after `since`, or has been asked without success.
    pub async fn answered(&self, topics: &HashMap<String, Duration>) {
        loop {
            let mut answered = std::pin::pin!(self.wanted.answered.notified());
            // Before the look, so that no answer comes in between.
            answered.as_mut().enable();
            if topics.iter().all(|(topic, since)| self.is_answered(topic, *since)) {
                return;
            }
            answered.await;
        }
    }

    fn is_answered(&self, topic: &str, since: Duration) -> bool {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.get(topic).is_some_and(|entry| entry.fact.asked() >= since)
    }

    /// Asks the cluster about everything that is wanted now: new topics, missing ones, and those with partitions in
    /// trouble. Returns whether there was anything. Errors: Kafka cannot be reached; known facts stay, and what was
    /// wanted is still wanted.
    pub async fn learn_wanted(&self) -> Result<bool> {
        let wanted = self.wanted.topics().clone();
        let mut topics = wanted.clone();
        topics.extend(self.partitions.suspects());
        topics.extend(self.partitions.troubled());
        topics.extend(self.missing());
        if topics.is_empty() {
            return Ok(false);
        }
        self.learn(&topics).await?;
        self.wanted.topics().retain(|topic| !wanted.contains(topic));
        self.wanted.answered.notify_waiters();
        Ok(true)
    }

    /// Topics that do not exist, whose events wait, and that nobody has asked about for a while.
    fn missing(&self) -> Vec<String> {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let due = |fact: &Fact| match fact {
            Fact::Missing { asked, by_name, .. } => !by_name || ago(*asked) >= MISSING_RETRY,
            Fact::Denied { .. } | Fact::Exists(_) => false,
        };
        facts.iter().filter(|(_, entry)| due(&entry.fact)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Whether [`TopicCatalog::learn_wanted`] has something to do now and then, even if nothing was requested.
    pub fn is_watching(&self) -> bool {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.values().any(|entry| matches!(entry.fact, Fact::Missing { .. })) || !self.partitions.troubled().is_empty()
    }

    /// Asks the cluster about topics and keeps the answers. Errors: Kafka cannot be reached; what was known stays.
    pub async fn learn(&self, topics: &HashSet<String>) -> Result<()> {
        if topics.len() > FEW {
            let mut listed = self.admin.listed(topics).await?;
            let (mut known, mut new) = (Vec::new(), Vec::new());
            for topic in topics {
                match listed.remove(topic) {
                    Some(found) => self.note(topic, Some(&found), false),
                    None if self.is_missing_by_name(topic) => self.note(topic, None, false),
                    None if self.is_known(topic) => known.push(topic),
                    None => {
                        self.note(topic, None, false);
                        new.push(topic);
                    }
                }
            }
            for topic in known.into_iter().chain(new).take(BY_NAME) {
                self.learn_by_name(topic).await?;
            }
        } else {
            for topic in topics {
                self.learn_by_name(topic).await?;
            }
        }
        Ok(())
    }

    async fn learn_by_name(&self, topic: &str) -> Result<()> {
        match self.admin.topic(topic).await {
            Err(error) if error.code() == Code::KafkaDenied => self.deny(topic, false),
            // The others are still queried. Known facts stay; events for unknown topics wait.
            Err(error) if error.code() == Code::KafkaTopic => {
                tracing::warn!(topic, error = %error.chain(), "could not fetch the topic's metadata");
                if !self.is_known(topic) {
                    self.note(topic, None, false);
                }
            }
            answer => self.note(topic, answer?.as_ref(), true),
        }
        Ok(())
    }

    fn is_known(&self, topic: &str) -> bool {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).contains_key(topic)
    }

    fn is_missing_by_name(&self, topic: &str) -> bool {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.get(topic).is_some_and(|entry| matches!(entry.fact, Fact::Missing { by_name: true, .. }))
    }

    /// Keeps an answer.
    fn note(&self, topic: &str, found: Option<&TopicFacts>, by_name: bool) {
        let now = monotonic();
        match found {
            Some(found) => {
                self.partitions.requests().told(topic, found.max_message_bytes);
                self.partitions.learnt(topic, &found.places, found.min_insync_replicas);
            }
            None => self.partitions.vanished(topic),
        }
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        let before = facts.get(topic).map(|entry| entry.fact);
        let fact = match (found, before) {
            // Visible does not mean writable.
            (Some(_), Some(Fact::Denied { visible: true, .. })) => return,
            (Some(found), before) => {
                if matches!(before, Some(Fact::Denied { .. } | Fact::Missing { .. })) {
                    self.allow(topic);
                }
                Fact::Exists(Limits {
                    max_message_bytes: found.max_message_bytes,
                    timestamps: found.timestamps,
                    compacted: found.compacted,
                    asked: now,
                })
            }
            // Only a query by name tells whether it is missing or invisible.
            (None, Some(Fact::Denied { .. })) if !by_name => return,
            (None, Some(Fact::Missing { since, by_name: before, .. })) => {
                Fact::Missing { since, asked: now, by_name: by_name || before }
            }
            (None, _) => {
                if by_name {
                    tracing::warn!(topic, "the topic does not exist; its events wait for it");
                }
                Fact::Missing { since: now, asked: now, by_name }
            }
        };
        match facts.get_mut(topic) {
            Some(entry) => entry.fact = fact,
            None => {
                facts.insert(topic.to_owned(), Entry { fact, used: AtomicU64::new(millis(now)) });
            }
        }
    }

    /// Kafka rejected a record that the topic seemed to accept: its limits were changed, and later records are judged
    /// by the new ones.
    pub fn doubt(&self, topic: &str) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        if facts.get(topic).is_some_and(|entry| matches!(entry.fact, Fact::Exists(limits) if ago(limits.asked) > DOUBT))
        {
            facts.remove(topic);
        }
    }

    /// Kafka denied this client access to a topic. Its events wait from now on.
    pub fn deny(&self, topic: &str, visible: bool) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic();
        let entry = Entry { fact: Fact::Denied { asked: now, visible }, used: AtomicU64::new(millis(now)) };
        let before = facts.insert(topic.to_owned(), entry);
        if !before.is_some_and(|entry| matches!(entry.fact, Fact::Denied { .. })) {
            let right = if visible { "WRITE" } else { "DESCRIBE and WRITE" };
            tracing::warn!(
                topic,
                "Kafka denies the relay access to the topic; its events wait until {right} is granted"
            );
        }
    }

    /// Whether Kafka has denied a topic that nothing went to since.
    pub fn any_denied(&self) -> bool {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.values().any(|entry| matches!(entry.fact, Fact::Denied { .. }))
    }

    /// Records were written to these topics: events that wait for a grant can continue.
    pub fn written<'a>(&self, topics: impl Iterator<Item = &'a str>) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            if facts.get(topic).is_some_and(|entry| matches!(entry.fact, Fact::Denied { .. })) {
                // To be asked about its limits.
                facts.remove(topic);
                self.allow(topic);
            }
        }
    }

    fn allow(&self, topic: &str) {
        tracing::info!(topic, "the topic is usable again");
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), monotonic());
    }

    /// Topics that can be written to again since a while ago. A topic stays here for some time, because others may not
    /// know yet.
    pub fn granted(&self) -> Vec<String> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.extend(self.partitions.recovered().into_iter().map(|topic| (topic, monotonic())));
        granted.retain(|_, since| monotonic().saturating_sub(*since) < DENIED_RETRY * 3);
        granted.keys().cloned().collect()
    }

    /// Those of these topics that can be written to as far as is known here. About those that nobody here has met the
    /// cluster is asked, so that the next call knows: keys that wait for a topic were perhaps held by another process.
    pub fn usable(&self, topics: Vec<String>) -> Vec<String> {
        let troubled = self.partitions.troubled();
        let (known, unknown): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| self.is_known(topic));
        self.ask(unknown.iter());
        let is_usable = |topic: &String| {
            let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
            let exists = facts.get(topic).is_some_and(|entry| matches!(entry.fact, Fact::Exists(_)));
            exists && !troubled.contains(topic)
        };
        known.into_iter().filter(is_usable).collect()
    }

    /// Asks whether the cluster answers, and looks at the partitions of the known topics. Errors: it does not.
    pub async fn ping(&self) -> Result<()> {
        let known = self.facts.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let (_, places) = self.admin.look(known).await?;
        for (topic, places) in places {
            self.partitions.seen(&topic, &places);
        }
        Ok(())
    }

    /// Queries every known topic again: limits may have been changed, topics deleted or created. Forgets what has not
    /// been needed for long. Errors: Kafka cannot be reached.
    pub async fn refresh(&self) -> Result<()> {
        self.ping().await?;
        let known: HashSet<String> = {
            let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
            facts.retain(|topic, entry| {
                let used = Duration::from_millis(entry.used.load(Ordering::Relaxed));
                let kept = ago(used) < UNUSED || matches!(entry.fact, Fact::Denied { .. });
                if !kept {
                    self.partitions.forget(topic);
                }
                kept
            });
            facts.keys().cloned().collect()
        };
        self.learn(&known).await
    }
}
