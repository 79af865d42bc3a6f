//! Scenarios on real parts: a PostgreSQL, a Kafka and the binary as it ships. See `support/parts.rs` for how they
//! start.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test may fail and may talk")]
#![allow(clippy::large_futures, reason = "a scenario is one long future on a stack of its own")]
#![allow(clippy::too_many_lines, reason = "a scenario is read from top to bottom")]

mod after_publish;
mod bad_input;
mod cleanup;
mod cleanup_command;
mod cli;
mod cluster;
mod connection_strings;
mod consumer;
mod conversion;
mod crash;
mod deadlines;
mod decisions;
mod decisions_last;
mod deleted_records;
mod delivery;
mod demo;
mod dlq;
mod every_command;
mod exactly_once;
mod failover;
#[cfg(feature = "failpoints")]
mod failpoints;
mod failures;
mod folds_apart;
mod foreign_bytes;
mod given_up;
mod groups;
mod holders;
mod hostile;
mod hostile_records;
mod hostile_rows;
mod identity;
mod inspect;
mod jobs;
mod jobs_redrive;
mod leaderless;
mod locks;
mod log;
mod migrations;
mod moved_keys;
mod network;
mod odd_letters;
mod odd_rows;
mod operations;
mod ordering;
mod outage;
mod outbox;
mod outcome_watermark;
mod overtaken;
mod overtaken_letters;
mod parked;
#[cfg(feature = "failpoints")]
mod part_ends;
mod partitions;
#[cfg(feature = "failpoints")]
mod parts_fail_apart;
mod position_proofs;
mod positions;
mod projection;
mod query_plans;
mod refusals;
mod refused_kinds;
mod refused_moves;
mod refused_outcomes;
mod refused_writes;
mod remade_topics;
mod repeats;
mod replay;
mod replay_retention;
mod request_size;
mod resharding;
mod resharding_drawn_early;
mod restart;
mod roles;
mod schema;
mod secrets;
mod server_errors;
mod sessions;
mod shortfall;
mod shutdown;
mod sizes;
mod slow_rows;
mod sql_files;
mod support;
mod takeover;
mod together;
mod top;
mod topic_matrix;
mod topics;
mod truth;
mod upgrade;
mod waits;
mod watermark;

// The proxy of the fault harness.
#[path = "../chaos/proxy.rs"]
#[allow(dead_code, reason = "the harness uses the rest")]
mod proxy;
#[path = "../chaos/time.rs"]
#[allow(dead_code, reason = "the harness uses the rest")]
mod time;
#[path = "../chaos/traps.rs"]
#[allow(dead_code, reason = "the harness uses the rest")]
mod traps;
#[path = "../chaos/weather.rs"]
#[allow(dead_code, reason = "the harness uses the rest")]
mod weather;
