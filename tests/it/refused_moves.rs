//! `shards set` over rows that refuse to be moved: each costs itself, its key waits for it where the key belongs, and
//! all others are moved.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::cli::{Finished, outbox_relay};
use crate::support::outbox::{counts, row, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Refuses every change of a row whose source is `no`, with the payload in its message, which must not be printed.
const TRIGGER: &str = "
    create function no() returns trigger language plpgsql as $$
    begin
      if old.source = 'no' then raise exception 'not %', old.payload; end if;
      return new;
    end $$;
    create trigger no before update on outbox_events for each row execute function no();";

/// Skips every change of such a row without an error.
const SKIP: &str = "
    create function no() returns trigger language plpgsql as $$
    begin
      if old.source = 'no' then return null; end if;
      return new;
    end $$;
    create trigger no before update on outbox_events for each row execute function no();";

/// Stand in another shard than their key's.
const STRAYS: &str = "shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)";

async fn ids(client: &Client, condition: &str) -> Vec<i64> {
    let statement = format!("select id from outbox_events where {condition} order by id");
    let rows = client.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// `events` over keys of their own, each with two rows, in this state; those of `bad` keys refuse. Returns the ids of
/// the bad ones.
async fn rows(client: &Client, topic: &str, state: &str, good: i64, bad: i64) {
    client
        .execute(
            "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, last_error, failed_at, source) \
             select 'Order', $2::text || k, 'OrderPaidEvent', $1, '{\"card\": \"s3cret\"}', $2, 'too-large: x', now(), case when k <= $4::bigint then 'no' end \
             from generate_series(1, $3::bigint + $4::bigint) as k, generate_series(1, 2) as place order by k, place",
            &[&topic, &state, &good, &bad],
        )
        .await
        .expect("rows");
    client
        .execute(
            "insert into outbox_held_keys (first_id, shard, partition_key, reason) \
             select min(id), min(shard), aggregate_id, 'failed' from outbox_events where status in ('FAILED', 'HELD') \
             group by aggregate_id on conflict do nothing",
            &[],
        )
        .await
        .expect("held keys");
}

async fn set(database: &TestDatabase, count: i64, code: i32) -> Finished {
    let call = outbox_relay(&["shards", "set", &count.to_string(), "--yes", "-o", "json"]);
    call.env("DATABASE_URL", &database.url).run().await.expect_code(code)
}

fn refused(report: &Value) -> Vec<i64> {
    let list = report["refused"].as_array().expect("a list");
    let mut ids: Vec<i64> = list.iter().map(|one| one["id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

/// What outcomes say, by event.
async fn outcomes(client: &Client) -> BTreeMap<i64, (String, String)> {
    let rows = client.query("select id, status, sqlstate from outbox_outcomes", &[]).await.expect("outcomes");
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

async fn retry_all(database: &TestDatabase) {
    let call = outbox_relay(&["events", "retry", "--all", "--status", "failed,held", "--yes"]);
    call.env("DATABASE_URL", &database.url).run().await.expect_code(0);
}

/// Promise: resharding.
#[tokio::test]
async fn any_number_of_rows_that_refuse_among_any_number_of_others() {
    let raising = [(0, 5), (1, 0), (1, 1), (2, 5), (30, 0), (9, 40)].map(|(bad, good)| (TRIGGER, "P0001", bad, good));
    let skipping = [(1, 1), (9, 40)].map(|(bad, good)| (SKIP, "27000", bad, good));
    for (trigger, sqlstate, bad, good) in raising.into_iter().chain(skipping) {
        let (database, topic) = tokio::join!(TestDatabase::migrated("refused-move"), Topic::create("refused-move", 3));
        let client = database.connect().await;
        rows(&client, &topic.name, "PENDING", good, bad).await;
        let before = ids(&client, "true").await;
        client.batch_execute(trigger).await.expect("a trigger of the application");
        let elsewhere = "outbox_shard_of(aggregate_id, id) <> \
                         (('x' || left(md5(aggregate_id), 8))::bit(32)::bigint & 2147483647) % 5";
        let stuck = ids(&client, &format!("source = 'no' and {elsewhere}")).await;
        let case = format!("{bad} bad keys, {good} good ones, {} stuck rows", stuck.len());
        let ended = set(&database, 5, if stuck.is_empty() { 0 } else { 5 }).await;
        let report = ended.json();
        assert_eq!(refused(&report), stuck, "{case}: {report}");
        assert_eq!(ids(&client, STRAYS).await, stuck, "{case}: all others were moved");
        assert!(!ended.stderr.contains("s3cret") && !ended.stdout.contains("s3cret"), "{case}");
        if !stuck.is_empty() {
            assert!(ended.stderr.contains(&format!("SQLSTATE {sqlstate}")), "{case}: {}", ended.stderr);
        }
        // Of each key the first row has failed and the second waits behind it, where the key is now.
        let outcomes = outcomes(&client).await;
        assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), stuck, "{case}");
        for (place, id) in stuck.iter().enumerate() {
            let expected = if place % 2 == 0 { "FAILED" } else { "HELD" };
            assert_eq!(outcomes[id], (expected.to_owned(), sqlstate.to_owned()), "{case}: event {id}");
        }
        let held = "select count(*) from outbox_held_keys where reason = 'failed' and release_at is null \
                    and shard = outbox_shard_of(partition_key, first_id)";
        let held: i64 = client.query_one(held, &[]).await.expect("held keys").get(0);
        assert_eq!(held, stuck.len() as i64 / 2, "{case}");
        if let Some(first) = stuck.first() {
            let failed = row(&client, *first).await;
            assert_eq!(failed.status, "FAILED", "{case}");
            assert!(failed.last_error.expect("a reason").starts_with("unchangeable: "), "{case}");
        }

        // What follows in a key waits as well, and all others flow.
        let behind = match stuck.first() {
            Some(first) => {
                let key: String = client
                    .query_one("select aggregate_id from outbox_events where id = $1", &[first])
                    .await
                    .expect("a key")
                    .get(0);
                Some(NewRow::new(&topic.name, &key, "{}").insert(&client).await)
            }
            None => None,
        };
        let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
        let flowing = before.len() - stuck.len();
        wait_until("the others are published", PATIENCE, async || {
            let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
            if published == flowing as i64 { Ok(()) } else { Err(format!("{published} of {flowing}")) }
        })
        .await;
        if let Some(behind) = behind {
            wait_until("the one behind waits", PATIENCE, async || {
                let status = row(&client, behind).await.status;
                if status == "HELD" { Ok(()) } else { Err(status) }
            })
            .await;
            // While the row still refuses, nothing is lost by trying.
            let call = outbox_relay(&["events", "retry", "--all", "--yes"]).env("DATABASE_URL", &database.url);
            call.run().await.expect_code(6);
            assert_eq!(row(&client, stuck[0]).await.status, "FAILED", "{case}");
            client.batch_execute("drop trigger no on outbox_events").await.expect("no trigger");
            retry_all(&database).await;
        }
        wait_until_published(&database, PATIENCE).await;
        expect_in_order(&client, &topic).await;
        assert_eq!(ids(&client, STRAYS).await, Vec::<i64>::new(), "{case}");
        relay.terminate().await;
    }
}

/// Every event once, and the events of a key in the order of their ids.
async fn expect_in_order(client: &Client, topic: &Topic) {
    let records = topic.records().await;
    let all = ids(client, "true").await;
    let mut sent: Vec<i64> = records.iter().map(crate::support::kafka::Record::outbox_id).collect();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for record in &records {
        let key = record.key_text().unwrap_or_default();
        let before = last.insert(key, record.outbox_id());
        assert!(before < Some(record.outbox_id()), "{key}: {before:?} before {}", record.outbox_id());
    }
    sent.sort_unstable();
    assert_eq!(sent, all, "each event once");
}

/// Rows that failed, or wait behind others, keep their state; fewer shards leave them in one that is gone, and a retry
/// brings them back.
///
/// Promise: resharding.
#[tokio::test]
async fn rows_that_failed_or_wait_come_back_from_a_shard_that_is_gone() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("refused-held"), Topic::create("refused-held", 3));
    let client = database.connect().await;
    rows(&client, &topic.name, "FAILED", 10, 10).await;
    rows(&client, &topic.name, "HELD", 10, 10).await;
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    let ended = set(&database, 2, 5).await;
    let stuck = ids(&client, STRAYS).await;
    assert_eq!(refused(&ended.json()), stuck);
    assert_eq!(ids(&client, &format!("source is null and {STRAYS}")).await, Vec::<i64>::new());
    let gone = ids(&client, "shard > 1").await;
    assert!(!gone.is_empty(), "some are in shards that are gone");
    assert_eq!(counts(&client).await, BTreeMap::from([("FAILED".to_owned(), 40), ("HELD".to_owned(), 40)]));

    // The second number of shards meets them again, and changes nothing about them.
    let kept = outcomes(&client).await;
    let ended = set(&database, 3, 5).await;
    assert_eq!(refused(&ended.json()), ids(&client, STRAYS).await);
    assert!(kept.keys().all(|id| stuck.contains(id)));
    assert_eq!(counts(&client).await, BTreeMap::from([("FAILED".to_owned(), 40), ("HELD".to_owned(), 40)]));

    client.batch_execute("drop trigger no on outbox_events").await.expect("no trigger");
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    retry_all(&database).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 80);
    expect_in_order(&client, &topic).await;
    relay.terminate().await;
}

/// What was published ahead of a watermark and cannot be marked is neither moved nor published again.
#[tokio::test]
async fn what_is_published_and_cannot_be_marked_is_not_published_again() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("refused-mark"), Topic::create("refused-mark", 3));
    let client = database.connect().await;
    rows(&client, &topic.name, "PENDING", 5, 5).await;
    client
        .batch_execute(
            "update outbox_shards s set ahead_ids = coalesce( \
             (select array_agg(id order by id) from outbox_events e where e.shard = s.shard), '{}')",
        )
        .await
        .expect("published ahead");
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    set(&database, 5, 0).await;
    assert_eq!(counts(&client).await, BTreeMap::from([("PUBLISHED".to_owned(), 20)]));
    let marked = ids(&client, "status = 'PUBLISHED'").await;
    assert_eq!((marked.len(), outcomes(&client).await.len()), (10, 10));
    let later = NewRow::new(&topic.name, "later", "{}").insert(&client).await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 21);
    let sent: Vec<i64> = topic.records().await.iter().map(crate::support::kafka::Record::outbox_id).collect();
    assert_eq!(sent, [later]);
    relay.terminate().await;
}

/// A statement that no row is to blame for ends the command while all can be taken back.
#[tokio::test]
async fn a_table_that_lets_nothing_be_moved_changes_no_number() {
    let database = TestDatabase::migrated("refused-all-moves").await;
    let client = database.connect().await;
    rows(&client, "t", "PENDING", 5, 0).await;
    client
        .batch_execute(
            "create function never() returns trigger language plpgsql as $$ begin raise exception 'never'; end $$; \
             create trigger never before update on outbox_events for each statement execute function never();",
        )
        .await
        .expect("a trigger of the application");
    let call = outbox_relay(&["shards", "set", "5", "--yes"]).env("DATABASE_URL", &database.url);
    let ended = call.run().await;
    assert_ne!(ended.code, Some(0), "{ended:?}");
    let facts = "select outbox_shard_count(), (select count(*) from outbox_shards where owner is not null), \
                 (select resharding_to from outbox_installation)";
    let facts = client.query_one(facts, &[]).await.expect("facts");
    assert_eq!((facts.get::<_, i32>(0), facts.get::<_, i64>(1), facts.get::<_, Option<i32>>(2)), (8, 0, None));
}
