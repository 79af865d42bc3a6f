//! Events whose outcome stands in `outbox_outcomes` because their rows refuse to be changed: everything that asks what
//! waits, or what has failed, goes by the outcome.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::outbox::audit::Author;
use outbox_relay::outbox::restart::{Restart, begin_again};
use outbox_relay::outbox::{recovery, retry_discard};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::outbox::{counts, row, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const TRIGGER: &str = "
    create function no() returns trigger language plpgsql as $$
    begin
      if old.source = 'no' then raise exception 'not %', old.payload; end if;
      return new;
    end $$;
    create trigger no before update on outbox_events for each row execute function no();";

fn ours(database: &TestDatabase) -> Database {
    let settings = DatabaseConfig { url: Secret::new(database.url.clone()), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a URL")
}

fn author() -> Author {
    Author { actor: "test".to_owned(), reason: None }
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn outcome(client: &Client, id: i64) -> Option<String> {
    let found = client.query_opt("select status from outbox_outcomes where id = $1", &[&id]).await;
    found.expect("a look").map(|row| row.get(0))
}

/// Notes an outcome, as a step does, and that the key waits for it.
async fn fail(client: &Client, id: i64) {
    client
        .execute(
            "insert into outbox_outcomes (id, event_id, status, sqlstate, last_error, key_md5) \
             select id, event_id, 'FAILED', 'P0001', 'unchangeable: x', md5(aggregate_id) from outbox_events where id = $1",
            &[&id],
        )
        .await
        .expect("an outcome");
    client
        .execute(
            "insert into outbox_held_keys (first_id, shard, partition_key, reason) \
             select id, shard, aggregate_id, 'failed' from outbox_events where id = $1",
            &[&id],
        )
        .await
        .expect("a held key");
}

/// The dead letter goes out, the key goes on, and the dead letter can go back once the row can be changed.
#[tokio::test]
async fn an_event_that_cannot_be_marked_as_failed_has_its_dead_letter() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("refused-dlq"), Topic::create("refused-dlq", 1));
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let client = database.connect().await;
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    let bad = NewRow::new(&topic.name, "k", "{}").text("headers", r#"{"a": 1}"#).text("source", "no");
    let bad = bad.insert(&client).await;
    let behind = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("retry.on_exhausted", "dead-letter");
    let mut relay = settings.start_ready().await;
    let letter = letters.wait_for_records(1).await;
    assert_eq!(letter[0].outbox_id(), bad);
    assert_eq!(letter[0].header("exception_class"), Some("invalid-headers"));
    assert_eq!(letter[0].header("original_topic"), Some(topic.name.as_str()));
    wait_for_status(&client, behind, "PUBLISHED").await;
    let failed = row(&client, bad).await;
    assert_eq!((failed.status.as_str(), failed.retry_count), ("FAILED", 1));
    let failures = "outbox_relay_publish_failures_total";
    // Counted once, although its first step failed.
    relay.wait_for_metric(failures, |counted| counted == 1.0).await;

    client.batch_execute("drop trigger no on outbox_events").await.expect("no trigger");
    client.execute("update outbox_events set headers = null where id = $1", &[&bad]).await.expect("corrected");
    let dlq = |args: &[&str]| {
        let args = [&["dlq"], args, &["-o", "json"]].concat();
        outbox_relay(&args).env("DATABASE_URL", &database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
    };
    let list = dlq(&["ls"]).run().await.expect_code(0).json();
    assert_eq!(list[0]["state"], "waiting", "{list}");
    let sent = dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!(sent["reopened"], 1, "{sent}");
    wait_for_status(&client, bad, "PUBLISHED").await;
    let again = dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!((&again["reopened"], &again["appended"]), (&0.into(), &0.into()), "{again}");
    assert_eq!(topic.records().await.len(), 2);
    assert_eq!(relay.metric(failures).await, 1.0, "and not again");
    relay.terminate().await;
}

/// While a shard looks for bad rows it reads by ids; a row that somebody has locked is left alone all the same.
#[tokio::test]
async fn a_locked_row_waits_while_its_shard_looks_for_bad_ones() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("refused-busy"), Topic::create("refused-busy", 1));
    let (client, mut other) = tokio::join!(database.connect(), database.connect());
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    client.batch_execute("delete from outbox_shards where shard > 0; create or replace function outbox_shard_count() returns int language sql immutable parallel safe return 1").await.expect("one shard");
    for n in 0..5 {
        let bad = NewRow::new(&topic.name, &format!("bad{n}"), "{}").text("source", "no");
        bad.text("headers", "[]").insert(&client).await;
    }
    let locked = NewRow::new(&topic.name, "locked", "{}").insert(&client).await;
    let good = NewRow::new(&topic.name, "good", "{}").insert(&client).await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("update outbox_events set source = 'mine' where id = $1", &[&locked]).await.expect("a lock");
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", "rows");
    let mut relay = settings.start_ready().await;
    wait_for_status(&client, good, "PUBLISHED").await;
    wait_until("the bad ones are set aside", PATIENCE, async || {
        let found = number(&client, "select count(*) from outbox_outcomes").await;
        if found == 5 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let sent: Vec<i64> = topic.records().await.iter().map(crate::support::Record::outbox_id).collect();
    assert_eq!(sent, [good], "the locked one waits");
    lock.rollback().await.expect("a rollback");
    wait_for_status(&client, locked, "PUBLISHED").await;
    relay.terminate().await;
}

/// `recover` neither looks for what has an outcome, nor ends at a row that cannot be marked.
#[tokio::test]
async fn recover_goes_by_outcomes_and_notes_them() {
    let database = TestDatabase::migrated("refused-recover").await;
    let client = database.connect().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let source = if n == 1 { "no" } else { "yes" };
        ids.push(NewRow::new("t", &format!("k{n}"), "{}").text("source", source).insert(&client).await);
    }
    client
        .execute(
            "update outbox_shards s set batch_seq = 1, done_id = 100, low_id = 101, batch_ids = \
             (select array_agg(id order by id) from outbox_events e where e.shard = s.shard and id = any($1))",
            &[&ids],
        )
        .await
        .expect("batches in flight");
    fail(&client, ids[0]).await;
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    let pool = ours(&database).pool(Role::Admin, 2);
    let shards = recovery::shards(&pool).await.expect("shards");
    let all: Vec<i16> = shards.iter().map(|shard| shard.shard).collect();
    for in_flight in [true, false] {
        let found = recovery::candidates(&pool, &all, in_flight).await.expect("candidates");
        assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..], "in flight: {in_flight}");
    }
    for shard in shards.iter().filter(|shard| shard.in_flight.is_some()) {
        let found = shard.in_flight.iter().flatten().filter(|id| ids[1..3].contains(id));
        let found: Vec<_> = found.map(|id| (*id, 0, 7)).collect();
        assert!(recovery::apply(&pool, shard, None, &found, &author()).await.expect("recovered"));
    }
    assert_eq!(outcome(&client, ids[1]).await.as_deref(), Some("PUBLISHED"), "it could not be marked");
    let states: Vec<String> = client
        .query("select status from outbox_current order by id", &[])
        .await
        .expect("states")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(states, ["FAILED", "PUBLISHED", "PUBLISHED", "PENDING"]);
    let again: Vec<i64> =
        client.query("select id from outbox_again", &[]).await.expect("a list").iter().map(|row| row.get(0)).collect();
    assert_eq!(again, [ids[3]], "nothing else waits again");
}

/// Ids that begin again: outcomes of events that are gone are forgotten, those that are there keep their keys and are
/// not taken for published.
#[tokio::test]
async fn ids_that_begin_again_leave_outcomes_as_they_are() {
    let database = TestDatabase::migrated("refused-restart").await;
    let client = database.connect().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let source = if n == 1 { "no" } else { "yes" };
        ids.push(NewRow::new("t", &format!("k{n}"), "{}").text("source", source).insert(&client).await);
    }
    fail(&client, ids[0]).await;
    fail(&client, ids[3]).await;
    client.execute("delete from outbox_events where id = $1", &[&ids[3]]).await.expect("gone");
    // All that is left was published by the watermark, and the sequence was set back.
    client
        .batch_execute(
            "update outbox_shards set done_id = 100, low_id = 101; select setval('outbox_events_id_seq', 1, false)",
        )
        .await
        .expect("set back");
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    let pool = ours(&database).pool(Role::Admin, 2);
    let shards = begin_again(&pool, Uuid::new_v4(), Restart::Beyond).await.expect("begun again");
    assert_eq!(shards.len(), 8);
    let states = counts(&client).await;
    assert_eq!((states.get("PUBLISHED"), states.get("FAILED"), states.len()), (Some(&2), Some(&1), 2), "{states:?}");
    assert_eq!(outcome(&client, ids[0]).await.as_deref(), Some("FAILED"));
    assert_eq!(outcome(&client, ids[1]).await.as_deref(), Some("PUBLISHED"));
    assert_eq!(outcome(&client, ids[3]).await, None);
    let held = "select count(*) from outbox_held_keys where release_at is null";
    assert_eq!(number(&client, held).await, 1, "the key of the failed one still waits");
}

/// A retry of what waits behind such an event takes the event along; the schedule finds it as well; and a key that is
/// corrected moves it to another shard without making it count as published.
#[tokio::test]
async fn what_failed_by_its_outcome_is_retried_first() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("refused-first"), Topic::create("refused-first", 3));
    let client = database.connect().await;
    let first = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    fail(&client, first).await;
    let behind = NewRow::new(&topic.name, "k", "{}").sql("status", "'HELD'").insert(&client).await;
    let moved = NewRow::new(&topic.name, "other", "{}").insert(&client).await;
    fail(&client, moved).await;
    client.batch_execute("update outbox_shards set done_id = 100, low_id = 101").await.expect("a watermark");
    client
        .execute("update outbox_events set aggregate_id = 'corrected' where id = $1", &[&moved])
        .await
        .expect("a key");
    assert_eq!(row(&client, moved).await.status, "FAILED", "it is not taken for a published one");

    let pool = ours(&database).pool(Role::Admin, 2);
    let acted =
        retry_discard::act(&pool, &[behind], retry_discard::Action::Retry, &author(), |_| true).await.expect("retried");
    assert_eq!((acted.changed, acted.refused.len()), (2, 0));
    client.batch_execute("update outbox_outcomes set at = now() - interval '1 day'").await.expect("a day ago");
    let acted =
        retry_discard::reprocess(&pool, Duration::from_secs(3_600), 100).await.expect("retried by the schedule");
    assert_eq!(acted.changed, 1);
    client.batch_execute("select setval('outbox_events_id_seq', 200)").await.expect("ids above the watermark");
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", "watermark");
    let mut relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 3);
    let sent = crate::support::kafka::sent_ids(&topic.records().await);
    assert_eq!(sent.get("k"), Some(&vec![first, behind]));
    assert_eq!(sent.get("corrected"), Some(&vec![moved]));
    relay.terminate().await;
}

/// A trigger that skips a change raises no error: the commands name the rows all the same, and no dead letter is
/// written again and again.
#[tokio::test]
async fn a_change_that_is_skipped_without_an_error_is_noticed() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("skipped"), Topic::create("skipped", 1));
    let client = database.connect().await;
    let mut ids = Vec::new();
    for n in 0..6 {
        let failed =
            NewRow::new(&topic.name, &format!("k{n}"), "{}").text("status", "FAILED").text("last_error", "x: y");
        let failed = failed.text("source", if n == 2 { "no" } else { "yes" }).sql("failed_at", "now()");
        ids.push(failed.text("dead_letter_to", &topic.name).insert(&client).await);
    }
    let skip = "create function no() returns trigger language plpgsql as $$ \
                begin if old.source = 'no' then return null; end if; return new; end $$; \
                create trigger no before update on outbox_events for each row execute function no();";
    client.batch_execute(skip).await.expect("a trigger of the application");
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    let later = NewRow::new(&topic.name, "later", "{}").insert(&client).await;
    wait_until("the others are written, and the one is named", PATIENCE, async || {
        let letters = number(&client, "select count(*) from outbox_events where dead_letter_of is not null").await;
        if letters == 5 && relay.log_text().contains("27000") { Ok(()) } else { Err(letters.to_string()) }
    })
    .await;
    wait_for_status(&client, later, "PUBLISHED").await;
    assert_eq!(number(&client, "select count(*) from outbox_events where dead_letter_to is not null").await, 1);
    relay.terminate().await;
    let call = |action| {
        let call = outbox_relay(&["events", action, "--all", "--status", "failed,held", "--yes", "-o", "json"]);
        call.env("DATABASE_URL", &database.url).run()
    };
    let ended = call("retry").await.expect_code(5);
    let report = ended.json();
    assert_eq!((&report["changed"], &report["refused"][0]["id"]), (&5.into(), &ids[2].into()), "{report}");
    assert!(ended.stderr.contains("SQLSTATE 27000"), "{}", ended.stderr);
    let report = call("discard").await.expect_code(0).json();
    assert_eq!((&report["changed"], &report["by_outcome"]), (&6.into(), &1.into()), "{report}");
    assert_eq!(row(&client, ids[2]).await.status, "DISCARDED");
    assert_eq!(number(&client, "select count(*) from outbox_events where status = 'FAILED'").await, 1);
}
