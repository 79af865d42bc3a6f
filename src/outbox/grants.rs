//! What each role needs: the one list behind `check`, `docs/roles.sql` and the tests that run as those roles.
//!
//! Grants on `outbox_events` are per column. An application that may insert into every column could publish past
//! `routing.allowed_topics`, choose ids, or write rows that look as if the relay had processed them.

use super::inspect::server::Wanted;

/// Who a grant is for: the roles of `docs/roles.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Applications that write events.
    App,
    /// `run` with the relay.
    Relay,
    /// Operators, who retry, discard, replay, pause and redrive.
    Operator,
    /// `run` with the consumer.
    Consumer,
    /// People and dashboards that look.
    Reader,
}

impl Who {
    pub const ALL: &[Self] = &[Self::App, Self::Relay, Self::Operator, Self::Consumer, Self::Reader];

    pub fn role(self) -> &'static str {
        match self {
            Self::App => "outbox_app",
            Self::Relay => "outbox_relay",
            Self::Operator => "outbox_operator",
            Self::Consumer => "outbox_consumer",
            Self::Reader => "outbox_reader",
        }
    }
}

/// What is done with it. `check` asks for what the settings at hand do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Whatever the settings are.
    Work,
    /// `[cleanup]`, and `relay.after_publish = "delete"`.
    Deleting,
    /// `[cleanup]` alone.
    Cleanup,
    /// The projection that is built in.
    ProductMetrics,
    /// The commands that one may want to run with this role, `check` among them.
    Commands,
}

/// A privilege on a relation, on some of its columns, or on a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub who: Who,
    pub purpose: For,
    pub object: &'static str,
    /// As in GRANT; `execute` is of a function, `usage` of the schema and `temporary` of the database.
    pub privilege: &'static str,
    /// None: all of them.
    pub columns: &'static [&'static str],
}

/// Names the schema or the database that the outbox is in, whatever it is called.
pub const HERE: &str = "";

/// What an application says of an event.
const EVENT: &[&str] = &[
    "event_id",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "event_version",
    "topic",
    "partition_key",
    "payload",
    "payload_raw",
    "headers",
    "correlation_id",
    "causation_id",
    "source",
    "traceparent",
    "created_at",
];
const AVAILABLE_AT: &[&str] = &["available_at"];
const DEAD_LETTER_OF: &[&str] = &["dead_letter_of"];
const REPLAY_OF: &[&str] = &["available_at", "replay_of"];
const STATUS: &[&str] = &["status"];
const HOME: &[&str] = &["home_system", "home_database"];
const SETTLED: &[&str] = &[
    "status",
    "retry_count",
    "last_error",
    "failed_at",
    "dead_letter_to",
    "dead_letter_from",
    "published_at",
    "published_partition",
    "published_offset",
];
const REOPENED: &[&str] = &["status", "retry_count", "last_error", "failed_at", "dead_letter_to"];

const fn on(who: Who, purpose: For, object: &'static str, privilege: &'static str) -> Grant {
    Grant { who, purpose, object, privilege, columns: &[] }
}

const fn of(
    who: Who,
    purpose: For,
    object: &'static str,
    privilege: &'static str,
    columns: &'static [&'static str],
) -> Grant {
    Grant { who, purpose, object, privilege, columns }
}

use For::{Cleanup, Commands, Deleting, ProductMetrics, Work};
use Who::{App, Consumer, Operator, Reader, Relay};

pub const GRANTS: &[Grant] = &[
    on(App, Work, HERE, "usage"),
    of(App, Work, "outbox_events", "insert", EVENT),
    of(App, Work, "outbox_events", "insert", AVAILABLE_AT),
    on(App, Work, "outbox_shard_count()", "execute"),
    on(App, Work, "outbox_key_of(text, text)", "execute"),
    on(App, Work, "outbox_shard_of(text, bigint)", "execute"),
    // The relay.
    on(Relay, Work, HERE, "usage"),
    on(Relay, Work, "outbox_events", "select"),
    of(Relay, Work, "outbox_events", "update", SETTLED),
    // Dead letters are rows of the outbox.
    of(Relay, Work, "outbox_events", "insert", EVENT),
    of(Relay, Work, "outbox_events", "insert", DEAD_LETTER_OF),
    on(Relay, Deleting, "outbox_events", "delete"),
    on(Relay, Work, "outbox_claimable", "select"),
    // Locking rows through the view asks for it.
    of(Relay, Work, "outbox_claimable", "update", STATUS),
    on(Relay, Commands, "outbox_current", "select"),
    on(Relay, Work, "outbox_events_id_seq", "select"),
    on(Relay, Work, "outbox_shards", "select"),
    on(Relay, Work, "outbox_shards", "update"),
    on(Relay, Work, "outbox_instances", "select"),
    on(Relay, Work, "outbox_instances", "insert"),
    on(Relay, Work, "outbox_instances", "update"),
    on(Relay, Work, "outbox_instances", "delete"),
    on(Relay, Work, "outbox_held_keys", "select"),
    on(Relay, Work, "outbox_held_keys", "insert"),
    on(Relay, Work, "outbox_held_keys", "update"),
    on(Relay, Work, "outbox_held_keys", "delete"),
    on(Relay, Work, "outbox_again", "select"),
    on(Relay, Work, "outbox_again", "insert"),
    on(Relay, Work, "outbox_again", "delete"),
    // What became of events whose rows refuse to be changed.
    on(Relay, Work, "outbox_outcomes", "select"),
    on(Relay, Work, "outbox_outcomes", "insert"),
    on(Relay, Work, "outbox_outcomes", "update"),
    on(Relay, Work, "outbox_outcomes", "delete"),
    on(Relay, Work, "outbox_decisions", "select"),
    on(Relay, Work, "outbox_decisions", "insert"),
    on(Relay, Work, "outbox_decisions", "update"),
    on(Relay, Work, "outbox_progress", "select"),
    on(Relay, Work, "outbox_progress", "insert"),
    on(Relay, Work, "outbox_progress", "delete"),
    on(Relay, Work, "outbox_installation", "select"),
    // Where the outbox is, recorded by the first relay that runs, so that a copy of the database can be told from it.
    of(Relay, Work, "outbox_installation", "update", HOME),
    on(Relay, Work, "outbox_pauses", "select"),
    on(Relay, Work, "outbox_schema_history", "select"),
    on(Relay, Work, "outbox_shard_count()", "execute"),
    on(Relay, Work, "outbox_key_of(text, text)", "execute"),
    on(Relay, Work, "outbox_shard_of(text, bigint)", "execute"),
    on(Relay, Work, "outbox_session_key(uuid)", "execute"),
    on(Relay, Work, "outbox_rehome(bigint[])", "execute"),
    on(Relay, Work, "outbox_expect_left(bigint[], text[])", "execute"),
    on(Relay, Work, "outbox_json_text(jsonb, bigint)", "execute"),
    on(Relay, Work, "outbox_json_text_measured(jsonb, bigint)", "execute"),
    on(Relay, Work, "outbox_count_claimed(bigint, bigint, bigint)", "execute"),
    on(Relay, Cleanup, "outbox_passed(double precision)", "execute"),
    on(Relay, Cleanup, "outbox_retired_shards", "select"),
    on(Relay, Cleanup, "event_handled", "select"),
    on(Relay, Cleanup, "event_handled", "delete"),
    // Jobs that ended long ago are deleted.
    on(Relay, Cleanup, "outbox_jobs", "select"),
    on(Relay, Cleanup, "outbox_jobs", "delete"),
    // The command cleanup is a job.
    on(Relay, Commands, "outbox_jobs", "insert"),
    on(Relay, Commands, "outbox_jobs", "update"),
    on(Relay, Commands, "outbox_shown(text)", "execute"),
    on(Relay, Commands, "outbox_text(text)", "execute"),
    on(Relay, Commands, "outbox_escaped(text)", "execute"),
    // The commands cleanup and recover record what they did.
    on(Relay, Commands, "outbox_audit", "select"),
    on(Relay, Commands, "outbox_audit", "insert"),
    // Operators.
    on(Operator, Work, HERE, "usage"),
    on(Operator, Work, "outbox_events", "select"),
    of(Operator, Work, "outbox_events", "update", REOPENED),
    // Replays and redriven dead letters are rows of the outbox.
    of(Operator, Work, "outbox_events", "insert", EVENT),
    of(Operator, Work, "outbox_events", "insert", REPLAY_OF),
    on(Operator, Work, "outbox_current", "select"),
    // `lag` compares the bounds of shards with the last id.
    on(Operator, Work, "outbox_events_id_seq", "select"),
    on(Operator, Work, "outbox_shards", "select"),
    on(Operator, Work, "outbox_shards", "update"),
    on(Operator, Work, "outbox_held_keys", "select"),
    on(Operator, Work, "outbox_held_keys", "insert"),
    on(Operator, Work, "outbox_held_keys", "update"),
    on(Operator, Work, "outbox_held_keys", "delete"),
    on(Operator, Work, "outbox_again", "select"),
    on(Operator, Work, "outbox_again", "insert"),
    on(Operator, Work, "outbox_outcomes", "select"),
    on(Operator, Work, "outbox_outcomes", "insert"),
    on(Operator, Work, "outbox_outcomes", "delete"),
    on(Operator, Work, "outbox_progress", "select"),
    on(Operator, Work, "outbox_outcomes", "update"),
    on(Operator, Work, "outbox_decisions", "select"),
    on(Operator, Work, "outbox_decisions", "insert"),
    on(Operator, Work, "outbox_decisions", "update"),
    on(Operator, Work, "outbox_pauses", "select"),
    on(Operator, Work, "outbox_pauses", "insert"),
    on(Operator, Work, "outbox_pauses", "delete"),
    on(Operator, Work, "outbox_replays", "select"),
    on(Operator, Work, "outbox_replays", "insert"),
    on(Operator, Work, "outbox_replays", "update"),
    // Long-running commands. Without these they run all the same, and are not listed.
    on(Operator, Work, "outbox_jobs", "select"),
    on(Operator, Work, "outbox_jobs", "insert"),
    on(Operator, Work, "outbox_jobs", "update"),
    on(Operator, Work, "outbox_redriven", "select"),
    on(Operator, Work, "outbox_redriven", "insert"),
    on(Operator, Work, "outbox_redriven", "update"),
    on(Operator, Work, "outbox_redriven", "delete"),
    on(Operator, Work, "outbox_audit", "select"),
    on(Operator, Work, "outbox_audit", "insert"),
    on(Operator, Work, "outbox_instances", "select"),
    on(Operator, Work, "outbox_installation", "select"),
    on(Operator, Work, "consumer_partitions", "select"),
    on(Operator, Work, "consumer_partitions", "insert"),
    on(Operator, Work, "consumer_partitions", "update"),
    on(Operator, Work, "consumer_partitions", "delete"),
    // A group that is renamed takes along what it has handled.
    on(Operator, Work, "event_handled", "select"),
    on(Operator, Work, "event_handled", "insert"),
    on(Operator, Work, "event_handled", "update"),
    on(Operator, Work, "event_handled", "delete"),
    on(Operator, Work, "consumer_parked", "select"),
    on(Operator, Work, "consumer_parked", "update"),
    on(Operator, Work, "outbox_schema_history", "select"),
    on(Operator, Work, "outbox_shard_count()", "execute"),
    on(Operator, Work, "outbox_key_of(text, text)", "execute"),
    on(Operator, Work, "outbox_shard_of(text, bigint)", "execute"),
    on(Operator, Work, "outbox_json_text(jsonb, bigint)", "execute"),
    on(Operator, Work, "outbox_json_text_measured(jsonb, bigint)", "execute"),
    on(Operator, Work, "outbox_rehome(bigint[])", "execute"),
    on(Operator, Work, "outbox_expect_left(bigint[], text[])", "execute"),
    on(Operator, Work, "outbox_shown(text)", "execute"),
    on(Operator, Work, "outbox_text(text)", "execute"),
    on(Operator, Work, "outbox_escaped(text)", "execute"),
    // The consumer, on top of what its projections need.
    on(Consumer, Work, HERE, "usage"),
    on(Consumer, Work, "consumer_partitions", "select"),
    on(Consumer, Work, "consumer_partitions", "insert"),
    on(Consumer, Work, "consumer_partitions", "update"),
    on(Consumer, Work, "event_handled", "select"),
    on(Consumer, Work, "event_handled", "insert"),
    on(Consumer, Work, "consumer_parked", "select"),
    on(Consumer, Work, "consumer_parked", "insert"),
    on(Consumer, Work, "consumer_parked", "update"),
    on(Consumer, Work, "consumer_parked", "delete"),
    on(Consumer, ProductMetrics, "product_metrics", "select"),
    on(Consumer, ProductMetrics, "product_metrics", "insert"),
    on(Consumer, ProductMetrics, "product_metrics", "update"),
    on(Consumer, Work, "outbox_schema_history", "select"),
    on(Consumer, Cleanup, "event_handled", "delete"),
    // Read-only users: our tables by name, and no others.
    on(Reader, Work, HERE, "usage"),
    on(Reader, Work, "outbox_events", "select"),
    on(Reader, Work, "outbox_claimable", "select"),
    on(Reader, Work, "outbox_current", "select"),
    on(Reader, Work, "outbox_events_id_seq", "select"),
    on(Reader, Work, "outbox_shards", "select"),
    on(Reader, Work, "outbox_retired_shards", "select"),
    on(Reader, Work, "outbox_instances", "select"),
    on(Reader, Work, "outbox_held_keys", "select"),
    on(Reader, Work, "outbox_again", "select"),
    on(Reader, Work, "outbox_outcomes", "select"),
    on(Reader, Work, "outbox_decisions", "select"),
    on(Reader, Work, "outbox_progress", "select"),
    on(Reader, Work, "outbox_pauses", "select"),
    on(Reader, Work, "outbox_replays", "select"),
    on(Reader, Work, "outbox_jobs", "select"),
    on(Reader, Work, "outbox_redriven", "select"),
    on(Reader, Work, "outbox_audit", "select"),
    on(Reader, Work, "outbox_installation", "select"),
    on(Reader, Work, "consumer_partitions", "select"),
    on(Reader, Work, "event_handled", "select"),
    on(Reader, Work, "consumer_parked", "select"),
    on(Reader, Work, "product_metrics", "select"),
    on(Reader, Work, "outbox_schema_history", "select"),
    on(Reader, Work, "outbox_shard_count()", "execute"),
    on(Reader, Work, "outbox_key_of(text, text)", "execute"),
    on(Reader, Work, "outbox_shard_of(text, bigint)", "execute"),
    on(Reader, Work, "outbox_json_text(jsonb, bigint)", "execute"),
    on(Reader, Work, "outbox_json_text_measured(jsonb, bigint)", "execute"),
    on(Reader, Work, "outbox_shown(text)", "execute"),
    on(Reader, Work, "outbox_text(text)", "execute"),
    on(Reader, Work, "outbox_escaped(text)", "execute"),
    on(Reader, Work, "outbox_passed(double precision)", "execute"),
];

/// What one process needs that does these things, each once.
pub fn wanted(purposes: &[(Who, For)]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for grant in GRANTS.iter().filter(|grant| purposes.contains(&(grant.who, grant.purpose))) {
        let columns: Vec<Option<&str>> = match grant.columns {
            [] => vec![None],
            columns => columns.iter().copied().map(Some).collect(),
        };
        for column in columns {
            let one = Wanted { object: grant.object, privilege: grant.privilege, column };
            if !wanted.contains(&one) {
                wanted.push(one);
            }
        }
    }
    wanted
}

/// The tables that a process works on that does these things.
pub fn tables(purposes: &[(Who, For)]) -> Vec<&'static str> {
    let mut tables = Vec::new();
    for grant in GRANTS.iter().filter(|grant| purposes.contains(&(grant.who, grant.purpose))) {
        if !grant.object.is_empty() && !grant.object.ends_with(')') && !tables.contains(&grant.object) {
            tables.push(grant.object);
        }
    }
    tables
}
