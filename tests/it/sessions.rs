//! Sessions of others: whatever a database or a role sets by default, ours mean the same; what cannot be set is found
//! and named.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;

use crate::support::outbox::{counts, insert_many, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A default that somebody may have set, and what our sessions have instead: those of every role, or of the lanes
/// alone.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("default_transaction_isolation", "serializable", "read committed"),
    ("default_transaction_deferrable", "on", "off"),
    ("row_security", "on", "off"),
    ("session_replication_role", "replica", "origin"),
    ("idle_session_timeout", "1", "0"),
    ("exit_on_error", "on", "off"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("standard_conforming_strings", "off", "on"),
    ("bytea_output", "escape", "hex"),
    ("DateStyle", "German, DMY", "ISO, MDY"),
    ("IntervalStyle", "sql_standard", "postgres"),
    ("TimeZone", "Asia/Kathmandu", "UTC"),
    ("extra_float_digits", "-15", "1"),
    ("xmloption", "document", "content"),
    ("array_nulls", "off", "on"),
    ("transform_null_equals", "on", "off"),
    ("quote_all_identifiers", "on", "off"),
    ("client_min_messages", "debug1", "error"),
    ("jit", "on", "off"),
    ("statement_timeout", "50", "30s"),
    ("lock_timeout", "1", ""),
    ("idle_in_transaction_session_timeout", "1", ""),
    ("enable_indexscan", "off", "on"),
    ("enable_indexonlyscan", "off", "on"),
    ("enable_nestloop", "off", "on"),
    ("enable_sort", "off", "on"),
    ("enable_tidscan", "off", "on"),
    ("seq_page_cost", "0", "1"),
    ("cpu_operator_cost", "1000", "0.0025"),
    ("join_collapse_limit", "1", "8"),
    ("synchronous_commit", "off", "on"),
    ("plan_cache_mode", "force_custom_plan", "force_generic_plan"),
    ("work_mem", "64kB", ""),
    ("lc_messages", "C", ""),
    ("default_statistics_target", "1", ""),
    ("max_parallel_workers_per_gather", "8", ""),
    ("parallel_setup_cost", "0", ""),
    ("min_parallel_table_scan_size", "0", ""),
];

async fn set_default(client: &Client, database: &TestDatabase, name: &str, value: &str) {
    let statement = format!("alter database {} set {name} = '{value}'", database.name());
    client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

fn ours(database: &TestDatabase) -> Database {
    let settings = DatabaseConfig { url: Secret::new(database.url.clone()), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a URL")
}

#[tokio::test]
async fn no_default_of_a_database_reaches_a_session_of_ours() {
    let database = TestDatabase::migrated("defaults").await;
    let client = database.connect().await;
    for (name, value, _) in HOSTILE {
        set_default(&client, &database, name, value).await;
    }
    let database = ours(&database);
    let lane = database.connect(Role::Lane).await.expect("a session");
    for (name, hostile, expected) in HOSTILE.iter().filter(|(_, _, expected)| !expected.is_empty()) {
        let found: String = lane.query_one(&format!("show {name}"), &[]).await.expect("a setting").get(0);
        assert_eq!(found, *expected, "{name}, which the database sets to {hostile}");
    }
    for role in [Role::Lease, Role::Consumer, Role::Cleanup, Role::Admin] {
        let session = database.pool(role, 1).get().await.expect("a session");
        for name in ["default_transaction_isolation", "row_security", "session_replication_role", "TimeZone"] {
            let found: String = session.query_one(&format!("show {name}"), &[]).await.expect("a setting").get(0);
            let (_, _, expected) = HOSTILE.iter().find(|(other, ..)| *other == name).expect("it is in the list");
            assert_eq!(found, *expected, "{name} of {role:?}");
        }
        let isolation: String = session.query_one("show transaction_isolation", &[]).await.expect("it lives").get(0);
        assert_eq!(isolation, "read committed");
    }
}

/// Values other than `off` are the operator's choice: how many servers must have a commit.
#[tokio::test]
async fn commits_of_lanes_are_durable_and_no_less_so_than_the_database_wants() {
    let database = TestDatabase::migrated("durable").await;
    let client = database.connect().await;
    for (set, lane, cleanup) in
        [("off", "on", "off"), ("local", "local", "off"), ("remote_apply", "remote_apply", "off")]
    {
        set_default(&client, &database, "synchronous_commit", set).await;
        for (role, expected) in [(Role::Lane, lane), (Role::Lease, lane), (Role::Admin, lane), (Role::Cleanup, cleanup)]
        {
            let session = ours(&database).connect(role).await.expect("a session");
            let found: String = session.query_one("show synchronous_commit", &[]).await.expect("a setting").get(0);
            assert_eq!(found, expected, "{role:?} where the database has {set}");
        }
    }
    // The application's commits are not ours to change: `check` says what they are.
    set_default(&client, &database, "synchronous_commit", "off").await;
    let checked = check(&database.url, &[]).await;
    let durability = finding(&checked, "postgres.durability");
    assert_eq!(durability["level"], "warning", "{durability}");
}

/// Relay, consumer and commands beside every hostile default at once.
#[tokio::test]
async fn everything_works_beside_hostile_defaults() {
    for delivery in ["at-least-once", "exactly-once"] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("hostile"), Topic::create("hostile", 3));
        let client = database.connect().await;
        for (name, value, _) in HOSTILE {
            set_default(&client, &database, name, value).await;
        }
        let group = unique("hostile");
        let file = format!("[consumer]\ngroup = \"{group}\"\ntopics = [\"{}\"]\n", topic.name);
        let settings = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("run.deployment", &unique("hostile"))
            .set("relay.delivery", delivery)
            .file(&file)
            .only("relay,consumer,admin");
        let mut relay = settings.start_ready().await;
        insert_many(&client, &topic.name, 20, 500).await;
        let bad = NewRow::new(&topic.name, "bad", "{}").text("headers", r#"{"a": 1}"#).insert(&client).await;
        wait_for_status(&client, bad, "FAILED").await;
        wait_until("the good ones are published", PATIENCE, async || {
            let counts = counts(&client).await;
            if counts.get("PUBLISHED") == Some(&500) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        let command = async |args: &[&str]| {
            let call = outbox_relay(args).env("DATABASE_URL", &database.url);
            call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.expect_code(0).stdout
        };
        assert!(command(&["events", "ls", "--status", "failed"]).await.contains(&bad.to_string()));
        command(&["events", "show", &bad.to_string()]).await;
        command(&["lag"]).await;
        command(&["shards", "ls"]).await;
        command(&["top", "--once"]).await;
        command(&["pause", "--topic", "nobody", "--reason", "test"]).await;
        command(&["resume", "--topic", "nobody"]).await;
        command(&["events", "discard", &bad.to_string(), "--yes"]).await;
        command(&["replay", "--topic", &topic.name, "--yes"]).await;
        command(&["cleanup", "--older-than", "7d", "--yes"]).await;
        wait_until("the consumer has handled all of them", PATIENCE, async || {
            let handled = "select count(*) from event_handled";
            let handled: i64 = client.query_one(handled, &[]).await.map_err(|error| error.to_string())?.get(0);
            if handled == 500 { Ok(()) } else { Err(handled.to_string()) }
        })
        .await;
        relay.expect_no_error_lines();
        relay.terminate().await;
    }
}

/// Lanes that were serializable as well made the application's transactions fail.
#[tokio::test]
async fn serializable_applications_are_not_disturbed() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("serializable"), Topic::create("serializable", 3));
    let client = database.connect().await;
    set_default(&client, &database, "default_transaction_isolation", "serializable").await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    let topic = &topic.name;
    let writers = (0..4).map(async |writer| {
        let client = database.connect().await;
        for n in 0..100 {
            NewRow::new(topic, &format!("w{writer}-{}", n % 7), "{}").insert(&client).await;
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 400);
    let log = relay.log_text();
    assert!(!log.contains("not reachable"), "{log}");
    relay.terminate().await;
}

#[tokio::test]
async fn a_database_that_is_read_only_by_default_is_waited_for_with_the_reason() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("read-only"), Topic::create("read-only", 1));
    let client = database.connect().await;
    let id = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    set_default(&client, &database, "default_transaction_read_only", "on").await;
    let checked = check(&database.url, &[]).await;
    assert_eq!(finding(&checked, "postgres.writable")["level"], "problem");
    let relay = RelaySettings::new(&database, &parts().kafka).start();
    relay.wait_for_log("default_transaction_read_only is on").await;
    client
        .batch_execute(&format!(
            "begin read write; alter database {} reset default_transaction_read_only; commit",
            database.name()
        ))
        .await
        .expect("a reset");
    wait_for_status(&client, id, "PUBLISHED").await;
}

/// The tables belong to another role than the relay's, as where `migrate up` runs by itself.
async fn as_stranger(database: &TestDatabase, client: &Client) -> String {
    let role = unique("stranger").replace('-', "_");
    let grants = format!(
        "create role {role} login; grant usage on schema public to {role}; \
         grant all on all tables in schema public to {role}; grant all on all sequences in schema public to {role}"
    );
    client.batch_execute(&grants).await.expect("a role");
    let (_, rest) = database.url.split_once('@').expect("a user in the URL");
    format!("postgres://{role}@{rest}")
}

#[tokio::test]
async fn row_security_is_named_and_never_taken_for_an_empty_table() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("policies"), Topic::create("policies", 1));
    let client = database.connect().await;
    let url = as_stranger(&database, &client).await;
    for table in ["outbox_events", "outbox_shards", "outbox_held_keys"] {
        client.batch_execute(&format!("alter table {table} enable row level security")).await.expect("a table");
        let checked = check(&url, &[]).await;
        let found = finding(&checked, "schema.row_security");
        assert_eq!(found["level"], "problem", "{table}: {found}");
        assert!(found["what"].as_str().is_some_and(|what| what.contains(table)), "{found}");
        let mut relay = RelaySettings::new(&database, &parts().kafka).env("DATABASE_URL", &url).start();
        assert_eq!(relay.wait_for_exit(PATIENCE).await, Some(6), "{table}");
        let log = relay.log_text();
        assert!(log.contains("OR-P010") && log.contains(table), "{log}");
        client.batch_execute(&format!("alter table {table} disable row level security")).await.expect("a table");
    }
    // Somebody switches it on while events flow: they wait, and none counts as published.
    let settings = RelaySettings::new(&database, &parts().kafka).set("relay.tracking", "watermark");
    let relay = settings.env("DATABASE_URL", &url).start_ready().await;
    insert_many(&client, &topic.name, 5, 50).await;
    let published = async |expected: i64| {
        wait_until(&format!("{expected} are published"), PATIENCE, async || {
            let counts = counts(&client).await;
            if counts.get("PUBLISHED") == Some(&expected) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
    };
    published(50).await;
    client.batch_execute("alter table outbox_events enable row level security").await.expect("a table");
    insert_many(&client, &topic.name, 5, 50).await;
    relay.wait_for_readiness(503, "").await;
    assert_eq!(counts(&client).await.get("PENDING"), Some(&50));
    client.batch_execute("alter table outbox_events disable row level security").await.expect("a table");
    published(100).await;
}

#[tokio::test]
async fn what_others_put_on_the_tables_is_named_by_check() {
    let cases = [
        ("create unique index mine on outbox_events (event_id)", "schema.unique_index", "mine", "problem"),
        (
            "alter table outbox_events add constraint theirs exclude (event_id with =)",
            "schema.unique_index",
            "theirs",
            "problem",
        ),
        ("alter table outbox_events add column tenant text not null", "schema.columns", "tenant", "problem"),
        (
            "alter table outbox_events add constraint headed check (source is not null) not valid",
            "schema.trial",
            "headed",
            "problem",
        ),
        (
            "alter table outbox_events add constraint first check (replay_of is null) not valid",
            "schema.trial",
            "first",
            "problem",
        ),
        (
            "alter table outbox_events add constraint never check (status <> 'HELD') not valid",
            "schema.trial",
            "never",
            "problem",
        ),
        ("create rule quiet as on update to outbox_events do instead nothing", "schema.rules", "quiet", "problem"),
        (
            "create function swallow() returns trigger language plpgsql as 'begin return null; end'; \
             create trigger swallowed before insert on outbox_events for each row execute function swallow()",
            "schema.triggers",
            "swallowed",
            "warning",
        ),
        ("create table kid () inherits (outbox_events)", "schema.inheritance", "kid", "problem"),
        ("create table sent (id bigint references outbox_events)", "schema.foreign_keys", "sent", "warning"),
        ("alter table outbox_shards set unlogged", "schema.unlogged", "outbox_shards", "problem"),
        ("alter table outbox_events alter column id set cache 20", "schema.sequence", "caches 20", "problem"),
        (
            "alter table outbox_events alter column id set increment -1 set no minvalue",
            "schema.sequence",
            "counts down",
            "problem",
        ),
        ("alter table outbox_events alter column id set cycle", "schema.sequence", "begins again", "problem"),
        (
            "alter table outbox_events alter column id set generated by default",
            "schema.identity",
            "set by the application",
            "warning",
        ),
        (
            "insert into outbox_events (event_type, topic) select 'E', 't' from generate_series(1, 10); \
             select setval('outbox_events_id_seq', 3)",
            "schema.identity",
            "is at 3",
            "problem",
        ),
        (
            "alter table outbox_events replica identity nothing; create publication p for table outbox_events",
            "schema.publication",
            "outbox_events",
            "problem",
        ),
        (
            "create publication q for table outbox_events where (topic = 'a')",
            "schema.publication",
            "outbox_events",
            "problem",
        ),
        ("alter table outbox_events drop constraint outbox_events_id_range", "schema.checks", "id_range", "warning"),
    ];
    for (n, (statement, name, part, level)) in cases.into_iter().enumerate() {
        let database = TestDatabase::migrated(&format!("others{n}")).await;
        let client = database.connect().await;
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let checked = check(&database.url, &[]).await;
        let found: Vec<_> =
            checked["findings"].as_array().expect("findings").iter().filter(|one| one["check"] == name).collect();
        let fits = found
            .iter()
            .any(|one| one["level"] == level && one["what"].as_str().is_some_and(|what| what.contains(part)));
        assert!(fits, "{statement}: {found:?} in {checked}");
        assert!(!checked.to_string().contains("Failing row"), "{checked}");
        // Nothing of what it tried is left.
        let left = "select count(*) from outbox_events where event_type like '%check%'";
        assert_eq!(client.query_one(left, &[]).await.expect("a count").get::<_, i64>(0), 0);
    }
    let database = TestDatabase::migrated("others").await;
    let checked = check(&database.url, &[]).await;
    assert_eq!(finding(&checked, "schema.others")["level"], "ok", "{checked}");
    assert_eq!(finding(&checked, "schema.trial")["level"], "ok", "{checked}");
}

#[tokio::test]
async fn run_does_not_start_where_events_would_be_lost_or_none_be_published() {
    for statement in [
        "create rule quiet as on update to outbox_events do instead nothing",
        "create table kid () inherits (outbox_events)",
        "alter table outbox_events alter column id set cache 20",
        "alter table outbox_shards replica identity nothing; create publication p for all tables",
    ] {
        let database = TestDatabase::migrated("refused").await;
        database.connect().await.batch_execute(statement).await.expect("a statement");
        let mut relay = RelaySettings::new(&database, &parts().kafka).start();
        assert_eq!(relay.wait_for_exit(PATIENCE).await, Some(6), "{statement}: {}", relay.log_text());
        let log = relay.log_text();
        assert!(log.contains("OR-P010") || log.contains("OR-R005"), "{log}");
    }
    // What only keeps dead letters from being written is no reason to publish nothing.
    let (database, topic) = tokio::join!(TestDatabase::migrated("warned"), Topic::create("warned", 1));
    let client = database.connect().await;
    client.batch_execute("create unique index mine on outbox_events (event_id)").await.expect("an index");
    let relay = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_until_published(&database, PATIENCE).await;
    relay.wait_for_log("unique index mine").await;
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused_by_name() {
    let name = unique("latin").replace('-', "_");
    let admin = TestDatabase { url: parts().database_url.clone() }.connect().await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("{name}_{}", encoding.to_lowercase());
        let create = format!("create database {name} encoding '{encoding}' locale 'C' template template0");
        admin.batch_execute(&create).await.expect("a database");
        let (server, _) = parts().database_url.rsplit_once('/').expect("a URL with a database");
        let database = TestDatabase { url: format!("{server}/{name}") };
        let client = database.connect().await;
        // As it was brought there by another version.
        let tables = "create table outbox_events (id bigint)";
        client.batch_execute(tables).await.expect("a table");
        let found = outbox_relay::outbox::preflight::look(&ours(&database), &["outbox_events"], false).await;
        let found = found.expect("a look");
        assert!(found.iter().any(|one| one.check == "postgres.encoding" && one.what.contains(encoding)), "{found:?}");
    }
}

async fn check(url: &str, extra: &[(&str, &str)]) -> serde_json::Value {
    let call = outbox_relay(&["check", "-o", "json"]).env("DATABASE_URL", url);
    let call = call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka);
    extra.iter().fold(call, |call, (name, value)| call.env(name, value)).run().await.json()
}

fn finding<'a>(checked: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let findings = checked["findings"].as_array().expect("findings");
    let mut of_name: Vec<_> = findings.iter().filter(|finding| finding["check"] == name).collect();
    of_name.sort_by_key(|finding| finding["level"] == "ok");
    of_name.first().unwrap_or_else(|| panic!("no finding {name} in {checked}"))
}
