//! A time as PostgreSQL stores it, which our timestamps cannot always represent: `infinity`, and years up to 294276.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio_postgres::types::{FromSql, Type};

/// Between 1970-01-01 and 2000-01-01, from which PostgreSQL counts (`POSTGRES_EPOCH_JDATE`).
const EPOCH_SECONDS: i64 = 946_684_800;
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A `timestamptz` of a row that an application wrote. Reading one never fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredTime {
    /// Since 2000-01-01 UTC; the largest and the smallest value are the two infinities.
    micros: i64,
}

impl StoredTime {
    /// `None` for a time that only PostgreSQL knows.
    pub fn timestamp(self) -> Option<Timestamp> {
        if self.is_infinite() {
            return None;
        }
        let seconds = self.micros.div_euclid(MICROS_PER_SECOND) + EPOCH_SECONDS;
        let nanos = i32::try_from(self.micros.rem_euclid(MICROS_PER_SECOND) * 1_000).ok()?;
        Timestamp::new(seconds, nanos).ok()
    }

    /// The nearest time that we can reckon with.
    pub fn clamped(self) -> Timestamp {
        let nearest = if self.micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
        self.timestamp().unwrap_or(nearest)
    }

    /// As [`fmt::Display`], in whole seconds where that is a time of ours.
    pub fn to_seconds(self) -> String {
        self.timestamp().map_or_else(|| self.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    fn is_infinite(self) -> bool {
        self.micros == i64::MAX || self.micros == i64::MIN
    }
}

impl From<Timestamp> for StoredTime {
    fn from(at: Timestamp) -> Self {
        Self { micros: at.as_microsecond() - EPOCH_SECONDS * MICROS_PER_SECOND }
    }
}

impl fmt::Display for StoredTime {
    /// ISO 8601 in UTC, with a sign before years of more than four digits; `infinity` and `-infinity` as PostgreSQL
    /// prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.timestamp() {
            return at.fmt(f);
        }
        match self.micros {
            i64::MAX => return f.write_str("infinity"),
            i64::MIN => return f.write_str("-infinity"),
            _ => {}
        }
        let seconds = self.micros.div_euclid(MICROS_PER_SECOND) + EPOCH_SECONDS;
        let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:+07}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Serialize for StoredTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'a> FromSql<'a> for StoredTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self { micros: i64::from_be_bytes(raw.try_into()?) })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros_of(seconds: i64) -> i64 {
        (seconds - EPOCH_SECONDS) * MICROS_PER_SECOND
    }

    #[test]
    fn what_only_postgresql_knows_has_a_text() {
        let text = |micros| StoredTime { micros }.to_string();
        assert_eq!(text(i64::MAX), "infinity");
        assert_eq!(text(i64::MIN), "-infinity");
        // 294276-12-31 23:59:59 and 4713-01-01 BC, by `extract(epoch from …)` of PostgreSQL 15.
        assert_eq!(text(micros_of(9_224_318_015_999)), "+294276-12-31T23:59:59Z");
        assert_eq!(text(0), "2000-01-01T00:00:00Z");
    }

    proptest! {
        #[test]
        fn every_time_of_ours_comes_back(second in -377_000_000_000_i64..253_000_000_000) {
            let at = Timestamp::from_second(second).expect("in range");
            prop_assert_eq!(StoredTime::from(at).timestamp(), Some(at));
        }

        #[test]
        fn the_calendar_of_ours_is_that_of_the_library(second in -377_000_000_000_i64..253_000_000_000) {
            let at = Timestamp::from_second(second).expect("in range");
            let (year, month, day) = civil(second.div_euclid(SECONDS_PER_DAY));
            let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
            prop_assert_eq!((i64::from(date.year()), i64::from(date.month()), i64::from(date.day())), (year, month, day));
        }

        #[test]
        fn nothing_that_can_be_stored_panics(micros: i64) {
            let time = StoredTime { micros };
            prop_assert!(!time.to_string().is_empty() && !time.to_seconds().is_empty());
            let _at: Timestamp = time.clamped();
        }
    }
}
