//! How long finished rows stay: a duration, or the word `never`.
//!
//! A word of its own, because `0s` and an empty text mean "at once" to one reader and "not at all" to another.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use toml::de::DeValue;

use super::{Bad, Kind, Scalar, string, units};

/// When rows are old enough to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// They stay.
    Never,
    After(Duration),
}

impl Retention {
    pub(in crate::config) const NEVER: &str = "never";

    /// The age from which rows are deleted; `None` if they stay.
    pub fn age(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(age) => Some(age),
        }
    }
}

impl Scalar for Retention {
    const KIND: Kind = Kind::Retention;

    fn from_toml(value: &DeValue<'_>, folder: &Path) -> Result<Self, Bad> {
        if value.as_integer().is_some() {
            return Duration::from_toml(value, folder).map(Self::After);
        }
        Self::from_text(string(value, Kind::Retention)?)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        const KEEP: &str = "write `never` to keep the rows";
        if text == Self::NEVER {
            return Ok(Self::Never);
        }
        match units::parse_duration(text) {
            Ok(age) if age.is_zero() => Err(Bad::new("must be longer than 0s").help(KEEP)),
            Ok(age) => Ok(Self::After(age)),
            Err(bad) if bad.help.is_some() => Err(bad),
            Err(_) => Err(Bad::expected(&Kind::Retention).help(KEEP)),
        }
    }

    fn show(&self) -> Value {
        match self {
            Self::Never => Self::NEVER.into(),
            Self::After(age) => units::show_duration(*age).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_a_word_and_nothing_means_it_by_accident() {
        assert_eq!(Retention::from_text("never").unwrap(), Retention::Never);
        assert_eq!(Retention::from_text("7d").unwrap().age(), Some(Duration::from_secs(7 * 86_400)));
        for text in ["", "0s", "0", "-1d", "Never", "off", "7", "999999d"] {
            assert!(Retention::from_text(text).is_err(), "{text} must be refused");
        }
        assert_eq!(Retention::from_text("0s").unwrap_err().help.as_deref(), Some("write `never` to keep the rows"));
    }
}
