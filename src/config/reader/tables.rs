//! Tables, lists of tables and maps; keys that a table does not have.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Scope, Section};
use crate::config::problem::Problem;
use crate::config::spec::{Kind, SectionSpec, join};
use crate::config::suggest;
use crate::config::value::Bad;

impl<'a> Scope<'_, 'a> {
    /// Names to text. Sources add to each other name by name.
    pub(in crate::config) fn map(&mut self, key: &str, fallback: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let full = join(&self.path, key);
        let mut value = fallback;
        if let Some(entries) = self.table.and_then(|table| table.get(key)) {
            if let DeValue::Table(table) = entries.get_ref() {
                self.map_entries(&full, "", table, &mut value);
            } else {
                let origin = self.reader.place(entries.span());
                self.reader.bad(
                    &full,
                    Bad::expected(&Kind::Map).help(format!("write it as a table, [{full}]")),
                    origin,
                );
            }
        }
        let prefix = format!("{full}.");
        let given = self.reader.given;
        for text in given.iter().filter(|_| !self.listed) {
            if let Some(name) = text.key.strip_prefix(&prefix) {
                value.insert(name.to_owned(), text.text.clone());
                self.reader.provenance.record(text.key.clone(), text.origin.clone());
            }
        }
        value
    }

    /// `linger.ms = 5` without quotes is a table `linger` in TOML; it is what people write, and it is meant as one
    /// name.
    fn map_entries(&mut self, full: &str, prefix: &str, table: &'a DeTable<'a>, into: &mut BTreeMap<String, String>) {
        for (name, value) in table {
            let name =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let key = format!("{full}.{name}");
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(word) => word.to_string(),
                DeValue::Table(inner) => {
                    self.map_entries(full, &name, inner, into);
                    continue;
                }
                DeValue::Datetime(_) | DeValue::Array(_) => {
                    let origin = self.reader.place(value.span());
                    self.reader.bad(&key, Bad::new("expected text, a number, `true` or `false`"), origin);
                    continue;
                }
            };
            let origin = self.reader.place(value.span());
            if into.insert(name, text).is_some() {
                self.reader.bad(&key, Bad::new("it is given twice, once with its name in quotes"), origin.clone());
            }
            self.reader.provenance.record(key, origin);
        }
    }

    pub(in crate::config) fn table<S: Section>(&mut self, key: &str, fallback: S) -> S {
        let path = join(&self.path, key);
        let table = self.table.and_then(|table| table.get(key)).and_then(|value| self.as_table(&path, value));
        Scope::section(self.reader, path, table, self.listed, fallback)
    }

    pub(in crate::config) fn tables<S: Section>(&mut self, key: &str, fallback: Vec<S>) -> Vec<S> {
        let path = join(&self.path, key);
        let Some(value) = self.table.and_then(|table| table.get(key)) else { return fallback };
        let DeValue::Array(items) = value.get_ref() else {
            let origin = self.reader.place(value.span());
            let bad = Bad::new("expected a list of tables")
                .help(format!("write the heading with double brackets: [[{path}]]"));
            self.reader.bad(&path, bad, origin);
            return fallback;
        };
        let origin = self.reader.place(value.span());
        self.reader.provenance.record(path.clone(), origin);
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let item_path = format!("{path}[{index}]");
            let origin = self.reader.place(item.span());
            self.reader.provenance.record_item(&path, index, origin);
            if let Some(table) = self.as_table(&item_path, item) {
                sections.push(Scope::section(self.reader, item_path, Some(table), true, S::default()));
            }
        }
        sections
    }

    fn as_table(&mut self, path: &str, value: &'a Spanned<DeValue<'a>>) -> Option<&'a DeTable<'a>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        let origin = self.reader.place(value.span());
        let help = if matches!(value.get_ref(), DeValue::Array(_)) {
            format!("write the heading with single brackets: [{path}]")
        } else {
            format!("write a heading, [{path}], and the settings below it")
        };
        self.reader.bad(path, Bad::new("expected a table").help(help), origin);
        None
    }

    pub(super) fn refuse_unknown_keys(&mut self, spec: &SectionSpec) {
        let Some(table) = self.table else { return };
        let known = spec.keys();
        for (key, value) in table.iter().filter(|(key, _)| !known.iter().any(|known| known == key.get_ref())) {
            let name = key.get_ref();
            let advice = suggest::for_key(self.reader.root, spec, name);
            let is_heading = spec.path.is_empty() && matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
            let (title, why) = if is_heading {
                (format!("unknown section `{name}`"), "no section has this name".to_owned())
            } else if spec.path.is_empty() {
                (format!("unknown key `{name}`"), "it is outside of every section".to_owned())
            } else {
                (
                    format!("unknown key `{name}` in {}", spec.heading()),
                    format!("{} has no key of this name", spec.heading()),
                )
            };
            let origin = self.reader.place(key.span());
            let problem = Problem { key: Some(join(&self.path, name)), ..Problem::new(title, why, origin) };
            self.reader.problems.push(problem.help(advice.help));
            // A misspelt password is a password still.
            if !is_heading && advice.may_be_secret {
                self.reader.hidden.push(value.span());
            }
        }
    }
}
