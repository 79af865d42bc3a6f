//! `dlq redrive`: each dead letter goes back once, whoever else is at it.

use std::time::Duration;

use serde_json::Value;

use super::{Shop, states};
use crate::support::outbox::row;
use crate::support::parts::parts;
use crate::support::{Topic, outbox_relay, unique, wait_until};

/// Promise: redrive.
#[tokio::test]
async fn a_redrive_repeated_gives_one_delivery() {
    let shop = Shop::open("dlq-redrive", 2).await;
    let ids = shop.fail(20).await;
    shop.publish().await;
    // Where the claims begin has moved on since, and one row was cleaned up.
    shop.client.execute("update outbox_shards set low_id = 1000000", &[]).await.unwrap();
    shop.client.execute("delete from outbox_events where id = $1", &[&ids[7]]).await.unwrap();
    let dry = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--dry-run"]).run().await.expect_code(0).json();
    assert_eq!((&dry["reopened"], &dry["appended"]), (&19.into(), &1.into()), "{dry}");
    assert_eq!(row(&shop.client, ids[0]).await.status, "FAILED", "a dry run changes nothing");
    let noted = "select count(*) from outbox_redriven";
    assert_eq!(shop.client.query_one(noted, &[]).await.unwrap().get::<_, i64>(0), 0);

    let done = shop
        .dlq(&["redrive", "--topic", &shop.topic.name, "--yes", "--reason", "fixed"])
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!((&done["reopened"], &done["appended"], &done["refused"]), (&19.into(), &1.into(), &0.into()), "{done}");
    let open = row(&shop.client, ids[0]).await;
    assert_eq!((open.status.as_str(), open.retry_count, open.last_error), ("PENDING", 0, None));
    let again = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!(
        (&again["reopened"], &again["appended"], &again["left_alone"]),
        (&0.into(), &0.into(), &20.into()),
        "{again}"
    );
    shop.publish().await;
    shop.expect_each_delivered_once(20).await;
    // And when all is published.
    shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0);
    shop.publish().await;
    shop.expect_each_delivered_once(20).await;
    let listed = shop.dlq(&["ls"]).run().await.expect_code(0).json();
    assert!(states(&listed).iter().all(|state| *state == "redriven"), "{listed}");
    let audit = shop
        .client
        .query("select reason, details::text from outbox_audit where action = 'dlq redrive'", &[])
        .await
        .unwrap();
    assert_eq!((audit.len(), audit[0].get::<_, Option<String>>(0).as_deref()), (1, Some("fixed")));

    // It fails again: a new dead letter, which goes back as well; the old one stays where it is.
    shop.client
        .execute(
            "update outbox_events set status = 'FAILED', last_error = 'x', failed_at = now() where id = $1",
            &[&ids[0]],
        )
        .await
        .unwrap();
    shop.client
        .execute(
            "insert into outbox_events (event_id, aggregate_id, event_type, topic, payload, headers, dead_letter_of) \
             select event_id, aggregate_id, event_type, $2, payload, jsonb_build_object('original_topic', topic, 'failed_at', failed_at::text), id \
             from outbox_events where id = $1",
            &[&ids[0], &shop.letters.name],
        )
        .await
        .unwrap();
    shop.publish().await;
    let second = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!((&second["reopened"], &second["left_alone"]), (&1.into(), &20.into()), "{second}");
}

/// Promise: redrive.
#[tokio::test]
async fn a_dead_letter_without_a_row_becomes_the_event_that_it_was() {
    let shop = Shop::open("dlq-append", 1).await;
    let raw =
        shop.of_consumer("k1").without("payload").sql("payload_raw", r"'\x7b7dff'").text("created_at", "2026-04-01");
    let raw = raw.insert(&shop.client).await;
    shop.of_consumer("k2").without("payload").insert(&shop.client).await;
    shop.publish().await;
    let before = shop.letters.records().await;
    let done = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]).run().await.expect_code(0).json();
    assert_eq!(done["appended"], 2, "{done}");
    shop.publish().await;
    let after = shop.topic.wait_for_records(2).await;
    for letter in &before {
        let event = after.iter().find(|event| event.key == letter.key).expect("the same key");
        assert_eq!((&event.value, event.timestamp_ms), (&letter.value, letter.timestamp_ms));
        for name in ["outbox-event-id", "ce_type", "ce_subject", "ce_id", "ce_time", "content-type"] {
            assert_eq!(event.header(name), letter.header(name), "{name}");
        }
        for name in
            ["original_topic", "exception_class", "exception_message", "failed_at", "retry_count", "consumer_group"]
        {
            assert_eq!(event.header(name), None, "{name}");
        }
        assert_ne!(event.outbox_id(), raw, "a row of its own");
    }
}

/// Promise: redrive.
#[tokio::test]
async fn two_redrives_at_once_and_one_that_is_killed_send_each_dead_letter_back_once() {
    let shop = Shop::open("dlq-two", 3).await;
    let ids = shop.fail(600).await;
    shop.publish().await;
    // Half of them have no row any more.
    shop.client.execute("delete from outbox_events where id = any($1) and id % 2 = 0", &[&ids]).await.unwrap();
    // Half a minute at this rate: it is not over when the signal comes.
    let killed = shop.dlq(&["redrive", "--yes", "--rate", "20"]).start();
    wait_until("some went back", Duration::from_secs(30), async || {
        let noted: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
        if noted >= 20 { Ok(()) } else { Err(format!("{noted}")) }
    })
    .await;
    killed.signal("KILL");
    killed.finish().await;
    let before: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
    assert!(before < 600, "{before} when it was killed");

    let (one, two) =
        tokio::join!(shop.dlq(&["redrive", "--yes"]).run(), shop.dlq(&["redrive", "--yes", "--rate", "1000"]).run());
    let went = |finished: &Value| finished["reopened"].as_i64().unwrap() + finished["appended"].as_i64().unwrap();
    let (one, two) = (one.expect_code(0).json(), two.expect_code(0).json());
    assert_eq!(went(&one) + went(&two) + before, 600, "those that were left: {} and {}", went(&one), went(&two));
    shop.publish().await;
    shop.expect_each_delivered_once(600).await;
}

/// The other process has noted the dead letter and not committed yet: nothing but the note itself tells.
#[tokio::test]
async fn a_dead_letter_that_another_process_has_in_hand_is_left_to_it() {
    let mut shop = Shop::open("dlq-race", 1).await;
    let id = shop.fail(1).await[0];
    shop.publish().await;
    shop.client.execute("delete from outbox_events where id = $1", &[&id]).await.unwrap();
    let watch = shop.database.connect().await;
    let redrive = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]);
    let letter = shop.letters.records().await.remove(0);
    let other = shop.client.transaction().await.unwrap();
    other
        .execute(
            "insert into outbox_redriven (topic, partition, \"offset\", event_id, failed_at, actor) values ($1, 0, 0, $2::text::uuid, $3, 'other')",
            &[&shop.letters.name, &letter.header("outbox-event-id"), &letter.header("failed_at")],
        )
        .await
        .unwrap();
    let running = redrive.start();
    wait_until("it waits for the other", Duration::from_secs(30), async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = watch.query_one(waiting, &[]).await.unwrap().get(0);
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting}")) }
    })
    .await;
    other.commit().await.unwrap();
    let done = running.finish().await.expect_code(0).json();
    assert_eq!((&done["appended"], &done["left_alone"]), (&0.into(), &1.into()), "{done}");
    let pending = "select count(*) from outbox_current where status = 'PENDING'";
    assert_eq!(watch.query_one(pending, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// What `docs/roles.sql` gives to people who redrive and replay is what they need.
#[tokio::test]
async fn the_operator_of_the_documented_roles_can_redrive_and_replay() {
    let shop = Shop::open("dlq-role", 1).await;
    let ids = shop.fail(2).await;
    shop.publish().await;
    shop.client.execute("delete from outbox_events where id = $1", &[&ids[1]]).await.unwrap();
    let role = unique("operator").replace('-', "_");
    let script = std::fs::read_to_string(crate::support::repository().join("docs/roles.sql")).unwrap();
    let own = script.lines().filter(|line| line.contains("outbox_operator") && !line.starts_with("--"));
    let own: String =
        own.map(|line| line.replace("outbox_operator", &role).replace("nologin", "login") + "\n").collect();
    shop.client.batch_execute(&own).await.expect("the statements of docs/roles.sql");
    let (_, rest) = shop.database.url.split_once('@').expect("a user in the URL");
    let url = format!("postgres://{role}@{rest}");
    let done = shop
        .dlq(&["redrive", "--topic", &shop.topic.name, "--yes"])
        .env("DATABASE_URL", &url)
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!((&done["reopened"], &done["appended"]), (&1.into(), &1.into()), "{done}");
    shop.publish().await;
    let purge =
        shop.dlq(&["purge", "--topic", &shop.topic.name, "--yes"]).env("DATABASE_URL", &url).run().await.expect_code(0);
    assert!(!purge.stderr.contains("outbox_redriven"), "{}", purge.stderr);
    let replay = outbox_relay(&["replay", "--topic", &shop.topic.name, "--yes"]).env("DATABASE_URL", &url);
    replay.run().await.expect_code(0);
    let copies = "select count(*) from outbox_events where replay_of is not null";
    assert_eq!(shop.client.query_one(copies, &[]).await.unwrap().get::<_, i64>(0), 2);
}

/// A restored backup: the row that failed waits again, and so does its dead letter, whose record names the same id.
#[tokio::test]
async fn recover_takes_no_dead_letter_for_the_event_itself() {
    let shop = Shop::open("dlq-recover", 1).await;
    let failed = shop.fail(1).await[0];
    shop.publish().await;
    let letter: i64 = shop
        .client
        .query_one("select id from outbox_events where dead_letter_of = $1", &[&failed])
        .await
        .unwrap()
        .get(0);
    shop.client
        .batch_execute(
            "update outbox_events set status = 'PENDING', published_at = null, last_error = null; \
             update outbox_shards set batch_seq = 3, marked = true, batch_ids = array(select id from outbox_events order by id), \
               owner = null, lease_until = null \
             where shard = (select min(shard) from outbox_events)",
        )
        .await
        .unwrap();
    let deployment = unique("recovered");
    let recover = outbox_relay(&["recover", "--from-kafka", "--apply"]).env("DATABASE_URL", &shop.database.url);
    let recover =
        recover.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_RUN__DEPLOYMENT", &deployment);
    recover.run().await.expect_code(0);
    assert_eq!(row(&shop.client, letter).await.status, "PUBLISHED", "its record is there");
    assert_eq!(row(&shop.client, failed).await.status, "PENDING", "it never came to its topic");
}

#[tokio::test]
async fn what_cannot_go_back_is_told_and_the_others_go() {
    let shop = Shop::open("dlq-refused", 1).await;
    let ids = shop.fail(3).await;
    let nowhere = shop.of_consumer("k").text("headers", r#"{"exception_class": "Poison", "consumer_group": "g"}"#);
    nowhere.insert(&shop.client).await;
    let missing = Topic::planned("missing");
    shop.of_consumer("k")
        .text("headers", &format!(r#"{{"original_topic": "{}", "consumer_group": "g"}}"#, missing.name))
        .insert(&shop.client)
        .await;
    shop.publish().await;
    shop.client.execute("update outbox_events set status = 'DISCARDED' where id = $1", &[&ids[1]]).await.unwrap();
    shop.client
        .execute("insert into outbox_held_keys (first_id, shard, partition_key, reason) select id, shard, 'k3', 'failed' from outbox_events where id = $1", &[&ids[2]])
        .await
        .unwrap();
    let done = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(5);
    let said = done.json();
    assert_eq!((&said["reopened"], &said["left_alone"], &said["refused"]), (&1.into(), &1.into(), &3.into()), "{said}");
    for part in ["OR-U003", "original_topic", &missing.name, &format!("events retry {}", ids[2])] {
        assert!(done.stderr.contains(part), "it does not say {part}:\n{}", done.stderr);
    }
    assert_eq!(row(&shop.client, ids[2]).await.status, "FAILED");
    // Refused is not noted as gone back.
    let noted: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
    assert_eq!(noted, 1);
}
