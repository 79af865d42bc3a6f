//! Commands that act on what they have found a moment ago: what somebody else has changed meanwhile is told apart from
//! what was done, with the reason, and the command ends with status 5.

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use crate::support::cli::{Call, Finished};
use crate::support::{NewRow, TestDatabase, outbox_relay, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the command, and commits when it waits for the lock.
async fn while_it_waits(client: &Client, lock: Transaction<'_>, call: Call) -> Finished {
    let meanwhile = async {
        wait_for_waiter(client).await;
        lock.commit().await.expect("committed");
    };
    let (finished, ()) = tokio::join!(call.run(), meanwhile);
    finished
}

async fn wait_for_waiter(client: &Client) {
    wait_until("the command waits for the lock", PATIENCE, async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = client.query_one(waiting, &[]).await.map_err(|error| error.to_string())?.get(0);
        if waiting > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_left_while_a_command_chose_them_are_told_apart() {
    for action in ["retry", "discard"] {
        let database = TestDatabase::migrated("overtaken").await;
        let (client, mut other) = tokio::join!(database.connect(), database.connect());
        let mut ids = Vec::new();
        for n in 0..4 {
            ids.push(NewRow::new("t", &format!("k{n}"), "{}").insert(&client).await);
        }
        let fail = "update outbox_events set status = 'FAILED', failed_at = now(), last_error = 'too-large: x'";
        client.batch_execute(fail).await.expect("failed");
        let lock = other.transaction().await.expect("a transaction");
        lock.batch_execute("select from outbox_shards for update").await.expect("the shards");
        let set = "update outbox_events set status = $2, published_at = now() where id = $1";
        lock.execute(set, &[&ids[0], &"PUBLISHED"]).await.expect("published");
        lock.execute("update outbox_events set status = 'DISCARDED' where id = $1", &[&ids[1]])
            .await
            .expect("given up");
        lock.execute("delete from outbox_events where id = $1", &[&ids[2]]).await.expect("deleted");
        let call = outbox_relay(&["events", action, "--all", "--yes", "-o", "json"]).env("DATABASE_URL", &database.url);
        let finished = while_it_waits(&client, lock, call).await.expect_code(5);
        let report = finished.json();
        assert_eq!((&report["matched"], &report["changed"]), (&4.into(), &1.into()), "{report}");
        let expected = serde_json::json!([
            { "status": null, "events": 1 },
            { "status": "DISCARDED", "events": 1 },
            { "status": "PUBLISHED", "events": 1 },
        ]);
        assert_eq!(report["unchanged"], expected, "{report}");
        assert!(finished.stderr.contains("3 of 4 events were no longer FAILED or HELD"), "{}", finished.stderr);
        let audited = "select details -> 'ids' from outbox_audit where action = $1";
        let audited: serde_json::Value = client.query_one(audited, &[&action]).await.expect("audited").get(0);
        assert_eq!(audited, serde_json::json!([ids[3]]), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_events_that_left_while_a_command_chose_them_are_told_apart() {
    for (action, changed, words) in [
        ("release", 1, "1 folded meanwhile, 1 released already, 1 discarded already"),
        ("discard", 2, "1 folded meanwhile, 1 discarded already"),
    ] {
        let database = TestDatabase::migrated("overtaken-parked").await;
        let (client, mut other) = tokio::join!(database.connect(), database.connect());
        let park = "insert into consumer_parked (consumer_group, event_id, topic, partition, \"offset\", error)
            select 'g', gen_random_uuid(), 't', 0, n, 'x' from generate_series(1, 4) n";
        client.batch_execute(park).await.expect("parked");
        let lock = other.transaction().await.expect("a transaction");
        let change = "delete from consumer_parked where \"offset\" = 1;
            update consumer_parked set release_asked_at = now() where \"offset\" = 2;
            update consumer_parked set discarded_at = now() where \"offset\" = 3";
        lock.batch_execute(change).await.expect("changed");
        let mut args = vec!["consumer", "parked", action, "--group", "g", "--all", "--yes", "-o", "json"];
        if action == "release" {
            args.push("--no-wait");
        }
        let call = outbox_relay(&args).env("DATABASE_URL", &database.url);
        let finished = while_it_waits(&client, lock, call).await.expect_code(5);
        let report = finished.json();
        assert_eq!((&report["matched"], &report["changed"]), (&4.into(), &changed.into()), "{report}");
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
        assert_eq!(report["unchanged"]["gone"], 1, "{report}");
    }
}
