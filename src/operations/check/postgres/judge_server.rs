//! What facts about the server mean. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::Config;
use crate::db::{CLEANER_CONNECTIONS, LEASE_CONNECTIONS, PARTITION_CONNECTIONS, UPKEEP_CONNECTIONS};
use crate::error::Error;
use crate::operations::check::finding::{Finding, Part};
use crate::outbox::inspect::server::{OpenTransaction, ServerFacts};
use crate::text::age;

/// Oldest supported major version: what the tests run on.
const VERSION_MIN: i32 = 150_000;

/// Difference of clocks that is worth a word. Leases use the database's clock alone, so it only distorts latencies.
const CLOCK_DIFFERENCE_MAX_SECONDS: f64 = 1.0;

/// Connections of the relay besides those of the lanes.
const RELAY_CONNECTIONS: usize = LEASE_CONNECTIONS + UPKEEP_CONNECTIONS + CLEANER_CONNECTIONS + PARTITION_CONNECTIONS;

/// Connections of the consumer: folds at a time.
const CONSUMER_CONNECTIONS: i64 = 4;

pub(super) fn server(facts: &ServerFacts, where_to: &str, findings: &mut Vec<Finding>) {
    let tls = facts.tls_version.as_deref().unwrap_or("no TLS");
    let text = format!("{} at {where_to}, as {}, {tls}", facts.version, facts.username);
    findings.push(if facts.version_num < VERSION_MIN {
        Finding::problem(
            Part::Postgres,
            "postgres.version",
            text,
            "versions before 15 are not supported or tested",
            "upgrade PostgreSQL to 15 or newer",
        )
    } else {
        Finding::ok(Part::Postgres, "postgres.version", text)
    });
    if facts.is_standby || facts.is_read_only {
        findings.push(Finding::problem(
            Part::Postgres,
            "postgres.writable",
            if facts.is_standby { "the server is a standby" } else { "the server is read-only" },
            "the relay cannot mark an event as published here",
            "point database.url at the primary; with several hosts add target_session_attrs=read-write to it",
        ));
    }
    if facts.is_superuser {
        findings.push(Finding::warning(
            Part::Postgres,
            "postgres.role",
            format!("{} is a superuser", facts.username),
            "the relay needs far less, and a mistake or a leaked password would cost far more",
            "run it as a role with the grants of docs/roles.sql; superuser is for migrate at most",
        ));
    }
}

pub(super) fn clock(server: f64, before: Timestamp, after: Timestamp, findings: &mut Vec<Finding>) {
    // The server read its clock somewhere between the two; only what lies outside is a difference.
    let (before, after) = (seconds(before), seconds(after));
    let difference = if server < before { server - before } else { (server - after).max(0.0) };
    findings.push(if difference.abs() > CLOCK_DIFFERENCE_MAX_SECONDS {
        Finding::warning(
            Part::Postgres,
            "postgres.clock",
            format!("the server's clock is {:.1} s {} this host's", difference.abs(), if difference > 0.0 { "ahead of" } else { "behind" }),
            "measured latencies are wrong by this much; ownership of shards is not affected, because it uses the server's clock alone",
            "synchronise both hosts (chrony, ntpd)",
        )
    } else {
        Finding::ok(Part::Postgres, "postgres.clock", "the clocks of the server and this host agree")
    });
}

fn seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

pub(super) fn durability(facts: &ServerFacts, findings: &mut Vec<Finding>) {
    let off: Vec<&str> = [("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)]
        .into_iter()
        .filter_map(|(name, on)| (!on).then_some(name))
        .collect();
    if !off.is_empty() {
        findings.push(Finding::warning(
            Part::Postgres,
            "postgres.durability",
            format!("{} is off", off.join(" and ")),
            "after a crash of the host the database may be corrupt and committed events lost",
            "turn it on in postgresql.conf, unless the data may be thrown away",
        ));
    } else if facts.synchronous_commit == "off" {
        findings.push(Finding::warning(
            Part::Postgres,
            "postgres.durability",
            "synchronous_commit is off",
            "after a crash the last moments of commits are gone: events of the application, and marks of events that Kafka already has, which are then published again",
            "set synchronous_commit = on, at least for the role of the relay and of the application",
        ));
    } else {
        findings.push(Finding::ok(Part::Postgres, "postgres.durability", "commits are durable"));
    }
}

pub(super) fn connections(facts: &ServerFacts, settings: &Config, findings: &mut Vec<Finding>) {
    let relay = i64::from(settings.database.pool_size.get()) + i64::try_from(RELAY_CONNECTIONS).unwrap_or(i64::MAX);
    let needed = (if settings.relay.enabled { relay } else { 0 })
        + (if settings.consumer.enabled { CONSUMER_CONNECTIONS } else { 0 });
    let allowed =
        facts.role_connections_allowed.map_or(facts.connections_allowed, |role| role.min(facts.connections_allowed));
    let left = i64::from(facts.connections_allowed) - facts.connections_used;
    let text = format!(
        "{} of {} connections are in use; an instance takes up to {needed}",
        facts.connections_used, facts.connections_allowed
    );
    findings.push(if left < needed || i64::from(allowed) < needed {
        Finding::warning(
            Part::Postgres,
            "postgres.connections",
            text,
            "an instance that gets no connection waits, and so do its shards; if this instance runs already, its own are counted",
            "lower database.pool_size, or raise max_connections or the limit of the role",
        )
    } else {
        Finding::ok(Part::Postgres, "postgres.connections", text)
    });
}

pub(super) fn pooler(transaction_pooled: bool, facts: &ServerFacts, findings: &mut Vec<Finding>) {
    // We have just connected: a server process that is older served somebody else before.
    let reused = facts.session_age.is_some_and(|age| age > 10.0);
    let settings_lost = facts.session_timezone != "UTC";
    findings.push(if transaction_pooled {
        Finding::problem(
            Part::Postgres,
            "postgres.pooler",
            "a pooler in transaction mode is between outbox-relay and the server",
            "statements of one connection run in different sessions: prepared statements, session settings and locks do not hold",
            "point database.url at the server itself, or at a pool in session mode",
        )
    } else if reused || settings_lost {
        Finding::warning(
            Part::Postgres,
            "postgres.pooler",
            "a pooler seems to be between outbox-relay and the server",
            "it may not apply the session settings that outbox-relay requests, such as timeouts",
            "point database.url at the server itself if you can; session mode works",
        )
    } else {
        Finding::ok(Part::Postgres, "postgres.pooler", "the connection goes to the server itself, not to a pooler")
    });
}

pub(super) fn pooler_refuses(error: &Error) -> Finding {
    Finding::problem(
        Part::Postgres,
        "postgres.pooler",
        "a pooler rejects the session settings that outbox-relay requests",
        error.chain(),
        "point database.url at the server itself; or at a pool in session mode, with ignore_startup_parameters = options in PgBouncer",
    )
}

pub(super) fn transactions(open: &[OpenTransaction], sees_all: bool, findings: &mut Vec<Finding>) {
    for transaction in open {
        let pid = transaction.pid.map_or_else(String::new, |pid| format!("pid {pid}, "));
        let age = age(Duration::try_from_secs_f64(transaction.age_seconds).unwrap_or_default());
        let fix = match transaction.pid {
            Some(pid) => {
                format!("find out what it does in pg_stat_activity; select pg_terminate_backend({pid}) ends it")
            }
            None => "commit prepared or rollback prepared, by whoever coordinates it".to_owned(),
        };
        findings.push(Finding::warning(
            Part::Postgres,
            "postgres.transactions",
            format!(
                "a transaction has been open for {age} ({pid}{}, user {}, {})",
                transaction.application, transaction.username, transaction.state
            ),
            "until it ends, vacuum cannot remove published rows from the indexes, and claims become slower; if it has inserted events, they wait for it",
            fix,
        ));
    }
    if !open.is_empty() {
        return;
    }
    findings.push(if sees_all {
        Finding::ok(Part::Postgres, "postgres.transactions", "no transaction has been open for long")
    } else {
        Finding::ok(
            Part::Postgres,
            "postgres.transactions",
            "no transaction of this role has been open for long (others are hidden: grant pg_read_all_stats to see them)",
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::check::finding::{Level, levels};

    fn facts() -> ServerFacts {
        ServerFacts {
            version_num: 150_018,
            version: "15.18".to_owned(),
            username: "relay".to_owned(),
            database: "app".to_owned(),
            is_superuser: false,
            is_standby: false,
            is_read_only: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            session_timezone: "UTC".to_owned(),
            connections_allowed: 97,
            connections_used: 5,
            role_connections_allowed: None,
            tls_version: Some("TLSv1.3".to_owned()),
            sees_all_sessions: true,
            clock: 1_000.5,
            session_age: Some(0.01),
        }
    }

    #[test]
    fn a_server_as_it_should_be_gives_no_warning() {
        let all = levels(|findings| {
            server(&facts(), "db:5432/app", findings);
            clock(1_000.5, at(1_000), at(1_001), findings);
            durability(&facts(), findings);
            connections(&facts(), &Config::default(), findings);
            pooler(false, &facts(), findings);
            transactions(&[], true, findings);
        });
        assert!(all.iter().all(|(_, level)| *level == Level::Ok), "{all:?}");
    }

    #[test]
    fn an_old_or_read_only_server_and_a_superuser_are_named() {
        let wrong = ServerFacts { version_num: 140_010, is_standby: true, is_superuser: true, ..facts() };
        let expected = [
            ("postgres.version", Level::Problem),
            ("postgres.writable", Level::Problem),
            ("postgres.role", Level::Warning),
        ];
        assert_eq!(levels(|findings| server(&wrong, "db:5432/app", findings)), expected);
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_slow_answer_is_not_a_difference_of_clocks() {
        let level = |server| levels(|findings| clock(server, at(1_000), at(1_030), findings))[0].1;
        assert_eq!(level(1_015.0), Level::Ok);
        assert_eq!(level(998.0), Level::Warning);
        assert_eq!(level(1_032.0), Level::Warning);
    }

    #[test]
    fn settings_that_lose_commits_are_warned_of() {
        let level = |facts: ServerFacts| levels(|findings| durability(&facts, findings))[0].1;
        assert_eq!(level(ServerFacts { fsync: false, ..facts() }), Level::Warning);
        assert_eq!(level(ServerFacts { synchronous_commit: "off".to_owned(), ..facts() }), Level::Warning);
        assert_eq!(level(ServerFacts { synchronous_commit: "remote_apply".to_owned(), ..facts() }), Level::Ok);
    }

    #[test]
    fn a_pooler_is_a_problem_in_transaction_mode_and_a_warning_otherwise() {
        let level = |pooled, facts: ServerFacts| levels(|findings| pooler(pooled, &facts, findings))[0].1;
        assert_eq!(level(true, facts()), Level::Problem);
        assert_eq!(level(false, ServerFacts { session_age: Some(3_600.0), ..facts() }), Level::Warning);
        assert_eq!(
            level(false, ServerFacts { session_timezone: "Europe/Berlin".to_owned(), ..facts() }),
            Level::Warning
        );
    }

    #[test]
    fn too_few_connections_are_warned_of_whoever_limits_them() {
        let level = |facts: ServerFacts| levels(|findings| connections(&facts, &Config::default(), findings))[0].1;
        assert_eq!(level(ServerFacts { connections_used: 90, ..facts() }), Level::Warning);
        assert_eq!(level(ServerFacts { role_connections_allowed: Some(5), ..facts() }), Level::Warning);
    }

    #[test]
    fn every_long_transaction_is_named() {
        let open = OpenTransaction {
            pid: Some(17),
            application: "psql".to_owned(),
            username: "app".to_owned(),
            state: "idle in transaction".to_owned(),
            age_seconds: 7_200.0,
        };
        let mut findings = Vec::new();
        transactions(&[open], true, &mut findings);
        assert_eq!(
            findings[0].what,
            "a transaction has been open for 2h 0m (pid 17, psql, user app, idle in transaction)"
        );
        assert!(findings[0].fix.as_deref().unwrap().contains("pg_terminate_backend(17)"));
    }
}
