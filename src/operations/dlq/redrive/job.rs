//! A redrive as a job: what is stored of it, and how it is read again.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Chosen;
use crate::broker::reader::Range;
use crate::outbox::dead_letters::redrive::{Counts, Letter};

/// A job that has stopped in the middle.
#[derive(Debug)]
pub struct Paused {
    pub(super) job: Uuid,
    pub(super) chosen: Chosen,
    pub(super) rate: Option<u32>,
    /// What has not been read, up to the ends that the topics had at the start.
    pub(super) ranges: Vec<Range>,
    pub(super) counts: Counts,
    /// Also if a process is at work on it.
    pub take_over: bool,
}

impl Paused {
    /// Another rate from now on.
    pub fn at_rate(&mut self, rate: Option<u32>) {
        self.rate = rate.or(self.rate);
    }
}

/// Reads what a job has stored. `None`: it is not what this version writes.
pub(in crate::operations) fn paused(
    job: Uuid,
    arguments: &Value,
    cursor: Option<&Value>,
    result: Option<&Value>,
) -> Option<Paused> {
    let texts = |name: &str| -> Option<Vec<String>> {
        arguments[name].as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let optional = |name: &str| {
        let value = &arguments[name];
        if value.is_null() { Some(None) } else { value.as_str().map(Some) }
    };
    let time = |name: &str| -> Option<Option<Timestamp>> {
        match optional(name)? {
            None => Some(None),
            Some(text) => text.parse().ok().map(Some),
        }
    };
    let rate = if arguments["rate"].is_null() {
        None
    } else {
        Some(u32::try_from(arguments["rate"].as_u64()?).ok().filter(|rate| *rate > 0)?)
    };
    let chosen = Chosen {
        topics: texts("topics")?,
        class: optional("class")?.map(str::to_owned),
        since: time("since")?,
        until: time("until")?,
        places: texts("places")?.into_iter().collect(),
    };
    let ranges = cursor?.as_array()?.iter().map(range).collect::<Option<_>>()?;
    let counts = result.map(Counts::from_json).unwrap_or_default();
    Some(Paused { job, chosen, rate, ranges, counts, take_over: false })
}

fn range(json: &Value) -> Option<Range> {
    let (topic, partition) = (json["topic"].as_str()?.to_owned(), i32::try_from(json["partition"].as_i64()?).ok()?);
    Some(Range { topic, partition, from: json["from"].as_i64()?, to: json["to"].as_i64()? })
}

/// Times are those that ages meant at the start.
pub(super) fn arguments(chosen: &Chosen, rate: Option<u32>) -> Value {
    json!({
        "topics": chosen.topics,
        "class": chosen.class,
        "since": chosen.since.map(|at| at.to_string()),
        "until": chosen.until.map(|at| at.to_string()),
        "places": chosen.places,
        "rate": rate,
    })
}

/// What has not been read.
pub(super) fn cursor(ranges: &[Range]) -> Value {
    let one = |range: &Range| json!({ "topic": range.topic, "partition": range.partition, "from": range.from, "to": range.to });
    ranges.iter().map(one).collect()
}

/// Moves the ranges past these dead letters, which come in the order of their partitions.
pub(super) fn pass<'l>(ranges: &mut [Range], letters: impl Iterator<Item = &'l Letter>) {
    for letter in letters {
        let place = &letter.place;
        let of = ranges.iter_mut().find(|range| range.topic == place.topic && range.partition == place.partition);
        if let Some(range) = of {
            range.from = range.from.max(place.offset.saturating_add(1));
        }
    }
}

/// What is there still of what has not been read: a purge may have deleted some, and a topic may be gone.
pub(super) fn still_there(wanted: &[Range], there: &[Range]) -> Vec<Range> {
    let one = |range: &Range| {
        let now = there.iter().find(|now| now.topic == range.topic && now.partition == range.partition)?;
        let (from, to) = (range.from.max(now.from), range.to.min(now.to));
        (from < to).then(|| Range { from, to, ..range.clone() })
    };
    wanted.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::dead_letters::redrive::Place;

    fn range(partition: i32, from: i64, to: i64) -> Range {
        Range { topic: "t-dlq".to_owned(), partition, from, to }
    }

    #[test]
    fn what_a_job_stores_is_read_again() {
        let chosen = Chosen {
            topics: vec!["t".to_owned()],
            class: Some("Poison".to_owned()),
            since: Some("2026-05-01T12:00:00.25Z".parse().unwrap()),
            until: None,
            places: ["t-dlq/0/1".to_owned()].into(),
        };
        let ranges = [range(0, 3, 9), range(1, 0, 4)];
        let counts = Counts { reopened: 1, appended: 2, left_alone: 3, refused: 4 };
        let paused =
            paused(Uuid::nil(), &arguments(&chosen, Some(50)), Some(&cursor(&ranges)), Some(&counts.to_json()))
                .unwrap();
        assert_eq!((paused.chosen, paused.rate, paused.counts), (chosen, Some(50), counts));
        assert_eq!(paused.ranges, ranges);
    }

    #[test]
    fn a_range_moves_past_what_was_handled_and_never_back() {
        let letter = |partition, offset| Letter {
            place: Place { topic: "t-dlq".to_owned(), partition, offset },
            event_id: Uuid::nil(),
            failed_at: None,
            row_id: None,
        };
        let mut ranges = [range(0, 3, 9), range(1, 0, 4)];
        pass(&mut ranges, [letter(0, 5), letter(0, 7), letter(1, 0), letter(2, 5)].iter());
        assert_eq!(ranges, [range(0, 8, 9), range(1, 1, 4)]);
    }

    #[test]
    fn what_was_purged_meanwhile_or_came_later_is_left_out() {
        let there = [range(0, 5, 20), range(2, 0, 9)];
        assert_eq!(still_there(&[range(0, 3, 9), range(1, 0, 4), range(2, 9, 9)], &there), [range(0, 5, 9)]);
    }
}
