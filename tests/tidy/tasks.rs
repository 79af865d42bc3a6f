//! Tasks and threads: each that has a name must be in the table of ARCHITECTURE.md.

use regex::Regex;

use crate::source::{Source, without_tests};

/// Names that the code gives to parts, tasks and threads, with the file. Those of the demo are its own affair.
fn named(files: &[Source]) -> Vec<(String, String)> {
    let calls = [
        r#"\.name\("([^"]+)"\.to_owned\(\)\)"#,
        r#"\.name\(format!\("([^"{]+)"#,
        r#"\.part\("([^"]+)""#,
        r#"supervisor\.spawn\("([^"]+)""#,
        r#"detach(?:_with_handle)?\("([^"]+)""#,
    ];
    let calls = calls.map(|call| Regex::new(call).expect("a valid expression"));
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") && file.module() != "demo") {
        let text = without_tests(&file.text);
        let names = calls.iter().flat_map(|call| call.captures_iter(&text)).map(|name| name[1].to_owned());
        found.extend(names.map(|name| (name, file.path.clone())));
    }
    found
}

/// Those that the section `## Tasks and threads` of this page does not name.
pub fn not_in_the_table(files: &[Source], page: &Source) -> Vec<String> {
    let section = page.text.split("\n## ").find(|section| section.starts_with("Tasks and threads")).unwrap_or_default();
    let missing = named(files).into_iter().filter(|(name, _)| !section.contains(&format!("`{name}")));
    missing.map(|(name, path)| format!("{}: `{name}` of {path} is in no row of the table", page.path)).collect()
}

#[test]
fn sees_a_thread_and_a_part_that_are_in_no_row() {
    let code = "fn f() { Builder::new().name(\"reader\".to_owned()); app.part(\"relay\", ends); detach(\"talk\", x); }\n\
                #[cfg(test)]\nmod tests { fn g() { detach(\"tested\", x); } }";
    let files = [Source::new("src/x.rs", code), Source::new("src/demo/y.rs", "fn f() { detach(\"shop\", x); }")];
    let page = Source::new("A.md", "# A\n`talk`\n\n## Tasks and threads\n\n| part `relay` |\n\n## Next\n`reader`\n");
    assert_eq!(
        not_in_the_table(&files, &page),
        ["A.md: `reader` of src/x.rs is in no row of the table", "A.md: `talk` of src/x.rs is in no row of the table"]
    );
}
