//! A conversion that has to wait for transactions of others, and one that is killed meanwhile.

use std::time::Duration;

use tokio_postgres::Client;

use super::{LIMIT, convert, files, published, texts};
use crate::partitions::names;
use crate::support::outbox::row;
use crate::support::parts::parts;
use crate::support::{NewRow, TestDatabase, holds_for, outbox_relay, repository, wait_until};

/// Inserts as they must go on, whatever the command waits for: one that waited for the command would wait for ever,
/// because the command waits for the test.
async fn inserts_work(client: &Client, duration: Duration) {
    holds_for("inserts work", duration, async || {
        let new = NewRow::new("t", "k", "{}");
        tokio::time::timeout(LIMIT, new.insert(client)).await.map_err(|_| "one waits".to_owned())?;
        Ok(())
    })
    .await;
}

/// A session counts what it has read when it ends, a moment after its command.
async fn wait_until_commands_have_left(client: &Client) {
    wait_until("the sessions of commands have ended", LIMIT, async || {
        let sessions = "select count(*)::text from pg_stat_activity \
            where datname = current_database() and application_name like 'outbox-relay%'";
        let sessions = texts(client, sessions).await;
        if sessions == ["0"] { Ok(()) } else { Err(format!("{sessions:?}")) }
    })
    .await;
}

/// Waits until the command says that it waits.
async fn wait_until_it_waits(database: &TestDatabase) {
    let client = database.connect().await;
    wait_until("the command has asked for the lock in vain", LIMIT, async || {
        let asked = "select count(*)::text from pg_stat_activity where datname = current_database() \
            and application_name = 'outbox-relay admin' and state = 'idle' and (query like '%pg_locks%' or query = 'ROLLBACK')";
        match texts(&client, asked).await[0].as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}

/// Promise: partitioning.
#[tokio::test]
async fn a_transaction_that_stays_open_keeps_the_conversion_waiting_and_nobody_else() {
    let database = TestDatabase::migrated("convert-open").await;
    let (client, mut other) = (database.connect().await, database.connect().await);
    published(&client, 3_000, 0.0).await;
    let open = other.transaction().await.unwrap();
    let early: i64 = open.query_one(&NewRow::new("t", "late", "{}").statement(), &[]).await.unwrap().get(0);
    let command = convert(&database, 1_000).start();
    wait_until_it_waits(&database).await;
    inserts_work(&client, Duration::from_secs(4)).await;
    assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
    // Somebody who looks at the sequence comes in the way later: with the table locked, and everything is taken back.
    let mut third = database.connect().await;
    let looking = third.transaction().await.unwrap();
    looking.query_one("select last_value from outbox_events_id_seq", &[]).await.unwrap();
    open.commit().await.unwrap();
    inserts_work(&client, Duration::from_secs(4)).await;
    assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
    looking.rollback().await.unwrap();
    let said = command.finish().await.expect_code(0).stderr;
    assert!(said.contains("waiting until no transaction") && said.contains("s old"), "{said}");
    assert_eq!(row(&client, early).await.status, "PENDING");
    assert!(names(&client).await.len() >= 3);
}

/// A transaction that only reads keeps the command from the lock here.
///
/// Promise: partitioning.
#[tokio::test]
async fn a_conversion_that_is_killed_at_any_step_refuses_nothing_and_is_gone_on_with() {
    let database = TestDatabase::migrated("convert-killed").await;
    let (client, mut other) = (database.connect().await, database.connect().await);
    published(&client, 3_000, 0.0).await;
    let before = files(&client, "outbox_events").await;
    let step = |name: &str| {
        std::fs::read_to_string(repository().join("src/migrations/conversion/sql").join(name))
            .expect("a statement of the command")
    };
    let check =
        "select coalesce((select convalidated::text from pg_constraint where conname = 'outbox_events_bound'), 'none')";
    // Killed before the check is there; after that, which it then finds and validates; and before the exchange.
    for (done, left) in [(None, "none"), (Some("bound.sql"), "true"), (None, "true")] {
        if let Some(done) = done {
            client.batch_execute(&step(done)).await.unwrap();
        }
        let reading = other.transaction().await.unwrap();
        reading.query_one("select max(id) from outbox_events", &[]).await.unwrap();
        let command = convert(&database, 1_000).start();
        wait_until_it_waits(&database).await;
        inserts_work(&client, Duration::from_secs(1)).await;
        let end = "select count(pg_terminate_backend(pid))::text from pg_stat_activity \
            where datname = current_database() and application_name = 'outbox-relay admin'";
        assert_eq!(texts(&client, end).await, ["1"]);
        let said = command.finish().await.expect_code(4).stderr;
        reading.rollback().await.unwrap();
        assert!(said.contains("OR-P001"), "{said}");
        assert_eq!(texts(&client, check).await, [left], "{said}");
        assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
        NewRow::new("t", "k", "{}").insert(&client).await;
    }
    // Nothing can fail the check that stayed behind, not even the highest id of all.
    let highest = "begin; insert into outbox_events (id, event_type) overriding system value values (4611686018427387904, 'E'); rollback";
    client.batch_execute(highest).await.unwrap();
    let checked = outbox_relay(&["check", "-o", "json"])
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
        .run()
        .await;
    let finding = &checked.json()["findings"];
    let finding = finding.as_array().unwrap().iter().find(|finding| finding["check"] == "schema.partitions").unwrap();
    assert_eq!(finding["level"], "warning", "{finding}");
    outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(0);
    // Once validated, nothing reads the table again: above all not the exchange, under its lock.
    client.batch_execute("alter table outbox_events validate constraint outbox_events_bound").await.unwrap();
    let read = "select pg_stat_get_tuples_returned($1)";
    let table: u32 = client.query_one("select 'outbox_events'::regclass::oid", &[]).await.unwrap().get(0);
    let read = async || -> i64 {
        client.batch_execute("select pg_stat_force_next_flush(); select pg_stat_clear_snapshot()").await.unwrap();
        client.query_one(read, &[&table]).await.unwrap().get(0)
    };
    wait_until_commands_have_left(&client).await;
    let read_before = read().await;
    let said = convert(&database, 1_000).run().await.expect_code(0).stderr;
    assert!(said.contains("continuing"), "{said}");
    wait_until_commands_have_left(&client).await;
    assert_eq!(read().await, read_before, "rows were read under the lock");
    assert_eq!(files(&client, "outbox_events_p1").await, before);
    assert_eq!(texts(&client, check).await, ["none"]);
    assert_eq!(texts(&client, "select count(*)::text from pg_proc where proname = 'outbox_events_bound'").await, ["0"]);
}
