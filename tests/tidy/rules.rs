//! What each rule is: a function from sources to complaints, `path:line: what is wrong`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::source::{Source, code_of, line_of, normal, strings_of, without_tests};
use crate::{ENVIRONMENT, FOUNDATION, LIBRARIES, MAY_IMPORT, NATIVE};

const LINES_MAX: usize = 600;
const COMMENT_MAX: usize = 120;

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

pub fn stray_libraries(files: &[Source]) -> Vec<String> {
    let code: Vec<String> = files.iter().map(|file| code_of(&without_tests(&file.text))).collect();
    let mut complaints = Vec::new();
    for (library, places) in LIBRARIES {
        let word = Regex::new(&format!(r"\b{library}(::|;|\s*!)")).expect("a valid expression");
        for (file, code) in files.iter().zip(&code).filter(|(file, _)| !file.is_in(places)) {
            complaints.extend(matches(&word, code, file, &format!("{library} belongs to {places:?}")));
        }
    }
    complaints
}

/// Calls of librdkafka, and access of rdkafka to bytes that it takes for text: it panics when they are none.
pub fn native_calls(files: &[Source]) -> Vec<String> {
    let native = Regex::new(
        r"\bunsafe\b|\brdkafka_sys\b|\brdkafka::bindings\b|\bBorrowedHeaders\b|\brdkafka::message::(\{[^}]*)?\bHeaders\b|\brdkafka::message::\*|\b(message|record)\.detach\(\)|\belement\.metadata\(\)",
    )
    .expect("a valid expression");
    let others = files.iter().filter(|file| !file.is_in(NATIVE));
    others
        .flat_map(|file| matches(&native, &code_of(&without_tests(&file.text)), file, "take it from broker::raw"))
        .collect()
}

pub fn environment_readers(files: &[Source]) -> Vec<String> {
    let reading = Regex::new(r"\benv::(var|vars|var_os|vars_os|set_var|remove_var)\b").expect("a valid expression");
    let others = files.iter().filter(|file| !file.is_in(ENVIRONMENT));
    others
        .flat_map(|file| matches(&reading, &code_of(&file.text), file, "only the settings read the environment"))
        .collect()
}

pub fn sql_in_rust(files: &[Source]) -> Vec<String> {
    let statement = Regex::new(
        r"(?is)^\s*(select|with)\s.*\b(from|as)\b|^\s*select\s+[\w.]+\(|\binsert\s+into\s|\bupdate\s+\w+\s+set\s|\bdelete\s+from\s|\b(create|alter|drop|truncate)\s+(table|index|database|function|role|schema|view|type)\s+\w|^\s*(begin|commit|rollback|listen\s+\w+|notify\s+\w+)\s*;?\s*$",
    )
    .expect("a valid expression");
    let mut complaints = Vec::new();
    for file in files {
        for (line, text) in strings_of(&without_tests(&file.text)) {
            if statement.is_match(&text) {
                complaints.push(format!("{}:{line}: SQL belongs in a .sql file: {text}", file.path));
            }
        }
    }
    complaints
}

pub fn unused_sql(files: &[Source], sql_files: &[PathBuf]) -> Vec<String> {
    let mut used = BTreeSet::new();
    for file in files {
        let folder = Path::new(&file.path).parent().expect("a file is in a folder");
        for (_, text) in strings_of(&file.text) {
            if text.ends_with(".sql") && !text.contains(char::is_whitespace) {
                used.insert(normal(&folder.join(text)));
            }
        }
    }
    let existing: BTreeSet<PathBuf> = sql_files.iter().cloned().collect();
    existing.difference(&used).map(|path| format!("{}: no include_str! names it", path.display())).collect()
}

pub fn printers(files: &[Source]) -> Vec<String> {
    let printing = Regex::new(
        r"\b(e?print(ln)?)!|\bio::(stdout|stderr)\(\)\.(lock|write)|\bwriteln?!\(\s*(std::)?io::(stdout|stderr)",
    )
    .expect("a valid expression");
    let others = files.iter().filter(|file| !file.is_in(&["output.rs", "output/", "stderr.rs"]));
    others
        .flat_map(|file| matches(&printing, &code_of(&without_tests(&file.text)), file, "printing belongs to output"))
        .collect()
}

/// Ways to what PostgreSQL quotes in its errors: rows, parameters, values.
pub fn quoting_errors(files: &[Source]) -> Vec<String> {
    let way = Regex::new(
        r"\bas_db_error\b|\berror::DbError as\b|\.(where_|detail)\(\)|#\[(source|from)\]\s*tokio_postgres::Error",
    )
    .expect("a valid expression");
    let others = files.iter().filter(|file| !file.is_in(&["db/server_error.rs"]));
    others
        .flat_map(|file| {
            matches(&way, &code_of(&without_tests(&file.text)), file, "such an error travels as ServerError")
        })
        .collect()
}

/// Calls of the Kafka client that wait for a broker. Of those that return a future, the wait must be limited on the
/// same line.
pub fn kafka_without_limit(files: &[Source]) -> Vec<String> {
    let blocking = Regex::new(
        r"\.(fetch_metadata|fetch_watermarks|fetch_group_list|committed_offsets|committed|offsets_for_times|init_transactions|send_offsets_to_transaction|commit_transaction|abort_transaction|flush|seek|seek_partitions)\s*\(",
    )
    .expect("a valid expression");
    let asked = Regex::new(
        r"\.(create_topics|delete_topics|create_partitions|delete_records|delete_groups|describe_configs|alter_configs)\s*\(",
    )
    .expect("a valid expression");
    let mut complaints = Vec::new();
    let clients = files.iter().filter(|file| file.text.contains("rdkafka::"));
    // The consumer has a thread that readiness watches, the demo has servers of its own.
    for file in
        clients.filter(|file| !file.is_in(&["broker/call.rs", "broker/call/", "projection/", "demo.rs", "demo/"]))
    {
        let code = code_of(&without_tests(&file.text));
        for (number, line) in (1..).zip(code.lines()) {
            if blocking.is_match(line) || (asked.is_match(line) && !line.contains("answered(")) {
                complaints
                    .push(format!("{}:{number}: calls of the Kafka client that wait belong in broker/call", file.path));
            }
        }
    }
    complaints
}

pub fn unreachable_files(files: &[Source]) -> Vec<String> {
    let declaration = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z ]+\))? )?mod (\w+);").expect("a valid expression");
    let by_path: BTreeMap<PathBuf, &Source> = files.iter().map(|file| (PathBuf::from(&file.path), file)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = ["src/lib.rs", "src/main.rs"].iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let Some(file) = by_path.get(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") | None => path.parent().expect("a folder").to_owned(),
            Some(stem) => path.with_file_name(stem),
        };
        for module in declaration.captures_iter(&code_of(&file.text)) {
            open.push(folder.join(format!("{}.rs", &module[1])));
            open.push(folder.join(&module[1]).join("mod.rs"));
        }
    }
    by_path
        .keys()
        .filter(|path| !reached.contains(*path))
        .map(|path| format!("{}: no mod names it", path.display()))
        .collect()
}

pub fn sleepers(files: &[Source]) -> Vec<String> {
    let sleeping = Regex::new(r"\b(sleep|sleep_until|sleep_ms)\s*\(").expect("a valid expression");
    let mut found: Vec<String> = Vec::new();
    for file in files {
        found.extend(matches(&sleeping, &code_of(&file.text), file, "wait for a condition instead"));
        // In SQL too.
        let strings = strings_of(&file.text).into_iter().filter(|(_, text)| text.contains(concat!("pg_", "sleep")));
        found.extend(
            strings.map(|(line, _)| format!("{}:{line}: a statement that sleeps; let it wait for a lock", file.path)),
        );
    }
    found
}

/// Comments that need a wide window. Addresses may be long.
pub fn wide_comments(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (line, text) in (1..).zip(file.text.lines()) {
            let is_comment = ["//", "-- "].iter().any(|mark| text.trim_start().starts_with(mark));
            let in_string = text.contains("\\n");
            if is_comment && !in_string && text.chars().count() > COMMENT_MAX && !text.contains("://") {
                complaints.push(format!("{}:{line}: a comment of more than {COMMENT_MAX} columns", file.path));
            }
        }
    }
    complaints
}

pub fn long_files(files: &[Source]) -> Vec<String> {
    let long = files.iter().filter(|file| file.text.lines().count() > LINES_MAX);
    long.map(|file| format!("{}: more than {LINES_MAX} lines; split it by concept", file.path)).collect()
}

pub fn without_module_doc(files: &[Source]) -> Vec<String> {
    let bare = files.iter().filter(|file| !file.text.starts_with("//!"));
    bare.map(|file| format!("{}: does not open with //! and what it owns", file.path)).collect()
}

pub fn metric_names(files: &[Source]) -> Vec<String> {
    let name = Regex::new(r"\boutbox_relay_[a-z]").expect("a valid expression");
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path != "src/metrics.rs") {
        for (line, text) in strings_of(&without_tests(&file.text)) {
            if name.is_match(&text) {
                complaints.push(format!("{}:{line}: metric names belong in metrics.rs: {text}", file.path));
            }
        }
    }
    complaints
}

pub fn unmentioned(modules: &[&str], document: &str) -> Vec<String> {
    let named = |module: &str| {
        ["`", "/"].iter().any(|before| {
            [format!("{before}{module}`"), format!("{before}{module}.rs"), format!("{before}{module}/")]
                .iter()
                .any(|form| document.contains(form))
        })
    };
    modules
        .iter()
        .filter(|module| !named(module))
        .map(|module| format!("ARCHITECTURE.md does not name {module}"))
        .collect()
}

pub fn machine_paths(files: &[Source]) -> Vec<String> {
    // Put together, so that this file does not complain about itself.
    let path = Regex::new(&format!(r"/({}|{}|{})/\w|/{}/[a-z]+/|\.\./shared\b", "root", "work", "Users", "home"))
        .expect("a valid expression");
    let mut complaints: Vec<String> = files
        .iter()
        .flat_map(|file| matches(&path, &file.text, file, "a path of one machine, or outside the repository"))
        .collect();
    // Where Homebrew is on every Linux machine that has it.
    complaints.retain(|complaint| !complaint.contains("/linuxbrew/"));
    complaints
}

fn matches(pattern: &Regex, text: &str, file: &Source, why: &str) -> Vec<String> {
    let found = pattern.find_iter(text);
    found
        .map(|found| format!("{}:{}: {}: {why}", file.path, line_of(text, found.start()), found.as_str().trim()))
        .collect()
}

// --- each rule sees a violation that was planted, and leaves alone what looks like one
// --------------------------------

#[track_caller]
fn sees(complaints: &[String], expected: &[&str]) {
    let found: Vec<&str> = complaints.iter().map(|complaint| complaint.split(": ").next().expect("a part")).collect();
    assert_eq!(found, expected, "{complaints:#?}");
}

fn one(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}

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

#[test]
fn sees_a_library_outside_its_modules() {
    sees(&stray_libraries(&one("src/relay.rs", "use tokio_postgres::Client;")), &["src/relay.rs:1"]);
    sees(&stray_libraries(&one("src/outbox.rs", "fn f(c: &rdkafka::Message) {}")), &["src/outbox.rs:1"]);
    sees(&stray_libraries(&one("src/broker/kafka.rs", "use rdkafka::Message; // tokio_postgres::Client")), &[]);
    sees(&stray_libraries(&one("src/broker.rs", "fn f() { librdkafka_version() }")), &[]);
}

#[test]
fn sees_calls_of_librdkafka_and_headers_that_must_be_text() {
    for planted in [
        "unsafe { f() }",
        "use rdkafka_sys as native;",
        "use rdkafka::bindings;",
        "use rdkafka::message::{BorrowedMessage, Headers, Message};",
        "use rdkafka::message::Headers as _;",
        "fn f(h: &BorrowedHeaders) {}",
        "let owned = message.detach();",
        "element.metadata().to_owned()",
    ] {
        sees(&native_calls(&one("src/broker/reader.rs", planted)), &["src/broker/reader.rs:1"]);
        sees(&native_calls(&one("src/broker/raw.rs", planted)), &[]);
    }
    let text = "use rdkafka::message::{BorrowedMessage, Message}; use super::{Headers, raw}; list.detach(); // unsafe";
    sees(&native_calls(&one("src/broker/reader.rs", text)), &[]);
}

#[test]
fn sees_a_reader_of_the_environment() {
    sees(&environment_readers(&one("src/app.rs", "let x = std::env::var_os(\"X\");")), &["src/app.rs:1"]);
    sees(&environment_readers(&one("src/config/source.rs", "let x = std::env::vars_os();")), &[]);
    sees(&environment_readers(&one("src/app.rs", "env!(\"CARGO_PKG_VERSION\")")), &[]);
}

#[test]
fn sees_an_error_that_quotes_rows() {
    sees(&quoting_errors(&one("src/app.rs", "error.as_db_error()")), &["src/app.rs:1"]);
    sees(&quoting_errors(&one("src/app.rs", "Database(#[from] tokio_postgres::Error),")), &["src/app.rs:1"]);
    sees(&quoting_errors(&one("src/db/server_error.rs", "error.as_db_error()")), &[]);
}

#[test]
fn sees_sql_in_rust() {
    for statement in [
        "select id from outbox_events where id = $1",
        "SELECT pg_advisory_lock(1)",
        "insert into t values (1)",
        "update outbox_shards set owner = null",
        "delete from t",
        "create table t ()",
        "drop table t",
        "begin",
        "with x as (select 1) select * from x",
        "listen outbox",
    ] {
        sees(&sql_in_rust(&one("src/relay.rs", &format!("let q = \"{statement}\";"))), &["src/relay.rs:1"]);
    }
    for prose in [
        "updated 3 rows",
        "create the topic with scripts/kafka-topics.sh",
        "select the shards to show",
        "nothing to delete: the table is empty",
        "with 3 rows",
    ] {
        sees(&sql_in_rust(&one("src/relay.rs", &format!("let text = \"{prose}\"; // select a from b"))), &[]);
    }
}

#[test]
fn sees_a_sql_file_that_nobody_includes() {
    let files = one(
        "src/outbox/postgres.rs",
        "const A: &str = include_str!(\"sql/a.sql\"); const C: &str = include_str!(\"../x/c.sql\");",
    );
    let sql = ["src/outbox/sql/a.sql", "src/outbox/sql/b.sql", "src/x/c.sql"].map(PathBuf::from);
    sees(&unused_sql(&files, &sql), &["src/outbox/sql/b.sql"]);
}

#[test]
fn sees_printing_outside_output() {
    sees(&printers(&one("src/app.rs", "println!(\"x\");")), &["src/app.rs:1"]);
    sees(&printers(&one("src/app.rs", "\neprint!(\"x\");")), &["src/app.rs:2"]);
    sees(&printers(&one("src/app.rs", "io::stdout().lock()")), &["src/app.rs:1"]);
    sees(&printers(&one("src/output.rs", "println!(\"x\");")), &[]);
    sees(&printers(&one("src/app.rs", "#[cfg(test)]\nmod tests { fn f() { println!() } } // println!()")), &[]);
}

#[test]
fn sees_a_call_of_the_kafka_client_without_a_limit() {
    let file = |path, line: &str| one(path, &format!("use rdkafka::consumer::Consumer;\n{line}"));
    let call = "fn f() { consumer.fetch_metadata(None, LONG) }";
    sees(&kafka_without_limit(&file("src/broker/admin.rs", call)), &["src/broker/admin.rs:2"]);
    sees(&kafka_without_limit(&file("src/broker/call/watch.rs", call)), &[]);
    sees(
        &kafka_without_limit(&file("src/broker/producer.rs", "fn f() { inner\n.commit_transaction(LONG) }")),
        &["src/broker/producer.rs:3"],
    );
    sees(&kafka_without_limit(&file("src/broker/a.rs", "client.create_topics(a).await")), &["src/broker/a.rs:2"]);
    sees(
        &kafka_without_limit(&file("src/broker/a.rs", "answered(\"create_topics\", client.create_topics(a)).await")),
        &[],
    );
    sees(&kafka_without_limit(&one("src/output.rs", "io.flush()")), &[]);
}

#[test]
fn sees_a_file_that_no_module_names() {
    let mut files = one("src/lib.rs", "pub mod a;\npub(crate) mod b;\n// mod d;");
    for (path, text) in [("src/main.rs", ""), ("src/a.rs", "mod inner;"), ("src/a/inner.rs", ""), ("src/b.rs", "")] {
        files.push(Source::new(path, text));
    }
    sees(&unreachable_files(&files), &[]);
    files.push(Source::new("src/d.rs", ""));
    files.push(Source::new("src/b/inner.rs", ""));
    sees(&unreachable_files(&files), &["src/b/inner.rs", "src/d.rs"]);
}

#[test]
fn sees_a_sleeping_test() {
    let call = concat!("tokio::time::sl", "eep(LIMIT).await;");
    sees(&sleepers(&one("tests/it/x.rs", call)), &["tests/it/x.rs:1"]);
    sees(&sleepers(&one("tests/it/x.rs", "use std::thread::sleep;\nsleep (LIMIT);")), &["tests/it/x.rs:2"]);
    sees(&sleepers(&one("tests/it/x.rs", concat!("asleep(); // sl", "eep(1)"))), &[]);
    let statement = format!("query(\"select pg_{}(1)\");", "sleep");
    sees(&sleepers(&one("tests/it/x.rs", &statement)), &["tests/it/x.rs:1"]);
}

#[test]
fn sees_a_wide_comment() {
    let wide = format!("    /// {}", "x".repeat(COMMENT_MAX));
    sees(&wide_comments(&one("src/a.rs", &wide)), &["src/a.rs:1"]);
    sees(&wide_comments(&one("src/a.sql", &format!("select 1\n-- {}", "x".repeat(COMMENT_MAX)))), &["src/a.sql:2"]);
    sees(&wide_comments(&one("src/a.rs", &format!("{wide} https://address"))), &[]);
    sees(&wide_comments(&one("src/a.rs", &"x".repeat(COMMENT_MAX + 1))), &[]);
}

#[test]
fn sees_a_file_that_grew_too_long_or_says_nothing_of_itself() {
    sees(&long_files(&one("src/a.rs", &"x\n".repeat(LINES_MAX + 1))), &["src/a.rs"]);
    sees(&long_files(&one("src/a.rs", &"x\n".repeat(LINES_MAX))), &[]);
    sees(&without_module_doc(&one("src/a.rs", "use b;")), &["src/a.rs"]);
}

#[test]
fn sees_a_metric_name_outside_metrics_rs() {
    sees(&metric_names(&one("src/app.rs", "\"outbox_relay_pending_events\"")), &["src/app.rs:1"]);
    sees(&metric_names(&one("src/app.rs", "\"outbox_relay::relay=debug\"; outbox_relay_x")), &[]);
}

#[test]
fn sees_what_a_document_leaves_out() {
    assert_eq!(unmentioned(&["relay", "event", "x"], "`relay`, src/event.rs, ex").len(), 1);
}

#[test]
fn sees_a_path_of_one_machine() {
    let planted = ["/", "root/x", " /", "home/mira/x", " ..", "/shared/x"].concat();
    assert_eq!(machine_paths(&one("README.md", &planted)).len(), 3);
    sees(&machine_paths(&one("README.md", "src/work.rs https://example.org/homepage /usr/lib")), &[]);
}
