//! `docs/configuration.md`, generated from the declarations of the settings.

use std::fmt::Write as _;

use super::environment::variable_of;
use super::reader::Section as _;
use super::rules::REFUSED;
use super::spec::{FieldSpec, Kind, SectionSpec, join, prose, toml_text};
use super::{Config, example};

/// The text before the settings.
const INTRODUCTION: &str = include_str!("reference.md");

/// The whole page.
pub fn reference_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for table in Config::spec().tables().into_iter().skip(1) {
        add_table(table, &mut page);
    }
    page
}

fn add_table(spec: &SectionSpec, page: &mut String) {
    add(page, format_args!("\n## `{}`\n\n{}\n", spec.heading(), prose(spec.doc)));
    if let Some(example) = example::of(spec.path) {
        add(page, format_args!("\n```toml\n{example}\n```\n"));
    }
    for field in &spec.fields {
        if !matches!(field.kind, Kind::Table(_) | Kind::Tables(_)) {
            add_field(spec, field, page);
        }
    }
}

fn add_field(spec: &SectionSpec, field: &FieldSpec, page: &mut String) {
    let key = join(spec.path, field.key);
    add(page, format_args!("\n### `{key}`\n\n{}\n", prose(field.doc)));
    if let Some(example) = example::of(&key) {
        add(page, format_args!("\n```toml\n{example}\n```\n"));
    }
    let mut facts = vec![format!("Type: {}", field.kind.words())];
    facts.push(match toml_text(&field.default).as_str() {
        "\"\"" if field.default.is_null() => "Default: unset".to_owned(),
        "\"\"" => "Must be given".to_owned(),
        text => format!("Default: `{text}`"),
    });
    if !spec.repeated {
        let variable = variable_of(&key);
        facts.push(match field.kind {
            Kind::Map => format!("Environment: `{variable}__<NAME>`, with `_` in place of the dots in the name"),
            Kind::Secret => format!("Environment: `{variable}`, or `{variable}_FILE`"),
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
            | Kind::List
            | Kind::Table(_)
            | Kind::Tables(_) => format!("Environment: `{variable}`"),
        });
    }
    add(page, format_args!("\n{}.\n", facts.join(". ")));
    if key == "kafka.properties" {
        add(
            page,
            format_args!(
                "\nRejected, unless the value is the one that applies anyway:\n\n| librdkafka setting | why | instead |\n|---|---|---|\n"
            ),
        );
        for refused in REFUSED {
            let names: Vec<_> = refused.names.iter().map(|name| format!("`{name}`")).collect();
            add(page, format_args!("| {} | {} | {} |\n", names.join(", "), refused.why, refused.help));
        }
    }
}

fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a String cannot fail");
}
