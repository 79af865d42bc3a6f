//! What a lane decides about a claimed event with what is known without asking anybody.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Record;
use crate::broker::topics::{DENIED_RETRY, Topic};
use crate::event::OutboxEvent;
use crate::metrics::FailureLabels;
use crate::outbox::{TopicWait, Verdict};
use crate::relay::Lanes;
use crate::relay::pauses::Paused;

/// How long the keys of a topic that does not exist wait before it is looked for again.
const MISSING_TOPIC_WAIT: Duration = Duration::from_secs(2);

/// How long the other keys of a topic wait that Kafka does not let us write to, unless one of them gets through before.
const DENIED_WAIT: Duration = Duration::from_mins(5);

/// One walk through a claim, with the topics that it met.
pub(in crate::relay) struct Judge {
    shared: Arc<Lanes>,
    paused: Arc<Paused>,
    /// The events have been claimed before, and go out again whole or not at all.
    again: bool,
    /// The last walk stopped because of these, and the cluster was asked.
    just_asked: HashSet<String>,
    /// Nobody has asked the cluster about these.
    pub(super) unknown: HashSet<String>,
    /// These do not exist; their events wait or fail.
    pub(super) missing: HashSet<String>,
    /// Kafka does not let us write to these; their events wait.
    denied: HashSet<String>,
    /// The walk stopped before an event whose topic does not exist yet.
    pub(super) awaited: bool,
}

impl Judge {
    pub(super) fn new(shared: Arc<Lanes>, again: bool, just_asked: HashSet<String>) -> Self {
        let paused = shared.paused.now();
        let (unknown, missing, denied) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { shared, paused, again, just_asked, unknown, missing, denied, awaited: false }
    }

    pub(in crate::relay) fn verdict(&mut self, event: &OutboxEvent<'_>) -> Verdict<Record> {
        let record = match self.shared.encoder.encode(event) {
            Ok(record) => record,
            Err(refusal) => {
                // The topic is no label here: it may be any text.
                self.count(String::new(), refusal.class());
                let topic = self.shared.encoder.topic(event);
                return Verdict::Refuse { class: refusal.class(), topic, reason: refusal.to_string() };
            }
        };
        // What is in flight already goes out, paused or not.
        if !self.again && self.paused.topic(&record.topic) {
            return Verdict::Wait(TopicWait::Paused(record.topic));
        }
        match self.shared.catalog.look_up(&record.topic, self.just_asked.contains(&record.topic)) {
            Topic::Unknown => {
                self.unknown.insert(record.topic);
                Verdict::Stop
            }
            // Whole or not at all: perhaps it can be written to by now.
            Topic::Denied if self.again => Verdict::Publish(record),
            Topic::Denied => {
                // One key a walk asks again soon; the others are released when it got through, and ask late in case nobody does that.
                let first = self.denied.insert(record.topic.clone());
                Verdict::Wait(TopicWait::Denied(record.topic, if first { DENIED_RETRY } else { DENIED_WAIT }))
            }
            Topic::Awaited if self.again => {
                self.unknown.insert(record.topic);
                self.awaited = true;
                Verdict::Stop
            }
            Topic::Awaited => {
                self.missing.insert(record.topic.clone());
                Verdict::Wait(TopicWait::Missing(record.topic, MISSING_TOPIC_WAIT))
            }
            Topic::Missing => {
                let reason = format!("the topic {} does not exist; create it, then retry the event", record.topic);
                self.missing.insert(record.topic.clone());
                self.refuse("unknown-topic", record.topic, reason)
            }
            Topic::Exists { max_message_bytes } => {
                let size = record.size() as u64;
                match max_message_bytes {
                    Some(limit) if size > limit => {
                        let reason = format!(
                            "the record takes {size} bytes and the topic {} allows max.message.bytes = {limit}",
                            record.topic
                        );
                        self.refuse("too-large", record.topic, reason)
                    }
                    _ => Verdict::Publish(record),
                }
            }
        }
    }

    fn refuse(&self, class: &'static str, topic: String, reason: String) -> Verdict<Record> {
        self.count(topic.clone(), class);
        Verdict::Refuse { class, topic: Some(topic), reason }
    }

    fn count(&self, topic: String, class: &'static str) {
        self.shared.metrics.publish_failures.get_or_create(&FailureLabels { topic, reason: class }).inc();
    }
}
