//! The settings file with the values of secrets replaced by `***`.
//!
//! Works on lines as well as on parsed values, because a file with a syntax error must not reveal its passwords either.
//! Hides too much rather than too little.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::is_secret_property;

const MASK: &str = "***";

/// A text with parts of it replaced, and the way from places in the original to places in it.
#[derive(Clone)]
pub(super) struct Masked {
    text: String,
    /// In the original, in order, apart from each other.
    hidden: Vec<Range<usize>>,
}

impl Masked {
    pub(super) fn new(original: &str, mut hidden: Vec<Range<usize>>) -> Self {
        hidden.sort_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in hidden.into_iter().filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let mut text = String::with_capacity(original.len());
        let mut end = 0;
        for range in &merged {
            text.push_str(&original[end..range.start]);
            text.push_str(MASK);
            end = range.end;
        }
        text.push_str(&original[end..]);
        Self { text, hidden: merged }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a range of the original stands in the masked text.
    pub(super) fn map(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.offset(span.start, false);
        start..self.offset(span.end, true).max(start)
    }

    fn offset(&self, original: usize, is_end: bool) -> usize {
        let mut masked = original;
        for range in &self.hidden {
            if original >= range.end {
                masked = masked + MASK.len() - range.len();
            } else if original > range.start {
                // Inside: from the first star, to the last.
                let before = masked - (original - range.start);
                return if is_end { before + MASK.len() } else { before };
            }
        }
        masked.min(self.text.len())
    }
}

/// Whether a key holds something secret, by its name: our own secrets, and names that only a secret would have.
fn is_secret_key(key: &str) -> bool {
    key == "url" || is_secret_property(key)
}

/// Values of secret keys, at any depth.
pub(super) fn in_values(table: &DeTable<'_>, hidden: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        // `password_file` names a file, and its name helps to find the mistake.
        if is_secret_key(key.get_ref()) && !key.get_ref().ends_with("_file") {
            hidden.push(value.span());
        } else {
            in_value(value, hidden);
        }
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, hidden: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => in_values(table, hidden),
        DeValue::Array(items) => items.iter().for_each(|item| in_value(item, hidden)),
        DeValue::String(text) if has_password(text) => hidden.push(value.span()),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// `scheme://user:password@host` under whatever name.
fn has_password(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// What follows the name of a secret on a line, and the lines of a text that begins there. For files that do not parse.
pub(super) fn in_lines(text: &str, hidden: &mut Vec<Range<usize>>) {
    let mut start = 0;
    let mut until: Option<&str> = None;
    let mut next_too = false;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let whole = start..start + content.len();
        if let Some(close) = until {
            if content.contains(close) {
                until = None;
            }
            hidden.push(whole);
        } else if let Some(from) = secret_start(content) {
            let rest = content[from..].trim_start_matches(['"', '\'', ' ', '\t', '=', ':']);
            let value = content.len() - rest.len();
            until = ["\"\"\"", "'''"].into_iter().find(|quotes| content[from..].matches(quotes).count() == 1);
            next_too = rest.is_empty() && until.is_none();
            hidden.push(start + value..whole.end);
        } else {
            if next_too && !content.trim().is_empty() {
                hidden.push(whole.clone());
            }
            next_too = next_too && content.trim().is_empty();
            if has_password(content) {
                hidden.push(whole);
            }
        }
        start += line.len();
    }
}

/// The lines of syntax errors, behind their first word: a password whose key is misspelt too would be shown else. Lines
/// that have one key only, and that is one of `known`, the keys that hold no secret, stay.
pub(super) fn in_broken_lines(
    text: &str,
    errors: impl Iterator<Item = usize>,
    known: &[String],
    hidden: &mut Vec<Range<usize>>,
) {
    for offset in errors {
        let offset = text.floor_char_boundary(offset);
        let start = text[..offset].rfind('\n').map_or(0, |end| end + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        let word = indent + line[indent..].find(|c: char| !is_word(c)).unwrap_or(line.len() - indent);
        let is_known = known.iter().any(|key| line[indent..word].rsplit('.').next() == Some(key))
            && line.matches('=').count() == 1;
        let is_heading = line[indent..].starts_with('[') && !line.contains(['=', '"', '\'']);
        if !is_known && !is_heading {
            let rest = line[word..].trim_start_matches(['"', '\'', ' ', '\t', '=']);
            hidden.push(start + line.len() - rest.len()..start + line.len());
        }
    }
}

/// What a bare key of TOML is made of, and the dots between keys.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The end of the first name on the line that only a secret has.
fn secret_start(line: &str) -> Option<usize> {
    let mut at = 0;
    while at < line.len() {
        let begin = at + line[at..].find(is_word)?;
        let end = begin + line[begin..].find(|c| !is_word(c)).unwrap_or(line.len() - begin);
        let word = &line[begin..end];
        let last = word.rsplit('.').next().unwrap_or(word);
        // In `/run/secrets/url` it is no key.
        let is_key = line[..begin].chars().next_back().is_none_or(|before| " \t\"'{,#[".contains(before));
        // `url_file` names a file.
        if is_key && (is_secret_key(last) || is_secret_property(word)) && !word.ends_with("_file") {
            return Some(end);
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_lines(text: &str) -> String {
        let mut hidden = Vec::new();
        in_lines(text, &mut hidden);
        Masked::new(text, hidden).text().to_owned()
    }

    #[test]
    fn secrets_are_hidden_in_files_that_do_not_parse() {
        assert_eq!(by_lines("url = \"postgres://u:canary@h\nbatch_rows = 5\n"), "url = \"***\nbatch_rows = 5\n");
        assert_eq!(by_lines("sasl_password \"canary\""), "sasl_password \"***");
        assert_eq!(by_lines("sasl_password =\n\n  canary\nnext = 1"), "sasl_password =\n\n***\nnext = 1");
        assert_eq!(by_lines("key_password = \"\"\"\ncanary\n\"\"\"\nx = 1"), "key_password = \"\"\"\n***\n***\nx = 1");
        assert_eq!(by_lines("database = { url = canary, tls = 1 }"), "database = { url = ***");
        assert_eq!(by_lines("# sasl.password = canary"), "# sasl.password = ***");
        assert_eq!(by_lines("x = ftp://me:canary@host"), "***");
        assert_eq!(by_lines("url_file = \"/run/secrets/url\""), "url_file = \"/run/secrets/url\"");
    }

    #[test]
    fn places_move_with_what_is_hidden_before_them() {
        let text = "aa SECRET bb LONGER cc";
        let masked = Masked::new(text, vec![13..19, 3..9]);
        assert_eq!(masked.text(), "aa *** bb *** cc");
        assert_eq!(&masked.text()[masked.map(&(10..12))], "bb");
        assert_eq!(&masked.text()[masked.map(&(20..22))], "cc");
        assert_eq!(&masked.text()[masked.map(&(3..9))], "***");
        assert_eq!(&masked.text()[masked.map(&(5..6))], "***");
        assert_eq!(&masked.text()[masked.map(&(0..22))], "aa *** bb *** cc");
    }
}
