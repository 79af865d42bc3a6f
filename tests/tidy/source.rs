//! The files of the repository, and Rust read well enough: code, comments, strings, tests.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A file of the repository; the path is relative to its root.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Names of the modules down to this file: `src/relay/lane.rs` is `["relay", "lane"]`.
    pub fn segments(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.trim_end_matches(".rs").split('/').collect()
    }

    /// The top-level module.
    pub fn module(&self) -> &str {
        self.segments()[0]
    }

    /// How many `super` lead from here to the root of the crate.
    pub fn depth(&self) -> usize {
        self.segments().len()
    }

    pub fn is_in(&self, places: &[&str]) -> bool {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        places.iter().any(|place| inside == *place || (place.ends_with('/') && inside.starts_with(place)))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn rust_files(folder: &str) -> Vec<Source> {
    let paths = paths_below(folder, "rs");
    assert!(!paths.is_empty(), "no Rust file below {folder}");
    paths.iter().map(|path| path.to_str().expect("UTF-8")).map(|path| Source::new(path, &read(path))).collect()
}

/// Every file of the repository that is text, without build output.
pub fn text_files() -> Vec<Source> {
    let mut files = Vec::new();
    for path in all_paths(root()) {
        if let Ok(text) = fs::read_to_string(root().join(&path)) {
            files.push(Source { path: path.to_str().expect("UTF-8").to_owned(), text });
        }
    }
    files
}

pub fn paths_below(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut paths = all_paths(&root().join(folder));
    paths.retain(|path| path.extension().is_some_and(|other| other == extension));
    paths
}

fn all_paths(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        if path.is_dir() {
            if !["target", ".git", "node_modules"].contains(&name) {
                paths.extend(all_paths(&path));
            }
        } else if name != ".git" {
            paths.push(path.strip_prefix(root()).expect("below the root").to_owned());
        }
    }
    paths.sort();
    paths
}

/// `a/b/../c` as `a/c`.
pub fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts
}

pub fn line_of(text: &str, place: usize) -> usize {
    text[..place].matches('\n').count() + 1
}

/// The code alone: comments and the insides of strings become blanks, lines stay where they are.
pub fn code_of(text: &str) -> String {
    scan(text).0
}

/// The string literals, with their lines. Escapes are left as they are written.
pub fn strings_of(text: &str) -> Vec<(usize, String)> {
    scan(text).1
}

/// The text with everything under `#[cfg(test)]` made blank.
pub fn without_tests(text: &str) -> String {
    blank(text, &test_ranges(text))
}

/// The text with everything but what is under `#[cfg(test)]` made blank.
pub fn tests_of(file: &Source) -> String {
    let (mut rest, mut from) = (Vec::new(), 0);
    for (start, end) in test_ranges(&file.text) {
        rest.push((from, start));
        from = end;
    }
    rest.push((from, file.text.len()));
    blank(&file.text, &rest)
}

/// Byte ranges of the items under `#[cfg(test)]`: to the closing brace, or to the `;` of `mod x;`.
fn test_ranges(text: &str) -> Vec<(usize, usize)> {
    const MARK: &str = "#[cfg(test)]";
    let code = code_of(text);
    let (mut ranges, mut from) = (Vec::new(), 0);
    while let Some(found) = code[from..].find(MARK) {
        let start = from + found;
        let (mut level, mut end) = (0_usize, code.len());
        for (place, c) in code[start + MARK.len()..].char_indices() {
            match c {
                '{' => level += 1,
                '}' if level <= 1 => {
                    end = start + MARK.len() + place + 1;
                    break;
                }
                '}' => level -= 1,
                ';' if level == 0 => {
                    end = start + MARK.len() + place + 1;
                    break;
                }
                _ => {}
            }
        }
        ranges.push((start, end));
        from = end;
    }
    ranges
}

fn blank(text: &str, ranges: &[(usize, usize)]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for &(start, end) in ranges {
        for byte in bytes[start..end].iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
    }
    String::from_utf8(bytes).expect("ranges end between characters")
}

/// Goes over the text once. The code comes back with as many bytes as the text has.
fn scan(text: &str) -> (String, Vec<(usize, String)>) {
    let mut hidden = Vec::new();
    let mut strings = Vec::new();
    let mut place = 0;
    while place < text.len() {
        let rest = &text[place..];
        let end = if rest.starts_with("//") {
            let end = place + rest.find('\n').unwrap_or(rest.len());
            hidden.push((place, end));
            end
        } else if rest.starts_with("/*") {
            let end = place + block_comment(rest);
            hidden.push((place, end));
            end
        } else if let Some((open, length, close)) = string_literal(text, place) {
            let (start, end) = (place + open, place + open + length);
            strings.push((line_of(text, place), text[start..end].to_owned()));
            hidden.push((start, end));
            end + close
        } else if let Some(length) = char_literal(rest) {
            hidden.push((place + 1, place + length - 1));
            place + length
        } else {
            place + rest.chars().next().map_or(1, char::len_utf8)
        };
        place = end;
    }
    (blank(text, &hidden), strings)
}

fn block_comment(text: &str) -> usize {
    let (mut level, mut place) = (0, 0);
    while place < text.len() {
        if text[place..].starts_with("/*") {
            (level, place) = (level + 1, place + 2);
        } else if text[place..].starts_with("*/") {
            (level, place) = (level - 1, place + 2);
            if level == 0 {
                break;
            }
        } else {
            place += text[place..].chars().next().map_or(1, char::len_utf8);
        }
    }
    place
}

/// Lengths of opening, inside and closing of a string literal that starts at `place`.
fn string_literal(text: &str, place: usize) -> Option<(usize, usize, usize)> {
    let rest = &text[place..];
    let after_word = text[..place].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).unwrap_or(rest.len());
    if prefix > 2 || (prefix > 0 && after_word) {
        return None;
    }
    let hashes = rest[prefix..].find(|c| c != '#')?;
    if !rest[prefix + hashes..].starts_with('"') || (hashes > 0 && !rest[..prefix].ends_with('r')) {
        return None;
    }
    let open = prefix + hashes + 1;
    let inside = &rest[open..];
    if rest[..prefix].ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some((open, inside.find(&close)?, close.len()));
    }
    let mut escaped = false;
    let end = inside.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((open, end, 1))
}

/// Length of a char literal at the start; a lifetime is none.
fn char_literal(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut chars = inside.char_indices();
    match chars.next()?.1 {
        '\\' => {
            chars.next()?;
            chars.find(|(_, c)| *c == '\'').map(|(place, _)| place + 2)
        }
        _ => chars.next().filter(|(_, c)| *c == '\'').map(|(place, _)| place + 2),
    }
}

/// What a pattern finds in a text, as complaints about the file.
pub fn matches(pattern: &Regex, text: &str, file: &Source, why: &str) -> Vec<String> {
    let found = pattern.find_iter(text);
    found
        .map(|found| format!("{}:{}: {}: {why}", file.path, line_of(text, found.start()), found.as_str().trim()))
        .collect()
}

#[test]
fn code_comments_and_strings_are_told_apart() {
    let text = "let a = \"x // \\\" y\"; // \"no\"\nlet b = r#\"say \"hi\"\"#; /* a /* b */ c */ let c = '\"';\nfn f<'a>(x: &'a str) { \"z\" }";
    let strings: Vec<_> = strings_of(text);
    let expected = [(1, "x // \\\" y"), (2, "say \"hi\""), (3, "z")];
    assert_eq!(strings, expected.map(|(line, text)| (line, text.to_owned())));
    let code = code_of(text);
    assert_eq!(code.len(), text.len());
    assert!(code.contains("let c = ' ';") && code.contains("fn f<'a>(x: &'a str)"), "{code}");
    assert!(!code.contains("no") && !code.contains("a /*"), "{code}");
}

#[test]
fn what_is_under_cfg_test_is_told_from_the_rest() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\" }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n";
    let (code, tests) = (without_tests(text), tests_of(&Source::new("src/x.rs", text)));
    for name in ["fn a", "fn c", "fn d"] {
        assert!(code.contains(name) && !tests.contains(name), "{name}");
    }
    for name in ["fn b", "mod more"] {
        assert!(!code.contains(name) && tests.contains(name), "{name}");
    }
}
