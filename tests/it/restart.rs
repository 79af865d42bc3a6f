//! Ids that begin again: the bounds that say what is done start anew by themselves.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::outbox::barrier::{Barrier, sweep};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;

use crate::outbox::Bench;
use crate::support::outbox::insert_many;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

async fn published(client: &Client, expected: i64) {
    wait_until(&format!("{expected} are published, and nothing else is there"), PATIENCE, async || {
        let counts = crate::support::outbox::counts(client).await;
        if counts.len() == 1 && counts.get("PUBLISHED") == Some(&expected) {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
}

/// So many records are in the topic, or more, and every row of the outbox is published. The view may say so for a
/// moment before it is noticed that ids began again.
async fn sent(client: &Client, topic: &Topic, expected: i64) {
    wait_until(&format!("{expected} records"), PATIENCE, async || {
        let (records, counts) = (topic.len().await, crate::support::outbox::counts(client).await);
        let done = records >= expected && counts.len() == 1 && counts.contains_key("PUBLISHED");
        if done { Ok(()) } else { Err(format!("{records} records, {counts:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_outbox_that_was_truncated_begins_again_by_itself() {
    for tracking in ["rows", "watermark"] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("truncated"), Topic::create("truncated", 3));
        let client = database.connect().await;
        let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", tracking);
        let mut relay = settings.start_ready().await;
        insert_many(&client, &topic.name, 20, 1_000).await;
        published(&client, 1_000).await;
        // Fewer events than before: the bounds are beyond the last id.
        client.batch_execute("truncate outbox_events restart identity").await.expect("a truncate");
        insert_many(&client, &topic.name, 20, 100).await;
        sent(&client, &topic, 1_100).await;
        // As many again in the same moment: no bound is beyond the last id.
        client.batch_execute("begin; truncate outbox_events restart identity").await.expect("a truncate");
        insert_many(&client, &topic.name, 20, 2_000).await;
        client.batch_execute("commit").await.expect("a commit");
        sent(&client, &topic, 3_100).await;
        // A sequence that was set back behind rows that are gone.
        client
            .batch_execute("delete from outbox_events; select setval('outbox_events_id_seq', 10)")
            .await
            .expect("a reset");
        insert_many(&client, &topic.name, 20, 50).await;
        sent(&client, &topic, 3_150).await;
        let lag = outbox_relay(&["lag", "-o", "json"]).env("DATABASE_URL", &database.url);
        let lag = lag.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.expect_code(0).json();
        assert!(!lag.to_string().contains("FAILED"), "{lag}");
        assert_eq!(relay.metric("outbox_relay_sweep_found_below_watermark_total").await, 0.0, "before the sweep");
        relay.wait_for_log("started over").await;
        let log = relay.log_text();
        assert!(!log.contains("Please report this"), "{tracking}: {log}");
        relay.expect_no_error_lines();
        relay.terminate().await;
    }
}

/// It happened while nobody looked. Notes of progress would let the cleaner delete the new events.
#[tokio::test]
async fn an_outbox_that_was_truncated_while_no_relay_ran_begins_again() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("truncated-away"), Topic::create("truncated-away", 3));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", "watermark");
    let mut first = settings.start_ready().await;
    insert_many(&client, &topic.name, 20, 1_000).await;
    published(&client, 1_000).await;
    first.terminate().await;
    client
        .batch_execute(
            // The barrier need not have caught up with what was sent: then a list says it, id by id.
            "update outbox_shards s set done_id = 0, low_id = 0, ahead_ids = \
               coalesce((select array_agg(e.id order by e.id) from outbox_events e where e.shard = s.shard), '{}'); \
             insert into outbox_held_keys (first_id, shard, partition_key, reason) \
               select 7, outbox_shard_of('k3', 7), 'k3', 'failed'; \
             update outbox_progress set at = now() - interval '9 days'; \
             truncate outbox_events restart identity",
        )
        .await
        .expect("a truncate");
    insert_many(&client, &topic.name, 20, 200).await;
    let second = settings.start_ready().await;
    sent(&client, &topic, 1_200).await;
    let ids: Vec<i64> = client
        .query("select id from outbox_events order by id", &[])
        .await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids.len(), 200, "none was deleted");
    second.expect_no_error_lines();
}

/// A sequence that goes forward is none that begins again, also where it was not drawn from since.
#[tokio::test]
async fn a_sequence_that_is_moved_forward_or_altered_changes_nothing() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("forward"), Topic::create("forward", 3));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka).steady().set("relay.tracking", "watermark");
    let relay = settings.start_ready().await;
    insert_many(&client, &topic.name, 20, 500).await;
    published(&client, 500).await;
    for (round, change) in ["restart with 1001", "set cache 1", "set maxvalue 100000000"].into_iter().enumerate() {
        let alter = format!("alter table outbox_events alter column id {change}");
        client.batch_execute(&alter).await.expect("a change");
        insert_many(&client, &topic.name, 20, 100).await;
        published(&client, 600 + round as i64 * 100).await;
    }
    assert_eq!(topic.len().await, 800, "nothing was sent twice");
    assert!(!relay.log_text().contains("started over"), "{}", relay.log_text());
}

/// The sweep below the bounds reports a fault of ours. Ids that have just begun again are below them, too.
#[tokio::test]
async fn ids_that_began_again_a_moment_ago_are_no_fault_for_the_sweep() {
    let bench = Bench::new("sweep-restart").await;
    let settings = DatabaseConfig { url: Secret::new(&bench.test.url), ..DatabaseConfig::default() };
    let pool = Database::new(&settings).expect("a good URL").pool(Role::Lease, 2);
    let (_leases, fence, _) = bench.take_over("one").await;
    let shards: Vec<i16> = (0..8).collect();
    let mut barrier = Barrier::new(pool.clone());
    // As many again, so that no bound is beyond the last id; and fewer.
    for (again, rows) in [
        ("truncate outbox_events restart identity", 80),
        ("delete from outbox_events; select setval('outbox_events_id_seq', 1, false)", 30),
    ] {
        bench.client.batch_execute("update outbox_shards set low_id = 0").await.expect("bounds");
        insert_many(&bench.client, "t", 20, 40).await;
        let known = barrier.probe().await.expect("a look").server;
        // What is below the bound, and no id has begun again: a fault.
        bench
            .client
            .batch_execute("update outbox_shards set low_id = (select max(id) from outbox_events)")
            .await
            .expect("bounds");
        let found = sweep(&pool, &shards, fence.owner, known).await.expect("a sweep");
        assert!(!found.is_empty(), "{again}");
        bench
            .client
            .batch_execute("update outbox_shards set low_id = (select max(id) from outbox_events)")
            .await
            .expect("bounds");
        bench.client.batch_execute(again).await.expect("ids begin again");
        insert_many(&bench.client, "t", 20, rows).await;
        assert_eq!(sweep(&pool, &shards, fence.owner, known).await.expect("a sweep"), [], "{again}");
    }
}
