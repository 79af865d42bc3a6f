//! What a lane decides about a claimed event with what is known without asking anybody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::shared::{Lanes, Paused, Sending};
use crate::broker::Record;
use crate::broker::admin::Timestamps;
use crate::broker::partitions::Down;
use crate::broker::topics::{DENIED_RETRY, Limits, Topic};
use crate::clock::wall;
use crate::event::{FailureClass, OutboxEvent};
use crate::failpoint::{Fault, fault};
use crate::metrics::FailureLabels;
use crate::outbox::{Screening, TopicWait};

/// What is added to the wait for a topic that does not exist, so that it is looked for again once events may fail.
const MISSING_TOPIC_WAIT: Duration = Duration::from_secs(2);
/// How long the other keys of a partition in trouble wait, unless it takes records before.
const PARTITION_WAIT: Duration = Duration::from_mins(1);
/// Our clock is not the broker's: what is past a limit by less is for the broker to decide.
const CLOCKS_MS: i64 = 60_000;

/// How long the other keys of a topic wait that Kafka does not let us write to, unless one of them gets through before.
const DENIED_WAIT: Duration = Duration::from_mins(5);

/// One walk through a claim, with the topics that it met.
pub(super) struct Screen {
    shared: Arc<Lanes>,
    paused: Arc<Paused>,
    /// The events have been claimed before, and go out again whole or not at all.
    again: bool,
    /// The last walk left these aside, and the cluster was asked then.
    asked: HashMap<String, Duration>,
    /// The cluster has to be asked about these.
    pub(super) unknown: HashSet<String>,
    /// Partitions that take no records; their events wait.
    down: HashSet<(String, i32)>,
    /// Kafka does not let us write to these; their events wait.
    denied: HashSet<String>,
    /// The last event that it met.
    last: i64,
    /// Events that failed, by the labels of the metric: topic and class.
    failures: Vec<(String, FailureClass)>,
    /// The walk stopped before an event whose topic does not exist yet.
    pub(super) awaited: bool,
}

impl Screen {
    pub(super) fn new(shared: Arc<Lanes>, again: bool, asked: HashMap<String, Duration>) -> Self {
        let paused = shared.paused.now();
        let (unknown, down, denied) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { shared, paused, again, asked, unknown, down, denied, last: 0, failures: Vec::new(), awaited: false }
    }

    pub(super) fn screen(&mut self, event: &OutboxEvent<'_>) -> Screening<Record> {
        // A step that failed is taken once more, and walks in the order of ids again: nothing of the first walk has
        // happened.
        if event.id <= self.last {
            self.unknown.clear();
            self.down.clear();
            self.denied.clear();
            self.failures.clear();
            self.awaited = false;
        }
        self.last = event.id;
        let record = match self.shared.encoder.encode(event) {
            Ok(record) => record,
            Err(refusal) => {
                // The topic is no label here: it may be any text.
                self.count(String::new(), refusal.class());
                let topic = self.shared.encoder.topic(event);
                return Screening::Refuse { class: refusal.class(), topic, reason: refusal.to_string() };
            }
        };
        // What is in flight already goes out, paused or not.
        if !self.again && self.paused.topic(&record.topic) {
            return Screening::Wait(TopicWait::Paused(record.topic));
        }
        let asked_at = self.asked.get(&record.topic).copied();
        match self.shared.catalog.look_up(&record.topic, asked_at) {
            Topic::Unknown => self.later(record.topic),
            // Whole or not at all: perhaps it can be written to by now.
            Topic::Denied if self.again => Screening::Publish(record),
            Topic::Denied => {
                // One key a walk asks again soon; the others are released when it got through, and ask late in case
                // nobody does that.
                let first = self.denied.insert(record.topic.clone());
                Screening::Wait(TopicWait::Denied(record.topic, if first { DENIED_RETRY } else { DENIED_WAIT }))
            }
            Topic::Awaited(_) if self.again || fault(Fault::MissingTopicWaitedFor) => {
                self.awaited = true;
                self.later(record.topic)
            }
            // Released when the topic is there.
            Topic::Awaited(left) => Screening::Wait(TopicWait::Missing(record.topic, left + MISSING_TOPIC_WAIT)),
            Topic::Missing => {
                let reason = format!("the topic {} does not exist; create it, then retry the event", record.topic);
                self.refuse(FailureClass::UnknownTopic, record.topic, reason)
            }
            Topic::Exists(limits) => match beyond(&record, &limits) {
                // Limits may have been changed since.
                Some(_) if !limits.is_fresh(asked_at) => self.later(record.topic),
                Some((class, reason)) => self.refuse(class, record.topic, reason),
                None => self.place(record),
            },
        }
    }

    /// The topic takes the record; does its partition?
    fn place(&mut self, record: Record) -> Screening<Record> {
        // What is in flight goes out whole or not at all.
        if self.again {
            return Screening::Publish(record);
        }
        let at_once = matches!(self.shared.sending, Sending::ExactlyOnce(..));
        let Some(down) = self.shared.catalog.partitions().down(&record.topic, record.key.as_deref(), at_once) else {
            return Screening::Publish(record);
        };
        let detail = down.to_string();
        let Down { topic, partition, .. } = down;
        let first = self.down.insert((topic.clone(), partition));
        let retry = if first { DENIED_RETRY } else { PARTITION_WAIT };
        Screening::Wait(TopicWait::Partition { topic, detail, retry })
    }

    /// The cluster is asked first; what comes behind it in other keys goes on, unless this goes out whole or not at
    /// all.
    fn later(&mut self, topic: String) -> Screening<Record> {
        self.unknown.insert(topic);
        if self.again || fault(Fault::MissingTopicWaitedFor) { Screening::Stop } else { Screening::Later }
    }

    fn refuse(&mut self, class: FailureClass, topic: String, reason: String) -> Screening<Record> {
        let label = self.shared.metrics.topic_label(&topic);
        self.count(label, class);
        Screening::Refuse { class, topic: Some(topic), reason }
    }

    fn count(&mut self, topic: String, class: FailureClass) {
        self.failures.push((topic, class));
    }

    /// Counts the events that failed, now that it is committed.
    pub(super) fn report(&mut self) {
        for (topic, class) in self.failures.drain(..) {
            let reason = class.as_str();
            self.shared.metrics.publish_failures.get_or_create(&FailureLabels { topic, reason }).inc();
        }
    }
}

/// Why the topic would not take a record: class and reason.
fn beyond(record: &Record, limits: &Limits) -> Option<(FailureClass, String)> {
    let (size, topic) = (record.size() as u64, &record.topic);
    if let Some(limit) = limits.max_message_bytes.filter(|limit| size > *limit) {
        let reason = format!("the record takes {size} bytes and the topic {topic} allows max.message.bytes = {limit}");
        return Some((FailureClass::TooLarge, reason));
    }
    if limits.compacted && record.key.is_none() {
        let reason = format!("the record has no key and the topic {topic} has cleanup.policy = compact");
        return Some((FailureClass::InvalidRecord, reason));
    }
    let times = limits.timestamps;
    if times == Timestamps::default() {
        return None;
    }
    let ahead = record.timestamp_ms.saturating_sub(wall().as_millisecond());
    let past = |difference: i64, limit: Option<i64>| limit.filter(|limit| difference > limit.saturating_add(CLOCKS_MS));
    let (name, limit) = match (past(ahead, times.after_max), past(-ahead, times.before_max)) {
        (Some(limit), _) => ("message.timestamp.after.max.ms", limit),
        (None, Some(limit)) => ("message.timestamp.before.max.ms", limit),
        (None, None) => return None,
    };
    let seconds = ahead.abs() / 1_000;
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    let reason = format!("created_at is {seconds} s {side} the present, and the topic {topic} allows {name} = {limit}");
    Some((FailureClass::InvalidTimestamp, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Headers;

    fn record(ahead_ms: i64) -> Record {
        let timestamp_ms = wall().as_millisecond() + ahead_ms;
        Record { topic: "t".to_owned(), key: None, value: None, headers: Headers::default(), timestamp_ms }
    }

    #[test]
    fn a_record_that_a_topic_would_refuse_for_its_time_is_known_beforehand() {
        const HOUR: i64 = 3_600_000;
        let limits = Limits {
            timestamps: Timestamps { before_max: Some(24 * HOUR), after_max: Some(HOUR) },
            ..Limits::default()
        };
        let class = |ahead| beyond(&record(ahead), &limits).map(|(class, _)| class);
        assert_eq!(class(0), None);
        assert_eq!(class(2 * HOUR), Some(FailureClass::InvalidTimestamp));
        assert_eq!(class(-25 * HOUR), Some(FailureClass::InvalidTimestamp));
        assert_eq!(class(HOUR + 30_000), None, "so near to the limit the clock of the broker decides");
        assert_eq!(beyond(&record(1_000 * HOUR), &Limits::default()), None, "no limit is known");
        let compacted = Limits { compacted: true, ..Limits::default() };
        assert_eq!(
            beyond(&record(0), &compacted).map(|(class, _)| class),
            Some(FailureClass::InvalidRecord),
            "it has no key"
        );
        assert_eq!(beyond(&Record { key: Some("k".to_owned()), ..record(0) }, &compacted), None);
        assert_eq!(
            beyond(&record(i64::MAX / 2), &limits).map(|(class, _)| class),
            Some(FailureClass::InvalidTimestamp)
        );
    }
}
