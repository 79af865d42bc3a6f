//! Rows that a constraint, a trigger or a foreign key of the application does not let the product write: each costs
//! itself, and the command or the schedule does the rest.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::row;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: i64 = 9;

/// Raises for rows whose source is `no`, with the payload in its message, which must not be printed.
const TRIGGER: &str = "
    create function no() returns trigger language plpgsql as $$
    begin
      if old.source = 'no' then raise exception 'not %', old.payload; end if;
      if tg_op = 'DELETE' then return old; end if;
      return new;
    end $$;
    create trigger no before update or delete on outbox_events for each row execute function no();";

/// `bad` of [`ROWS`] rows in this state, the bad ones in the middle. Returns all ids and those of the bad ones.
async fn rows(client: &Client, topic: &str, state: &str, bad: i64) -> (Vec<i64>, Vec<i64>) {
    let found = client
        .query(
            "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, last_error, failed_at, published_at, created_at, source) \
             select 'Order', 'k' || n, 'OrderPaidEvent', $1, '{\"card\": \"s3cret\"}', $2::text, 'too-large: x', \
               now() - interval '90 days', now() - interval '90 days', now() - interval '90 days', \
               case when n >= 4 and n < 4 + $3::bigint then 'no' end \
             from generate_series(1, $4::bigint) as n returning id, source is not null",
            &[&topic, &state, &bad, &ROWS],
        )
        .await
        .expect("rows");
    let of = |bad: bool| found.iter().filter(|row| !bad || row.get(1)).map(|row| row.get(0)).collect();
    (of(false), of(true))
}

async fn count(client: &Client, condition: &str) -> i64 {
    let statement = format!("select count(*) from outbox_events where {condition}");
    client.query_one(&statement, &[]).await.expect("a count").get(0)
}

#[tokio::test]
async fn a_dead_letter_that_the_table_refuses_keeps_no_other_from_being_written() {
    for bad in [1, 2] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("refused-letter"), Topic::create("refused", 1));
        let client = database.connect().await;
        let (ids, bad_ids) = rows(&client, &topic.name, "FAILED", bad).await;
        client.execute("update outbox_events set dead_letter_to = topic", &[]).await.expect("due");
        let rule = "alter table outbox_events add check (dead_letter_of is null or source is distinct from 'no')";
        client.batch_execute(rule).await.expect("a rule of the application");
        let settings = RelaySettings::new(&database, &parts().kafka).steady();
        let mut relay = settings.start_ready().await;
        wait_until("the other dead letters are published", PATIENCE, async || {
            let found = count(&client, "dead_letter_of is not null").await;
            if found == ROWS - bad { Ok(()) } else { Err(format!("{found} dead letters of {}", ids.len())) }
        })
        .await;
        assert_eq!(count(&client, "dead_letter_to is not null").await, bad, "the others are no longer due");
        for id in &bad_ids {
            assert_eq!(row(&client, *id).await.status, "FAILED");
        }
        relay.wait_for_log("SQLSTATE 23514").await;
        let log = relay.log_text();
        assert!(!log.contains("s3cret"), "{log}");
        // Once the rule is gone they are written, too: after a minute, or at once by a relay that has not met them.
        client.batch_execute("alter table outbox_events drop constraint outbox_events_check").await.expect("no rule");
        relay.terminate().await;
        let _relay = settings.start_ready().await;
        wait_until("all are written", PATIENCE, async || {
            let due = count(&client, "dead_letter_to is not null").await;
            if due == 0 { Ok(()) } else { Err(format!("{due} are due")) }
        })
        .await;
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_changed_keeps_no_other_from_a_retry_or_a_discard() {
    for (action, done) in [("retry", "HELD"), ("discard", "DISCARDED")] {
        for bad in [1, 2, ROWS - 3] {
            let database = TestDatabase::migrated("refused-redo").await;
            let client = database.connect().await;
            let (_, bad_ids) = rows(&client, "t", "FAILED", bad).await;
            client.batch_execute(TRIGGER).await.expect("a trigger of the application");
            let call = outbox_relay(&["events", action, "--all", "--yes", "-o", "json"]);
            let ended = call.env("DATABASE_URL", &database.url).run().await;
            let report = ended.json();
            if action == "discard" {
                // Their outcomes say it in the stead of the rows.
                assert_eq!((ended.code, &report["changed"]), (Some(0), &ROWS.into()), "{report}");
                assert_eq!(
                    (&report["by_outcome"], &report["refused"]),
                    (&bad.into(), &serde_json::json!([])),
                    "{report}"
                );
                let given_up = "select array_agg(id order by id) from outbox_outcomes where status = 'DISCARDED'";
                let given_up: Vec<i64> = client.query_one(given_up, &[]).await.expect("outcomes").get(0);
                assert_eq!(given_up, bad_ids);
                assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
                continue;
            }
            let finished = ended.expect_code(5);
            assert_eq!(report["changed"], ROWS - bad, "{report}");
            let refused: Vec<i64> = report["refused"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|row| row["id"].as_i64().expect("an id"))
                .collect();
            assert_eq!(refused, bad_ids, "{action}");
            assert!(finished.stderr.contains("SQLSTATE P0001") && !finished.stderr.contains("s3cret"), "{finished:?}");
            assert_eq!(count(&client, &format!("status = '{done}'")).await, ROWS - bad, "{action}");
            assert_eq!(count(&client, "status = 'FAILED'").await, bad, "{action}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_the_table_refuses_keeps_no_other_from_being_replayed() {
    for bad in [1, 2] {
        let database = TestDatabase::migrated("refused-copy").await;
        let client = database.connect().await;
        rows(&client, "t", "PUBLISHED", bad).await;
        let rule = "alter table outbox_events add check (replay_of is null or source is distinct from 'no')";
        client.batch_execute(rule).await.expect("a rule of the application");
        let call = outbox_relay(&["replay", "--topic", "t", "--yes", "-o", "json"]);
        let finished = call.env("DATABASE_URL", &database.url).run().await.expect_code(5);
        assert!(finished.stderr.contains("SQLSTATE 23514") && !finished.stderr.contains("s3cret"), "{finished:?}");
        assert_eq!(count(&client, "replay_of is not null").await, ROWS - bad);
        let keys = "select string_agg(aggregate_id, ',' order by id) from outbox_events where replay_of is not null";
        let order: String = client.query_one(keys, &[]).await.expect("keys").get(0);
        let expected: Vec<String> = (1..=ROWS).filter(|n| !(4..4 + bad).contains(n)).map(|n| format!("k{n}")).collect();
        assert_eq!(order, expected.join(","), "in the old order");
    }
}

/// It does not go past all events without a copy and call that done.
#[tokio::test]
async fn a_table_that_refuses_every_copy_ends_the_replay_with_the_reason() {
    let database = TestDatabase::migrated("refused-all").await;
    let client = database.connect().await;
    for _ in 0..15 {
        rows(&client, "t", "PUBLISHED", 0).await;
    }
    client.batch_execute("alter table outbox_events add check (replay_of is null)").await.expect("a rule");
    let call = outbox_relay(&["replay", "--topic", "t", "--yes"]).env("DATABASE_URL", &database.url);
    let finished = call.run().await.expect_code(5);
    assert!(finished.stderr.contains("rejects every copy") && finished.stderr.contains("--resume"), "{finished:?}");
    let reached: i64 = client.query_one("select last_id from outbox_replays", &[]).await.expect("a replay").get(0);
    assert!(reached < 15 * ROWS, "it ended before the last row: {reached}");
}

#[tokio::test]
async fn an_old_row_that_cannot_be_deleted_keeps_no_other_from_being_cleaned_up() {
    for state in ["PUBLISHED", "FAILED"] {
        for bad in [1, 2] {
            let database = TestDatabase::migrated("refused-delete").await;
            let client = database.connect().await;
            let (_, bad_ids) = rows(&client, "t", state, bad).await;
            client
                .batch_execute("create table receipts (event bigint references outbox_events)")
                .await
                .expect("a table of the application");
            client.execute("insert into receipts select unnest($1::bigint[])", &[&bad_ids]).await.expect("receipts");
            let status = state.to_lowercase();
            let call = outbox_relay(&["cleanup", "--older-than", "30d", "--status", &status, "--yes"]);
            let finished = call.env("DATABASE_URL", &database.url).run().await.expect_code(0);
            assert!(finished.stderr.contains("SQLSTATE 23503"), "{finished:?}");
            assert_eq!(count(&client, "true").await, bad, "{state}: {finished:?}");
        }
    }
}
