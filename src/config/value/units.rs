//! Durations and sizes as people write them: `250ms`, `1h30m`, `64KiB`.
//!
//! Stricter than the libraries: whole numbers with a unit, so that the JSON Schema can say exactly what is accepted.

use std::time::Duration;

use bytesize::ByteSize;

use super::{Bad, Kind};

/// Milliseconds in each unit, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// No setting needs more than a year; a bound keeps `Instant + Duration` from overflowing.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// No setting needs more than a tebibyte; a bound keeps sums of sizes from overflowing.
const LARGEST: u64 = 1 << 40;

/// For the JSON Schema; [`parse_duration`] accepts the same.
pub(in crate::config) const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// For the JSON Schema; [`parse_size`] accepts the same.
pub(in crate::config) const SIZE_PATTERN: &str = "^[0-9]+ ?(B|kB|KB|KiB|MB|MiB|GB|GiB)?$";

pub(super) fn parse_duration(text: &str) -> Result<Duration, Bad> {
    let bad = || Bad::expected(&Kind::Duration);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text != "0" {
        return Err(Bad::new("expected a duration, found a number without a unit")
            .help(format!("write `{text}s` for seconds or `{text}ms` for milliseconds")));
    }
    if text == "0" {
        return Err(bad().help("write `0s`"));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (digits, tail) = split_at_end(rest, |c| c.is_ascii_digit());
        let (unit, tail) = split_at_end(tail, |c| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| bad())?;
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        rest = tail;
    }
    match Duration::from_millis(total) {
        _ if text.is_empty() => Err(bad()),
        duration if duration > LONGEST => Err(too_long()),
        duration => Ok(duration),
    }
}

fn too_long() -> Bad {
    Bad::new(format!("expected a duration of at most {}", show_duration(LONGEST)))
}

/// The largest unit that leaves no rest: `90s`, `2m`.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match UNITS.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => "0s".to_owned(),
    }
}

pub(super) fn parse_size(text: &str) -> Result<ByteSize, Bad> {
    let bad = || Bad::expected(&Kind::Size);
    let (digits, unit) = split_at_end(text, |c| c.is_ascii_digit());
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    if digits.is_empty() || !matches!(unit, "" | "B" | "kB" | "KB" | "KiB" | "MB" | "MiB" | "GB" | "GiB") {
        return Err(bad());
    }
    let bytes: ByteSize = format!("{digits}{unit}").parse().map_err(|_| bad())?;
    size(bytes.as_u64())
}

pub(super) fn size(bytes: u64) -> Result<ByteSize, Bad> {
    if bytes > LARGEST { Err(Bad::new("expected a size of at most 1024GiB")) } else { Ok(ByteSize::b(bytes)) }
}

/// The largest unit that leaves no rest: `4MiB`, `1MB`.
pub(super) fn show_size(size: ByteSize) -> String {
    const UNITS: [(&str, u64); 6] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let bytes = size.as_u64();
    match UNITS.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

fn split_at_end(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("15m", 900_000), ("7d", 604_800_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "0", "s", "5 s", "-5s", "1.5s", "5y", "5S", "ms5", "99999999999999999999s", "9999999d"] {
            assert!(parse_duration(text).is_err(), "{text} must be refused");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in
            [("64KiB", 65_536), ("4MiB", 4_194_304), ("1000", 1_000), ("1 MB", 1_000_000), ("2kB", 2_000), ("7B", 7)]
        {
            assert_eq!(parse_size(text).unwrap().as_u64(), bytes, "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "4mib", "4TiB", "1  MB", "18446744073709551616"] {
            assert!(parse_size(text).is_err(), "{text} must be refused");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(millis in 0u64..31_000_000_000, bytes in 0u64..LARGEST) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)).unwrap(), duration);
            let size = ByteSize::b(bytes);
            prop_assert_eq!(parse_size(&show_size(size)).unwrap(), size);
        }

        #[test]
        fn the_schema_accepts_what_the_reader_accepts(
            text in "[0-9]? ?(ms|s|m|h|d|S|y|B|kB|KB|kb|KiB|MB|MiB|GB|GiB|TiB)?(-|[0-9](ms|s|m|h|d))?",
        ) {
            let matches = |pattern: &str| regex::Regex::new(pattern).unwrap().is_match(&text);
            prop_assert_eq!(parse_duration(&text).is_ok(), matches(DURATION_PATTERN));
            prop_assert_eq!(parse_size(&text).is_ok(), matches(SIZE_PATTERN));
        }
    }
}
