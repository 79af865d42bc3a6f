//! Files and pages that are made from the declarations.

use std::collections::BTreeSet;

use super::*;
use crate::config::spec::{Kind, SectionSpec, join};

fn assert_same(committed: &str, made: &str, file: &str, command: &str) {
    if committed != made {
        let line = committed.lines().zip(made.lines()).position(|(a, b)| a != b).map_or(0, |index| index + 1);
        panic!(
            "{file} is not what the settings say (first difference in line {line}); write it again with:\n  {command}"
        );
    }
}

#[test]
fn the_committed_files_are_what_the_declarations_say() {
    let command = "cargo run --quiet -- config reference > docs/configuration.md";
    assert_same(
        include_str!("../../../docs/configuration.md"),
        &reference_markdown(),
        "docs/configuration.md",
        command,
    );
    let command = "cargo run --quiet -- init --force";
    assert_same(include_str!("../../../relay.toml"), &commented_toml(), "relay.toml", command);
}

/// The example with every setting in force.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    commented_toml().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_loads_and_changes_nothing() {
    let loaded = load(&commented_toml()).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn the_example_holds_every_default() {
    let loaded = load(&uncommented()).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(loaded.config, Config::default());
    for row in effective(&loaded) {
        let only_as_example =
            matches!(row.key.as_str(), "retry.rule" | "routing.rule" | "projection" | "kafka.properties");
        assert_eq!(row.source == "default", only_as_example, "{} stands in the example", row.key);
    }
}

#[test]
fn the_examples_of_tables_load() {
    let example = |path| crate::config::example::of(path).unwrap();
    let text = ["kafka.properties", "retry.rule", "routing.rule", "projection"].map(example).join("\n");
    let config = load(&text).unwrap_or_else(|error| panic!("{}", error.render(false))).config;
    assert_eq!((config.kafka.properties.len(), config.routing.rule.len(), config.projection.len()), (2, 1, 1));
    assert_eq!(config.retry.rule.len(), 1);
}

#[test]
fn every_setting_says_what_it_is() {
    for table in Config::spec().tables() {
        assert!(!table.doc.trim().is_empty(), "{} has no text", table.path);
        for field in &table.fields {
            let is_table = matches!(field.kind, Kind::Table(_) | Kind::Tables(_));
            assert!(is_table || !field.doc.trim().is_empty(), "{} has no text", join(table.path, field.key));
        }
    }
}

#[test]
fn the_schema_knows_the_keys_that_the_reader_knows() {
    fn check(spec: &SectionSpec, schema: &serde_json::Value) {
        let known: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(known, spec.keys().into_iter().collect(), "{}", spec.path);
        assert_eq!(schema["additionalProperties"], false, "{}", spec.path);
        for field in &spec.fields {
            let property = &schema["properties"][field.key];
            if let Kind::Table(inner) = &field.kind {
                check(inner, property);
            } else if let Kind::Tables(inner) = &field.kind {
                check(inner, &property["items"]);
            } else {
                assert!(property["description"].is_string(), "{}", join(spec.path, field.key));
            }
        }
    }
    check(&Config::spec(), &schema());
}
