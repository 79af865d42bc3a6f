//! Pauses of a topic and of everything.

use std::time::Duration;

use super::{MODES, PATIENCE, cli, expect_order, relay, wait_until_no_key_is_held};
use crate::support::outbox::{counts, insert_many, most_attempts, row, wait_for_status, wait_until_published};
use crate::support::{NewRow, TestDatabase, Topic, holds_for, http, side_by_side, wait_until};

/// Promise: pauses.
#[tokio::test]
async fn a_paused_topic_waits_in_order_while_others_flow_and_a_restart_does_not_wake_it() {
    side_by_side(MODES, async |mode| {
        let (database, quiet, busy) =
            tokio::join!(TestDatabase::migrated("pause"), Topic::create("quiet", 3), Topic::create("busy", 3));
        let client = database.connect().await;
        let settings = relay(&database, mode);
        let mut first = settings.start_ready().await;
        let pause = ["pause", "--topic", &quiet.name, "--reason", "upgrade", "-o", "json"];
        let paused = cli(&database, &pause).await.expect_code(0).json();
        assert_eq!((&paused[0]["topic"], &paused[0]["reason"]), (&quiet.name.as_str().into(), &"upgrade".into()));
        first.wait_for_metric("outbox_relay_paused", |topics| topics == 1.0).await;
        first.wait_for_readiness(200, &format!("\n[i]topic {} has been paused since 20", quiet.name)).await;
        insert_many(&client, &quiet.name, 10, 200).await;
        let other = NewRow::new(&busy.name, "other", "{}").insert(&client).await;
        // Behind an event of the paused topic its key waits, wherever it goes.
        let behind = NewRow::new(&busy.name, "k0", "{}").insert(&client).await;
        wait_for_status(&client, other, "PUBLISHED").await;
        wait_for_status(&client, behind, "HELD").await;
        first.terminate().await;
        let _second = settings.start_ready().await;
        let newer = NewRow::new(&busy.name, "newer", "{}").insert(&client).await;
        insert_many(&client, &quiet.name, 10, 100).await;
        wait_for_status(&client, newer, "PUBLISHED").await;
        assert_eq!(quiet.len().await, 0, "{mode}: it is paused");
        cli(&database, &["resume", "--topic", &quiet.name]).await.expect_code(0);
        wait_until_published(&database, PATIENCE).await;
        expect_order(&client, &quiet).await;
        assert_eq!(most_attempts(&client).await, 0);
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// Promise: pauses.
#[tokio::test]
async fn a_pause_of_everything_stops_every_instance_and_loses_nothing() {
    side_by_side(MODES, async |mode| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("pause-all"), Topic::create("pause-all", 3));
        let client = database.connect().await;
        let settings = relay(&database, mode);
        let first = settings.clone().instance("one").start_ready().await;
        let second = settings.instance("two").start_ready().await;
        insert_many(&client, &topic.name, 50, 6_000).await;
        cli(&database, &["pause", "--reason", "broker upgrade"]).await.expect_code(0);
        wait_until("both know, and nothing is in flight", PATIENCE, async || {
            let paused = first.metric("outbox_relay_paused").await + second.metric("outbox_relay_paused").await;
            // With the rows of all shards locked, no step is under way that has not heard of the pause.
            let flying =
                "select count(*) from (select batch_ids from outbox_shards for update) s where batch_ids is not null";
            let flying: i64 = client.query_one(flying, &[]).await.map_err(|error| error.to_string())?.get(0);
            if paused == 2.0 && flying == 0 { Ok(()) } else { Err(format!("{paused} know, {flying} batches")) }
        })
        .await;
        let late = NewRow::new(&topic.name, "late", "{}").insert(&client).await;
        let stopped = counts(&client).await;
        assert!(!stopped.contains_key("HELD"), "{mode}: {stopped:?}");
        for relay in [&first, &second] {
            // As information: it is ready all the same.
            let body = relay.wait_for_readiness(200, "\n[i]everything has been paused since 20").await;
            assert!(!body.contains("broker upgrade"), "what an operator typed is not for everybody: {body}");
        }
        holds_for("nothing moves", Duration::from_secs(2), async || {
            let now = counts(&client).await;
            if now == stopped { Ok(()) } else { Err(format!("{stopped:?}, then {now:?}")) }
        })
        .await;
        cli(&database, &["pause", "--dry-run"]).await.expect_code(0);
        assert_eq!(row(&client, late).await.status, "PENDING");
        cli(&database, &["resume"]).await.expect_code(0);
        wait_until_published(&database, PATIENCE).await;
        expect_order(&client, &topic).await;
        for relay in [&first, &second] {
            wait_until("it says that nothing is paused", PATIENCE, async || {
                match http::get(relay.admin(), "/readyz?verbose").await? {
                    (_, body) if body.contains("[i]") => Err(body),
                    _ => Ok(()),
                }
            })
            .await;
        }
        cli(&database, &["resume"]).await.expect_code(6);
        cli(&database, &["pause", "--topic", "no such topic"]).await.expect_code(2);
    })
    .await;
}
