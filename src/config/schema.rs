//! `config schema`: the JSON Schema of the settings file, for editors and pipelines.
//!
//! Describes what a single value may be. Rules between values are only in `rules.rs`: a file that matches the schema
//! can still be rejected, never the other way round.

use serde_json::{Map, Value, json};

use super::reader::Section as _;
use super::spec::{FieldSpec, Kind, SectionSpec, prose};
use super::value::{DURATION_PATTERN, SIZE_PATTERN};
use super::{Config, Retention};

/// JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    let mut schema = table(&Config::spec());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Settings of outbox-relay (relay.toml)".into();
    // `linger.ms = 5` without quotes is a table `linger` with a key `ms`.
    schema["$defs"] = json!({
        "property": {
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                { "type": "object", "additionalProperties": { "$ref": "#/$defs/property" } },
            ],
        },
    });
    schema
}

fn table(spec: &SectionSpec) -> Value {
    let mut properties = Map::new();
    for field in &spec.fields {
        if matches!(field.kind, Kind::Secret) {
            let doc = format!("File that contains `{}`. Relative to the settings file.", field.key);
            properties.insert(format!("{}_file", field.key), json!({ "type": "string", "description": doc }));
        }
        properties.insert(field.key.to_owned(), property(field));
    }
    json!({ "type": "object", "description": prose(spec.doc), "properties": properties, "additionalProperties": false })
}

fn property(field: &FieldSpec) -> Value {
    let mut property = match &field.kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Text | Kind::Path | Kind::Address => json!({ "type": "string" }),
        Kind::Secret => json!({ "type": "string", "writeOnly": true }),
        Kind::Duration => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        Kind::Retention => {
            json!({ "anyOf": [{ "const": Retention::NEVER }, { "type": "string", "pattern": DURATION_PATTERN }] })
        }
        Kind::Size => {
            json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": SIZE_PATTERN }] })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Map => json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/property" } }),
        Kind::Table(spec) => return table(spec),
        Kind::Tables(spec) => return json!({ "type": "array", "description": prose(spec.doc), "items": table(spec) }),
    };
    property["description"] = prose(field.doc).into();
    if !field.default.is_null() {
        property["default"] = field.default.clone();
    }
    property
}
