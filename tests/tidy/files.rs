//! Files as such: whether a module names them, how long they are, and names and paths in their text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use regex::Regex;

use crate::planted::{one, sees};
use crate::source::{Source, code_of, matches, strings_of, without_tests};

const LINES_MAX: usize = 450;
/// Files that were longer when the limit was lowered, with the limit that they keep. None may be added.
const LONGER: &[(&str, usize)] = &[
    ("src/cli.rs", 500),
    ("src/outbox/dead_letters/redrive.rs", 500),
    ("src/outbox/isolate.rs", 500),
    ("tests/simulation/world.rs", 500),
];
const COMMENT_MAX: usize = 120;

pub fn unreachable_files(files: &[Source]) -> Vec<String> {
    let declaration = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z ]+\))? )?mod (\w+);").expect("a valid expression");
    let by_path: BTreeMap<PathBuf, &Source> = files.iter().map(|file| (PathBuf::from(&file.path), file)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = ["src/lib.rs", "src/main.rs"].iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let Some(file) = by_path.get(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") | None => path.parent().expect("a folder").to_owned(),
            Some(stem) => path.with_file_name(stem),
        };
        for module in declaration.captures_iter(&code_of(&file.text)) {
            open.push(folder.join(format!("{}.rs", &module[1])));
            open.push(folder.join(&module[1]).join("mod.rs"));
        }
    }
    by_path
        .keys()
        .filter(|path| !reached.contains(*path))
        .map(|path| format!("{}: no mod names it", path.display()))
        .collect()
}

pub fn long_files(files: &[Source]) -> Vec<String> {
    let limit = |file: &Source| {
        let longer = LONGER.iter().find(|(path, _)| *path == file.path);
        longer.map_or(LINES_MAX, |(_, lines)| *lines)
    };
    let long = files.iter().filter(|file| file.text.lines().count() > limit(file));
    long.map(|file| format!("{}: more than {} lines; split it by concept", file.path, limit(file))).collect()
}

pub fn without_module_doc(files: &[Source]) -> Vec<String> {
    let bare = files.iter().filter(|file| !file.text.starts_with("//!"));
    bare.map(|file| format!("{}: does not open with //! and what it owns", file.path)).collect()
}

/// Comments that need a wide window. Addresses may be long.
pub fn wide_comments(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (line, text) in (1..).zip(file.text.lines()) {
            let is_comment = ["//", "-- "].iter().any(|mark| text.trim_start().starts_with(mark));
            let in_string = text.contains("\\n");
            if is_comment && !in_string && text.chars().count() > COMMENT_MAX && !text.contains("://") {
                complaints.push(format!("{}:{line}: a comment of more than {COMMENT_MAX} columns", file.path));
            }
        }
    }
    complaints
}

pub fn machine_paths(files: &[Source]) -> Vec<String> {
    // Put together, so that this file does not complain about itself.
    let path = Regex::new(&format!(r"/({}|{}|{})/\w|/{}/[a-z]+/|\.\./shared\b", "root", "work", "Users", "home"))
        .expect("a valid expression");
    let mut complaints: Vec<String> = files
        .iter()
        .flat_map(|file| matches(&path, &file.text, file, "a path of one machine, or outside the repository"))
        .collect();
    // Where Homebrew is on every Linux machine that has it.
    complaints.retain(|complaint| !complaint.contains("/linuxbrew/"));
    complaints
}

pub fn metric_names(files: &[Source]) -> Vec<String> {
    let name = Regex::new(r"\boutbox_relay_[a-z]").expect("a valid expression");
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path != "src/metrics.rs") {
        for (line, text) in strings_of(&without_tests(&file.text)) {
            if name.is_match(&text) {
                complaints.push(format!("{}:{line}: metric names belong in metrics.rs: {text}", file.path));
            }
        }
    }
    complaints
}

pub fn unmentioned(modules: &[&str], document: &str) -> Vec<String> {
    let named = |module: &str| {
        ["`", "/"].iter().any(|before| {
            [format!("{before}{module}`"), format!("{before}{module}.rs"), format!("{before}{module}/")]
                .iter()
                .any(|form| document.contains(form))
        })
    };
    modules
        .iter()
        .filter(|module| !named(module))
        .map(|module| format!("ARCHITECTURE.md does not name {module}"))
        .collect()
}

// Each rule sees a planted violation, and leaves alone what looks like one.

#[test]
fn sees_a_file_that_no_module_names() {
    let mut files = one("src/lib.rs", "pub mod a;\npub(crate) mod b;\n// mod d;");
    for (path, text) in [("src/main.rs", ""), ("src/a.rs", "mod inner;"), ("src/a/inner.rs", ""), ("src/b.rs", "")] {
        files.push(Source::new(path, text));
    }
    sees(&unreachable_files(&files), &[]);
    files.push(Source::new("src/d.rs", ""));
    files.push(Source::new("src/b/inner.rs", ""));
    sees(&unreachable_files(&files), &["src/b/inner.rs", "src/d.rs"]);
}

#[test]
fn sees_a_file_that_grew_too_long_or_says_nothing_of_itself() {
    sees(&long_files(&one("src/a.rs", &"x\n".repeat(LINES_MAX + 1))), &["src/a.rs"]);
    sees(&long_files(&one("src/a.rs", &"x\n".repeat(LINES_MAX))), &[]);
    sees(&without_module_doc(&one("src/a.rs", "use b;")), &["src/a.rs"]);
}

#[test]
fn sees_a_wide_comment() {
    let wide = format!("    /// {}", "x".repeat(COMMENT_MAX));
    sees(&wide_comments(&one("src/a.rs", &wide)), &["src/a.rs:1"]);
    sees(&wide_comments(&one("src/a.sql", &format!("select 1\n-- {}", "x".repeat(COMMENT_MAX)))), &["src/a.sql:2"]);
    sees(&wide_comments(&one("src/a.rs", &format!("{wide} https://address"))), &[]);
    sees(&wide_comments(&one("src/a.rs", &"x".repeat(COMMENT_MAX + 1))), &[]);
}

#[test]
fn sees_a_path_of_one_machine() {
    let planted = ["/", "root/x", " /", "home/mira/x", " ..", "/shared/x"].concat();
    assert_eq!(machine_paths(&one("README.md", &planted)).len(), 3);
    sees(&machine_paths(&one("README.md", "src/work.rs https://example.org/homepage /usr/lib")), &[]);
}

#[test]
fn sees_a_metric_name_outside_metrics_rs() {
    sees(&metric_names(&one("src/app.rs", "\"outbox_relay_pending_events\"")), &["src/app.rs:1"]);
    sees(&metric_names(&one("src/app.rs", "\"outbox_relay::relay=debug\"; outbox_relay_x")), &[]);
}

#[test]
fn sees_what_a_document_leaves_out() {
    assert_eq!(unmentioned(&["relay", "event", "x"], "`relay`, src/event.rs, ex").len(), 1);
}
