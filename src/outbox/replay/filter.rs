//! Which events a replay copies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::ToSql;

/// The fragment of the statements of a replay that says so.
pub(super) const MATCHES: (&str, &str) = ("matches", include_str!("sql/matches.sql"));

/// Which events. All conditions must hold; no condition matches every event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", with = "text")]
    pub from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", with = "text")]
    pub to: Option<Timestamp>,
    /// How `from` was given, if as an age in seconds: the same command later means another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ago: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ago: Option<f64>,
}

/// Times as RFC 3339 text.
mod text {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            None => to.serialize_none(),
            Some(time) => to.collect_str(time),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

impl Filter {
    /// Whether the same was asked for.
    pub fn same(&self, other: &Self) -> bool {
        let asked = |filter: &Self| {
            let mut asked = filter.clone();
            asked.from = asked.from.filter(|_| asked.from_ago.is_none());
            asked.to = asked.to.filter(|_| asked.to_ago.is_none());
            asked
        };
        asked(self) == asked(other)
    }

    /// For `outbox_audit`: without keys and ids of aggregates, which may be those of people.
    pub fn for_audit(&self) -> Value {
        let hidden = |value: &Option<String>| value.as_ref().map(|_| "given".to_owned());
        let shown = Self { key: hidden(&self.key), aggregate_id: hidden(&self.aggregate_id), ..self.clone() };
        serde_json::to_value(shown).unwrap_or_default()
    }
}

/// The parameters $4 to $11 of the walk.
pub(super) fn conditions(filter: &Filter) -> [&(dyn ToSql + Sync); 8] {
    [
        &filter.ids,
        &filter.topic,
        &filter.event_type,
        &filter.aggregate_type,
        &filter.aggregate_id,
        &filter.key,
        &filter.from,
        &filter.to,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_is_recognised_although_its_times_were_ages() {
        let ago = |now: i64| Filter {
            topic: Some("t".to_owned()),
            from: Some(Timestamp::from_second(now - 60).unwrap()),
            from_ago: Some(60.0),
            ..Filter::default()
        };
        assert!(ago(1_000).same(&ago(2_000)));
        let fixed = |at: i64| Filter { from: Some(Timestamp::from_second(at).unwrap()), ..Filter::default() };
        assert!(fixed(5).same(&fixed(5)) && !fixed(5).same(&fixed(6)) && !fixed(940).same(&ago(1_000)));
        assert!(!ago(1_000).same(&Filter { key: Some("k".to_owned()), ..ago(1_000) }));
    }

    #[test]
    fn the_audit_says_that_there_was_a_key_and_not_which() {
        let filter =
            Filter { key: Some("customer@example.org".to_owned()), topic: Some("t".to_owned()), ..Filter::default() };
        assert_eq!(filter.for_audit(), serde_json::json!({"key": "given", "topic": "t"}));
    }

    #[test]
    fn a_filter_survives_being_stored_with_every_digit() {
        let filter = Filter {
            from: Some("2026-05-01T12:00:00.123456Z".parse().unwrap()),
            ids: Some(vec![1]),
            ..Filter::default()
        };
        let stored = serde_json::to_value(&filter).unwrap();
        assert_eq!(serde_json::from_value::<Filter>(stored).unwrap(), filter);
    }
}
