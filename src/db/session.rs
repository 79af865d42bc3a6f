//! The session settings that the code relies on: one table, applied and verified once per connection.
//!
//! A database or a role can have its own defaults (`alter database … set`, `alter role … set`) that were chosen for
//! other sessions. Whatever could change a result, the meaning of a commit, or a plan is set here, so that a statement
//! means the same in every session of ours. What the first statement already depends on is sent with the connection
//! startup; the rest follows in one round trip, which also detects a pooler that dropped the former.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{Client, DbError, Role};
use crate::failpoint::{Fault, fault};

const APPLY: &str = include_str!("sql/session.sql");

/// Which sessions a setting is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Everybody,
    /// Sessions whose commits must be on disk before anyone learns of them.
    Durable,
    /// Sessions whose statements are held to their indexes, see `tests/it/query_plans.rs`.
    Planned,
    Lanes,
}

impl For {
    fn covers(self, role: Role) -> bool {
        match self {
            Self::Everybody => true,
            // The cleaner and the consumer do without: what a crash takes back they do again.
            Self::Durable => matches!(role, Role::Lane | Role::Lease | Role::Admin),
            Self::Planned => matches!(role, Role::Lane | Role::Lease | Role::Cleanup),
            Self::Lanes => role == Role::Lane,
        }
    }
}

/// A setting with the value that the code relies on.
#[derive(Debug, Clone, Copy)]
struct Setting {
    who: For,
    name: &'static str,
    value: &'static str,
    /// Only this value is replaced; any other is the operator's choice.
    replaced: Option<&'static str>,
}

const fn set(who: For, name: &'static str, value: &'static str) -> Setting {
    Setting { who, name, value, replaced: None }
}

const SETTINGS: &[Setting] = &[
    // A claim reads what is committed by now. Serializable transactions would also make those of applications fail.
    set(For::Everybody, "default_transaction_isolation", "read committed"),
    set(For::Everybody, "default_transaction_deferrable", "off"),
    // A policy that applies to this role is an error. Otherwise it hides rows, which then count as published or gone.
    set(For::Everybody, "row_security", "off"),
    // `replica` would leave out foreign keys and triggers of the application.
    set(For::Everybody, "session_replication_role", "origin"),
    // Statements have limits of their own (`database.statement_timeout`). These would end sessions that rest in a pool,
    // and batches and migrations in the middle.
    set(For::Everybody, "idle_session_timeout", "0"),
    set(For::Everybody, "transaction_timeout", "0"),
    set(For::Everybody, "exit_on_error", "off"),
    // What texts mean, both ways.
    set(For::Everybody, "client_encoding", "UTF8"),
    set(For::Everybody, "standard_conforming_strings", "on"),
    set(For::Everybody, "bytea_output", "hex"),
    set(For::Everybody, "DateStyle", "ISO, MDY"),
    set(For::Everybody, "IntervalStyle", "postgres"),
    set(For::Everybody, "TimeZone", "UTC"),
    set(For::Everybody, "timezone_abbreviations", "Default"),
    set(For::Everybody, "extra_float_digits", "1"),
    set(For::Everybody, "xmlbinary", "base64"),
    set(For::Everybody, "xmloption", "content"),
    set(For::Everybody, "lc_numeric", "C"),
    set(For::Everybody, "lc_monetary", "C"),
    set(For::Everybody, "lc_time", "C"),
    set(For::Everybody, "array_nulls", "on"),
    set(For::Everybody, "transform_null_equals", "off"),
    // Of partitions.
    set(For::Everybody, "default_table_access_method", "heap"),
    // `check` compares names that catalog functions print.
    set(For::Everybody, "quote_all_identifiers", "off"),
    // `view` would forbid the views that claims read.
    set(For::Everybody, "restrict_nonsystem_relation_kind", ""),
    // Notices come from triggers of applications, and may print rows.
    set(For::Everybody, "client_min_messages", "error"),
    // Compiling costs more than the statements do.
    set(For::Everybody, "jit", "off"),
    // Only `off` breaks a promise: after a crash, what Kafka has would be PENDING again, or a batch in flight unknown.
    // The other values say how many servers must have a commit, which is for the operator to decide.
    Setting { who: For::Durable, name: "synchronous_commit", value: "on", replaced: Some("off") },
    // The statistics of a queue table are always out of date, and a plan that was right for an empty table is a
    // disaster for a full one. These leave the planner the partial index for the claim and the primary key for the
    // settle.
    set(For::Planned, "enable_seqscan", "off"),
    set(For::Planned, "enable_bitmapscan", "off"),
    set(For::Planned, "enable_hashjoin", "off"),
    set(For::Planned, "enable_mergejoin", "off"),
    set(For::Planned, "enable_indexscan", "on"),
    set(For::Planned, "enable_indexonlyscan", "on"),
    set(For::Planned, "enable_tidscan", "on"),
    set(For::Planned, "enable_nestloop", "on"),
    set(For::Planned, "enable_sort", "on"),
    set(For::Planned, "enable_hashagg", "on"),
    set(For::Planned, "enable_material", "on"),
    set(For::Planned, "enable_partition_pruning", "on"),
    set(For::Planned, "seq_page_cost", "1"),
    set(For::Planned, "random_page_cost", "0.1"),
    set(For::Planned, "cpu_tuple_cost", "0.01"),
    set(For::Planned, "cpu_index_tuple_cost", "0.005"),
    set(For::Planned, "cpu_operator_cost", "0.0025"),
    set(For::Planned, "from_collapse_limit", "8"),
    set(For::Planned, "join_collapse_limit", "8"),
    set(For::Planned, "geqo", "on"),
    set(For::Planned, "geqo_threshold", "12"),
    // The few statements of a lane are run hundreds of times a second, and what is best for one set of values is best
    // for all.
    set(For::Lanes, "plan_cache_mode", "force_generic_plan"),
];

/// Settings that matter and that are not ours to change, with the value under which this program can work.
const LOOKED_AT: &[(&str, &str)] = &[("default_transaction_read_only", "off")];

/// Settings that the server has under the same names in every supported version and that any role may change: they go
/// with the start of the connection.
const FROM_THE_START: &[&str] = &[
    "default_transaction_isolation",
    "default_transaction_deferrable",
    "row_security",
    // Before the second statement comes, it may have ended the session.
    "idle_session_timeout",
    "exit_on_error",
    "client_min_messages",
    "jit",
    "TimeZone",
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "random_page_cost",
    "plan_cache_mode",
];

fn of(role: Role) -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(|_| !fault(Fault::SessionNotSet))
        .filter(|setting| setting.name != "default_transaction_isolation" || !fault(Fault::IsolationNotSet))
        .filter(|setting| setting.name != "row_security" || !fault(Fault::RowSecurityNotSeen))
        .filter(move |setting| setting.who.covers(role))
}

/// The `options` of a connection's start.
pub(super) fn options(role: Role, statement_timeout: Duration) -> String {
    let mut options = format!(
        "-c statement_timeout={} -c idle_in_transaction_session_timeout={} -c lock_timeout={}",
        statement_timeout.as_millis(),
        // A process that is frozen in the middle of a transaction keeps its shard or partition locked for as long: the
        // lease is over, and nobody can take it. Between two statements of theirs there are milliseconds.
        if matches!(role, Role::Lane | Role::Consumer) { 3_000 } else { 30_000 },
        match role {
            Role::Lane | Role::Cleanup => 5_000,
            // A row that another session keeps locked must not keep the leases of other shards from being renewed.
            Role::Lease => 1_000,
            // Short, because other partitions need the connection meanwhile; and shorter than the statement timeout, to
            // distinguish a lock held by another session from a slow statement.
            Role::Consumer if statement_timeout.is_zero() => 2_000,
            Role::Consumer => (statement_timeout.as_millis() * 4 / 5).min(2_000),
            Role::Admin => 0,
        },
    );
    if role == Role::Cleanup {
        // A deletion that a crash takes back is done again: nobody has to wait for the disk, or for a replica.
        options.push_str(" -c synchronous_commit=off");
    }
    for setting in of(role).filter(|setting| FROM_THE_START.contains(&setting.name)) {
        options.push_str(&format!(" -c {}={}", setting.name, setting.value.replace(' ', "\\ ")));
    }
    options
}

/// Sets what is not as it must be. One round trip.
///
/// Errors: [`DbError::Unavailable`] for a role that writes, when the database or the role is set to be read-only: that
/// is an administrator's way to keep writers out, and is waited for like a server that is away.
pub(super) async fn prepare(client: &Client, role: Role) -> Result<(), DbError> {
    let names: Vec<&str> = of(role).map(|setting| setting.name).collect();
    let values: Vec<&str> = of(role).map(|setting| setting.value).collect();
    let replaced: Vec<Option<&str>> = of(role).map(|setting| setting.replaced).collect();
    let (looked_at, expected): (Vec<&str>, Vec<&str>) = LOOKED_AT.iter().copied().unzip();
    let rows = client
        .query_typed(
            APPLY,
            &[
                (&names, Type::TEXT_ARRAY),
                (&values, Type::TEXT_ARRAY),
                (&replaced, Type::TEXT_ARRAY),
                (&looked_at, Type::TEXT_ARRAY),
                (&expected, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    for row in rows {
        let (name, found, now): (&str, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if name == "default_transaction_read_only" {
            // Commands also read, which is possible there.
            if role != Role::Admin {
                return Err(DbError::Unavailable(Box::new(ReadOnly)));
            }
        } else if found == now {
            tracing::debug!(name, found, role = ?role, "a session setting differs from the required value, and this role may not change it");
        } else {
            tracing::trace!(name, found, now, role = ?role, "overriding a default of the database or the role for this session");
        }
    }
    Ok(())
}

/// Why there is no session that could write.
#[derive(Debug, thiserror::Error)]
#[error(
    "default_transaction_read_only is on for this database or role, so nothing can be written; \
     it ends with: alter database … reset default_transaction_read_only (or alter role …)"
)]
pub(super) struct ReadOnly;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_stands_once_for_each_role() {
        for role in [Role::Lane, Role::Lease, Role::Consumer, Role::Cleanup, Role::Admin] {
            let mut names: Vec<String> = of(role).map(|setting| setting.name.to_lowercase()).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{role:?}");
        }
    }

    #[test]
    fn what_goes_with_the_start_is_in_the_table() {
        for name in FROM_THE_START {
            assert!(SETTINGS.iter().any(|setting| setting.name == *name), "{name}");
        }
    }

    #[test]
    fn values_with_blanks_are_one_option() {
        let options = options(Role::Lane, Duration::from_secs(1));
        assert!(options.contains(" -c default_transaction_isolation=read\\ committed "), "{options}");
        assert!(options.starts_with("-c statement_timeout=1000 "), "{options}");
    }
}
