//! What facts about the schema mean. Pure.

use crate::operations::check::finding::{Finding, Part};
use crate::outbox::home::Standing;
use crate::outbox::inspect::server::{Grant, PartitionFacts, Wanted};
use crate::outbox::preflight::{Gravity, Obstacle};

pub(super) fn migrations(known: usize, missing: &[i32], findings: &mut Vec<Finding>) {
    findings.push(if missing.is_empty() {
        Finding::ok(Part::Schema, "schema.migrations", format!("all {known} migrations are applied"))
    } else {
        let list = missing.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        Finding::problem(
            Part::Schema,
            "schema.migrations",
            format!("migrations are pending: {list}"),
            "the relay does not start on a schema older than itself",
            "run: outbox-relay migrate up",
        )
    });
}

pub(super) fn history_hidden() -> Finding {
    Finding::warning(
        Part::Schema,
        "schema.migrations",
        "this role may not read which migrations are applied",
        "it is unknown whether the schema is as new as this program",
        "as the owner: grant select on outbox_schema_history to the role of database.url, or check as the owner",
    )
}

pub(super) fn grants(grants: &[Grant], findings: &mut Vec<Finding>) {
    let before = findings.len();
    let mut refused: Vec<(&str, Vec<String>)> = Vec::new();
    for Wanted { object, privilege, column } in grants.iter().filter(|g| g.granted == Some(false)).map(|g| g.wanted) {
        let all = match refused.iter_mut().find(|(other, _)| *other == object && !object.is_empty()) {
            Some((_, all)) => all,
            None => {
                refused.push((object, Vec::new()));
                &mut refused.last_mut().expect("just pushed").1
            }
        };
        // update (a, b) rather than update (a), update (b)
        match (column, all.iter_mut().find(|one| one.starts_with(&format!("{privilege} (")))) {
            (Some(column), Some(columns)) => {
                columns.pop();
                columns.push_str(&format!(", {column})"));
            }
            (Some(column), None) => all.push(format!("{privilege} ({column})")),
            (None, _) => all.push(privilege.to_owned()),
        }
    }
    for (object, privileges) in refused {
        let list = privileges.join(", ");
        let object = match (object, list.as_str()) {
            ("", "temporary") => "the database".to_owned(),
            ("", _) => "the schema of the outbox".to_owned(),
            (function, _) if function.ends_with(')') => format!("function {function}"),
            (relation, _) => relation.to_owned(),
        };
        findings.push(Finding::problem(
            Part::Schema,
            "schema.grants",
            format!("no {list} on {object}"),
            "the statements that need it fail",
            format!(
                "as the owner: grant {list} on {object} to the role of database.url; docs/roles.sql has all of them"
            ),
        ));
    }
    let mut absent: Vec<&str> = grants.iter().filter(|g| g.granted.is_none()).map(|g| g.wanted.object).collect();
    absent.dedup();
    for object in absent {
        findings.push(Finding::problem(
            Part::Schema,
            "schema.tables",
            format!("{object} does not exist in the schema of the outbox, or is older than this program"),
            "the statements that need it fail",
            "run: outbox-relay migrate up; if the tables are in a schema of their own, set outbox.schema",
        ));
    }
    if findings.len() == before {
        findings.push(Finding::ok(Part::Schema, "schema.grants", "the role has all privileges it needs"));
    }
}

pub(super) fn claim_index(indexes: &[(String, bool)], findings: &mut Vec<Finding>) {
    findings.push(match indexes.iter().find(|(_, usable)| *usable) {
        Some((name, _)) => Finding::ok(Part::Schema, "schema.claim_index", format!("index {name} serves the claim")),
        None => match indexes.first() {
            Some((name, _)) => Finding::problem(
                Part::Schema,
                "schema.claim_index",
                format!("index {name} is not valid"),
                "PostgreSQL does not use it, so every claim reads the whole table",
                format!("reindex index concurrently {name}"),
            ),
            None => Finding::problem(
                Part::Schema,
                "schema.claim_index",
                "no index serves the claim",
                "every claim reads the whole table",
                "make outbox_events_pending again, as in outbox-relay migrate sql, but CONCURRENTLY",
            ),
        },
    });
}

/// What others have put in the way. That the server takes no writes is told with the server.
pub(super) fn obstacles(obstacles: Vec<Obstacle>, ok: &str, check: &'static str, findings: &mut Vec<Finding>) {
    let mut none = true;
    for Obstacle { gravity, check, what, why, fix } in obstacles {
        let part = if check.starts_with("schema.") { Part::Schema } else { Part::Postgres };
        match gravity {
            Gravity::Wait => continue,
            Gravity::Refuse | Gravity::Degraded => findings.push(Finding::problem(part, check, what, why, fix)),
            Gravity::Note => findings.push(Finding::warning(part, check, what, why, fix)),
        }
        none = false;
    }
    if none {
        findings.push(Finding::ok(Part::Schema, check, ok));
    }
}

pub(super) fn home(standing: &Standing, findings: &mut Vec<Finding>) {
    const CHECK: &str = "schema.home";
    findings.push(match standing {
        Standing::Home => Finding::ok(Part::Schema, CHECK, "the outbox has not moved since a relay last ran on it"),
        Standing::New(_) => Finding::ok(Part::Schema, CHECK, "no relay has run on this outbox yet"),
        Standing::Away { home, here } => Finding::problem(
            Part::Schema,
            CHECK,
            format!("the relay last ran on {}, and this is {}", home.describe(), here.describe()),
            "this database is a copy or was moved; the relay stops with status 78 instead of treating the original's events as its own",
            "outbox-relay adopt --moved if the original is gone for good; outbox-relay adopt --copy if it is still in use",
        ),
    });
}

/// A plain table needs nothing.
pub(super) fn partitions(facts: &PartitionFacts, findings: &mut Vec<Finding>) {
    const CHECK: &str = "schema.partitions";
    let PartitionFacts { partitioned, role, owner, schema, foreign_tables, may_create, begun } = facts;
    if !partitioned {
        if *begun {
            findings.push(Finding::warning(
                Part::Schema,
                CHECK,
                "a conversion to partitions was started but not finished",
                "nothing is refused or slower because of it, and the table is still a plain one",
                "run: outbox-relay migrate up --partitioned",
            ));
        }
        return;
    }
    let before = findings.len();
    let cause =
        "no partition is made or dropped: every new event goes into the last partition, and nothing is ever deleted";
    if !foreign_tables.is_empty() {
        findings.push(Finding::problem(
            Part::Schema,
            CHECK,
            format!("{role} does not own {}", foreign_tables.join(", ")),
            cause,
            format!("grant {owner} to {role}; or make {role} the owner of outbox_events and of each partition"),
        ));
    }
    if !may_create {
        findings.push(Finding::problem(
            Part::Schema,
            CHECK,
            format!("{role} may not create tables in the schema {schema}"),
            cause,
            format!("grant create on schema {schema} to {role}"),
        ));
    }
    if findings.len() == before {
        findings.push(Finding::ok(Part::Schema, CHECK, format!("{role} can create and drop partitions")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::check::finding::{Level, levels};

    #[test]
    fn a_schema_as_it_should_be_gives_no_warning() {
        let all = levels(|findings| {
            migrations(2, &[], findings);
            grants(&[], findings);
            claim_index(&[("outbox_events_pending".to_owned(), true)], findings);
            obstacles(Vec::new(), "nothing", "schema.others", findings);
        });
        assert!(all.iter().all(|(_, level)| *level == Level::Ok), "{all:?}");
    }

    #[test]
    fn missing_grants_are_gathered_per_table() {
        let grant = |object: &'static str, privilege: &'static str, column, granted| Grant {
            wanted: Wanted { object, privilege, column },
            granted,
        };
        let mut findings = Vec::new();
        let given = [
            grant("", "temporary", None, Some(false)),
            grant("outbox_shards", "select", None, Some(false)),
            grant("outbox_events", "update", Some("status"), Some(false)),
            grant("outbox_events", "update", Some("failed_at"), Some(false)),
            grant("outbox_shards", "update", None, Some(false)),
            grant("outbox_events", "select", None, Some(true)),
            grant("event_handled", "select", None, None),
            grant("event_handled", "insert", None, None),
        ];
        grants(&given, &mut findings);
        let what: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "no temporary on the database",
                "no select, update on outbox_shards",
                "no update (status, failed_at) on outbox_events",
                "event_handled does not exist in the schema of the outbox, or is older than this program"
            ]
        );
    }

    #[test]
    fn an_index_that_is_missing_or_broken_is_a_problem() {
        let level = |indexes: &[(String, bool)]| levels(|findings| claim_index(indexes, findings))[0].1;
        assert_eq!(level(&[]), Level::Problem);
        assert_eq!(level(&[("a".to_owned(), false)]), Level::Problem);
        assert_eq!(level(&[("a".to_owned(), false), ("b".to_owned(), true)]), Level::Ok);
    }

    #[test]
    fn what_refuses_the_start_is_a_problem_and_what_may_hurt_a_warning() {
        let given = [Gravity::Wait, Gravity::Refuse, Gravity::Degraded, Gravity::Note].map(|gravity| Obstacle {
            gravity,
            check: "schema.rules",
            what: "a rule".to_owned(),
            why: "it replaces statements".to_owned(),
            fix: "drop it".to_owned(),
        });
        let all = levels(|findings| obstacles(given.to_vec(), "nothing", "schema.others", findings));
        let levels: Vec<Level> = all.into_iter().map(|(_, level)| level).collect();
        assert_eq!(levels, [Level::Problem, Level::Problem, Level::Warning]);
    }

    #[test]
    fn who_cannot_look_after_partitions_is_told_what_for() {
        let facts = PartitionFacts {
            partitioned: true,
            role: "relay".to_owned(),
            owner: "admin".to_owned(),
            schema: "public".to_owned(),
            foreign_tables: Vec::new(),
            may_create: true,
            begun: false,
        };
        let found = |facts: &PartitionFacts| {
            let mut findings = Vec::new();
            partitions(facts, &mut findings);
            findings.into_iter().map(|finding| (finding.level, finding.what)).collect::<Vec<_>>()
        };
        assert_eq!(found(&facts), [(Level::Ok, "relay can create and drop partitions".to_owned())]);
        let neither = PartitionFacts { foreign_tables: vec!["a".to_owned()], may_create: false, ..facts.clone() };
        assert_eq!(found(&neither).iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Problem; 2]);
        assert_eq!(found(&PartitionFacts { partitioned: false, ..neither.clone() }), []);
        assert_eq!(found(&PartitionFacts { partitioned: false, begun: true, ..facts })[0].0, Level::Warning);
    }
}
