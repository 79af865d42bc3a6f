//! Rules of the tree that neither the compiler nor clippy knows: who may import whom, where a library may appear, where
//! SQL lives, and that documents follow the code and the tests.
//!
//! Here are the tables and one test per rule. The rules are in `tidy/`, each with a test that plants a violation;
//! `tidy/source.rs` reads Rust well enough to tell code, comments, strings and tests apart.
//! `ARCHITECTURE.md` has the picture that this keeps true.

#[path = "tidy/calls.rs"]
mod calls;
#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/sql.rs"]
mod sql;
#[path = "tidy/tasks.rs"]
mod tasks;

use calls::{
    environment_readers, kafka_without_limit, native_calls, printers, quoting_errors, sleepers, stray_libraries,
};
use files::{
    long_files, machine_paths, metric_names, unmentioned, unreachable_files, wide_comments, without_module_doc,
};
use imports::{border_crossings, cycles, spare_permissions};
use source::{Source, paths_below, read, rust_files, tests_of, text_files};
use sql::{sql_in_rust, unused_sql};

/// Top-level modules and what each may import. `error`, `event`, `retry`, `clock`, `secret`, `stderr` and `text` know
/// nothing of ours and are open to all; see [`FOUNDATION`].
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["cli", "commands", "output", "telemetry"]),
    ("lib", &[]),
    ("cli", &["operations", "output"]), // operations: what flags are read into
    // Use cases are in operations; what is left needs the process or the command line itself.
    ("commands", &["app", "cli", "config", "db", "demo", "operations", "output", "signals", "supervisor", "telemetry"]),
    (
        "app",
        &[
            "admin",
            "broker",
            "cleanup",
            "config",
            "db",
            "health",
            "measure",
            "metrics",
            "operations",
            "outbox",
            "projection",
            "relay",
            "supervisor",
            "migrations",
        ],
    ),
    (
        "operations",
        &["broker", "cleanup", "config", "db", "measure", "migrations", "outbox", "projection", "relay", "signals"],
    ),
    ("demo", &["app", "broker", "config", "db", "migrations", "output", "projection", "supervisor"]),
    ("admin", &["config", "health", "metrics", "supervisor"]),
    // db: its error and its pools
    ("relay", &["broker", "config", "db", "health", "measure", "metrics", "outbox", "signals"]),
    // broker: the bytes of records
    ("projection", &["broker", "config", "db", "health", "metrics", "signals"]),
    ("measure", &["broker", "config", "db", "outbox", "projection", "signals"]),
    ("signals", &["health", "metrics"]),
    ("cleanup", &["config", "db", "metrics", "outbox"]),
    ("outbox", &["db"]),
    ("broker", &["config"]),
    ("migrations", &["db"]),
    ("db", &["config", "supervisor"]),
    ("metrics", &["broker"]), // the version of librdkafka, for build_info
    ("health", &[]),
    ("supervisor", &["health"]),
    ("telemetry", &["config"]),
    ("output", &[]),
    ("config", &[]),
    ("error", &[]),
    ("failpoint", &["stderr"]),
    ("event", &[]),
    ("retry", &[]),
    ("clock", &[]),
    ("secret", &[]),
    ("stderr", &[]),
    ("text", &[]),
];

/// Modules that everyone may import. Among themselves they do not.
const FOUNDATION: &[&str] = &["error", "event", "failpoint", "retry", "clock", "secret", "stderr", "text"];

/// A library and the places of `src/` where it may appear (a file, or a folder with a `/` at the end).
const LIBRARIES: &[(&str, &[&str])] = &[
    (
        "tokio_postgres",
        &[
            "db.rs",
            "db/",
            "migrations.rs",
            "migrations/",
            "outbox.rs",
            "outbox/",
            "projection/store.rs",
            "projection/store/",
            "projection/decisions/",
            "demo.rs",
            "demo/",
        ],
    ),
    ("deadpool", &["db.rs", "db/"]),
    ("refinery", &["migrations.rs"]),
    ("rdkafka", &["broker.rs", "broker/", "projection/consumer.rs", "projection/consumer/", "demo/"]),
    ("axum", &["admin.rs", "admin/"]),
    ("ratatui", &["output/screen.rs", "commands/top/"]),
    ("clap", &["cli.rs", "cli/", "commands.rs", "commands/"]),
];

/// Where `unsafe` may stand, and where names and notes of foreign records are read.
const NATIVE: &[&str] = &["broker/raw.rs", "broker/raw/"];

/// Where variables of the environment may be read: the settings, and `NO_COLOR`.
const ENVIRONMENT: &[&str] = &["config/source.rs", "telemetry.rs", "output.rs", "output/"];

#[test]
fn modules_import_only_what_the_picture_allows() {
    assert_none(border_crossings(&rust_files("src")));
    assert_none(cycles(MAY_IMPORT));
    assert_none(spare_permissions(&rust_files("src"), MAY_IMPORT));
}

/// Folders whose files use each other in one direction only.
const WITHOUT_CIRCLES: &[&str] = &["config", "relay"];

#[test]
fn files_of_a_folder_do_not_use_each_other_in_circles() {
    let files = rust_files("src");
    assert_none(WITHOUT_CIRCLES.iter().flat_map(|folder| circles::circles(folder, &files)).collect());
}

#[test]
fn libraries_stay_in_their_modules() {
    assert_none(stray_libraries(&rust_files("src")));
}

#[test]
fn librdkafka_is_called_in_one_place() {
    assert_none(native_calls(&rust_files("src")));
}

#[test]
fn only_the_settings_read_the_environment() {
    assert_none(environment_readers(&rust_files("src")));
}

#[test]
fn sql_lives_in_sql_files() {
    assert_none(sql_in_rust(&rust_files("bench")));
    assert_none(sql_in_rust(&rust_files("src")));
}

#[test]
fn every_sql_file_is_used_and_every_used_one_is_there() {
    assert_none(unused_sql(&rust_files("src"), &paths_below("src", "sql")));
    assert_none(unused_sql(&rust_files("bench"), &paths_below("bench", "sql")));
}

#[test]
fn only_output_prints() {
    assert_none(printers(&rust_files("src")));
}

#[test]
fn calls_of_the_kafka_client_that_wait_have_limits() {
    assert_none(kafka_without_limit(&rust_files("src")));
}

#[test]
fn errors_of_postgresql_are_printed_in_one_place() {
    assert_none(quoting_errors(&rust_files("src")));
}

#[test]
fn every_rust_file_is_reachable() {
    assert_none(unreachable_files(&rust_files("src")));
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let mut files = rust_files("tests");
    files.extend(rust_files("src").into_iter().map(|file| Source { text: tests_of(&file), ..file }));
    assert_none(sleepers(&files));
}

#[test]
fn no_file_outgrows_its_story() {
    let files: Vec<Source> = [rust_files("src"), rust_files("tests"), rust_files("bench")].concat();
    assert_none(long_files(&files));
    assert_none(without_module_doc(&rust_files("src")));
    assert_none(without_module_doc(&rust_files("bench")));
}

#[test]
fn metric_names_stand_in_metrics_rs_alone() {
    assert_none(metric_names(&rust_files("src")));
}

#[test]
fn the_architecture_document_names_every_module() {
    let modules: Vec<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    assert_none(unmentioned(&modules, &read("ARCHITECTURE.md")));
}

#[test]
fn every_error_code_and_every_situation_has_a_section() {
    let page = |path: &str| Source::new(path, &read(path));
    let codes: Vec<&str> = outbox_relay::error::Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_none(links::without_heading(&codes, &page("docs/operations/errors.md")));
    let situations: Vec<&str> = outbox_relay::signals::Situation::ALL.iter().map(|one| one.code()).collect();
    assert_none(links::without_heading(&situations, &page("docs/operations/alerts.md")));
}

#[test]
fn every_task_and_thread_is_in_the_table() {
    assert_none(tasks::not_in_the_table(&rust_files("src"), &Source::new("ARCHITECTURE.md", &read("ARCHITECTURE.md"))));
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_none(links::broken_links(&text_files()));
    assert_none(links::unknown_documents(&text_files()));
}

/// `BLESS=1` writes the page anew.
#[test]
fn the_page_of_error_classes_is_what_the_code_does() {
    let made = outbox_relay::broker::failure::reference_markdown();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &made).expect("docs/errors.md can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "docs/errors.md is old: BLESS=1 cargo test --test tidy -- error_classes");
}

/// `BLESS=1` writes the lists anew.
#[test]
fn the_page_of_guarantees_lists_the_tests_that_hold_them() {
    let held = promises::tags(&rust_files("tests/it")).unwrap_or_else(|wrong| panic!("{wrong}"));
    let there = read("docs/guarantees.md");
    let made = promises::with_lists(&there, &held).unwrap_or_else(|wrong| panic!("{wrong}"));
    if std::env::var_os("BLESS").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md");
        std::fs::write(path, &made).expect("docs/guarantees.md can be written");
        return;
    }
    assert!(there == made, "docs/guarantees.md is old: BLESS=1 cargo test --test tidy -- page_of_guarantees");
}

#[test]
fn comments_end_at_120_columns() {
    let mut files = text_files();
    files.retain(|file| file.path.ends_with(".rs") || file.path.ends_with(".sql") && file.path.starts_with("src/"));
    assert_none(wide_comments(&files));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_none(machine_paths(&text_files()));
}

#[track_caller]
fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n  {}", complaints.len(), complaints.join("\n  "));
}
