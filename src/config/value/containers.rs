//! Values made of others: optional ones, secrets, lists, maps and lists of tables.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use toml::de::DeValue;

use super::{Bad, Scalar, Setting, string};
use crate::config::reader::Scope;
use crate::config::spec::{Kind, Section, SectionSpec};
use crate::secret::Secret;

/// Makes a `Scalar` a `Setting`: the highest source that gives it wins.
macro_rules! scalar_settings {
    ($($type:ty),*) => { $(
        impl $crate::config::value::Setting for $type {
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

scalar_settings!(Vec<String>);

impl<T: Scalar> Scalar for Option<T> {
    const KIND: Kind = T::KIND;

    /// Empty text means unset, so that a higher source can take a value away.
    fn from_toml(value: &DeValue<'_>, folder: &Path) -> Result<Self, Bad> {
        if value.as_str() == Some("") { Ok(None) } else { T::from_toml(value, folder).map(Some) }
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        if text.is_empty() { Ok(None) } else { T::from_text(text).map(Some) }
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Scalar::show)
    }
}

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

impl Scalar for Secret {
    const KIND: Kind = Kind::Secret;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        string(value, Kind::Secret).map(Self::new)
    }

    fn from_text(text: &str) -> Result<Self, Bad> {
        Ok(Self::new(text))
    }

    fn show(&self) -> Value {
        if self.is_empty() { Value::Null } else { "***".into() }
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

impl Scalar for Vec<String> {
    const KIND: Kind = Kind::List;

    fn from_toml(value: &DeValue<'_>, _: &Path) -> Result<Self, Bad> {
        let DeValue::Array(items) = value else {
            let bad = Bad::found(&Kind::List, value);
            return Err(if value.is_str() { bad.help("write it in brackets: [\"…\"]") } else { bad });
        };
        items
            .iter()
            .map(|item| {
                let bad = |bad: Bad| Bad { span: Some(item.span()), ..bad };
                string(item.get_ref(), Kind::Text).map(str::to_owned).map_err(bad)
            })
            .collect()
    }

    /// Commas separate; spaces around an item do not belong to it.
    fn from_text(text: &str) -> Result<Self, Bad> {
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }

    fn show(&self) -> Value {
        self.as_slice().into()
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

/// Whether a librdkafka setting holds something that must not be shown.
pub(in crate::config) fn is_secret_property(name: &str) -> bool {
    const SECRET: [&str; 8] =
        ["password", "passphrase", "secret", "pem", "jaas", "private.key", "oauthbearer.config", "credentials"];
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
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
