//! What is waited for: the names that `/readyz`, the metrics, the log, `lag` and `top` share.
//!
//! [`Situation`] is the closed list of names, with what each means for readiness and for `lag --fail-over`. A [`Wait`]
//! is one of them at a place, since a time. A part of the process reports its waits to a [`Board`], which logs the
//! start and the end once, and keeps readiness and the gauges in step. `measure` finds the same situations in
//! PostgreSQL and Kafka, for processes that are not the relay.

mod board;
mod situation;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

pub use board::{Board, Source};
pub use situation::Situation;

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    pub situation: Situation,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub shard: Option<i16>,
    /// More than the situation says. Anybody may read it: no keys, no payloads, no text that an operator typed.
    pub detail: Option<String>,
    /// `None`: not known.
    #[serde(serialize_with = "seconds")]
    pub since: Option<Timestamp>,
}

impl Wait {
    pub fn new(situation: Situation) -> Self {
        Self { situation, topic: None, partition: None, shard: None, detail: None, since: None }
    }

    #[must_use]
    pub fn of_topic(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }

    #[must_use]
    pub fn of_partition(self, topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: Some(topic.into()), partition: Some(partition), ..self }
    }

    #[must_use]
    pub fn of_shard(self, shard: i16) -> Self {
        Self { shard: Some(shard), ..self }
    }

    #[must_use]
    pub fn because(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    #[must_use]
    pub fn since(self, since: Option<Timestamp>) -> Self {
        Self { since, ..self }
    }

    /// Where it waits: `orders/3`, `orders`, `shard 7`. Empty: everywhere.
    pub fn place(&self) -> String {
        match (&self.topic, self.partition, self.shard) {
            (Some(topic), Some(partition), _) => format!("{topic}/{partition}"),
            (Some(topic), None, _) => topic.clone(),
            (None, _, Some(shard)) => format!("shard {shard}"),
            (None, _, None) => String::new(),
        }
    }

    /// The detail, or what the situation says by itself.
    pub fn text(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.situation.sentence())
    }

    /// Place and text.
    pub fn line(&self) -> String {
        match self.place() {
            place if place.is_empty() || self.text().contains(&place) => self.text().to_owned(),
            place => format!("{place}: {}", self.text()),
        }
    }
}

/// As the commands print times.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn seconds<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(time).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_where_and_what() {
        let open = Wait::new(Situation::OpenTransaction).of_partition("orders", 3);
        assert_eq!(open.line(), "orders/3: another producer's transaction is open");
        assert_eq!(open.because("it is long").line(), "orders/3: it is long");
        assert_eq!(Wait::new(Situation::NoOwner).of_shard(7).place(), "shard 7");
        let missing = Wait::new(Situation::MissingTopic).of_topic("ordres").since(Some(Timestamp::UNIX_EPOCH));
        let json = serde_json::to_value(&missing).unwrap();
        assert_eq!(
            (&json["situation"], &json["topic"], &json["since"]),
            (&"missing-topic".into(), &"ordres".into(), &"1970-01-01T00:00:00Z".into())
        );
    }
}
