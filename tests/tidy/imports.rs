//! Which module may import which: the table in `tidy.rs` against what the source says.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::planted::{one, sees};
use crate::source::{Source, code_of, line_of, without_tests};
use crate::{FOUNDATION, MAY_IMPORT};

pub fn border_crossings(files: &[Source]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut complaints = Vec::new();
    for file in files {
        let module = file.module();
        let Some(allowed) = table.get(module) else {
            complaints.push(format!("{}: module {module} is not in MAY_IMPORT", file.path));
            continue;
        };
        for (line, target) in imports(&without_tests(&file.text), file.depth()) {
            let open = FOUNDATION.contains(&target.as_str()) && (!FOUNDATION.contains(&module) || module == target);
            if target != module && !open && !allowed.contains(&target.as_str()) && table.contains_key(target.as_str()) {
                complaints.push(format!("{}:{line}: {module} must not know {target}", file.path));
            }
        }
    }
    complaints
}

/// Permissions that nobody uses: the picture would show arrows that are not there.
pub fn spare_permissions(files: &[Source], table: &[(&str, &[&str])]) -> Vec<String> {
    let mut used = BTreeSet::new();
    for file in files {
        let imported = imports(&without_tests(&file.text), file.depth());
        used.extend(imported.into_iter().map(|(_, target)| (file.module(), target)));
    }
    let permitted = table.iter().flat_map(|(module, targets)| targets.iter().map(move |target| (*module, *target)));
    permitted
        .filter(|(module, target)| !used.contains(&(module, (*target).to_owned())))
        .map(|(module, target)| format!("MAY_IMPORT lets {module} know {target}, which it does not"))
        .collect()
}

/// First segments of paths that begin at the root of the crate, with their lines.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let code = code_of(text);
    let roots = format!(r"\b(?:crate|outbox_relay|{})::", ["super"; 9][..depth].join("::"));
    let root = Regex::new(&roots).expect("a valid expression");
    let mut found = Vec::new();
    for start in root.find_iter(&code) {
        let line = line_of(&code, start.start());
        let rest = &code[start.end()..];
        if let Some(group) = rest.strip_prefix('{') {
            // The names at the first level of `{a, b::{c, d}, e as f}`.
            let (mut level, mut item) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => level += 1,
                    '}' if level == 0 => break,
                    '}' => level -= 1,
                    ',' if level == 0 => found.push((line, identifier(&std::mem::take(&mut item)))),
                    _ if level == 0 => item.push(c),
                    _ => {}
                }
            }
            found.push((line, identifier(&item)));
        } else {
            found.push((line, identifier(rest)));
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

pub fn cycles(table: &[(&str, &[&str])]) -> Vec<String> {
    // A module that imports nothing that is left can be taken away; what remains at the end is on a cycle.
    let mut left: BTreeMap<&str, &[&str]> = table.iter().copied().collect();
    loop {
        let done: Vec<&str> = left
            .iter()
            .filter(|(_, imports)| !imports.iter().any(|import| left.contains_key(import)))
            .map(|(module, _)| *module)
            .collect();
        if done.is_empty() {
            return left.keys().map(|module| format!("{module} is on a cycle of MAY_IMPORT")).collect();
        }
        left.retain(|module, _| !done.contains(module));
        if left.is_empty() {
            return Vec::new();
        }
    }
}

// Each rule sees a planted violation, and leaves alone what looks like one.

#[test]
fn sees_a_border_crossed_in_any_spelling() {
    for crossing in [
        "use crate::outbox::Outbox;",
        "use crate::{event::Event, outbox};",
        "use crate::{config::{A, B}, outbox::{C, D}};",
        "use super::super::outbox::Outbox;",
        "fn f() { crate::outbox::f() }",
        "pub(crate) use ::outbox_relay::outbox as o;",
    ] {
        sees(&border_crossings(&one("src/broker/kafka.rs", crossing)), &["src/broker/kafka.rs:1"]);
    }
    sees(&border_crossings(&one("src/retry.rs", "use crate::event::Event;")), &["src/retry.rs:1"]);
    sees(&border_crossings(&one("src/novelty.rs", "")), &["src/novelty.rs"]);
    sees(&border_crossings(&one("src/relay/lane.rs", "\nuse crate::app::App;\n")), &["src/relay/lane.rs:2"]);
}

#[test]
fn leaves_allowed_imports_alone() {
    let text = "use crate::outbox::Outbox;\nuse super::wakeup::Wakeup;\nuse crate::{broker, event::Event, relay::lanes};\n\
        // crate::app\nfn f() -> Result<(), crate::error::Error> { \"crate::app\"; Ok(()) }\n\
        #[cfg(test)]\nmod tests { use crate::app::App; }";
    sees(&border_crossings(&one("src/relay/lane.rs", text)), &[]);
}

#[test]
fn sees_a_cycle_in_the_picture() {
    assert_eq!(cycles(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]).len(), 3);
    assert!(cycles(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]).is_empty());
}

#[test]
fn sees_a_permission_that_nobody_uses() {
    let files = one("src/relay/lane.rs", "use crate::outbox::Outbox;");
    assert_eq!(spare_permissions(&files, &[("relay", &["outbox", "broker"])]).len(), 1);
}
