//! Values made of others: optional ones, secrets and lists.

use std::path::Path;

use serde_json::Value;
use toml::de::DeValue;

use super::{Bad, Kind, Scalar, string};
use crate::secret::Secret;

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

/// Whether a librdkafka setting holds something that must not be shown.
pub(in crate::config) fn is_secret_property(name: &str) -> bool {
    const SECRET: [&str; 8] =
        ["password", "passphrase", "secret", "pem", "jaas", "private.key", "oauthbearer.config", "credentials"];
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}
