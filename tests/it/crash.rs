//! Crashes at chosen places. `ordering.rs` has those at random ones.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{PrivateKafka, Record, Signal, TestDatabase, Topic, parts::parts, wait_until};

/// Every shard with its bound, its batch and what waits in it, for messages.
async fn shards(client: &Client) -> String {
    let rows = client
        .query(
            "select format('%s: low_id %s, %s in flight, waiting %s to %s', s.shard, low_id, cardinality(batch_ids), min(id), max(id)) \
             from outbox_shards s left join outbox_events e on e.shard = s.shard and status = 'PENDING' group by s.shard order by 1",
            &[],
        )
        .await
        .expect("shards");
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("; ")
}

/// Waits until a batch of `count` rows is in flight, all shards together.
async fn wait_for_flight(client: &Client, count: i64) {
    wait_until(&format!("{count} rows are in flight"), Duration::from_secs(30), async || {
        let sum = "select coalesce(sum(cardinality(batch_ids)), 0)::bigint from outbox_shards";
        let found: i64 = client.query_one(sum, &[]).await.expect("shards").get(0);
        if found == count { Ok(()) } else { Err(format!("{found} rows; {}", shards(client).await)) }
    })
    .await;
}

async fn wait_for_len(topic: &Topic, count: i64) {
    wait_until(&format!("Kafka has {count} records"), Duration::from_secs(30), async || {
        let found = topic.len().await;
        if found == count { Ok(()) } else { Err(format!("{found} records")) }
    })
    .await;
}

/// The leases of a killed relay end, as they would in time. Only where Kafka has everything that it sent.
async fn end_leases(client: &Client) {
    let end = "update outbox_shards set lease_until = clock_timestamp() - interval '1 second' where owner is not null; \
               delete from outbox_instances";
    client.batch_execute(end).await.expect("the leases end");
}

/// Everything acknowledged, nothing marked yet, SIGKILL: the worst moment. The batch is sent again, the whole of it, in
/// the same order, and nothing else is.
///
/// Promise: at-least-once.
#[tokio::test]
async fn a_crash_between_acknowledgement_and_mark_repeats_the_batch_in_the_same_order() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("worst"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "worst", 3).await;
    let (client, mut lock) = (database.connect().await, database.connect().await);
    // Every shard may have its batch in flight at once.
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("relay.parallel_batches", "8");
    let mut relay = settings.start_ready().await;
    insert_many(&client, &topic.name, 40, 200).await;
    wait_until_published(&database, Duration::from_secs(30)).await;

    kafka.pause().await;
    insert_many(&client, &topic.name, 40, 200).await;
    wait_for_flight(&client, 200).await;
    // With the shards locked, no lane gets past its fence: it can be told that all is acknowledged, and mark nothing.
    let transaction = lock.transaction().await.expect("begin");
    transaction.execute("select from outbox_shards for update", &[]).await.expect("the lock");
    kafka.resume().await;
    wait_for_len(&topic, 400).await;
    relay.kill().await;
    transaction.rollback().await.expect("rollback");
    end_leases(&client).await;
    assert_eq!(counts(&client).await.get("PENDING"), Some(&200), "nothing of the batch was marked");
    insert_many(&client, &topic.name, 40, 200).await;

    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 600);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_late_repeats();
    assert_eq!((report.repeats, report.reruns), (200, 40), "the batch again, once, for each of the 40 keys");
    assert_eq!(most_attempts(&client).await, 0);
}

/// Inserts `count` rows with a key each, all of one shard, and returns their ids.
async fn insert_in_one_shard(client: &Client, topic: &str, prefix: &str, count: i64) -> Vec<i64> {
    let rows = client
        .query(
            "insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select $2 || n, 'E', $1, '{}' from generate_series(1, $3::bigint * 100) as n \
             where outbox_shard_of($2 || n, 0) = 3 limit $3::bigint returning id",
            &[&topic, &prefix, &count],
        )
        .await
        .expect("insert");
    assert_eq!(rows.len(), usize::try_from(count).expect("not negative"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// The manifest says what comes first, not the claim, which would begin with the lowest ids.
///
/// Promise: at-least-once.
#[tokio::test]
async fn a_successor_repeats_the_batch_in_flight_before_lower_ids_that_were_committed_late() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("manifest"), PrivateKafka::start());
    // One shard and one partition: Kafka has the records as the lane sent them.
    let topic = Topic::create_on(&kafka.bootstrap, "manifest", 1).await;
    let (client, mut writer, mut lock) = (database.connect().await, database.connect().await, database.connect().await);
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("relay.batch_rows", "50");
    let mut relay = settings.start_ready().await;
    insert_in_one_shard(&client, &topic.name, "first-", 1).await;
    wait_until_published(&database, Duration::from_secs(30)).await;

    let open = writer.transaction().await.expect("begin");
    let late = insert_in_one_shard(open.client(), &topic.name, "late-", 20).await;
    kafka.pause().await;
    let others = insert_in_one_shard(&client, &topic.name, "other-", 80).await;
    wait_for_flight(&client, 50).await;
    let manifest = "select batch_ids from outbox_shards where shard = 3";
    let manifest: Vec<i64> = client.query_one(manifest, &[]).await.expect("the batch").get(0);
    open.commit().await.expect("commit");
    let transaction = lock.transaction().await.expect("begin");
    transaction.execute("select from outbox_shards for update", &[]).await.expect("the lock");
    kafka.resume().await;
    wait_for_len(&topic, 51).await;
    relay.kill().await;
    transaction.rollback().await.expect("rollback");
    end_leases(&client).await;

    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 101);
    let sent: Vec<i64> = topic.records().await.iter().map(Record::outbox_id).collect();
    assert_eq!(sent[1..51], manifest, "the batch");
    assert_eq!(sent[51..101], manifest, "the same batch again, before anything else");
    let rest = others.into_iter().filter(|id| !manifest.contains(id));
    assert_eq!(sent[101..], late.into_iter().chain(rest).collect::<Vec<_>>(), "then what waits, in order");
}

/// Waits until the heir has all shards. With its long lease it would count the zombie as alive for as long and leave it
/// its share. The last heartbeat of a frozen process may still be on its way, so it is taken back more than once.
async fn inherits(client: &Client) {
    wait_until("the heir has all shards", Duration::from_secs(60), async || {
        let forget = "delete from outbox_instances where name = 'zombie'";
        client.execute(forget, &[]).await.map_err(|error| error.to_string())?;
        let leases = leases(client).await;
        if leases.get("heir") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
}

/// Frozen for longer than its lease and woken up: it finds itself fenced, marks nothing and says so with its exit code.
#[tokio::test]
async fn a_zombie_changes_nothing_and_exits_75() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("zombie"), Topic::create("zombie", 6));
    let client = database.connect().await;
    let settings = |name: &str| RelaySettings::new(&database, &parts().kafka).instance(name);
    // With the shortest lease, which its heir waits for.
    let mut zombie = settings("zombie").start_ready().await;
    wait_until("it has all shards", Duration::from_secs(20), async || {
        let leases = leases(&client).await;
        if leases.get("zombie") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    zombie.signal(Signal::Stop);
    insert_many(&client, &topic.name, 100, 2_000).await;
    let heir = settings("heir").steady().start_ready().await;
    inherits(&client).await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 2_000);
    let fence = "select array_agg(owner::text || epoch || coalesce(batch_seq, 0) order by shard) from outbox_shards";
    let before: Vec<String> = client.query_one(fence, &[]).await.expect("shards").get(0);
    zombie.signal(Signal::Continue);
    assert_eq!(zombie.wait_for_exit(Duration::from_secs(10)).await, Some(75), "{}", zombie.log_text());
    let after: Vec<String> = client.query_one(fence, &[]).await.expect("shards").get(0);
    assert_eq!(before, after, "the shards are as the heir left them");
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    heir.expect_no_error_lines();
}

/// As above, but the heir has left by then: nobody asks the zombie for a share, and no lane of it has work that would
/// meet the fence. It has to notice by itself.
#[tokio::test]
async fn a_zombie_whose_heir_has_left_exits_75_all_the_same() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("no-heir"), Topic::create("no-heir", 6));
    let client = database.connect().await;
    let settings = |name: &str| RelaySettings::new(&database, &parts().kafka).instance(name);
    let mut zombie = settings("zombie").start_ready().await;
    // Every lane has had work, and waits for more when it is frozen.
    insert_many(&client, &topic.name, 100, 200).await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    wait_for_flight(&client, 0).await;
    // With the shortest lease it may have repeated some of these on a machine that stalls.
    let before = topic.records().await.len();
    zombie.signal(Signal::Stop);
    insert_many(&client, &topic.name, 100, 200).await;
    let mut heir = settings("heir").steady().start_ready().await;
    inherits(&client).await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 400);
    heir.terminate().await;
    zombie.signal(Signal::Continue);
    assert_eq!(zombie.wait_for_exit(Duration::from_secs(10)).await, Some(75), "{}", zombie.log_text());
    let records = topic.records().await;
    order::check(&committed_ids(&client).await, &sent_ids(&records)).expect_kept();
    assert_eq!(records.len() - before, 200, "nothing was sent again");
}

/// Rows that somebody deletes or marks while they are in flight are reported, and hold nobody up.
#[tokio::test]
async fn rows_that_vanish_in_flight_are_reported_and_the_rest_is_settled() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("vanish"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "vanish", 3).await;
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &kafka.bootstrap).steady().set("relay.parallel_batches", "8");
    let mut relay = settings.start_ready().await;
    insert_many(&client, &topic.name, 10, 50).await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    kafka.pause().await;
    insert_many(&client, &topic.name, 10, 50).await;
    wait_for_flight(&client, 50).await;
    let deleted = client.execute("delete from outbox_events where status = 'PENDING' and id % 10 = 0", &[]).await;
    assert_eq!(deleted.expect("delete"), 5);
    kafka.resume().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 95);
    // It says that somebody must look.
    relay.wait_for_log("\"level\":\"ERROR\"").await;
    assert!(relay.is_running());
}
