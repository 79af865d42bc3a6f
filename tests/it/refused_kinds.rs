//! A single row may fail in many ways, also with errors by which PostgreSQL blames itself, and by taking long. Whatever
//! the way is, the commands and the cleaner do the rest. Each way is tried with each of them.

use tokio_postgres::Client;

use crate::support::cli::Finished;
use crate::support::{TestDatabase, outbox_relay, unique};

/// Rows of each kind, and which of them is the bad one.
const ROWS: i64 = 9;
const BAD: i64 = 5;

const SLOW: &str = "57014";

/// How a trigger fails for the row, by the SQLSTATE. None but the first is raised by the function itself.
const WAYS: &[(&str, &str)] = &[
    ("P0001", "raise exception 'not %', (coalesce(new, old)).payload"),
    ("22012", "perform 1 / 0"),
    ("42P01", "perform from no_such_table"),
    ("42501", "perform read_a_secret()"),
    ("58P01", "perform pg_read_file('/no/such/file')"),
    ("53400", "perform sort_much()"),
    ("25006", "perform write_in_vain()"),
    ("54000", "insert into long_keys select string_agg(md5(n::text), '') from generate_series(1, 1000) n"),
    ("23514", "insert into never values (1)"),
    ("55P03", "lock table kept in access exclusive mode nowait"),
    (SLOW, "loop perform 1; end loop"),
];

/// What the triggers call.
const SCENERY: &str = "
    create table secret (n int); create table long_keys (k text primary key); create table kept (n int);
    create table never (n int); alter table never add check (n = 0) not valid;
    create function read_a_secret() returns void language plpgsql security definer
        as $$ begin perform from secret; end $$;
    create function sort_much() returns void language plpgsql set temp_file_limit = 0 set work_mem = '64kB'
        as $$ begin perform count(*) from (select n from generate_series(1, 10000) n order by md5(n::text) offset 1) s; end $$;
    create function write_in_vain() returns void language plpgsql set transaction_read_only = on
        as $$ begin insert into secret values (1); end $$;";

struct Shop {
    database: TestDatabase,
    client: Client,
}

impl Shop {
    async fn open() -> Self {
        let database = TestDatabase::migrated("refused-kinds").await;
        let client = database.connect().await;
        client.batch_execute(SCENERY).await.expect("tables and functions");
        let role = unique("nobody").replace('-', "_");
        let owner = format!("create role {role}; alter function read_a_secret() owner to {role}");
        client.batch_execute(&owner).await.expect("a role without rights");
        Self { database, client }
    }

    /// Rows in this state, and a trigger that fails for one of them.
    async fn set_up(&self, status: &str, body: &str) {
        self.client
            .batch_execute("drop trigger if exists no on outbox_events; delete from outbox_events")
            .await
            .unwrap();
        let insert = "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, last_error, failed_at, published_at, created_at, source) \
             select 'Order', 'k' || n, 'OrderPaidEvent', 't', '{\"card\": \"s3cret\"}', $1::text, 'too-large: x', \
               now() - interval '90 days', now() - interval '90 days', now() - interval '90 days', case when n = $2::bigint then 'no' end \
             from generate_series(1, $3::bigint) as n";
        self.client.execute(insert, &[&status, &BAD, &ROWS]).await.expect("rows");
        let trigger = format!(
            "create or replace function no() returns trigger language plpgsql as $$ begin \
               if (coalesce(new, old)).source = 'no' then {body}; end if; return coalesce(new, old); end $$; \
             create trigger no before insert or update or delete on outbox_events for each row execute function no()"
        );
        self.client.batch_execute(&trigger).await.expect("a trigger");
    }

    async fn count(&self, condition: &str) -> i64 {
        let statement = format!("select count(*) from outbox_events where {condition}");
        self.client.query_one(&statement, &[]).await.expect("a count").get(0)
    }

    /// Statements may take a second where that is what the row is about.
    async fn run(&self, args: &[&str], sqlstate: &str) -> Finished {
        let limit = if sqlstate == SLOW { "1s" } else { "60s" };
        let call = outbox_relay(args).env("DATABASE_URL", &self.database.url);
        call.env("OUTBOX_RELAY_DATABASE__STATEMENT_TIMEOUT", limit).run().await
    }
}

fn expect_told(finished: &Finished, what: &str, sqlstate: &str) {
    assert!(finished.stderr.contains(&format!("SQLSTATE {sqlstate}")), "{what}: {finished:?}");
    assert!(!finished.stderr.contains("s3cret"), "{what}: {finished:?}");
}

#[tokio::test]
async fn a_row_that_cannot_be_deleted_for_any_reason() {
    let shop = Shop::open().await;
    let mut other = shop.database.connect().await;
    let kept = other.transaction().await.expect("a transaction");
    kept.batch_execute("lock table kept").await.expect("a lock");
    for (sqlstate, body) in WAYS {
        for state in ["published", "failed"] {
            shop.set_up(&state.to_uppercase(), body).await;
            let cleanup = ["cleanup", "--older-than", "30d", "--status", state, "--yes"];
            let finished = shop.run(&cleanup, sqlstate).await.expect_code(0);
            expect_told(&finished, state, sqlstate);
            assert_eq!(shop.count("true").await, 1, "{sqlstate}, {state}: {finished:?}");
        }
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_retried_or_discarded_for_any_reason() {
    let shop = Shop::open().await;
    let mut other = shop.database.connect().await;
    let kept = other.transaction().await.expect("a transaction");
    kept.batch_execute("lock table kept").await.expect("a lock");
    for (sqlstate, body) in WAYS {
        shop.set_up("FAILED", body).await;
        let finished = shop.run(&["events", "retry", "--all", "--yes", "-o", "json"], sqlstate).await.expect_code(5);
        let report = finished.json();
        assert_eq!(report["changed"], ROWS - 1, "{sqlstate}: {finished:?}");
        expect_told(&finished, "retry", sqlstate);
        assert_eq!(shop.count("status = 'HELD'").await, ROWS - 1, "{sqlstate}");
        shop.client.batch_execute("truncate outbox_held_keys").await.expect("no held keys");
        shop.set_up("FAILED", body).await;
        let finished = shop.run(&["events", "discard", "--all", "--yes", "-o", "json"], sqlstate).await.expect_code(0);
        let report = finished.json();
        assert_eq!((&report["changed"], &report["by_outcome"]), (&ROWS.into(), &1.into()), "{sqlstate}: {finished:?}");
        shop.client.batch_execute("truncate outbox_outcomes").await.expect("no outcomes");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_copied_for_any_reason() {
    let shop = Shop::open().await;
    let mut other = shop.database.connect().await;
    let kept = other.transaction().await.expect("a transaction");
    kept.batch_execute("lock table kept").await.expect("a lock");
    for (sqlstate, body) in WAYS {
        shop.set_up("PUBLISHED", body).await;
        let finished = shop.run(&["replay", "--topic", "t", "--yes", "-o", "json"], sqlstate).await.expect_code(5);
        expect_told(&finished, "replay", sqlstate);
        assert_eq!(shop.count("replay_of is not null").await, ROWS - 1, "{sqlstate}: {finished:?}");
    }
}

/// What is wrong for all rows is no fault of theirs: the command says so once, and the rows stay as they were.
#[tokio::test]
async fn what_fails_for_every_row_is_told_once() {
    let shop = Shop::open().await;
    shop.set_up("FAILED", "null").await;
    shop.client.batch_execute("update outbox_events set source = 'no'").await.expect("all of them");
    let body = "create or replace function no() returns trigger language plpgsql as $$ begin perform read_a_secret(); return new; end $$";
    shop.client.batch_execute(body).await.expect("the trigger");
    let finished = shop.run(&["events", "retry", "--all", "--yes"], "42501").await;
    assert!(finished.code != Some(0) && finished.code != Some(5), "{finished:?}");
    assert!(finished.stderr.contains("42501"), "{finished:?}");
    assert_eq!(shop.count("status = 'FAILED'").await, ROWS);
}
