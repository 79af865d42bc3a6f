//! Every statement of the product prepares against the schema: no column was renamed under it, no file is half written.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::support::statements::{fragments_of, statement};
use crate::support::{TestDatabase, repository};

const NAME: &str = "it is about a table whose name no parameter can carry";
const SEVERAL: &str = "several statements, some around a figure that no parameter can carry";

/// Files that cannot be prepared, and why.
const SKIPPED: &[(&str, &str)] = &[
    ("migrations/conversion/sql/bound.sql", SEVERAL),
    ("migrations/conversion/sql/exchange.sql", SEVERAL),
    ("migrations/conversion/sql/forget.sql", SEVERAL),
    ("migrations/conversion/sql/settings.sql", SEVERAL),
    ("migrations/sql/create_schema.sql", NAME),
    ("migrations/history/sql/former.sql", "the table is that of version 0.1, or of an application"),
    ("migrations/sql/use_schema.sql", NAME),
    ("outbox/partitions/sql/attach.sql", NAME),
    ("outbox/partitions/sql/detach.sql", NAME),
    ("outbox/partitions/sql/drop.sql", NAME),
    ("outbox/partitions/sql/extend.sql", NAME),
    ("outbox/partitions/sql/finalize.sql", NAME),
    ("outbox/partitions/sql/mark.sql", NAME),
    ("outbox/partitions/sql/unfinished.sql", NAME),
    ("outbox/partitions/sql/unmark.sql", NAME),
    ("migrations/sql/record.sql", "a piece of a script that is printed"),
    ("outbox/resharding/sql/change.sql", SEVERAL),
    ("migrations/sql/set_shards.sql", SEVERAL),
];

fn sql_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sql_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
}

#[tokio::test]
async fn every_sql_file_prepares_against_the_migrated_schema() {
    let database = TestDatabase::migrated("sql-files").await;
    let client = database.connect().await;
    let source = repository().join("src");
    let mut files = Vec::new();
    sql_files(&source, &mut files);
    files.sort();
    assert!(files.len() >= 20, "found only {files:?}");
    // The relation that projections read stands in front of their statements when they run.
    let no_events =
        std::fs::read_to_string(source.join("projection/new_events/sql/no_events.sql")).expect("a readable file");
    let made = no_events.replace("select ordinal from new_events", "select * from new_events");
    let (_, made) = made.split_once("\nwith").expect("its head");
    client.batch_execute(&format!("create temporary table new_events as with{made}")).await.expect("the relation");
    // Relations that a session makes for itself: the shop of the demo.
    for path in &files {
        let text = std::fs::read_to_string(path).expect("a readable file");
        let statement = text.lines().find(|line| !line.starts_with("--")).unwrap_or_default();
        if statement.starts_with("create table") || statement.starts_with("create temporary table") {
            client.batch_execute(&text).await.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        }
    }
    let texts = files.iter().map(|path| std::fs::read_to_string(path).expect("a readable file"));
    let fragments: BTreeSet<PathBuf> =
        files.iter().zip(texts).flat_map(|(path, text)| fragments_of(path, &text)).collect();
    assert!(fragments.len() >= 5, "{fragments:?}");
    let mut bad = Vec::new();
    for path in &files {
        let name = path.strip_prefix(&source).expect("below src").to_str().expect("UTF-8");
        if SKIPPED.iter().any(|(skipped, _)| *skipped == name) {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("a readable file");
        if !text.starts_with("-- ") {
            bad.push(format!(
                "{name}: no comment at its head that gives parameters, result and why it may be repeated"
            ));
        }
        if fragments.contains(path) {
            continue;
        }
        match client.prepare(&statement(name)).await {
            Ok(statement) => {
                let declared = declared_types(&head_of(&text));
                for (n, inferred) in (1_usize..).zip(statement.params()) {
                    match declared.get(&n) {
                        None => bad.push(format!("{name}: the head does not give the type of ${n}")),
                        Some(declared) if catalog_name(declared) != inferred.name() => {
                            bad.push(format!("{name}: ${n} is {declared} by the head and {inferred} for PostgreSQL"));
                        }
                        Some(_) => {}
                    }
                }
            }
            Err(error) => {
                let message = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
                bad.push(format!("{name}: {message}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    for (skipped, _) in SKIPPED {
        assert!(source.join(skipped).exists(), "{skipped} is skipped and does not exist");
    }
}

/// The comment before the statement as running text, wherever its lines break.
fn head_of(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("--"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// `$1 bigint[]: their ids` as `1 -> bigint[]`. What the head says is what the code binds: PostgreSQL infers the type
/// from the place where it meets the parameter first, and another type fails when the statement is run.
fn declared_types(head: &str) -> HashMap<usize, String> {
    let declaration = Regex::new(r"\$(\d+)\s+([a-z]\w*(?:\[\])?)").expect("a valid expression");
    let mut declared = HashMap::new();
    for found in declaration.captures_iter(head) {
        declared.entry(found[1].parse().expect("a small number")).or_insert_with(|| found[2].to_owned());
    }
    declared
}

fn catalog_name(declared: &str) -> String {
    let (element, array) = declared.strip_suffix("[]").map_or((declared, ""), |element| (element, "_"));
    let element = match element {
        "smallint" => "int2",
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "boolean" => "bool",
        other => other,
    };
    format!("{array}{element}")
}

#[test]
fn types_are_read_from_the_head() {
    let text = "-- Moves. $1 bigint[]: ids. $2\n-- text: why; $3 smallint is the shard, $1 again\nselect 1 -- $4 int";
    let declared = declared_types(&head_of(text));
    assert_eq!((declared.len(), catalog_name(&declared[&1])), (3, "_int8".to_owned()));
    assert_eq!(catalog_name(&declared[&3]), "int2");
}
