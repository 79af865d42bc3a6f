//! Which tests hold which promise of `docs/guarantees.md`: a test says so itself, and the page lists it.

use super::source::Source;

/// What a test holds, by the headings of the page.
const TAG: &str = "/// Promise: ";

/// A test that holds promises.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub promise: String,
    pub test: String,
    pub file: String,
}

/// The tags in these files, in their order. Errors: a tag without a test below it.
pub fn tags(files: &[Source]) -> Result<Vec<Held>, String> {
    let mut held = Vec::new();
    for file in files {
        let mut open: Option<&str> = None;
        for line in file.text.lines().map(str::trim) {
            if let Some(promises) = line.strip_prefix(TAG) {
                open = Some(promises);
                continue;
            }
            let Some(promises) = open else { continue };
            let name = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
            if let Some((test, _)) = name.and_then(|rest| rest.split_once('(')) {
                held.extend(promises.trim_end_matches('.').split(", ").map(|promise| Held {
                    promise: promise.to_owned(),
                    test: test.to_owned(),
                    file: file.path.clone(),
                }));
                open = None;
            } else if !(line.starts_with("#[") || line.starts_with("///")) {
                return Err(format!("{}: the tag \"{promises}\" is not above a test", file.path));
            }
        }
    }
    Ok(held)
}

/// The page with the lists made anew. Errors: a tag that the page does not have, a promise that no test holds.
pub fn with_lists(page: &str, held: &[Held]) -> Result<String, String> {
    let promises: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    if let Some(wrong) = held.iter().find(|held| !promises.contains(&held.promise.as_str())) {
        return Err(format!(
            "{} in {} holds \"{}\", which is no heading of the page",
            wrong.test, wrong.file, wrong.promise
        ));
    }
    let mut sections: Vec<String> = Vec::new();
    for section in page.split_inclusive('\n').fold(Vec::<String>::new(), by_heading) {
        let Some(promise) = section.strip_prefix("### ").and_then(|rest| rest.lines().next()) else {
            sections.push(section);
            continue;
        };
        let text = section.split("\nHeld by:\n").next().unwrap_or_default().trim_end();
        let mut tests: Vec<_> = held.iter().filter(|held| held.promise == promise).collect();
        tests.sort_by(|a, b| (&a.file, &a.test).cmp(&(&b.file, &b.test)));
        if tests.is_empty() {
            return Err(format!("no test holds \"{promise}\""));
        }
        let list: String = tests.iter().map(|held| format!("- `{}` ({})\n", held.test, short(&held.file))).collect();
        sections.push(format!("{text}\n\nHeld by:\n{list}\n"));
    }
    Ok(sections.concat().trim_end().to_owned() + "\n")
}

fn by_heading(mut sections: Vec<String>, line: &str) -> Vec<String> {
    match sections.last_mut() {
        Some(last) if !line.starts_with("## ") && !line.starts_with("### ") => last.push_str(line),
        Some(_) | None => sections.push(line.to_owned()),
    }
    sections
}

/// Below `tests/it/`.
fn short(path: &str) -> &str {
    path.strip_prefix("tests/it/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> [Source; 1] {
        [Source::new("tests/it/a.rs", text)]
    }

    #[test]
    fn a_tag_belongs_to_the_test_below_it() {
        let held =
            tags(&file("/// Why.\n///\n/// Promise: order, memory.\n#[tokio::test]\nasync fn holds() {\n")).unwrap();
        let names: Vec<_> = held.iter().map(|held| (held.promise.as_str(), held.test.as_str())).collect();
        assert_eq!(names, [("order", "holds"), ("memory", "holds")]);
        assert!(tags(&file("/// Promise: order.\nstruct Nothing;\n")).is_err());
    }

    #[test]
    fn the_page_lists_what_the_tests_say() {
        let held = tags(&file("/// Promise: order.\n#[test]\nfn holds() {}\n")).unwrap();
        let page = "# Page\n\n### order\n\nIn order.\n\nHeld by:\n- `former` (b.rs)\n\n## More\n";
        let wanted = "# Page\n\n### order\n\nIn order.\n\nHeld by:\n- `holds` (a.rs)\n\n## More\n";
        assert_eq!(with_lists(page, &held).unwrap(), wanted);
        assert_eq!(with_lists(wanted, &held).unwrap(), wanted, "made twice it is the same");
        assert!(with_lists("# Page\n\n### speed\n", &held).is_err(), "a tag without a heading");
        assert!(with_lists("### order\n\n### speed\n", &held).is_err(), "a promise without a test");
    }
}
