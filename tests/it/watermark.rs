//! `relay.tracking = "watermark"`: no row is written to when it is published, and every promise holds. `make
//! test-watermark` runs the tests of the promises themselves with it.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, insert_many, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, order, outbox_relay, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn relay(database: &TestDatabase, delivery: &str, deployment: &str) -> RelaySettings {
    RelaySettings::new(database, &parts().kafka)
        .steady()
        .set("relay.tracking", "watermark")
        .set("relay.delivery", delivery)
        .set("run.deployment", deployment)
        .set("relay.batch_rows", "50")
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn report(client: &Client, topic: &Topic) -> order::Report {
    order::check(&committed_ids(client).await, &sent_ids(&topic.records().await))
}

/// Over a SIGKILL with batches in flight.
async fn nothing_is_written(delivery: &str) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("watermark"), Topic::create("watermark", 6));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 100, 20_000).await;
    // In at-least-once delivery the shards of the killed one wait for it.
    let settings = relay(&database, delivery, &unique("watermark")).set("relay.lease", "10s");
    let mut first = settings.start();
    wait_until("some are published", PATIENCE, async || {
        let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
        if published > 5_000 { Ok(()) } else { Err(published.to_string()) }
    })
    .await;
    first.kill().await;
    let mut second = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 20_000);
    let report = report(&client, &topic).await;
    report.expect_kept();
    if delivery == "exactly-once" {
        report.expect_no_repeats();
    }
    second.terminate().await;
    // xmin: those of one transaction were not changed since it inserted them. What was in flight and not sent waited
    // again, and is marked.
    let changed = "select count(*) - (select count(*) from outbox_events group by xmin::text order by 1 desc limit 1) from outbox_events";
    let changed = number(&client, changed).await;
    assert!(changed <= 8 * 50, "{changed} rows were written to");
    assert_eq!(changed, number(&client, "select count(*) from outbox_events where status = 'PUBLISHED'").await);
    assert_eq!(number(&client, "select sum(cardinality(ahead_ids)) from outbox_shards").await, 0);
}

/// Promise: watermark.
#[tokio::test]
async fn no_row_is_written_to_when_it_is_published() {
    nothing_is_written("at-least-once").await;
}

/// Promise: watermark.
#[tokio::test]
async fn no_row_is_written_to_when_it_is_published_exactly_once() {
    nothing_is_written("exactly-once").await;
}

/// A transaction that stays open keeps the watermark back. What is published meanwhile is noted, and marked when that
/// is too much.
///
/// Promise: watermark.
#[tokio::test]
async fn what_is_published_ahead_of_an_open_transaction_is_known() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("ahead"), Topic::create("ahead", 6));
    let mut writer = database.connect().await;
    let client = database.connect().await;
    let settings = relay(&database, "at-least-once", "ahead");
    let mut first = settings.start_ready().await;
    let open = writer.transaction().await.expect("begin");
    let mut early = Vec::new();
    for n in 0..16 {
        let statement = NewRow::new(&topic.name, &format!("early-{n}"), "{}").statement();
        early.push(open.query_one(&statement, &[]).await.expect("insert").get::<_, i64>(0));
    }
    let published = async |expected: i64| {
        wait_until("the others are published", PATIENCE, async || {
            let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
            if published == expected { Ok(()) } else { Err(format!("{published} of {expected}")) }
        })
        .await;
    };
    let ahead = "select sum(cardinality(ahead_ids))::bigint from outbox_shards";
    insert_many(&client, &topic.name, 50, 500).await;
    published(500).await;
    assert!(number(&client, "select max(done_id) from outbox_shards").await < early[0]);
    // In the order of a clean end, so the other one has nothing to repeat.
    first.terminate().await;
    assert_eq!(number(&client, ahead).await, 500);
    let second = settings.start_ready().await;
    // More than fits: 512 for each of eight shards.
    for round in 1..=4 {
        insert_many(&client, &topic.name, 50, 2_000).await;
        published(500 + round * 2_000).await;
    }
    assert!(number(&client, "select count(*) from outbox_events where status = 'PUBLISHED'").await > 2_000);
    assert!(number(&client, "select max(cardinality(ahead_ids))::bigint from outbox_shards").await <= 512);
    assert!(number(&client, "select max(done_id) from outbox_shards").await < early[0]);
    open.commit().await.expect("commit");
    for id in &early {
        wait_for_status(&client, *id, "PUBLISHED").await;
    }
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    // The watermark passes them without another event.
    wait_until("nothing is ahead of the watermark", PATIENCE, async || {
        let left = number(&client, ahead).await;
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    second.expect_no_error_lines();
}

/// Events that fail, are retried, wait for their time or behind another one are passed by the watermark, and go all the
/// same.
///
/// Promise: watermark.
#[tokio::test]
async fn what_waits_below_the_watermark_goes_in_order() {
    for delivery in ["at-least-once", "exactly-once"] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("again"), Topic::create("again", 3));
        let client = database.connect().await;
        let settings = relay(&database, delivery, &unique("again")).set("relay.lease", "3s");
        let mut first = settings.start_ready().await;
        let bad = NewRow::new(&topic.name, "k1", "{}").text("headers", r#"{"a": 1}"#).insert(&client).await;
        let delayed =
            NewRow::new(&topic.name, "k2", "{}").sql("available_at", "now() + interval '3 s'").insert(&client).await;
        insert_many(&client, &topic.name, 10, 3_000).await;
        wait_for_status(&client, bad, "FAILED").await;
        wait_for_status(&client, delayed, "PUBLISHED").await;
        let behind = "select count(*) from outbox_events where status = 'HELD'";
        wait_until("k1 alone waits", PATIENCE, async || {
            let held = number(&client, behind).await;
            if held == 300 { Ok(()) } else { Err(held.to_string()) }
        })
        .await;
        // Every shard gets events that are not held: a batch of held ones alone moves no watermark.
        insert_many(&client, &topic.name, 100, 200).await;
        wait_until("the watermark has passed them", PATIENCE, async || {
            let lowest = number(&client, "select min(done_id) from outbox_shards where done_id > 0").await;
            if lowest > bad { Ok(()) } else { Err(lowest.to_string()) }
        })
        .await;
        client.execute("update outbox_events set headers = null where id = $1", &[&bad]).await.expect("a correction");
        outbox_relay(&["events", "retry", &bad.to_string()])
            .env("DATABASE_URL", &database.url)
            .run()
            .await
            .expect_code(0);
        wait_until("some of the held ones go", PATIENCE, async || {
            let held = number(&client, behind).await;
            if held < 302 { Ok(()) } else { Err(held.to_string()) }
        })
        .await;
        // Whatever is in flight of them is sent again by the next one.
        first.kill().await;
        let _second = settings.start_ready().await;
        assert_eq!(wait_until_published(&database, PATIENCE).await, 3_202, "{delivery}");
        let report = report(&client, &topic).await;
        report.expect_kept();
        if delivery == "exactly-once" {
            report.expect_no_repeats();
        }
        assert_eq!(number(&client, "select count(*) from outbox_again").await, 0);
        let early = "select count(*) from outbox_current where id = $1 and published_at < available_at";
        let row = client.query_one(early, &[&delayed]).await.expect("a look");
        assert_eq!(row.get::<_, i64>(0), 0, "the watermark passed it earlier, but it was published later");
    }
}

/// With another number of shards an event comes from a shard that has passed its id into one that has passed none, or
/// another id.
///
/// Promise: watermark.
#[tokio::test]
async fn what_waits_below_the_watermark_moves_to_another_shard() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("moved"), Topic::create("moved", 6));
    let client = database.connect().await;
    let settings = relay(&database, "at-least-once", "moved");
    let shards = async |number: &str| {
        let command = outbox_relay(&["shards", "set", number, "--yes"]).env("DATABASE_URL", &database.url);
        let command =
            command.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_RUN__DEPLOYMENT", "moved");
        command.run().await.expect_code(0);
    };
    for (round, number) in ["16", "3", "16"].into_iter().enumerate() {
        let mut bad = Vec::new();
        for n in 0..20 {
            let row = NewRow::new(&topic.name, &format!("bad-{round}-{n}"), "{}").text("headers", r#"{"a": 1}"#);
            bad.push(row.insert(&client).await);
        }
        let mut relay = settings.start_ready().await;
        insert_many(&client, &topic.name, 50, 1_000).await;
        // An open transaction elsewhere on the server holds the watermark back, while what is published ahead of it
        // already counts.
        let above = "select count(*) from outbox_events e join outbox_shards s using (shard) where e.id = any($1) and e.id > s.done_id";
        wait_until("what is good is published, and the watermark has passed all", PATIENCE, async || {
            let counts = counts(&client).await;
            let above: i64 = client.query_one(above, &[&bad]).await.map_err(|error| error.to_string())?.get(0);
            let done = counts.get("FAILED") == Some(&20) && counts.len() == 2 && above == 0;
            if done { Ok(()) } else { Err(format!("{counts:?}, {above} of the bad ones above the watermark")) }
        })
        .await;
        relay.terminate().await;
        // As if they were released a moment before the relay stopped.
        let release = "with released as ( \
                update outbox_events set status = 'PENDING', headers = null, failed_at = null where id = any($1) returning id, shard), \
              free as (delete from outbox_held_keys where first_id = any($1)) \
            insert into outbox_again (id, shard) select r.id, r.shard from released r join outbox_shards s on s.shard = r.shard and r.id <= s.done_id";
        assert_eq!(client.execute(release, &[&bad]).await.expect("a release"), 20, "the watermark has passed them all");
        shards(number).await;
        let mut relay = settings.start_ready().await;
        let all = (round as i64 + 1) * 1_020;
        let published = wait_until("every row is published", Duration::from_secs(20), async || {
            let counts = counts(&client).await;
            if counts.get("PUBLISHED") == Some(&all) { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        published.await;
        relay.terminate().await;
    }
    report(&client, &topic).await.expect_kept().expect_no_repeats();
}

/// From rows to a watermark and back, while events flow.
///
/// Promise: watermark.
#[tokio::test]
async fn the_tracking_may_be_changed_at_any_time() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("switch"), Topic::create("switch", 6));
    let client = database.connect().await;
    let settings = relay(&database, "at-least-once", "switch");
    for (round, tracking) in ["rows", "watermark", "rows", "watermark"].into_iter().enumerate() {
        insert_many(&client, &topic.name, 50, 3_000).await;
        let mut relay = settings.clone().set("relay.tracking", tracking).start_ready().await;
        insert_many(&client, &topic.name, 50, 500).await;
        assert_eq!(wait_until_published(&database, PATIENCE).await, (round as i64 + 1) * 3_500);
        assert_eq!(relay.metric("outbox_relay_sweep_found_below_watermark_total").await, 0.0);
        relay.terminate().await;
    }
    report(&client, &topic).await.expect_kept().expect_no_repeats();
    let marked = "select count(*) from outbox_events where status = 'PUBLISHED'";
    assert!((7_000..9_000).contains(&number(&client, marked).await), "half of them were marked");
}

/// Rows that nobody marked go when the watermark had passed them long enough ago, and no other.
///
/// Promise: watermark.
#[tokio::test]
async fn rows_go_when_the_watermark_passed_them_long_ago() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("passed"), Topic::create("passed", 3));
    let client = database.connect().await;
    let settings = relay(&database, "at-least-once", "passed");
    let mut first = settings.start_ready().await;
    insert_many(&client, &topic.name, 20, 1_000).await;
    wait_until_published(&database, PATIENCE).await;
    first.terminate().await;
    // Notes are a minute apart, and an instance begins with one.
    client.execute("delete from outbox_progress", &[]).await.expect("a delete");
    let mut second = settings.start_ready().await;
    wait_until("it is noted how far the shards are", PATIENCE, async || {
        let missing = "select count(*) from (select shard, max(id) as last from outbox_events group by shard) e \
                       where not exists (select 1 from outbox_progress p where p.shard = e.shard and p.done_id >= e.last)";
        let missing = number(&client, missing).await;
        if missing == 0 { Ok(()) } else { Err(format!("{missing} shards")) }
    })
    .await;
    client.execute("update outbox_progress set at = now() - interval '8 days'", &[]).await.expect("an update");
    insert_many(&client, &topic.name, 20, 500).await;
    wait_until_published(&database, PATIENCE).await;
    second.terminate().await;
    // Nobody looks any more, so these wait.
    insert_many(&client, &topic.name, 20, 250).await;
    let cleanup = async |extra: &[&str]| {
        let args = [&["cleanup", "-o", "json", "--older-than", "7d", "--status", "published"], extra].concat();
        outbox_relay(&args).env("DATABASE_URL", &database.url).run().await.expect_code(0).json()
    };
    assert_eq!(cleanup(&["--dry-run"]).await[0]["found"], 1_000);
    assert_eq!(cleanup(&["--yes"]).await[0]["deleted"], 1_000);
    assert_eq!(counts(&client).await, [("PENDING".to_owned(), 250), ("PUBLISHED".to_owned(), 500)].into());
    assert_eq!(number(&client, "select min(id) from outbox_events").await, 1_001);
}
