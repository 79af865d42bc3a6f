//! `outbox.schema`: an outbox in a schema of its own, whatever else the database has.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;

use crate::support::cli::{Call, Finished};
use crate::support::outbox::insert_many;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, outbox_relay, parts::parts, unique, wait_until};

const SCHEMA: &str = "OUTBOX_RELAY_OUTBOX__SCHEMA";

/// A name that has to be quoted, with everything that an identifier may hold.
const ODD: &str = "My \"Outbox\", ä";
const ODD_QUOTED: &str = "\"My \"\"Outbox\"\", ä\"";

/// One outbox of a database.
struct Outbox {
    database: TestDatabase,
    schema: String,
}

impl Outbox {
    fn of(database: &TestDatabase, schema: &str) -> Self {
        Self { database: database.clone(), schema: schema.to_owned() }
    }

    fn call(&self, args: &[&str]) -> Call {
        outbox_relay(args)
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
            .env(SCHEMA, &self.schema)
    }

    async fn run(&self, args: &[&str]) -> Finished {
        self.call(args).run().await
    }

    fn relay(&self) -> RelaySettings {
        RelaySettings::new(&self.database, &parts().kafka).steady().env(SCHEMA, &self.schema)
    }

    /// A session of an application, for which the schema comes first.
    async fn connect(&self) -> Client {
        let client = self.database.connect().await;
        let path = format!("\"{}\"", self.schema.replace('"', "\"\""));
        client.query_one("select set_config('search_path', $1, false)", &[&path]).await.unwrap();
        client
    }

    async fn wait_until_published(&self, count: i64) {
        let client = self.connect().await;
        wait_until(&format!("{count} rows of {} are published", self.schema), Duration::from_secs(60), async || {
            let sql = "select count(*) from outbox_current where status = 'PUBLISHED'";
            let row = client.query_one(sql, &[]).await.map_err(|error| error.to_string())?;
            let published: i64 = row.get(0);
            if published == count { Ok(()) } else { Err(format!("{published}")) }
        })
        .await;
    }
}

async fn relations(client: &Client, schema: &str) -> Vec<String> {
    let sql = "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
        where n.nspname = $1 and c.relkind in ('r', 'p', 'v') order by 1";
    client.query(sql, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Everything of ours as an ordinary role, where nobody may use `public`.
#[tokio::test]
async fn relay_consumer_and_commands_work_in_a_schema_with_an_odd_name_and_public_locked() {
    let (database, topic) = tokio::join!(TestDatabase::empty("odd-schema"), Topic::create("odd", 3));
    let admin = database.connect().await;
    let role = unique("owner").replace('-', "_");
    let sql = format!(
        "create role {role} login; grant create on database {name} to {role}; revoke all on schema public from public; \
         drop schema public",
        name = database.name()
    );
    admin.batch_execute(&sql).await.unwrap();
    let outbox = Outbox::of(&TestDatabase { url: database.url.replacen("postgres@", &format!("{role}@"), 1) }, ODD);

    // Before there is anything, every command says so.
    let none = outbox.run(&["lag"]).await.expect_code(6);
    assert!(none.stderr.contains("migrate up"), "{}", none.stderr);
    outbox.run(&["migrate", "up", "--dry-run"]).await.expect_code(0);
    outbox.run(&["migrate", "up"]).await.expect_code(0);
    outbox.run(&["migrate", "status"]).await.expect_code(0);
    let tables = relations(&admin, ODD).await;
    assert!(tables.len() > 15, "{tables:?}");
    assert!(tables.contains(&"outbox_schema_history".to_owned()), "{tables:?}");
    let elsewhere = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
        where n.nspname not like 'pg\\_%' and n.nspname not in ($1, 'information_schema')";
    assert_eq!(admin.query_one(elsewhere, &[&ODD]).await.unwrap().get::<_, i64>(0), 0, "nothing is anywhere else");

    let client = outbox.connect().await;
    let views = "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
        select 'Product', n % 20, 'ProductViewEvent', $1, jsonb_build_object('productId', n % 20, 'userId', n) from generate_series(1, 200) n";
    client.execute(views, &[&topic.name]).await.unwrap();
    let group = unique("odd-group");
    let file = format!("[consumer]\ngroup = \"{group}\"\ntopics = [\"{}\"]\n", topic.name);
    let mut relay = outbox.relay().only("relay,consumer,admin").file(&file).start_ready().await;
    outbox.wait_until_published(200).await;
    wait_until("the consumer has handled them", Duration::from_secs(60), async || {
        let row =
            client.query_one("select count(*) from event_handled", &[]).await.map_err(|error| error.to_string())?;
        let handled: i64 = row.get(0);
        if handled == 200 { Ok(()) } else { Err(format!("{handled}")) }
    })
    .await;
    relay.expect_no_error_lines();

    let checked = outbox.run(&["check", "-o", "json"]).await.json();
    let about_schema =
        checked["findings"].as_array().expect("findings").iter().filter(|finding| finding["part"] == "schema");
    let bad: Vec<_> = about_schema.filter(|finding| finding["level"] != "ok").collect();
    assert!(bad.is_empty(), "{bad:?}");
    client
        .execute("update outbox_events set status = 'FAILED', last_error = 'x', failed_at = now() where id = 5", &[])
        .await
        .unwrap();
    let mut failed = Vec::new();
    for args in [
        &["events", "ls"][..],
        &["events", "show", "1"],
        &["events", "trace", "1"],
        &["lag"],
        &["shards", "ls"],
        &["top", "--once", "-o", "json"],
        &["dlq", "ls"],
        &["pause", "--topic", "none", "--reason", "test"],
        &["resume", "--topic", "none"],
        &["events", "retry", "--status", "failed", "--yes", "--reason", "test"],
        &["cleanup", "--older-than", "0s", "--dry-run"],
        &["replay", "--id", "1", "--yes", "--reason", "test"],
        &["shards", "set", "4", "--yes", "--reason", "test"],
        &["migrate", "up", "--partitioned"],
    ] {
        let finished = outbox.call(args).env("OUTBOX_RELAY_CONSUMER__TOPICS", &topic.name).run().await;
        if finished.code != Some(0) {
            failed.push(finished);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    insert_many(&client, &topic.name, 20, 50).await;
    outbox.wait_until_published(251).await;
    relay.terminate().await;
    let elsewhere = admin.query_one(elsewhere, &[&ODD]).await.unwrap().get::<_, i64>(0);
    assert_eq!(elsewhere, 0, "partitions are in the schema, too");
}

/// Each works with its own rows, leads its own cleaner, and migrates without waiting for the other.
#[tokio::test]
async fn two_outboxes_of_one_database_do_not_disturb_one_another() {
    let (database, topic_a, topic_b) =
        tokio::join!(TestDatabase::migrated("two-outboxes"), Topic::create("two-a", 3), Topic::create("two-b", 3));
    let (a, b) = (Outbox::of(&database, "public"), Outbox::of(&database, "b"));
    database.connect().await.batch_execute("create schema b").await.unwrap();

    // Where there is no outbox yet, the other one is not shown in its place.
    let client_a = a.connect().await;
    insert_many(&client_a, &topic_a.name, 10, 30).await;
    for args in [&["lag"][..], &["events", "ls"], &["shards", "ls"]] {
        let none = b.run(args).await.expect_code(6);
        assert!(none.stderr.contains("migrate up"), "{}", none.stderr);
    }

    // Somebody migrates `a` for hours.
    let migrating = "select pg_advisory_lock(hashtextextended('outbox-relay migrations public', 0))";
    client_a.query_one(migrating, &[]).await.unwrap();
    b.run(&["migrate", "up", "--partitioned"]).await.expect_code(0);
    assert_eq!(relations(&client_a, "b").await.len(), relations(&client_a, "public").await.len() + 2);

    let client_b = b.connect().await;
    insert_many(&client_b, &topic_b.name, 10, 70).await;
    let (mut relay_a, mut relay_b) = tokio::join!(a.relay().start_ready(), b.relay().start_ready());
    a.wait_until_published(30).await;
    b.wait_until_published(70).await;
    assert_eq!((topic_a.len().await, topic_b.len().await), (30, 70));
    let shards = "select count(*) from outbox_shards where owner is not null";
    for client in [&client_a, &client_b] {
        assert_eq!(client.query_one(shards, &[]).await.unwrap().get::<_, i64>(0), 8, "each has all of its shards");
    }
    relay_a.expect_no_error_lines();
    relay_b.expect_no_error_lines();
    relay_a.terminate().await;
    relay_b.terminate().await;

    let settings = DatabaseConfig { url: Secret::new(database.url.clone()), ..DatabaseConfig::default() };
    let lead = async |schema: &str| {
        let database = Database::new(&settings).unwrap().in_schema(Some(schema));
        let session = outbox_relay::outbox::cleanup::Session::open(&database.pool(Role::Cleanup, 1)).await.unwrap();
        (session.lead().await.unwrap(), session)
    };
    let ((first, _one), (second, _two), (third, _three)) = (lead("public").await, lead("b").await, lead("b").await);
    assert_eq!((first, second, third), (true, true, false), "one cleaner for each outbox");
}

/// What it found first is what a process stays with.
#[tokio::test]
async fn the_search_path_of_the_connection_decides_where_no_schema_is_set() {
    let database = TestDatabase::empty("search-path").await;
    let admin = database.connect().await;
    admin.batch_execute("create schema outbox; create schema other").await.unwrap();
    let set_path = async |path: &str| {
        let sql = format!("alter database {} set search_path = {path}", database.name());
        admin.batch_execute(&sql).await.unwrap();
    };
    set_path("outbox, public").await;
    database.migrate().await;
    assert!(relations(&admin, "outbox").await.len() > 15);
    assert_eq!(relations(&admin, "public").await, Vec::<String>::new());

    // An outbox that is not in the first schema of the path is found all the same, and what comes first does not get
    // new tables.
    set_path("other, outbox").await;
    outbox_relay(&["migrate", "status"]).env("DATABASE_URL", &database.url).run().await.expect_code(0);
    outbox_relay(&["migrate", "up", "--partitioned"]).env("DATABASE_URL", &database.url).run().await.expect_code(0);
    assert_eq!(relations(&admin, "other").await, Vec::<String>::new());

    // The path of the role changes while a process is at work.
    set_path("outbox, public").await;
    let settings = DatabaseConfig { url: Secret::new(database.url.clone()), ..DatabaseConfig::default() };
    let process = Database::new(&settings).unwrap();
    let path = async || -> String {
        let client = process.connect(Role::Lease).await.unwrap();
        client.query_one("select current_setting('search_path')", &[]).await.unwrap().get(0)
    };
    assert_eq!(path().await, "outbox, public", "the rest of the path stays: projections and triggers may need it");
    assert_eq!(process.schema(), Some("outbox"));
    set_path("other, public").await;
    assert_eq!(path().await, "outbox, other, public");
    admin.batch_execute("alter schema outbox rename to gone").await.unwrap();
    assert_eq!(path().await, "outbox", "no other outbox is looked for, and nothing else is taken for ours");
}

#[tokio::test]
async fn a_path_that_leads_nowhere_and_a_schema_that_may_not_be_used_are_told_by_name() {
    let database = TestDatabase::empty("no-schema").await;
    let admin = database.connect().await;
    admin.batch_execute(&format!("alter database {} set search_path = nowhere", database.name())).await.unwrap();
    let said = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(1).stderr;
    assert!(said.contains("search_path") && said.contains("outbox.schema"), "{said}");

    let role = unique("guest").replace('-', "_");
    admin.batch_execute(&format!("create role {role} login; create schema closed")).await.unwrap();
    let guest = TestDatabase { url: database.url.replacen("postgres@", &format!("{role}@"), 1) };
    let said = Outbox::of(&guest, "missing").run(&["migrate", "up"]).await.expect_code(1).stderr;
    assert!(said.contains("create schema missing"), "{said}");
    let said = Outbox::of(&guest, "closed").run(&["migrate", "up"]).await.stderr;
    assert!(said.contains("grant usage on schema closed"), "{said}");
    let said = Outbox::of(&guest, ODD).run(&["migrate", "up", "--dry-run"]).await.expect_code(1).stderr;
    assert!(said.contains(&format!("create schema {ODD_QUOTED}")), "{said}");
}

/// The list by which a connection knows a whole outbox has to grow with the migrations.
#[tokio::test]
async fn every_relation_of_ours_is_named_where_a_session_chooses_its_schema() {
    let database = TestDatabase::migrated("relations").await;
    let list = include_str!("../../src/db/sql/choose_schema.sql");
    for relation in relations(&database.connect().await, "public").await {
        assert!(list.contains(&format!("'{relation}'")), "{relation} is missing in choose_schema.sql");
    }
}
