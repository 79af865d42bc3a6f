//! Every wait of the relay for somebody else, found in the source: what ends it, and the test that shows it. A wait
//! that is in the source and not in this list fails the test, and so does a line whose test is gone.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use crate::support::repository;

/// What waits, or may block: calls of librdkafka that ask a broker, and waits for other tasks and threads.
const CALLS: &str = r"\.(fetch_metadata|fetch_watermarks|fetch_group_list|committed_offsets|offsets_for_times|init_transactions|send_offsets_to_transaction|commit_transaction|abort_transaction|create_topics|create_partitions|delete_records|describe_configs|acquire_owned|acquire_many|join_next|recv|recv_timeout|blocking_recv|blocking_send|block_on|accept|notified)\(|\b(lookup_host|spawn_blocking)\(";

/// File below `src/`, call, what ends the wait, and the test that shows it.
const WAITS: &[(&str, &str, &str, &str)] = &[
    // PostgreSQL. Every call of the driver is in `db/client.rs`, which another test holds to its guard.
    ("db/connector.rs", "lookup_host", "connect_timeout", "the_next_host_is_tried_when_one_accepts_and_never_answers"),
    // The HTTP server: a thread of its own, which waits for clients.
    ("admin.rs", "block_on", "own thread", "the_server_answers_while_the_runtime_that_started_it_is_stuck"),
    ("admin/serve.rs", "accept", "stop", "a_stop_ends_idle_connections_and_the_server"),
    ("admin/serve.rs", "notified", "drain of 3 s", "a_stop_ends_idle_connections_and_the_server"),
    // Calls of the Kafka client that block are in `broker/call/` alone, which the tidy test sees to. Questions of tasks
    // and commands.
    ("broker/call.rs", "spawn_blocking", "the limit of each question", "a_call_that_does_not_return_is_given_up"),
    ("broker/call.rs", "recv_timeout", "2 s", "a_client_that_cannot_be_closed_is_left_to_a_thread"),
    (
        "broker/call/question.rs",
        "recv_timeout",
        "7 or 15 s",
        "a_question_of_a_command_that_is_not_answered_is_given_up_by_name",
    ),
    (
        "broker/call/question.rs",
        "fetch_metadata",
        "5 or 10 s, then 5 s more",
        "a_call_that_does_not_return_is_given_up",
    ),
    (
        "broker/call/question.rs",
        "fetch_watermarks",
        "the same for each partition",
        "a_call_that_does_not_return_is_given_up",
    ),
    ("broker/call/question.rs", "committed_offsets", "5 s, then 5 s more", "a_call_that_does_not_return_is_given_up"),
    (
        "broker/call/question.rs",
        "offsets_for_times",
        "10 s, then 5 s more",
        "a_question_of_a_command_that_is_not_answered_is_given_up_by_name",
    ),
    ("broker/admin.rs", "create_topics", "5 s, then 10 s", "a_question_that_is_not_answered_is_given_up"),
    ("broker/admin.rs", "create_partitions", "5 s, then 10 s", "a_question_that_is_not_answered_is_given_up"),
    ("broker/admin.rs", "delete_records", "5 s, then 10 s", "a_question_that_is_not_answered_is_given_up"),
    ("broker/admin.rs", "describe_configs", "5 s, then 10 s", "a_question_that_is_not_answered_is_given_up"),
    // The thread of a lane: whoever waits for it looks how long a call has lasted.
    (
        "broker/call/watch.rs",
        "init_transactions",
        "1 s, 30 s together; given up after 10 s",
        "every_step_of_the_relay_survives_a_crash_an_error_and_a_hang",
    ),
    (
        "broker/call/watch.rs",
        "send_offsets_to_transaction",
        "1 s, 30 s together; given up after 10 s",
        "every_step_of_the_relay_survives_a_crash_an_error_and_a_hang",
    ),
    (
        "broker/call/watch.rs",
        "commit_transaction",
        "1 s, 30 s together; given up after 10 s",
        "the_end_of_a_transaction_may_be_unanswered_or_late",
    ),
    (
        "broker/call/watch.rs",
        "abort_transaction",
        "1 s, 30 s together; given up after 10 s",
        "the_end_of_a_transaction_may_be_unanswered_or_late",
    ),
    (
        "broker/call/watch.rs",
        "committed_offsets",
        "2 s, 10 s together; given up after 10 s",
        "kafka_that_can_be_reached_in_one_direction_only_is_waited_for",
    ),
    // Publishing: the threads end with the permit; who waits for them gives them up.
    (
        "broker/publisher/worker.rs",
        "recv",
        "end of the lane",
        "sigterm_while_kafka_is_away_ends_in_time_and_marks_nothing",
    ),
    (
        "broker/publisher/jobs.rs",
        "recv_timeout",
        "500 us",
        "sigterm_while_kafka_is_away_ends_in_time_and_marks_nothing",
    ),
    // Questions about topics, beside the lanes: 500 ms for a lane, the next ping or a stop for the task that asks.
    (
        "broker/partitions.rs",
        "notified",
        "5 s, stop",
        "a_relay_begins_when_its_servers_come_and_notices_when_kafka_goes",
    ),
    (
        "broker/topics.rs",
        "notified",
        "500 ms; 5 s, stop",
        "a_relay_begins_when_its_servers_come_and_notices_when_kafka_goes",
    ),
    ("broker/transaction.rs", "recv", "end of the lane", "sigterm_while_kafka_is_away_ends_in_time_and_marks_nothing"),
    // The consumer: one thread, which readiness watches; its calls of PostgreSQL have the limits of `db/client.rs`.
    ("projection/consumer/positions.rs", "fetch_watermarks", "5 s", "a_success_counts_for_as_long_as_its_check_says"),
    ("projection/consumer/positions.rs", "fetch_metadata", "5 s", "a_success_counts_for_as_long_as_its_check_says"),
    ("projection/consumer.rs", "block_on", "limits of the calls", "a_success_counts_for_as_long_as_its_check_says"),
    (
        "projection/consumer/positions.rs",
        "block_on",
        "limits of the calls",
        "a_success_counts_for_as_long_as_its_check_says",
    ),
    (
        "projection/consumer/released.rs",
        "block_on",
        "limits of the calls",
        "a_success_counts_for_as_long_as_its_check_says",
    ),
    ("projection/consumer/folding.rs", "block_on", "1 s, 3 s at the end", "a_lock_on_the_read_model_is_told_as_a_lock"),
    (
        "projection/consumer/folding.rs",
        "join_next",
        "1 s, 3 s at the end",
        "a_lock_on_the_read_model_is_told_as_a_lock",
    ),
    (
        "projection/store/locks.rs",
        "acquire_owned",
        "turns of 2 s at most",
        "partitions_that_wait_for_a_lock_leave_connections_to_the_others",
    ),
    ("supervisor/part.rs", "join_next", "stop, or its heartbeat", "a_part_that_hangs_is_replaced_three_times_at_most"),
    // The relay.
    (
        "relay/lane.rs",
        "acquire_owned",
        "a batch of another lane, or its permit",
        "a_locked_row_of_a_shard_stops_that_shard_alone",
    ),
    (
        "relay/shared_step.rs",
        "acquire_owned",
        "a batch of another lane, or its permit",
        "a_locked_row_of_a_shard_stops_that_shard_alone",
    ),
    ("relay/shared_step.rs", "recv", "stop, or 50 ms", "a_locked_row_of_a_shard_stops_that_shard_alone"),
    ("relay/shared/idle.rs", "notified", "stop", "sigterm_under_load_repeats_nothing_and_gives_back_the_leases"),
    ("relay/ownership.rs", "join_next", "80 % of shutdown_timeout", "a_stop_ends_in_time_while_postgres_is_frozen"),
    ("supervisor.rs", "join_next", "90 % of shutdown_timeout", "a_stop_ends_in_time_while_postgres_is_frozen"),
    // Use cases and commands.
    ("operations/recover.rs", "spawn_blocking", "limits of broker/scan.rs", "a_second_signal_ends_it_at_once"),
    ("operations/dlq.rs", "spawn_blocking", "limits of broker/reader.rs", "a_second_signal_ends_it_at_once"),
    ("commands/signals.rs", "recv", "a signal", "a_second_signal_ends_it_at_once"),
    (
        "commands/watchdog.rs",
        "block_on",
        "own thread",
        "a_runtime_whose_threads_are_all_stuck_is_reported_and_stopped_in_time",
    ),
    (
        "commands/watchdog.rs",
        "recv",
        "a signal",
        "a_runtime_whose_threads_are_all_stuck_is_reported_and_stopped_in_time",
    ),
    ("main.rs", "block_on", "the command", "every_command_gives_up_on_a_server_that_accepts_and_never_answers"),
];

/// The demo has servers of its own and nobody's data; the terminal of `top` and pipes between threads of one command
/// end with it.
const ELSEWHERE: [&str; 3] = ["demo/", "commands/top/", "operations/dlq/"];

#[test]
fn every_wait_in_the_source_has_a_limit_and_a_test() {
    let source = repository().join("src");
    let calls = Regex::new(CALLS).expect("a valid expression");
    let mut found = BTreeSet::new();
    for file in rust_files(&source) {
        let name = file.strip_prefix(&source).expect("below it").to_string_lossy().into_owned();
        if ELSEWHERE.iter().any(|folder| name.starts_with(folder)) || name == "demo.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for call in calls.captures_iter(line) {
                let call = call.get(1).or_else(|| call.get(2)).expect("one of them");
                found.insert((name.clone(), call.as_str().to_owned()));
            }
        }
    }
    let listed: BTreeSet<_> = WAITS.iter().map(|(file, call, ..)| ((*file).to_owned(), (*call).to_owned())).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(missing.is_empty(), "waits that are not in the list: {missing:?}");
    assert!(gone.is_empty(), "waits in the list that are not in the source: {gone:?}");

    let mut tests = String::new();
    for file in rust_files(&source).into_iter().chain(rust_files(&repository().join("tests"))) {
        tests.push_str(&std::fs::read_to_string(file).expect("a source file"));
    }
    let unknown: Vec<_> = WAITS.iter().filter(|(.., test)| !tests.contains(&format!("fn {test}("))).collect();
    assert!(unknown.is_empty(), "tests in the list that do not exist: {unknown:?}");
}

/// The client of the driver is asked in one file, and there by way of the guard alone.
#[test]
fn every_call_of_the_driver_has_a_limit() {
    let text = std::fs::read_to_string(repository().join("src/db/client.rs")).expect("a source file");
    let call = Regex::new(r"\binner\.(query|query_one|query_opt|query_raw|execute|batch_execute|simple_query|prepare|transaction|build_transaction|savepoint|commit|rollback|copy_in|copy_out|check_connection)\(")
        .expect("a valid expression");
    let unguarded: Vec<_> = text.lines().filter(|line| call.is_match(line) && !line.contains("guard.")).collect();
    assert!(unguarded.is_empty(), "{unguarded:#?}");
    assert!(text.lines().filter(|line| call.is_match(line)).count() > 10, "the rule finds nothing any more");
    let others = rust_files(&repository().join("src"));
    let makers = others.iter().filter(|file| {
        let text = std::fs::read_to_string(file).expect("a source file");
        text.contains("tokio_postgres::connect(") || text.contains("tokio_postgres::Client")
    });
    let makers: Vec<_> = makers.filter_map(|file| file.file_name()?.to_str()).collect();
    assert_eq!(makers, ["client.rs"], "nobody else has a client of the driver");
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files.sort();
    files
}
