//! What a field of a section may be, and how it is read: a value, an optional one, a list, a map, or another section.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value;

use super::Scope;
use crate::config::spec::{Kind, SectionSpec};
use crate::config::value::{Retention, Scalar, is_secret_property};
use crate::secret::Secret;

/// Anything that can be a field of a section: a [`Scalar`], an optional one, a list, a map, or another section.
pub(in crate::config) trait Setting: Sized {
    fn kind() -> Kind;

    /// The value that the sources give for `key`, or `fallback`. Problems go to the scope.
    fn read(scope: &mut Scope<'_, '_>, key: &str, fallback: Self) -> Self;

    /// The value for people and tools: `null` if unset, `"***"` for a secret.
    fn json(&self) -> Value;
}

/// A struct made by `section!`.
pub(in crate::config) trait Section: Setting + Default {
    fn spec() -> SectionSpec;

    /// Reads every field from `scope`, `fallback` standing in for what nobody gave.
    fn read_fields(scope: &mut Scope<'_, '_>, fallback: Self) -> Self;
}

/// Makes a `Scalar` a `Setting`: the highest source that gives it wins.
macro_rules! scalar_settings {
    ($($type:ty),*) => { $(
        impl $crate::config::reader::Setting for $type {
            fn kind() -> $crate::config::spec::Kind {
                <Self as $crate::config::value::Scalar>::KIND
            }

            fn read(scope: &mut $crate::config::reader::Scope<'_, '_>, key: &str, fallback: Self) -> Self {
                scope.scalar(key, fallback)
            }

            fn json(&self) -> serde_json::Value {
                $crate::config::value::Scalar::show(self)
            }
        }
    )* };
}

pub(in crate::config) use scalar_settings;

scalar_settings!(bool, NonZeroU16, NonZeroU32, f64, String, PathBuf, SocketAddr, Duration, ByteSize);
scalar_settings!(Vec<String>, Retention);

impl<T: Scalar> Setting for Option<T> {
    fn kind() -> Kind {
        T::KIND
    }

    fn read(scope: &mut Scope<'_, '_>, key: &str, fallback: Self) -> Self {
        scope.scalar(key, fallback)
    }

    fn json(&self) -> Value {
        self.show()
    }
}

impl Setting for Secret {
    fn kind() -> Kind {
        Kind::Secret
    }

    fn read(scope: &mut Scope<'_, '_>, key: &str, fallback: Self) -> Self {
        scope.secret(key, fallback)
    }

    fn json(&self) -> Value {
        self.show()
    }
}

impl Setting for BTreeMap<String, String> {
    fn kind() -> Kind {
        Kind::Map
    }

    fn read(scope: &mut Scope<'_, '_>, key: &str, fallback: Self) -> Self {
        scope.map(key, fallback)
    }

    fn json(&self) -> Value {
        let shown = |(name, text): (&String, &String)| {
            let text = if is_secret_property(name) { "***" } else { text };
            (name.clone(), text.into())
        };
        Value::Object(self.iter().map(shown).collect())
    }
}

impl<S: Section> Setting for Vec<S> {
    fn kind() -> Kind {
        Kind::Tables(SectionSpec { repeated: true, ..S::spec() })
    }

    fn read(scope: &mut Scope<'_, '_>, key: &str, fallback: Self) -> Self {
        scope.tables(key, fallback)
    }

    fn json(&self) -> Value {
        Value::Array(self.iter().map(S::json).collect())
    }
}
