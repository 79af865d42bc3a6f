//! Values of flags: times, durations, events, and the words of closed lists.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil, tz::TimeZone};

use crate::event::EventStatus;
use crate::output::{Colour, Format};

pub use crate::operations::{EventRef, Place, When};

/// A part of `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// From the outbox to Kafka
    Relay,
    /// From Kafka to the projections
    Consumer,
    /// Health and metrics over HTTP
    Admin,
}

pub(super) fn event_ref(text: &str) -> Result<EventRef, String> {
    if let Ok(id) = text.parse() {
        return Ok(EventRef::Id(id));
    }
    text.parse().map(EventRef::EventId).map_err(|_| "neither a number nor a UUID".to_owned())
}

pub(super) fn place(text: &str) -> Result<Place, String> {
    let wrong = || "not TOPIC/PARTITION/OFFSET; example: order-events-dlq/0/17".to_owned();
    // No topic has a slash in its name.
    let [topic, partition, offset] = text.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let partition = partition.parse::<i32>().ok().filter(|partition| *partition >= 0).ok_or_else(wrong)?;
    let offset = offset.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
    (!topic.is_empty()).then(|| Place { topic: topic.to_owned(), partition, offset }).ok_or_else(wrong)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "not a duration; examples: 500ms, 20s, 15m, 2h, 7d".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    let signed: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| "must not be negative".to_owned())
}

pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(When::At(at));
    }
    // Without a UTC offset it is UTC, like everything we print.
    if let Ok(local) = text.parse::<civil::DateTime>() {
        return TimeZone::UTC.to_timestamp(local).map(When::At).map_err(|error| error.to_string());
    }
    duration(text)
        .map(When::Ago)
        .map_err(|_| "not a time; examples: 2026-05-01T12:00:00Z, 2026-05-01, or an age: 15m, 2h, 7d".to_owned())
}

macro_rules! words {
    ($type:ty, $all:expr, $word:expr) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &$all
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(PossibleValue::new($word(*self)))
            }
        }
    };
}

words!(Format, Format::ALL, Format::as_str);
words!(Colour, Colour::ALL, Colour::as_str);
words!(EventStatus, EventStatus::ALL, |status: EventStatus| match status {
    EventStatus::Pending => "pending",
    EventStatus::Published => "published",
    EventStatus::Failed => "failed",
    EventStatus::Held => "held",
    EventStatus::Discarded => "discarded",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_durations_count_back() {
        let midnight = When::At("2026-05-01T00:00:00Z".parse().unwrap());
        assert_eq!(when("2026-05-01"), Ok(midnight));
        assert_eq!(when("2026-05-01T00:00"), Ok(midnight));
        assert_eq!(when("2026-05-01T02:00:00+02:00"), Ok(midnight));
        assert_eq!(when("7d"), Ok(When::Ago(Duration::from_secs(7 * 86_400))));
        assert_eq!(when("1h30m"), Ok(When::Ago(Duration::from_secs(5_400))));
        assert!(when("yesterday").is_err());
    }

    #[test]
    fn a_duration_needs_a_unit_and_no_sign() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("20").is_err());
        assert!(duration("-5s").is_err());
    }

    #[test]
    fn a_record_is_named_by_where_it_lies() {
        assert_eq!(place("a-dlq/3/17").unwrap().to_string(), "a-dlq/3/17");
        for wrong in ["a-dlq", "a-dlq/3", "a-dlq/x/1", "a-dlq/-1/1", "/0/1", "a/0/1/2"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_is_named_by_id_or_event_id() {
        assert_eq!(event_ref("17"), Ok(EventRef::Id(17)));
        let uuid = "0198f2c4-0000-7000-8000-000000000000";
        assert_eq!(event_ref(uuid), Ok(EventRef::EventId(uuid.parse().unwrap())));
        assert!(event_ref("order-17").is_err());
    }
}
