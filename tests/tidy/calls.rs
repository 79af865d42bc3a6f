//! Calls that only some modules may make: of libraries, of the environment, of what prints, of what waits.

use regex::Regex;

use crate::planted::{one, sees};
use crate::source::{Source, code_of, matches, strings_of, without_tests};
use crate::{ENVIRONMENT, LIBRARIES, NATIVE};

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

// Each rule sees a planted violation, and leaves alone what looks like one.

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
fn sees_a_sleeping_test() {
    let call = concat!("tokio::time::sl", "eep(LIMIT).await;");
    sees(&sleepers(&one("tests/it/x.rs", call)), &["tests/it/x.rs:1"]);
    sees(&sleepers(&one("tests/it/x.rs", "use std::thread::sleep;\nsleep (LIMIT);")), &["tests/it/x.rs:2"]);
    sees(&sleepers(&one("tests/it/x.rs", concat!("asleep(); // sl", "eep(1)"))), &[]);
    let statement = format!("query(\"select pg_{}(1)\");", "sleep");
    sees(&sleepers(&one("tests/it/x.rs", &statement)), &["tests/it/x.rs:1"]);
}
