//! What applications may write: what is their own to say, and rows that were there before the table refused them.

use outbox_relay::outbox::grants::Who;

use super::{PATIENCE, Place};
use crate::support::outbox::{insert_many, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, repository, wait_until};

/// What is the relay's: whoever may only insert cannot say it.
const INTERNAL: &[(&str, &str)] = &[
    ("id", "9223372036854775807"),
    ("status", "'PUBLISHED'"),
    ("retry_count", "2147483647"),
    ("last_error", "'x'"),
    ("published_at", "now()"),
    ("published_partition", "0"),
    ("published_offset", "0"),
    ("failed_at", "now()"),
    ("replay_of", "1"),
    ("dead_letter_of", "0"),
    ("dead_letter_to", "'payments'"),
    ("dead_letter_from", "'payments'"),
];

#[tokio::test]
async fn an_application_inserts_what_is_its_own_to_say_and_nothing_else() {
    let place = Place::open().await;
    let app = place.session(Who::App).await;
    let insert = |column: &str, value: &str| {
        format!(
            "insert into outbox_events (event_type, topic, {column}) overriding system value values ('E', 't', {value})"
        )
    };
    for (column, value) in INTERNAL {
        let refused = app.batch_execute(&insert(column, value)).await.expect_err(column);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{column}");
    }
    app.batch_execute("insert into outbox_events (event_type, topic) values ('E', 't')").await.expect("an event");
    for statement in [
        "select * from outbox_events",
        "update outbox_events set topic = 'x'",
        "delete from outbox_events",
        "select * from outbox_shards",
    ] {
        let refused = app.batch_execute(statement).await.expect_err(statement);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{statement}");
    }
    // With a grant on the whole table, as of an earlier version: what would harm others is refused by the table.
    place.owner.batch_execute("grant insert on outbox_events to outbox_app").await.expect("a grant");
    for (column, value, constraint) in [
        ("id", "9223372036854775807", "outbox_events_id_range"),
        ("id", "0", "outbox_events_id_range"),
        ("id", "-9223372036854775808", "outbox_events_id_range"),
        ("dead_letter_of", "0", "outbox_events_dead_letter_of_id"),
        ("dead_letter_to", "'payments'", "outbox_events_dead_letter_to_failed"),
    ] {
        let refused = app.batch_execute(&insert(column, value)).await.expect_err(column);
        let answer = refused.as_db_error().expect("an answer of the server");
        assert_eq!((answer.code().code(), answer.constraint()), ("23514", Some(constraint)), "{column} = {value}");
    }
}

/// An event that is passed off as a dead letter goes no further than any other.
#[tokio::test]
async fn allowed_topics_hold_for_what_is_passed_off_as_a_dead_letter() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("passed-off"), Topic::create("passed-off", 1));
    let payments = Topic::create("payments", 1).await;
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .file(&format!("[routing]\nallowed_topics = [\"{}\"]\n[retry]\non_exhausted = \"dead-letter\"\n", topic.name));
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let relay = settings.start_ready().await;
    let false_letter = NewRow::new(&payments.name, "k", "{}").sql("dead_letter_of", "1").insert(&client).await;
    wait_for_status(&client, false_letter, "FAILED").await;
    let error = row(&client, false_letter).await.last_error.unwrap_or_default();
    assert!(error.starts_with("topic-not-allowed"), "{error}");
    // A row that says it failed, with a dead letter for that topic.
    NewRow::new(&topic.name, "k2", "{}")
        .text("status", "FAILED")
        .text("last_error", "x: y")
        .text("dead_letter_to", &payments.name)
        .insert(&client)
        .await;
    let letter =
        "select coalesce(max(id), 0) from outbox_events where topic = $1 and dead_letter_of is not null and id <> $2";
    let letter = wait_until("its dead letter is written", PATIENCE, async || {
        let id: i64 =
            client.query_one(letter, &[&payments.name, &false_letter]).await.map_err(|error| error.to_string())?.get(0);
        if id > 0 { Ok(id) } else { Err("none".to_owned()) }
    })
    .await;
    wait_for_status(&client, letter, "FAILED").await;
    // Those of the settings go where they should.
    NewRow::new(&topic.name, "k3", "{}").text("headers", r#"{"a": 1}"#).insert(&client).await;
    letters.wait_for_records(1).await;
    assert_eq!(payments.len().await, 0);
    drop(relay);
}

/// Rows that break a check were there before it: it is left out, what is done with them goes on, and `check` says so.
#[tokio::test]
async fn an_outbox_with_rows_that_break_the_checks_is_brought_up_to_date() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("broken"), Topic::create("broken", 1));
    let client = database.connect().await;
    let script = std::fs::read_to_string(repository().join("migrations/V11__checks.sql")).expect("the migration");
    let drop_checks = "alter table outbox_events drop constraint outbox_events_id_range, \
         drop constraint outbox_events_dead_letter_of_id, drop constraint outbox_events_dead_letter_to_failed";
    let constraints = async || -> Vec<(String, bool)> {
        let rows = "select conname::text, convalidated from pg_constraint where conrelid = 'outbox_events'::regclass and contype = 'c' \
             and conname in ('outbox_events_id_range', 'outbox_events_dead_letter_of_id', 'outbox_events_dead_letter_to_failed') order by 1";
        let rows = client.query(rows, &[]).await.expect("constraints");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    assert!(constraints().await.iter().all(|(_, valid)| *valid), "a new outbox has them whole");
    client.batch_execute(drop_checks).await.expect("as in 0.1");
    insert_many(&client, &topic.name, 5, 20).await;
    client.batch_execute(&script).await.expect("the migration");
    assert_eq!(constraints().await.len(), 3);
    client.batch_execute(drop_checks).await.expect("as in 0.1");
    let bad = [
        NewRow::new(&topic.name, "a", "{}").sql("dead_letter_of", "0").insert(&client).await,
        NewRow::new(&topic.name, "b", "{}").text("dead_letter_to", "payments").insert(&client).await,
    ];
    let highest = format!(
        "insert into outbox_events (id, aggregate_id, event_type, topic) overriding system value values ({}, 'c', 'E', '{}')",
        i64::MAX,
        topic.name
    );
    client.batch_execute(&highest).await.expect("as a table-wide grant lets an application");
    client.batch_execute(&script).await.expect("the migration");
    assert_eq!(constraints().await, []);
    for tracking in ["rows", "watermark"] {
        let mut relay =
            RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", tracking).start_ready().await;
        insert_many(&client, &topic.name, 5, 20).await;
        wait_until("every row is published", PATIENCE, async || {
            let left = "select count(*) from outbox_current where status <> 'PUBLISHED' and dead_letter_of is null";
            let left: i64 = client.query_one(left, &[]).await.map_err(|error| error.to_string())?.get(0);
            if left == 0 { Ok(()) } else { Err(left.to_string()) }
        })
        .await;
        // An id at the end of the range makes no lane deaf.
        assert!(!relay.log_text().contains("bigint out of range"), "{}", relay.log_text());
        relay.terminate().await;
    }
    assert_eq!(row(&client, bad[1]).await.status, "PUBLISHED");
    let checked = outbox_relay(&["check", "-o", "json"]).env("DATABASE_URL", &database.url);
    let checked = checked.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.stdout;
    assert!(checked.contains("outbox_events_id_range"), "{checked}");
}
