//! Which settings exist, as data: the single source of the reference page, the JSON Schema, the example file, the names
//! of environment variables and the suggestions for misspelt keys.

use serde_json::Value;

#[derive(Debug)]
pub(super) struct SectionSpec {
    /// Dotted, as in `routing.rule`; empty for the whole file.
    pub(super) path: &'static str,
    /// Whether it is a list of tables, `[[path]]`.
    pub(super) repeated: bool,
    pub(super) doc: &'static str,
    pub(super) fields: Vec<FieldSpec>,
}

#[derive(Debug)]
pub(super) struct FieldSpec {
    pub(super) key: &'static str,
    pub(super) doc: &'static str,
    pub(super) kind: Kind,
    /// `null` if the setting may be left unset.
    pub(super) default: Value,
}

/// What a value may be.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    Integer {
        min: u64,
        max: u64,
    },
    /// With a fraction, or without.
    Number,
    Text,
    /// Text that is never shown. `<key>_file` may name a file that holds it.
    Secret,
    Path,
    Duration,
    /// A duration, or `never`.
    Retention,
    Size,
    Address,
    Choice(&'static [&'static str]),
    List,
    /// Names to text: `[kafka.properties]`.
    Map,
    Table(SectionSpec),
    /// `[[…]]`: any number of them.
    Tables(SectionSpec),
}

impl Kind {
    /// The type in the words of an error and of the reference.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number => "a number such as `2` or `0.5`".to_owned(),
            Self::Text | Self::Secret => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Duration => "a duration such as `250ms`, `5s`, `15m` or `7d`".to_owned(),
            Self::Retention => "a duration such as `12h` or `7d`, or `never`".to_owned(),
            Self::Size => "a size such as `64KiB`, `4MiB` or a number of bytes".to_owned(),
            Self::Address => "an address and port such as `127.0.0.1:8080`".to_owned(),
            Self::Choice(words) => either(words),
            Self::List => "a list of texts".to_owned(),
            Self::Map => "a table of names and strings".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Tables(_) => "a list of tables".to_owned(),
        }
    }
}

/// `` `a`, `b` or `c` ``
fn either(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// One setting outside lists of tables: what an environment variable or a flag can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// `relay.batch_rows`, or `database.url_file`.
    pub(super) path: String,
    pub(super) kind: LeafKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafKind {
    Plain,
    Secret,
    /// The path of a file that holds a secret.
    SecretFile,
    /// Takes one more name behind it: `kafka.properties.linger.ms`.
    Map,
    /// A list of tables, which only the file can give.
    Tables,
}

impl SectionSpec {
    /// `[relay]` or `[[projection]]`.
    pub(super) fn heading(&self) -> String {
        if self.repeated { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }

    pub(super) fn field(&self, key: &str) -> Option<&FieldSpec> {
        self.fields.iter().find(|field| field.key == key)
    }

    pub(super) fn is_secret(&self, key: &str) -> bool {
        self.field(key).is_some_and(|field| matches!(field.kind, Kind::Secret))
    }

    /// Every key that may stand in this table, `<key>_file` of secrets included.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for field in &self.fields {
            keys.push(field.key.to_owned());
            if matches!(field.kind, Kind::Secret) {
                keys.push(format!("{}_file", field.key));
            }
        }
        keys
    }

    /// Every key in the whole file that holds no secret.
    pub(super) fn open_keys(&self) -> Vec<String> {
        let tables = self.tables();
        let keys = |table: &&Self| table.keys().into_iter().filter(|key| !table.is_secret(key)).collect::<Vec<_>>();
        tables.iter().flat_map(keys).collect()
    }

    /// This table and every one below it, in the order of the reference.
    pub(super) fn tables(&self) -> Vec<&Self> {
        let mut tables = vec![self];
        for field in &self.fields {
            if let Kind::Table(inner) | Kind::Tables(inner) = &field.kind {
                tables.extend(inner.tables());
            }
        }
        tables
    }

    /// Every setting that a variable or a flag may name, and the lists of tables that they may not.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        for field in &self.fields {
            let path = join(self.path, field.key);
            let kind = match &field.kind {
                Kind::Table(inner) => {
                    leaves.extend(inner.leaves());
                    continue;
                }
                Kind::Tables(_) => LeafKind::Tables,
                Kind::Map => LeafKind::Map,
                Kind::Secret => {
                    leaves.push(Leaf { path: format!("{path}_file"), kind: LeafKind::SecretFile });
                    LeafKind::Secret
                }
                Kind::Bool
                | Kind::Integer { .. }
                | Kind::Number
                | Kind::Text
                | Kind::Path
                | Kind::Duration
                | Kind::Retention
                | Kind::Size
                | Kind::Address
                | Kind::Choice(_)
                | Kind::List => LeafKind::Plain,
            };
            leaves.push(Leaf { path, kind });
        }
        leaves
    }
}

/// `section.key`, or `key` at the top.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A doc comment as one line.
pub(super) fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A default as TOML. JSON of texts, numbers, truth values and lists of them is TOML; unset is empty text.
pub(super) fn toml_text(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => value.to_string(),
    }
}
