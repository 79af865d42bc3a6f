//! Circles among the files of a folder, which could only be understood all at once.
//!
//! A unit is a file with everything below it: `relay/lane.rs` and `relay/lane/`. The file that names the folder
//! (`relay.rs`) is a unit of its own. What it only re-exports counts for the unit where it is defined.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::planted::sees;
use crate::source::{Source, code_of, without_tests};

/// One unit uses another: in which file, by which path.
type Uses = BTreeMap<(String, String), String>;

/// Units of `src/<folder>/` that use each other, directly or by way of others.
pub fn circles(folder: &str, files: &[Source]) -> Vec<String> {
    let mut left = uses(folder, files);
    loop {
        let users: BTreeSet<String> = left.keys().map(|(user, _)| user.clone()).collect();
        let used: BTreeSet<String> = left.keys().map(|(_, used)| used.clone()).collect();
        let before = left.len();
        // Nothing on a circle is only used, or only uses others.
        left.retain(|(user, target), _| users.contains(target) && used.contains(user));
        if left.len() == before {
            break;
        }
    }
    left.iter().map(|((user, target), place)| format!("{place}: {user} and {target} are on a circle")).collect()
}

fn uses(folder: &str, files: &[Source]) -> Uses {
    let below = format!("src/{folder}/");
    let name = format!("src/{folder}.rs");
    let top = files.iter().find(|file| file.path == name);
    let inside: Vec<&Source> = files.iter().filter(|file| file.path.starts_with(&below)).collect();
    let units: BTreeSet<String> = inside.iter().map(|file| unit(file, &below)).collect();
    let exports = top.map(|top| exports(folder, &units, top)).unwrap_or_default();
    let mut found = Uses::new();
    for file in inside.iter().copied().chain(top) {
        let own = unit(file, &below);
        let code = code_of(&without_tests(&file.text));
        let code = if file.path == name { without_exports(&code) } else { code };
        let module = module(file);
        let mut names: Vec<Vec<String>> =
            paths(&code).iter().filter_map(|path| absolute(&module, &units, path)).collect();
        if file.path == name {
            // Names that it re-exports and uses as well.
            let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let exported = exports.keys().filter(|name| words.contains(name.as_str()));
            names.extend(exported.map(|name| vec![folder.to_owned(), name.clone()]));
        }
        for path in names.iter().filter(|path| path.len() > 1 && path[0] == folder) {
            let target = if units.contains(&path[1]) {
                path[1].clone()
            } else {
                exports
                    .get(&path[1])
                    .or_else(|| exports.get("*").filter(|_| !defines(top, &path[1])))
                    .cloned()
                    .unwrap_or_else(|| folder.to_owned())
            };
            if target != own && path[1] != "*" {
                found.entry((own.clone(), target)).or_insert_with(|| format!("{}: {}", file.path, path.join("::")));
            }
        }
    }
    found
}

/// `lane` for `src/relay/lane/protocol.rs`, `relay` for `src/relay.rs`.
fn unit(file: &Source, below: &str) -> String {
    let rest = file.path.strip_prefix(below).unwrap_or_else(|| file.path.trim_start_matches("src/"));
    rest.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
}

fn module(file: &Source) -> Vec<String> {
    let path = file.path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').map(str::to_owned).collect()
}

/// What the file of the folder takes from its units: the name, and the unit. `*` for one of which it takes everything.
fn exports(folder: &str, units: &BTreeSet<String>, top: &Source) -> BTreeMap<String, String> {
    let statement = Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? )?use ([^;]+);").expect("a valid expression");
    let code = code_of(&without_tests(&top.text));
    let mut found = BTreeMap::new();
    for tree in statement.captures_iter(&code) {
        for (path, name) in expand(&tree[1]) {
            let path = absolute(&[folder.to_owned()], units, &path);
            if let Some(unit) = path.as_ref().and_then(|path| path.get(1)).filter(|unit| units.contains(*unit)) {
                found.insert(name, unit.clone());
            }
        }
    }
    found
}

/// Whether the file itself has an item of this name.
fn defines(top: Option<&Source>, name: &str) -> bool {
    let item =
        Regex::new(&format!(r"\b(?:fn|struct|enum|trait|type|const|static) {name}\b")).expect("a valid expression");
    top.is_some_and(|top| item.is_match(&code_of(&without_tests(&top.text))))
}

/// Without what only declares: modules, and what is re-exported.
fn without_exports(code: &str) -> String {
    let exports = Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? use [^;]+;|(?:pub(?:\([^)]*\))? )?mod \w+;)")
        .expect("a valid expression");
    exports.replace_all(code, "").into_owned()
}

/// All paths of two segments or more, those of `use` with their groups resolved.
fn paths(code: &str) -> Vec<Vec<String>> {
    let statement = Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?use ([^;]+);").expect("a valid expression");
    let path = Regex::new(r"\b[A-Za-z_]\w*(?:::\w+)+").expect("a valid expression");
    let imported = statement.captures_iter(code).flat_map(|tree| expand(&tree[1])).map(|(path, _)| path);
    let mut found: Vec<Vec<String>> = imported.collect();
    let rest = statement.replace_all(code, "");
    found.extend(path.find_iter(&rest).map(|path| path.as_str().split("::").map(str::to_owned).collect()));
    found
}

/// `a::{b, c::{self, d as e}}` as its paths, each with the name that it gets.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((before, group)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim())));
        let mut path: Vec<String> = path.split("::").map(|segment| segment.trim().to_owned()).collect();
        path.retain(|segment| !segment.is_empty());
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.map(str::to_owned).or_else(|| path.last().cloned()).unwrap_or_default();
        return vec![(path, name)];
    };
    let (mut level, mut item, mut found) = (0, String::new(), Vec::new());
    for c in group.trim_end().strip_suffix('}').unwrap_or(group).chars().chain([',']) {
        match c {
            ',' if level == 0 => {
                let item = std::mem::take(&mut item);
                if !item.trim().is_empty() {
                    found.extend(expand(&format!("{before}{}", item.trim())));
                }
                continue;
            }
            '{' => level += 1,
            '}' => level -= 1,
            _ => {}
        }
        item.push(c);
    }
    found
}

/// The path from the root of the crate, if it is one of the crate.
fn absolute(module: &[String], units: &BTreeSet<String>, path: &[String]) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => return Some(path[1..].to_vec()),
        Some("self" | "super") => {
            while let Some((first, others)) =
                rest.split_first().filter(|(first, _)| *first == "self" || *first == "super")
            {
                if first == "super" {
                    base.pop();
                }
                rest = others;
            }
        }
        // A unit named by the file of its folder.
        Some(first) if module.len() == 1 && units.contains(first) => {}
        Some(_) | None => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

#[test]
fn sees_a_circle_in_any_spelling() {
    let circle = |a: &str, b: &str, top: &str| {
        let files = [("src/x/a.rs", a), ("src/x/b.rs", b), ("src/x/b/inner.rs", ""), ("src/x.rs", top)];
        let files = files.map(|(path, text)| Source::new(path, text));
        !circles("x", &files).is_empty()
    };
    assert!(circle("use super::b::B;", "use super::a::A;", ""));
    assert!(circle("use crate::x::{c, b::{self, B}};", "fn f() { crate::x::a::f() }", ""));
    assert!(circle("use super::B;", "use super::A;", "mod a;\npub use a::A;\npub use b::B;\n"));
    assert!(circle("use super::B;", "use super::A;", "mod a;\npub use a::A;\npub use b::*;\n"));
    assert!(circle("use super::X;", "", "mod a;\nuse a::A;\nstruct X;"), "with the file of the folder");
    assert!(circle("use super::X;", "", "mod a;\npub use a::A;\nstruct X(A);"));
    assert!(!circle("use super::B;", "", "mod a;\npub use a::A;\npub use b::*;\n"));
    assert!(!circle("use super::X;", "", "mod a;\npub use a::A;\nstruct X;"), "a re-export uses nothing");
    assert!(!circle(
        "use super::b::B; // super::c",
        "#[cfg(test)]\nmod tests { use super::super::a::A; }",
        "use a::A;"
    ));
}

#[test]
fn sees_a_circle_by_way_of_others() {
    let file = |path, text| Source::new(path, text);
    let files = [
        file("src/x/a.rs", "use super::b::B;"),
        file("src/x/b/inner.rs", "use crate::x::c;"),
        file("src/x/c.rs", "fn f() { super::a::f() }"),
        file("src/x/d.rs", "use super::a;"),
        file("src/x/e.rs", ""),
    ];
    let places = ["src/x/a.rs", "src/x/b/inner.rs", "src/x/c.rs"];
    sees(&circles("x", &files), &places);
}
