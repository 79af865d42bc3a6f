//! For tests of the rules: a file with a violation, and what a rule says about it.

use crate::source::Source;

#[track_caller]
pub fn sees(complaints: &[String], expected: &[&str]) {
    let found: Vec<&str> = complaints.iter().map(|complaint| complaint.split(": ").next().expect("a part")).collect();
    assert_eq!(found, expected, "{complaints:#?}");
}

pub fn one(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}
