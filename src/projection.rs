//! The companion consumer: folds the events of Kafka topics into tables, each event exactly once.
//!
//! A projection is a SQL file. It reads the relation `new_events` and runs in the transaction that also records the
//! events in `event_handled` and advances the offset in `consumer_partitions`; `product_metrics` is an ordinary one.
//! [`decisions`] is what an operator may change. [`consumer`] talks to Kafka, [`store`] to PostgreSQL, [`fold`] decides
//! what happens to an event that cannot be folded; [`record`], [`plan`], [`assignment`], [`position`], [`suspicion`]
//! and [`failure`] are pure.
//!
//! Invariant: the effect of an event, its row in `event_handled` and the offset after it are committed together or not
//! at all, and only by the instance with the newest epoch of the partition. Kafka's own offsets are only for lag tools.

pub mod assignment;
pub(crate) mod consumer;
pub(crate) mod decisions;
pub(crate) mod failure;
pub mod fold;
mod meters;
mod new_events;
pub(crate) mod plan;
pub(crate) mod position;
pub mod record;
pub(crate) mod status;
pub mod store;
pub mod suspicion;

pub use consumer::{Consumer, IsLost};
pub use status::ConsumerStatus;
pub use store::{Difference, differences, prepare_all};

use std::fs;

use crate::config::ProjectionConfig;
use crate::error::{Code, Error, Result};

/// Event types that `product_metrics` handles.
const COMMERCE: [&str; 6] = [
    "LikeAddedEvent",
    "LikeRemovedEvent",
    "ProductViewEvent",
    "OrderCreatedEvent",
    "OrderCancelledEvent",
    "PaymentCompletedEvent",
];

/// A fold of events into tables, as one SQL statement without parameters.
///
/// The statement may return rows of `(ordinal int, reason text)`: the events that it cannot fold. The transaction is
/// then taken back, those events are parked with their reasons, and the others are folded. A statement that fails
/// because of its data has the same effect, found with savepoints, at more cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    name: String,
    /// Empty: all.
    topics: Vec<String>,
    /// Empty: all.
    event_types: Vec<String>,
    sql: String,
    /// With `new_events` in front of it.
    statement: String,
}

impl Projection {
    /// Reads the SQL file. Errors: [`Code::ProjectionInvalid`]; whether PostgreSQL takes the statement is asked by
    /// [`prepare_all`].
    pub fn load(settings: &ProjectionConfig) -> Result<Self> {
        let sql = fs::read_to_string(&settings.sql).map_err(|error| {
            Error::new(
                Code::ProjectionInvalid,
                format!("projection {}: cannot read {}", settings.name, settings.sql.display()),
            )
            .caused_by(error)
            .hint("projection.sql names a file with one SQL statement, relative to the settings file")
        })?;
        Ok(Self {
            name: settings.name.clone(),
            topics: settings.topics.clone(),
            event_types: settings.event_types.clone(),
            statement: new_events::reading(&sql),
            sql,
        })
    }

    /// The built-in projection, for when no other is configured.
    pub fn product_metrics() -> Self {
        let sql = include_str!("projection/product_metrics.sql");
        Self {
            name: "product_metrics".to_owned(),
            topics: Vec::new(),
            event_types: COMMERCE.map(str::to_owned).to_vec(),
            statement: new_events::reading(sql),
            sql: sql.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The statement that is run, with the events as parameters.
    pub(crate) fn statement(&self) -> &str {
        &self.statement
    }

    /// The same without events, to see whether PostgreSQL takes it.
    pub(crate) fn checked_statement(&self) -> String {
        new_events::checking(&self.sql)
    }

    /// Whether it folds such events. An event without a type goes only to a projection of all types.
    pub fn handles(&self, topic: &str, event_type: Option<&str>) -> bool {
        let any_type = self.event_types.is_empty();
        (self.topics.is_empty() || self.topics.iter().any(|own| own == topic))
            && (any_type || event_type.is_some_and(|event_type| self.event_types.iter().any(|own| own == event_type)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_projection_handles_its_topics_and_types_only() {
        let mut projection = Projection::product_metrics();
        assert!(projection.handles("anything", Some("LikeAddedEvent")));
        assert!(!projection.handles("anything", Some("Other")) && !projection.handles("anything", None));
        projection.topics = vec!["catalog-events".to_owned()];
        assert!(!projection.handles("order-events", Some("LikeAddedEvent")));
        projection.event_types.clear();
        assert!(projection.handles("catalog-events", None));
    }

    #[test]
    fn a_missing_file_is_named() {
        let settings =
            ProjectionConfig { name: "trend".to_owned(), sql: PathBuf::from("no/such.sql"), ..Default::default() };
        let error = Projection::load(&settings).unwrap_err();
        assert_eq!(error.code(), Code::ProjectionInvalid);
        assert!(error.chain().contains("trend") && error.chain().contains("no/such.sql"), "{}", error.chain());
    }
}
