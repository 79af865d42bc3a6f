//! The statements of the product as it runs them, read from their files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use super::repository;

/// `{name}` in a statement.
static FRAGMENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{([a-z_]+)\}").expect("a valid expression"));

/// The statement of a file below `src`, its fragments put in.
pub fn statement(file: &str) -> String {
    let path = repository().join("src").join(file);
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for fragment in fragments_of(&path, &text) {
        let name = fragment.file_stem().expect("a name").to_str().expect("UTF-8");
        let body = std::fs::read_to_string(&fragment).expect("a readable file");
        let body: Vec<&str> = body.lines().skip_while(|line| line.starts_with("--")).collect();
        text = text.replace(&format!("{{{name}}}"), &body.join("\n"));
    }
    text
}

/// The files that the statement in `text` takes in: those beside it, and those that several modules share.
pub fn fragments_of(path: &Path, text: &str) -> BTreeSet<PathBuf> {
    let (own, shared) = (path.parent().expect("a folder").to_owned(), repository().join("src/outbox/sql"));
    let names = FRAGMENT.captures_iter(text).map(|found| format!("{}.sql", &found[1]));
    names
        .filter_map(|name| [&own, &shared].map(|folder| folder.join(&name)).into_iter().find(|path| path.exists()))
        .collect()
}
