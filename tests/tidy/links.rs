//! Links between documents, and documents named in code: each must lead to a file and a heading that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;

use crate::source::{Source, normal};

/// `[text](target)` in Markdown whose file or heading does not exist.
pub fn broken_links(files: &[Source]) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a valid expression");
    let headings = headings(files);
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| is_page(file)) {
        let folder = Path::new(&file.path).parent().expect("a file is in a folder");
        for (number, line) in outside_code(&file.text) {
            for found in link.captures_iter(line) {
                let target = &found[1];
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, heading) = target.split_once('#').map_or((target, None), |(path, at)| (path, Some(at)));
                let path = if path.is_empty() { file.path.clone() } else { name(&normal(&folder.join(path))) };
                let is_folder = files.iter().any(|other| other.path.starts_with(&format!("{path}/")));
                let there = paths.contains(path.as_str()) || is_folder;
                let at_heading =
                    heading.is_none_or(|at| headings.get(path.as_str()).is_some_and(|known| known.contains(at)));
                if !there || !at_heading {
                    complaints.push(format!("{}:{number}: {target} leads nowhere", file.path));
                }
            }
        }
    }
    complaints
}

/// Paths such as `docs/errors.md` in code and in documents that name no file. The changelog may name former pages.
pub fn unknown_documents(files: &[Source]) -> Vec<String> {
    let mention = Regex::new(r"\bdocs/[\w./-]*\w\.(?:md|sql|svg)\b").expect("a valid expression");
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path != "CHANGELOG.md" && !file.path.starts_with("tests/tidy/")) {
        for (index, line) in file.text.lines().enumerate() {
            for found in mention.find_iter(line).filter(|found| !paths.contains(found.as_str())) {
                complaints.push(format!("{}:{}: {} does not exist", file.path, index + 1, found.as_str()));
            }
        }
    }
    complaints
}

/// Names that have no heading of their own in a page.
pub fn without_heading(names: &[&str], page: &Source) -> Vec<String> {
    let known: BTreeSet<&str> = page.text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let missing = names.iter().filter(|name| !known.contains(**name));
    missing.map(|name| format!("{} has no heading \"### {name}\"", page.path)).collect()
}

fn is_page(file: &Source) -> bool {
    file.path.ends_with(".md")
}

fn name(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn headings(files: &[Source]) -> BTreeMap<&str, BTreeSet<String>> {
    let of = |file: &Source| -> BTreeSet<String> {
        let lines = outside_code(&file.text);
        lines.filter(|(_, line)| line.starts_with('#')).map(|(_, line)| slug(line.trim_start_matches('#'))).collect()
    };
    files.iter().filter(|file| is_page(file)).map(|file| (file.path.as_str(), of(file))).collect()
}

/// A heading as forges write it in links.
fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

/// Numbered lines that are not inside a block of code.
fn outside_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        (!inside && !fence).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_link_that_leads_nowhere() {
        let files = [
            Source::new(
                "docs/a.md",
                "# A\n[b](b/c.md#or-x001) [top](#a) [b](../README.md) [out](https://example.org)\n",
            ),
            Source::new(
                "docs/b/c.md",
                "### OR-X001\n```sh\n# not a heading\n```\n[gone](../d.md)\n[a](../a.md#nothing)\n",
            ),
            Source::new("README.md", "[code](docs/b/c.md#not-a-heading)\n"),
        ];
        let complaints = broken_links(&files);
        assert_eq!(complaints.len(), 3, "{complaints:#?}");
        assert!(complaints[0].starts_with("docs/b/c.md:5: ../d.md"), "{complaints:#?}");
    }

    #[test]
    fn sees_a_document_that_does_not_exist() {
        let page = Source::new("docs/a.md", "");
        let code = Source::new("src/a.rs", "// See `docs/a.md`.\n// See docs/b/c.md.");
        assert_eq!(unknown_documents(&[page, code]), ["src/a.rs:2: docs/b/c.md does not exist"]);
    }

    #[test]
    fn sees_a_name_without_a_heading() {
        let page = Source::new("docs/a.md", "### OR-X001\nOR-X002\n");
        assert_eq!(without_heading(&["OR-X001", "OR-X002"], &page).len(), 1);
    }
}
