//! What facts about the schema mean, and which grants are needed. Pure.

use crate::commands::check::finding::{Finding, Part};
use crate::config::{AfterPublish, Config};
use crate::outbox::home::Standing;
use crate::outbox::inspect::server::{Grant, IdentityFacts, PartitionFacts};

pub(super) fn migrations(known: usize, missing: &[i32], findings: &mut Vec<Finding>) {
    findings.push(if missing.is_empty() {
        Finding::ok(Part::Schema, "schema.migrations", format!("all {known} migrations are applied"))
    } else {
        let list = missing.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        Finding::problem(
            Part::Schema,
            "schema.migrations",
            format!("migrations are missing: {list}"),
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
        "whether the schema is as new as this program stays unknown",
        "as the owner: grant select on refinery_schema_history to the role of database.url, or check as the owner",
    )
}

/// What `run` needs with these settings, as (relation, privilege).
pub(super) fn grants_needed(settings: &Config) -> Vec<(&'static str, &'static str)> {
    const RELAY: &[(&str, &str)] = &[
        ("outbox_events", "select"),
        ("outbox_events", "update"),
        ("outbox_claimable", "select"),
        // SELECT … FOR UPDATE asks for it.
        ("outbox_claimable", "update"),
        ("outbox_events_id_seq", "select"),
        ("outbox_shards", "select"),
        ("outbox_shards", "update"),
        ("outbox_again", "select"),
        ("outbox_again", "insert"),
        ("outbox_again", "delete"),
        ("outbox_outcomes", "select"),
        ("outbox_outcomes", "insert"),
        ("outbox_outcomes", "update"),
        ("outbox_outcomes", "delete"),
        ("outbox_progress", "select"),
        ("outbox_progress", "insert"),
        ("outbox_progress", "delete"),
        ("outbox_installation", "select"),
        ("outbox_installation", "update"),
        ("outbox_instances", "select"),
        ("outbox_instances", "insert"),
        ("outbox_instances", "update"),
        ("outbox_instances", "delete"),
        ("outbox_held_keys", "select"),
        ("outbox_held_keys", "insert"),
        ("outbox_held_keys", "update"),
        ("outbox_held_keys", "delete"),
    ];
    const CONSUMER: &[(&str, &str)] = &[
        ("consumer_partitions", "select"),
        ("consumer_partitions", "insert"),
        ("consumer_partitions", "update"),
        ("event_handled", "select"),
        ("event_handled", "insert"),
        ("consumer_parked", "select"),
        ("consumer_parked", "insert"),
        ("consumer_parked", "update"),
    ];
    const PRODUCT_METRICS: &[(&str, &str)] =
        &[("product_metrics", "select"), ("product_metrics", "insert"), ("product_metrics", "update")];

    const CLEANUP: &[(&str, &str)] = &[
        ("outbox_events", "delete"),
        ("outbox_retired_shards", "select"),
        ("event_handled", "select"),
        ("event_handled", "delete"),
    ];

    let mut needed = Vec::new();
    if settings.relay.enabled {
        needed.extend(RELAY);
        if settings.cleanup.enabled {
            needed.extend(CLEANUP);
        } else if settings.relay.after_publish == AfterPublish::Delete {
            needed.push(("outbox_events", "delete"));
        }
    }
    if settings.consumer.enabled {
        needed.extend(CONSUMER);
        // Projections of the operator's own are SQL files: what they need only they know.
        if settings.projection.is_empty() {
            needed.extend(PRODUCT_METRICS);
        }
    }
    needed
}

pub(super) fn grants(grants: &[Grant], findings: &mut Vec<Finding>) {
    let before = findings.len();
    let mut refused: Vec<(&str, Vec<&str>)> = Vec::new();
    for grant in grants.iter().filter(|grant| grant.granted == Some(false)) {
        match refused.iter_mut().find(|(relation, _)| *relation == grant.relation) {
            Some((_, privileges)) => privileges.push(&grant.privilege),
            None => refused.push((&grant.relation, vec![&grant.privilege])),
        }
    }
    for (relation, privileges) in refused {
        let list = privileges.join(", ");
        findings.push(Finding::problem(
            Part::Schema,
            "schema.grants",
            format!("no {list} on {relation}"),
            "the statements that need it fail",
            format!("as the owner: grant {list} on {relation} to the role of database.url"),
        ));
    }
    let mut absent: Vec<&str> =
        grants.iter().filter(|grant| grant.granted.is_none()).map(|grant| grant.relation.as_str()).collect();
    absent.dedup();
    for relation in absent {
        findings.push(Finding::problem(
            Part::Schema,
            "schema.tables",
            format!("{relation} does not exist, or is not in the search_path"),
            "the statements that need it fail",
            "run: outbox-relay migrate up; if the tables are in a schema of their own, set the search_path of the role",
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

pub(super) fn identity(identity: Option<&IdentityFacts>, findings: &mut Vec<Finding>) {
    let finding = match identity {
        // Reported with the grants.
        None => return,
        Some(IdentityFacts { cache: Some(1), always: true }) => {
            Finding::ok(Part::Schema, "schema.identity", "ids are drawn one at a time, by the inserting transaction")
        }
        Some(IdentityFacts { cache: Some(1), always: false }) => Finding::warning(
            Part::Schema,
            "schema.identity",
            "outbox_events.id can be set by the application",
            "an id below those already published, or out of turn, breaks the order of its key and may be found only by the sweep",
            "for table outbox_events: alter column id set generated always",
        ),
        Some(IdentityFacts { cache: Some(cache), .. }) => Finding::problem(
            Part::Schema,
            "schema.identity",
            format!("the sequence of outbox_events.id caches {cache} ids"),
            "sessions then draw ids ahead of time, and later events get lower ids: their order is lost, and the scan may pass them",
            "for table outbox_events: alter column id set cache 1",
        ),
        Some(IdentityFacts { cache: None, .. }) => Finding::problem(
            Part::Schema,
            "schema.identity",
            "outbox_events.id comes from no sequence",
            "the relay orders events by ids that are drawn by the inserting transaction",
            "make it an identity column, as in: outbox-relay migrate sql",
        ),
    };
    findings.push(finding);
}

pub(super) fn home(standing: &Standing, findings: &mut Vec<Finding>) {
    const CHECK: &str = "schema.home";
    findings.push(match standing {
        Standing::Home => Finding::ok(Part::Schema, CHECK, "the outbox is where a relay last ran on it"),
        Standing::New(_) => Finding::ok(Part::Schema, CHECK, "no relay has run on this outbox yet"),
        Standing::Away { home, here } => Finding::problem(
            Part::Schema,
            CHECK,
            format!("the relay last ran on {}, and this is {}", home.describe(), here.describe()),
            "this database is a copy, or was moved, and the relay stops with status 78 rather than take the original's events for its own",
            "outbox-relay adopt --moved if the original is gone for good; outbox-relay adopt --copy if it lives on",
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
                "a conversion to partitions was begun and not ended",
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
        findings.push(Finding::ok(Part::Schema, CHECK, format!("{role} can make and drop partitions")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::finding::{Level, levels};

    #[test]
    fn a_schema_as_it_should_be_gives_no_warning() {
        let all = levels(|findings| {
            migrations(2, &[], findings);
            grants(&[], findings);
            claim_index(&[("outbox_events_pending".to_owned(), true)], findings);
            identity(Some(&IdentityFacts { always: true, cache: Some(1) }), findings);
        });
        assert!(all.iter().all(|(_, level)| *level == Level::Ok), "{all:?}");
    }

    #[test]
    fn missing_grants_are_gathered_per_table() {
        let grant = |relation: &str, privilege: &str, granted| Grant {
            relation: relation.to_owned(),
            privilege: privilege.to_owned(),
            granted,
        };
        let mut findings = Vec::new();
        let given = [
            grant("outbox_shards", "select", Some(false)),
            grant("outbox_shards", "update", Some(false)),
            grant("outbox_events", "select", Some(true)),
            grant("event_handled", "select", None),
            grant("event_handled", "insert", None),
        ];
        grants(&given, &mut findings);
        let what: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            what,
            ["no select, update on outbox_shards", "event_handled does not exist, or is not in the search_path"]
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
    fn cached_or_foreign_ids_are_a_problem() {
        let level = |always, cache| levels(|findings| identity(Some(&IdentityFacts { always, cache }), findings))[0].1;
        assert_eq!(level(true, Some(50)), Level::Problem);
        assert_eq!(level(false, None), Level::Problem);
        assert_eq!(level(false, Some(1)), Level::Warning);
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
        assert_eq!(found(&facts), [(Level::Ok, "relay can make and drop partitions".to_owned())]);
        let neither = PartitionFacts { foreign_tables: vec!["a".to_owned()], may_create: false, ..facts.clone() };
        assert_eq!(found(&neither).iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Problem; 2]);
        assert_eq!(found(&PartitionFacts { partitioned: false, ..neither.clone() }), []);
        assert_eq!(found(&PartitionFacts { partitioned: false, begun: true, ..facts })[0].0, Level::Warning);
    }
}
