//! The roles of `docs/roles.sql`: the file is what the list of grants makes, everything works as them, and a grant that
//! is missing is named.

mod applications;

use std::fmt::Write as _;
use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::Database;
use outbox_relay::outbox::grants::{self, For, GRANTS, HERE, Who};
use outbox_relay::outbox::inspect::server::{Inspector, Wanted};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;

use crate::support::outbox::{insert_many, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{
    PrivatePostgres, TestDatabase, Topic, outbox_relay, parts::parts, repository, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Above each role, and above what it needs for one purpose only.
fn comment(who: Who, purpose: For) -> &'static str {
    match (who, purpose) {
        (Who::App, _) => {
            "Applications insert events and need not even read the table. By column: all others are the relay's. Where an insert returns the id\n\
             -- (`returning id`), also: grant select (id) on outbox_events to outbox_app;"
        }
        (Who::Relay, For::Work) => {
            "The relay reads events and changes their state, writes dead letters, and keeps its own tables."
        }
        (Who::Relay, For::Deleting) => {
            "What [cleanup] and relay.after_publish = \"delete\" need, and the command cleanup."
        }
        (Who::Relay, For::Cleanup) => {
            "What [cleanup] needs besides. The last one shows how far replicas are behind, and old transactions of others."
        }
        (Who::Relay, For::Commands) => "For cleanup, recover and the commands that look, with this role.",
        (Who::Operator, _) => {
            "Operators: events, pause and resume, replay, dlq, and what looks. They append rows as applications do, change the state of those\n\
             -- that failed or wait, and keep note of it."
        }
        (Who::Consumer, For::ProductMetrics) => {
            "The projection that is built in. Projections of your own need what their SQL needs."
        }
        (Who::Consumer, For::Cleanup) => {
            "[cleanup] of event_handled, where no relay runs in the process of the consumer."
        }
        (Who::Consumer, _) => "The consumer.",
        (Who::Reader, _) => "Dashboards and people who look: the tables of outbox-relay by name, and no others.",
        (Who::Relay, For::ProductMetrics) => "",
    }
}

/// `docs/roles.sql`, of the list of grants.
fn roles_sql() -> String {
    let mut text = "-- Least privilege for outbox-relay: run as the owner of the schema, after `outbox-relay migrate up`. Adapt the names.\n\
         -- Passwords and LOGIN are left to you: grant these roles to your login roles. Tables in a schema of their own: set the search_path to it\n\
         -- first. Roles of an earlier version of this file may have more: revoke insert on outbox_events from outbox_app, outbox_relay and\n\
         -- outbox_operator, and select on all other tables from outbox_reader.\n\
         -- Made from src/outbox/grants.rs; `BLESS=1 scripts/with-parts.sh cargo test --test it -- roles_file` writes it.\n"
        .to_owned();
    for who in Who::ALL {
        let role = who.role();
        let mut begun = false;
        for purpose in [For::Work, For::Deleting, For::Cleanup, For::Commands, For::ProductMetrics] {
            let of: Vec<_> = GRANTS.iter().filter(|grant| (grant.who, grant.purpose) == (*who, purpose)).collect();
            if of.is_empty() {
                continue;
            }
            let before = if begun { "" } else { "\n" };
            writeln!(text, "{before}-- {}", comment(*who, purpose)).unwrap();
            if !begun {
                writeln!(text, "create role {role} nologin;").unwrap();
                begun = true;
            }
            let mut objects: Vec<&str> = of.iter().map(|grant| grant.object).collect();
            let mut seen = Vec::new();
            objects.retain(|object| {
                !seen.contains(object) && {
                    seen.push(*object);
                    true
                }
            });
            for object in objects {
                let mut privileges: Vec<(&str, Vec<&str>)> = Vec::new();
                for grant in of.iter().filter(|grant| grant.object == object) {
                    match privileges.iter_mut().find(|(privilege, _)| *privilege == grant.privilege) {
                        Some((_, columns)) => columns.extend(grant.columns),
                        None => privileges.push((grant.privilege, grant.columns.to_vec())),
                    }
                }
                if object == HERE {
                    for (privilege, _) in privileges {
                        let (kind, name) = if privilege == "usage" {
                            ("schema", "current_schema()")
                        } else {
                            ("database", "current_database()")
                        };
                        writeln!(
                            text,
                            "do $$ begin execute format('grant {privilege} on {kind} %I to {role}', {name}); end $$;"
                        )
                        .unwrap();
                    }
                    continue;
                }
                let list: Vec<String> = privileges
                    .iter()
                    .map(|(privilege, columns)| {
                        if columns.is_empty() {
                            (*privilege).to_owned()
                        } else {
                            format!("{privilege} ({})", columns.join(", "))
                        }
                    })
                    .collect();
                let kind = if object.ends_with(')') { "function " } else { "" };
                writeln!(text, "grant {} on {kind}{object} to {role};", list.join(", ")).unwrap();
            }
            if (*who, purpose) == (Who::Relay, For::Cleanup) {
                writeln!(text, "grant pg_read_all_stats to {role};").unwrap();
                writeln!(text, "-- A partitioned outbox has to belong to this role: alter table outbox_events owner to {role}, and each of its partitions; and grant").unwrap();
                writeln!(text, "-- create on the schema to {role}.").unwrap();
            }
        }
    }
    text
}

#[test]
fn the_roles_file_is_what_the_list_of_grants_makes() {
    let path = repository().join("docs/roles.sql");
    let made = roles_sql();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &made).expect("a writable file");
    }
    let file = std::fs::read_to_string(&path).expect("the file");
    assert!(file == made, "docs/roles.sql differs from src/outbox/grants.rs: BLESS=1 writes it\n{made}");
}

/// A server with the roles of the file, and nothing that PostgreSQL gives to everybody.
struct Place {
    server: PrivatePostgres,
    database: TestDatabase,
    owner: Client,
}

impl Place {
    async fn open() -> Self {
        let server = PrivatePostgres::start().await;
        let database = TestDatabase::migrated_at(&server.url).await;
        let owner = database.connect().await;
        let hardened = "revoke all on schema public from public; \
             revoke execute on all functions in schema public from public; \
             do $$ begin execute format('revoke all on database %I from public', current_database()); end $$;";
        owner.batch_execute(hardened).await.expect("revokes");
        owner.batch_execute(&roles_sql()).await.expect("the roles");
        for who in Who::ALL {
            let login = format!(
                "create role {0}_login login in role {0}; \
                 do $$ begin execute format('grant connect on database %I to {0}_login', current_database()); end $$;",
                who.role()
            );
            owner.batch_execute(&login).await.expect("a login");
        }
        Self { server, database, owner }
    }

    fn url(&self, who: Who) -> String {
        let (_, rest) = self.server.url.split_once('@').expect("a user in the URL");
        format!("postgres://{}_login@{rest}", who.role())
    }

    async fn session(&self, who: Who) -> Client {
        TestDatabase { url: self.url(who) }.connect().await
    }

    async fn command(&self, who: Who, args: &[&str]) -> String {
        let call = outbox_relay(args).env("DATABASE_URL", &self.url(who));
        let call = call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false");
        call.run().await.expect_code(0).stdout
    }
}

/// Relay, consumer, cleaner, operators and readers, each as its role and with no other right.
#[tokio::test]
async fn everything_works_as_the_documented_roles() {
    let (place, topic) = tokio::join!(Place::open(), Topic::create("roles", 3));
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let file = format!(
        "[consumer]\ngroup = \"{}\"\ntopics = [\"{}\"]\n[retry]\non_exhausted = \"dead-letter\"\n",
        unique("roles"),
        topic.name
    );
    for tracking in ["rows", "watermark"] {
        let settings = |who, parts_to_run| {
            RelaySettings::new(&place.database, &parts().kafka)
                .steady()
                .env("DATABASE_URL", &place.url(who))
                .set("relay.tracking", tracking)
                .file(&file)
                .only(parts_to_run)
        };
        let mut relay = settings(Who::Relay, "relay,admin").start_ready().await;
        let mut consumer = settings(Who::Consumer, "consumer,admin").start_ready().await;
        let app = place.session(Who::App).await;
        insert_many(&app, &topic.name, 10, 200).await;
        app.execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, headers, available_at) \
             values ('bad', 'E', $1, '{}', '{\"a\": 1}', now() - interval '1 s')",
            &[&topic.name],
        )
        .await
        .expect("an insert");
        let bad: i64 = place.owner.query_one("select max(id) from outbox_events", &[]).await.expect("an id").get(0);
        wait_for_status(&place.owner, bad, "FAILED").await;
        wait_until("its dead letter is published", PATIENCE, async || {
            let letter = "select count(*) from outbox_current where dead_letter_of = $1 and status = 'PUBLISHED'";
            let count: i64 = place.owner.query_one(letter, &[&bad]).await.map_err(|error| error.to_string())?.get(0);
            if count == 1 { Ok(()) } else { Err(count.to_string()) }
        })
        .await;
        wait_until("the consumer has handled all of them", PATIENCE, async || {
            let handled = "select count(*) from event_handled";
            let count: i64 = place.owner.query_one(handled, &[]).await.map_err(|error| error.to_string())?.get(0);
            if count >= 200 { Ok(()) } else { Err(count.to_string()) }
        })
        .await;
        let id = bad.to_string();
        for who in [Who::Operator, Who::Reader] {
            assert!(place.command(who, &["events", "ls", "--status", "failed"]).await.contains(&id));
            for args in [
                &["events", "show", &id][..],
                &["events", "trace", &id],
                &["lag"],
                &["shards", "ls"],
                &["top", "--once"],
                &["migrate", "status"],
            ] {
                place.command(who, args).await;
            }
        }
        place.command(Who::Operator, &["pause", "--topic", "nobody", "--reason", "test"]).await;
        place.command(Who::Operator, &["resume", "--topic", "nobody"]).await;
        place.command(Who::Operator, &["replay", "--topic", &topic.name, "--yes"]).await;
        place.command(Who::Operator, &["dlq", "ls", "--topic", &topic.name]).await;
        place.command(Who::Operator, &["dlq", "redrive", "--topic", &topic.name, "--yes"]).await;
        // It fails again, with another dead letter.
        wait_for_status(&place.owner, bad, "FAILED").await;
        place.command(Who::Operator, &["events", "retry", &id]).await;
        wait_for_status(&place.owner, bad, "FAILED").await;
        place.command(Who::Operator, &["events", "discard", &id, "--yes"]).await;
        place
            .command(Who::Relay, &["cleanup", "--older-than", "7d", "--status", "published,failed,discarded", "--yes"])
            .await;
        relay.expect_no_error_lines();
        assert!(!relay.log_text().contains("permission denied"), "{}", relay.log_text());
        consumer.expect_no_error_lines();
        relay.terminate().await;
        consumer.terminate().await;
        let checked = outbox_relay(&["check", "-o", "json"])
            .env("DATABASE_URL", &place.url(Who::Relay))
            .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
            .env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
            .run()
            .await
            .json();
        let problems: Vec<_> =
            checked["findings"].as_array().expect("findings").iter().filter(|one| one["level"] == "problem").collect();
        assert!(problems.is_empty(), "{problems:?}");
    }
    assert!(letters.len().await >= 2);
}

/// Each grant is taken away in turn, and exactly it is missed.
#[tokio::test]
async fn a_missing_grant_is_named_and_no_other_is_asked_for() {
    let place = Place::open().await;
    let inspector = async |who| {
        let settings = DatabaseConfig { url: Secret::new(place.url(who)), ..DatabaseConfig::default() };
        Inspector::connect(&Database::new(&settings).expect("a URL")).await.expect("a session")
    };
    for (who, purposes) in [
        (Who::Relay, vec![(Who::Relay, For::Work), (Who::Relay, For::Deleting), (Who::Relay, For::Cleanup)]),
        (Who::Consumer, vec![(Who::Consumer, For::Work), (Who::Consumer, For::ProductMetrics)]),
    ] {
        let (inspector, wanted) = (inspector(who).await, grants::wanted(&purposes));
        let missing = async || -> Vec<Wanted> {
            let found = inspector.grants(&wanted).await.expect("an answer");
            found.into_iter().filter(|grant| grant.granted != Some(true)).map(|grant| grant.wanted).collect()
        };
        assert_eq!(missing().await, [], "{who:?}");
        for one in wanted.iter().filter(|one| !one.object.is_empty()) {
            let kind = if one.object.ends_with(')') { "function " } else { "" };
            let column = one.column.map_or_else(String::new, |column| format!(" ({column})"));
            let grant = format!("{}{column} on {kind}{}", one.privilege, one.object);
            let role = who.role();
            place
                .owner
                .batch_execute(&format!("revoke {grant} from {role}"))
                .await
                .unwrap_or_else(|error| panic!("{grant}: {error:?}"));
            assert_eq!(missing().await, [*one], "{grant}");
            place.owner.batch_execute(&format!("grant {grant} to {role}")).await.expect("a grant");
        }
    }
    place.owner.batch_execute("revoke update (failed_at) on outbox_events from outbox_relay").await.expect("a revoke");
    let checked = outbox_relay(&["check", "-o", "json"]).env("DATABASE_URL", &place.url(Who::Relay));
    let checked = checked.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false");
    let checked = checked.run().await.expect_code(6).json();
    let problems: Vec<&str> = checked["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|one| one["level"] == "problem")
        .filter_map(|one| one["what"].as_str())
        .collect();
    assert_eq!(problems, ["no update (failed_at) on outbox_events"]);
}
