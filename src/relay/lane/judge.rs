//! What a lane decides about a claimed event with what is known without asking anybody.

use std::collections::HashSet;

use crate::broker::Record;
use crate::broker::topics::Topic;
use crate::event::OutboxEvent;
use crate::metrics::FailureLabels;
use crate::outbox::Verdict;
use crate::relay::Lanes;

/// One walk through a claim, with the topics that it met.
pub(super) struct Judge<'a> {
    shared: &'a Lanes,
    /// Nobody has asked the cluster about these.
    pub(super) unknown: HashSet<String>,
    /// These do not exist, and their events fail.
    pub(super) missing: HashSet<String>,
    /// The walk stopped before an event whose topic does not exist yet.
    pub(super) awaited: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn new(shared: &'a Lanes) -> Self {
        Self { shared, unknown: HashSet::new(), missing: HashSet::new(), awaited: false }
    }

    pub(super) fn verdict(&mut self, event: &OutboxEvent<'_>) -> Verdict<Record> {
        let record = match self.shared.encoder.encode(event) {
            Ok(record) => record,
            Err(refusal) => return self.refuse(refusal.class(), String::new(), refusal.to_string()),
        };
        match self.shared.catalog.look_up(&record.topic) {
            Topic::Unknown => {
                self.unknown.insert(record.topic);
                Verdict::Stop
            }
            Topic::Awaited => {
                self.unknown.insert(record.topic);
                self.awaited = true;
                Verdict::Stop
            }
            Topic::Missing => {
                let reason = format!(
                    "unknown-topic: the topic {} does not exist; create it, then retry the event",
                    record.topic
                );
                self.missing.insert(record.topic.clone());
                self.refuse("unknown-topic", record.topic, reason)
            }
            Topic::Exists { max_message_bytes } => {
                let size = record.size() as u64;
                match max_message_bytes {
                    Some(limit) if size > limit => {
                        let reason = format!(
                            "too-large: the record takes {size} bytes and the topic {} allows max.message.bytes = {limit}",
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
        self.shared.metrics.publish_failures.get_or_create(&FailureLabels { topic, reason: class }).inc();
        Verdict::Refuse(reason)
    }
}
