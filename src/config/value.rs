//! Value types of settings: from TOML, from text (environment and flags), and back to JSON with secrets masked.
//!
//! A new value type is a [`Scalar`] here, one word in `reader/setting.rs`, and, if it is of a new kind, a variant of
//! [`Kind`]. Nothing else changes.

mod containers;
mod retention;
mod units;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value;
use toml::de::DeValue;

use super::spec::Kind;
use super::suggest;

pub(super) use containers::is_secret_property;
pub use retention::Retention;
pub(super) use units::{DURATION_PATTERN, SIZE_PATTERN};

/// One value that a source gives as a whole.
pub(super) trait Scalar: Sized {
    const KIND: Kind;

    /// `folder`: where relative paths of the file start.
    fn from_toml(value: &DeValue<'_>, folder: &Path) -> Result<Self, Bad>;

    fn from_text(text: &str) -> Result<Self, Bad>;

    /// The value for people and tools: `null` if unset, `"***"` for a secret.
    fn show(&self) -> Value;
}

/// Why a value is not what it should be. Never repeats the value: the report shows it, masked if need be.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) why: String,
    pub(super) help: Option<String>,
    /// The part that is wrong, if not all of it.
    pub(super) span: Option<Range<usize>>,
}

impl Bad {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), help: None, span: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn expected(kind: &Kind) -> Self {
        Self::new(format!("expected {}", kind.words()))
    }

    /// A word that is not among `words`.
    pub(super) fn word(text: &str, words: &'static [&'static str]) -> Self {
        let bad = Self::expected(&Kind::Choice(words));
        match suggest::closest(text, words.iter().copied()) {
            Some(word) => bad.help(format!("did you mean `{word}`?")),
            None => bad,
        }
    }

    fn found(kind: &Kind, value: &DeValue<'_>) -> Self {
        Self::new(format!("expected {}, found {}", kind.words(), name_of(value)))
    }
}

fn name_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The text of a TOML string.
pub(super) fn string<'v>(value: &'v DeValue<'_>, kind: Kind) -> Result<&'v str, Bad> {
    value.as_str().ok_or_else(|| Bad::found(&kind, value))
}

impl Scalar for bool {
    const KIND: Kind = Kind::Bool;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        value.as_bool().ok_or_else(|| {
            let bad = Bad::found(&Kind::Bool, value);
            if matches!(value.as_str(), Some("true" | "false")) { bad.help("write it without quotes") } else { bad }
        })
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        text.parse().map_err(|_| Bad::expected(&Kind::Bool))
    }

    fn show(&self) -> Value {
        (*self).into()
    }
}

macro_rules! nonzero {
    ($type:ident, $inner:ident) => {
        impl Scalar for $type {
            const KIND: Kind = Kind::Integer { min: 1, max: $inner::MAX as u64 };

            fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
                let Some(number) = value.as_integer() else {
                    let bad = Bad::found(&Self::KIND, value);
                    let quoted = value.as_str().is_some_and(|text| text.parse::<Self>().is_ok());
                    return Err(if quoted { bad.help("write it without quotes") } else { bad });
                };
                $inner::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .and_then(Self::new)
                    .ok_or_else(|| Bad::expected(&Self::KIND))
            }

            fn from_text(text: &str) -> Result<Self, Bad> {
                text.parse().map_err(|_| Bad::expected(&Self::KIND))
            }

            fn show(&self) -> Value {
                self.get().into()
            }
        }
    };
}

nonzero!(NonZeroU16, u16);
nonzero!(NonZeroU32, u32);

impl Scalar for f64 {
    const KIND: Kind = Kind::Number;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        let text = match (value.as_float(), value.as_integer()) {
            (Some(number), _) => number.as_str(),
            (None, Some(number)) => number.as_str(),
            (None, None) => return Err(Bad::found(&Self::KIND, value)),
        };
        Self::from_text(text)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        // TOML has infinity and NaN too, which no setting means.
        text.parse().ok().filter(|number: &Self| number.is_finite()).ok_or_else(|| Bad::expected(&Self::KIND))
    }

    fn show(&self) -> Value {
        (*self).into()
    }
}

impl Scalar for String {
    const KIND: Kind = Kind::Text;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        string(value, Kind::Text).map(str::to_owned)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        Ok(text.to_owned())
    }

    fn show(&self) -> Value {
        self.as_str().into()
    }
}

impl Scalar for PathBuf {
    const KIND: Kind = Kind::Path;

    fn from_toml(value: &DeValue<'_>, folder: &Path) -> Result<Self, Bad> {
        let text = string(value, Kind::Path)?;
        // An empty path stays empty: joined, it would become the folder.
        Ok(if text.is_empty() { Self::new() } else { folder.join(text) })
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        Ok(text.into())
    }

    fn show(&self) -> Value {
        self.display().to_string().into()
    }
}

impl Scalar for SocketAddr {
    const KIND: Kind = Kind::Address;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        Self::from_text(string(value, Kind::Address)?)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        text.parse().map_err(|_| {
            let bad = Bad::expected(&Kind::Address);
            if let Some(port) = text.strip_prefix("localhost:") {
                bad.help(format!("a host name can resolve to several addresses: write `127.0.0.1:{port}`"))
            } else if let Some(port) = text.strip_prefix(':') {
                bad.help(format!("for all interfaces write `0.0.0.0:{port}`, for this host only `127.0.0.1:{port}`"))
            } else {
                bad
            }
        })
    }

    fn show(&self) -> Value {
        self.to_string().into()
    }
}

impl Scalar for Duration {
    const KIND: Kind = Kind::Duration;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        if let Some(number) = value.as_integer() {
            return Err(Bad::new("expected a duration, found a number without a unit")
                .help(format!("write \"{number}s\" for seconds or \"{number}ms\" for milliseconds")));
        }
        Self::from_text(string(value, Kind::Duration)?)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        units::parse_duration(text)
    }

    fn show(&self) -> Value {
        units::show_duration(*self).into()
    }
}

impl Scalar for ByteSize {
    const KIND: Kind = Kind::Size;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        match value.as_integer() {
            Some(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| Bad::expected(&Kind::Size))
                .and_then(units::size),
            None => Self::from_text(string(value, Kind::Size)?),
        }
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        units::parse_size(text)
    }

    fn show(&self) -> Value {
        units::show_size(*self).into()
    }
}
