//! What operators look at: the history of an event, the shards.

use std::time::Duration;

use crate::support::outbox::{insert_many, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

#[tokio::test]
async fn the_history_of_an_event_has_its_failure_its_dead_letter_and_its_consumers() {
    let database = TestDatabase::migrated("trace").await;
    let topic = Topic::planned("trace").created_with(1, &[("max.message.bytes", "20000")]).await;
    let dead = Topic { name: format!("{}-dlq", topic.name), ..topic.clone() }.created(1).await;
    let client = database.connect().await;
    let _relay = RelaySettings::new(&database, &parts().kafka)
        .steady()
        .set("retry.on_exhausted", "dead-letter")
        .start_ready()
        .await;
    let noise = "to_jsonb((select string_agg(md5(random()::text), '') from generate_series(1, 1000)))";
    let bad =
        NewRow::new(&topic.name, "k", "{}").sql("payload", noise).text("correlation_id", "c-17").insert(&client).await;
    wait_for_status(&client, bad, "FAILED").await;
    dead.wait_for_records(1).await;
    wait_until("the dead letter is settled", Duration::from_secs(30), async || {
        let settled = "select count(*) from outbox_current where dead_letter_of = $1 and status = 'PUBLISHED'";
        let settled: i64 = client.query_one(settled, &[&bad]).await.map_err(|error| error.to_string())?.get(0);
        if settled == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let handled = "insert into event_handled (consumer_group, event_id, topic, partition, \"offset\") \
                   select 'shop', event_id, $1, 0, 0 from outbox_events where id = $2";
    client.execute(handled, &[&dead.name, &bad]).await.expect("a consumer");
    let url = &database.url;
    let discard = outbox_relay(&["events", "discard", &bad.to_string(), "--reason", "seen"]).env("DATABASE_URL", url);
    discard.run().await.expect_code(0);

    let by_id = outbox_relay(&["events", "trace", &bad.to_string(), "-o", "json"]).env("DATABASE_URL", url);
    let by_id = by_id.run().await.expect_code(0).json();
    let by_correlation = outbox_relay(&["events", "trace", "--correlation-id", "c-17", "-o", "json"]);
    assert_eq!(by_correlation.env("DATABASE_URL", url).run().await.expect_code(0).json(), by_id);
    let lines = by_id.as_array().expect("a list");
    let mut whats: Vec<&str> = lines.iter().map(|line| line["what"].as_str().expect("text")).collect();
    assert_eq!(whats.last(), Some(&"discard"), "{by_id:#}");
    whats.sort_unstable();
    assert_eq!(whats, ["discard", "discarded", "handled", "inserted", "inserted", "published"], "{by_id:#}");
    let of = |what: &str| lines.iter().find(|line| line["what"] == what).expect("it is there");
    assert_eq!(of("published")["topic"], dead.name.as_str());
    assert_eq!(of("published")["offset"], 0);
    assert!(of("discarded")["details"].as_str().is_some_and(|text| text.starts_with("too-large: ")));
    assert!(of("discard")["details"].as_str().is_some_and(|text| text.ends_with(": seen")));
    assert!(of("handled")["details"].as_str().is_some_and(|text| text.contains("shop")));
    let unknown = outbox_relay(&["events", "trace", "999999"]).env("DATABASE_URL", url).run().await.expect_code(6);
    assert!(unknown.stderr.contains("OR-U002"), "{}", unknown.stderr);
    outbox_relay(&["events", "trace"]).env("DATABASE_URL", url).run().await.expect_code(2);
}

#[tokio::test]
async fn shards_show_their_owner_and_nobody_when_it_has_gone() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("shards-ls"), Topic::create("shards-ls", 3));
    let client = database.connect().await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().instance("only-one").start_ready().await;
    insert_many(&client, &topic.name, 100, 1_000).await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    let ls = || outbox_relay(&["shards", "ls", "-o", "json"]).env("DATABASE_URL", &database.url).run();
    let owned = ls().await.expect_code(0).json();
    let owned = owned.as_array().expect("a list");
    assert_eq!(owned.len(), 8);
    for shard in owned {
        assert_eq!((&shard["owner"], &shard["held_keys"]), (&"only-one".into(), &0.into()), "{shard}");
        assert!(shard["lease_left_seconds"].as_f64().is_some_and(|left| (0.0..=60.0).contains(&left)), "{shard}");
    }
    assert!(owned.iter().map(|shard| shard["batch"].as_i64().expect("a number")).sum::<i64>() >= 8, "{owned:?}");
    relay.terminate().await;
    let free = ls().await.expect_code(0).json();
    assert!(free.as_array().expect("a list").iter().all(|shard| shard["owner"].is_null()), "{free}");
}
