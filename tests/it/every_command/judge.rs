//! Whether a command has ended as it may: with a status that is documented, a text for people, and data that parses.

use std::collections::BTreeSet;

use clap::CommandFactory;
use outbox_relay::cli::Cli;

use super::lines::{Kind, Line};
use super::stage::{KEY, PASSWORD, PAYLOAD};

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The command line, and what was done to it.
    pub call: String,
    pub code: Option<i32>,
    /// What ended it, if that was a signal.
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What is asked of one end.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub line: &'a Line,
    pub format: &'a str,
    pub codes: &'a [i32],
    /// Standard output and standard error are the same terminal, or standard error is lost.
    pub mixed: bool,
}

/// The statuses that the help names.
pub fn documented() -> BTreeSet<i32> {
    let help = Cli::command().get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let first = |line: &str| line.split_whitespace().next()?.parse().ok();
    let found: BTreeSet<i32> = help.lines().filter(|line| line.starts_with(' ')).filter_map(first).collect();
    assert!(found.contains(&0) && found.contains(&78), "the help lists exit statuses: {help}");
    found
}

/// What is wrong with an end; nothing, if all is well.
pub fn complaints(ended: &Ended, wanted: Wanted<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let mut add = |what: &str| {
        let brief = |text: &str| text.chars().take(600).collect::<String>();
        found.push(format!(
            "{}: {what} (status {:?}, signal {:?})\n  stdout: {}\n  stderr: {}",
            ended.call,
            ended.code,
            ended.signal,
            brief(&stdout),
            brief(&stderr)
        ));
    };
    match ended.code {
        Some(code) if !wanted.codes.contains(&code) => add(&format!("the status is none of {:?}", wanted.codes)),
        Some(code) if code < 128 && !documented().contains(&code) => add("the status is not documented"),
        Some(_) => {}
        None => add("a signal has ended it"),
    }
    for text in ["panicked", "RUST_BACKTRACE"] {
        if stderr.contains(text) || stdout.contains(text) {
            add("it panicked");
        }
    }
    if std::str::from_utf8(&ended.stdout).is_err() || std::str::from_utf8(&ended.stderr).is_err() {
        add("it prints what is no UTF-8");
    }
    let everywhere = format!("{stdout}{stderr}");
    if everywhere.contains(PASSWORD) {
        add("it prints a password");
    }
    let shows = wanted.line.kind == Kind::Shows;
    if !(wanted.mixed && shows) && [PAYLOAD, KEY].iter().any(|secret| stderr.contains(secret)) {
        add("standard error has a payload, a key or a header value");
    }
    if !shows && stdout.contains(PAYLOAD) {
        add("standard output has a payload or a header value");
    }
    let steers = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    if !wanted.mixed && !wanted.line.plain && (steers(&stderr) || (wanted.format == "table" && steers(&stdout))) {
        add("it prints control characters");
    }
    let failed = ended.code.is_some_and(|code| code != 0 && code < 128);
    if failed && !wanted.mixed && !stderr.contains("error") {
        add("it does not say why it failed");
    }
    if failed && stderr.contains("permission denied for") && !stderr.contains("docs/roles.sql") {
        add("it does not say where the grants are");
    }
    if wanted.format == "json" && !wanted.line.plain && !wanted.mixed {
        let parses = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        // A document, or one per line of those that print on and on; nothing when it failed.
        let whole = parses(&stdout) || stdout.lines().all(parses);
        if !whole || (stdout.is_empty() && ended.code == Some(0)) {
            add("its JSON does not parse");
        }
    }
    found
}
