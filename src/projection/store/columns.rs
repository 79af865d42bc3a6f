//! Records as the parameters of statements: one array per column.

use std::borrow::Cow;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Fate, Part};
use crate::projection::record::Record;

/// Text as it is, or with everything that is no ASCII escaped.
pub(super) fn kept(text: Option<&str>, escaped: bool) -> Option<Cow<'_, str>> {
    let text = text?;
    if !escaped || text.is_ascii() {
        return Some(text.into());
    }
    let mut ascii = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() { ascii.push(c) } else { ascii.extend(c.escape_unicode()) }
    }
    Some(ascii.into())
}

/// The heads of some records, as the statements take them.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) event_types: Vec<Option<Cow<'a, str>>>,
    pub(super) aggregate_types: Vec<Option<Cow<'a, str>>>,
    pub(super) aggregate_ids: Vec<Option<Cow<'a, str>>>,
    pub(super) versions: Vec<i32>,
    pub(super) offsets: Vec<i64>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(part: Part<'a>, chosen: &[usize]) -> Self {
        let chosen = || {
            chosen.iter().map(|index| {
                let escaped = matches!(part.fates[*index], Fate::ParkEscaped(_));
                (&part.records[*index], escaped)
            })
        };
        Self {
            ids: chosen().map(|(record, _)| record.event.id).collect(),
            event_types: chosen().map(|(record, escaped)| kept(record.event.event_type.as_deref(), escaped)).collect(),
            aggregate_types: chosen()
                .map(|(record, escaped)| kept(record.event.aggregate_type.as_deref(), escaped))
                .collect(),
            aggregate_ids: chosen()
                .map(|(record, escaped)| kept(record.event.aggregate_id.as_deref(), escaped))
                .collect(),
            versions: chosen().map(|(record, _)| record.event.version).collect(),
            offsets: chosen().map(|(record, _)| record.offset).collect(),
        }
    }
}

/// What a projection reads: the chosen records of a part. The ordinal is the index in the part.
pub(super) struct NewEvents<'a> {
    pub(super) chosen: Vec<usize>,
    part: Part<'a>,
    ordinals: Vec<i32>,
    heads: Columns<'a>,
    keys: Vec<Option<String>>,
    payloads: Vec<Option<&'a str>>,
    headers: Vec<String>,
    times: Vec<Option<Timestamp>>,
    correlations: Vec<Option<&'a str>>,
}

impl<'a> NewEvents<'a> {
    /// Records whose value is JSON.
    pub(super) fn of(part: Part<'a>, chosen: Vec<usize>) -> Self {
        let records = || chosen.iter().map(|index| &part.records[*index]);
        let text = |value: &'a [u8]| std::str::from_utf8(value).expect("only JSON is folded");
        Self {
            part,
            ordinals: chosen.iter().map(|index| i32::try_from(*index).expect("a batch is far smaller")).collect(),
            heads: Columns::of(part, &chosen),
            keys: records().map(Record::key_text).collect(),
            payloads: records().map(|record| record.value.as_deref().map(text)).collect(),
            headers: records().map(Record::headers_object).collect(),
            times: records().map(|record| record.event.time).collect(),
            correlations: records().map(|record| record.event.correlation_id.as_deref()).collect(),
            chosen,
        }
    }

    /// In the order of `sql/new_events.sql`.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        let heads = &self.heads;
        [
            &self.part.place.topic,
            &self.part.place.partition,
            &self.ordinals,
            &heads.ids,
            &heads.event_types,
            &heads.aggregate_types,
            &heads.aggregate_ids,
            &heads.versions,
            &heads.offsets,
            &self.keys,
            &self.payloads,
            &self.headers,
            &self.times,
            &self.correlations,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_an_encoding_lacks_is_escaped_and_nothing_else() {
        assert_eq!(kept(Some("caf\u{e9} \u{20ac}\\"), true).as_deref(), Some("caf\\u{e9} \\u{20ac}\\"));
        assert_eq!(kept(Some("caf\u{e9}"), false).as_deref(), Some("caf\u{e9}"));
        assert_eq!((kept(Some("plain"), true).as_deref(), kept(None, true)), (Some("plain"), None));
    }
}
