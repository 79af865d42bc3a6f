//! Counters of one batch, by topic.

use crate::metrics::{Histogram, Metrics, TopicLabel};

/// Looked up once per run of events with the same topic.
pub(super) struct PerTopic<'a> {
    metrics: &'a Metrics,
    current: Option<TopicCounters>,
}

struct TopicCounters {
    topic: String,
    label: String,
    claimed: u64,
    published: u64,
    latency: Histogram,
}

impl<'a> PerTopic<'a> {
    pub(super) fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, current: None }
    }

    /// Counts a claimed event; `latency_seconds` if it was acknowledged.
    pub(super) fn count(&mut self, topic: &str, latency_seconds: Option<f64>) {
        if self.current.as_ref().is_none_or(|current| current.topic != topic) {
            self.flush();
            let label = TopicLabel { topic: self.metrics.topic_label(topic) };
            let latency = self.metrics.delivery_latency.get_or_create(&label).clone();
            let (topic, label) = (topic.to_owned(), label.topic);
            self.current = Some(TopicCounters { topic, label, claimed: 0, published: 0, latency });
        }
        if let Some(current) = &mut self.current {
            current.claimed += 1;
            if let Some(seconds) = latency_seconds {
                current.published += 1;
                current.latency.observe(seconds.max(0.0));
            }
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(TopicCounters { label, claimed, published, .. }) = self.current.take() {
            let label = TopicLabel { topic: label };
            self.metrics.claimed_events.get_or_create(&label).inc_by(claimed);
            self.metrics.published_events.get_or_create(&label).inc_by(published);
        }
    }
}
