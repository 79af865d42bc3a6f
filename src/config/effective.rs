//! The values in effect and where each came from: `config show`.

use serde::Serialize;
use serde_json::Value;

use super::problem::Provenance;
use super::reader::{Section as _, Setting as _};
use super::spec::{Kind, SectionSpec, join};
use super::{Config, Loaded};

/// One row of `config show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveValue {
    /// Full key: `relay.batch_rows`, `routing.rule[0].topic`, `kafka.properties.linger.ms`.
    pub key: String,
    /// `null` if unset, `"***"` for a secret.
    pub value: Value,
    /// `default`, `relay.toml:12`, the name of a variable, or a flag.
    pub source: String,
}

impl EffectiveValue {
    /// The value for a table: texts without quotes, `unset` for nothing.
    pub fn text(&self) -> String {
        match &self.value {
            Value::Null => "unset".to_owned(),
            Value::String(text) => text.clone(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
        }
    }
}

/// Every setting in the order of the reference.
pub fn effective(loaded: &Loaded) -> Vec<EffectiveValue> {
    let mut rows = Vec::new();
    add_table(&Config::spec(), "", &loaded.config.json(), &loaded.provenance, &mut rows);
    rows
}

fn add_table(spec: &SectionSpec, path: &str, json: &Value, provenance: &Provenance, rows: &mut Vec<EffectiveValue>) {
    for field in &spec.fields {
        let key = join(path, field.key);
        let value = &json[field.key];
        match (&field.kind, value) {
            (Kind::Table(inner), _) => add_table(inner, &key, value, provenance, rows),
            (Kind::Tables(inner), Value::Array(items)) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    add_table(inner, &format!("{key}[{index}]"), item, provenance, rows);
                }
            }
            (Kind::Map, Value::Object(entries)) if !entries.is_empty() => {
                for (name, text) in entries {
                    let key = join(&key, name);
                    rows.push(EffectiveValue { source: provenance.of(&key).to_string(), key, value: text.clone() });
                }
            }
            _ => rows.push(EffectiveValue { source: provenance.of(&key).to_string(), key, value: value.clone() }),
        }
    }
}
