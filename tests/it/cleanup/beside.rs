//! The cleaner beside others: a second one, locks, limits and rights of PostgreSQL, a relay under load, a replica.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use outbox_relay::config::CleanupConfig;
use outbox_relay::outbox::cleanup::{Ages, Session, Window};

use super::{Cleaner, DAY, LIMIT, count, handled, ids, pool, published, settings, start};
use crate::support::kafka::sent_ids;
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{PrivatePostgres, TestDatabase, Topic, holds_for, order, wait_until};

/// One instance deletes. When it ends, another does.
#[tokio::test]
async fn of_two_cleaners_one_works_and_the_other_takes_over() {
    let database = TestDatabase::migrated("two-cleaners").await;
    let client = database.connect().await;
    published(&client, 100, "9 days").await;
    let first = start(&database, settings());
    first.passes(1).await;
    let second = start(&database, settings());
    first.passes(2).await;
    assert_eq!((first.deleted("published"), second.metrics.cleanup_passes.get()), (100, 0));
    published(&client, 50, "9 days").await;
    first.stop().await;
    second.passes(1).await;
    wait_until("the second has gone on", LIMIT, async || match count(&client, "outbox_events").await {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    second.stop().await;
}

/// Without the lock between them (a command beside the schedule, a pooler that loses locks), two delete each row once.
///
/// Promise: retention.
#[tokio::test]
async fn two_that_race_delete_every_row_once_and_wait_for_nobody() {
    let database = TestDatabase::migrated("race").await;
    let client = database.connect().await;
    published(&client, 3_000, "9 days").await;
    let mut blocker = database.connect().await;
    let blocking = blocker.transaction().await.unwrap();
    blocking.query_one("select id from outbox_events where id = 1500 for update", &[]).await.unwrap();
    let work = async || {
        let session = Session::open(&pool(&database)).await.unwrap();
        let ages = Ages { published: Some(DAY), discarded: None };
        let (mut after, mut deleted) = (0, 0);
        loop {
            let looked = session.finished(Window { after, up_to: i64::MAX, rows: 40 }, ages).await.unwrap();
            deleted += looked.deleted.published;
            match looked.last_id {
                Some(id) => after = id,
                None => return deleted,
            }
        }
    };
    let (one, other) = tokio::join!(work(), work());
    assert_eq!(one + other, 2_999, "the row that somebody has locked is passed over");
    blocking.rollback().await.unwrap();
    assert_eq!(ids(&client).await, BTreeSet::from([1_500]));
}

/// A batch that takes longer than statement_timeout is taken back by PostgreSQL; a smaller one is tried. The trigger
/// cancels by the number of rows rather than by the clock, with the same SQLSTATE.
#[tokio::test]
async fn batches_that_take_too_long_become_smaller_until_they_do_not() {
    let database = TestDatabase::migrated("slow-batches").await;
    let client = database.connect().await;
    published(&client, 120, "9 days").await;
    client
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$ begin \
               if (select count(*) from gone) > 40 then raise query_canceled; end if; return null; end $$; \
             create trigger slow after delete on outbox_events \
               referencing old table as gone for each statement execute function slow()",
        )
        .await
        .unwrap();
    let large = CleanupConfig { batch_rows: 1_000.try_into().unwrap(), ..settings() };
    let cleaner = Cleaner::start(&database.url, large, Duration::from_secs(30));
    wait_until("all are gone", LIMIT, async || match count(&client, "outbox_events").await {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    cleaner.stop().await;
}

/// A cleaner without its grants says so and leaves the process alone; what it may delete it deletes.
#[tokio::test]
async fn a_missing_grant_keeps_one_table_from_being_cleaned_and_nothing_else() {
    let database = TestDatabase::migrated("no-grant").await;
    let client = database.connect().await;
    published(&client, 10, "9 days").await;
    handled(&client, 10, "40 days").await;
    let role = database.name().to_owned();
    client
        .batch_execute(&format!(
            "create role {role} login; grant select on all tables in schema public to {role}; \
             grant select on all sequences in schema public to {role}; grant select, delete on event_handled to {role}"
        ))
        .await
        .unwrap();
    let url = database.url.replacen("postgres@", &format!("{role}@"), 1);
    assert_ne!(url, database.url);
    let cleaner = Cleaner::start(&url, settings(), Duration::from_secs(30));
    cleaner.passes(2).await;
    assert_eq!((count(&client, "outbox_events").await, count(&client, "event_handled").await), (10, 0));
    cleaner.stop().await;
}

/// Rows are deleted a second after their publication, while writers write and lanes publish: each arrives once, in
/// order.
///
/// Promise: retention.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_beside_a_relay_under_load_loses_nothing_and_keeps_order() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("clean-load"), Topic::create("clean-load", 3));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .set("cleanup.interval", "1s")
        .set("cleanup.published_older_than", "1s")
        .set("cleanup.batch_rows", "200")
        .set("relay.batch_rows", "100");
    let (mut one, mut two) =
        tokio::join!(settings.clone().instance("one").start_ready(), settings.clone().instance("two").start_ready());
    let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
    for round in 0..60 {
        let inserted = client
            .query(
                "insert into outbox_events (aggregate_id, event_type, topic, payload) \
                 select 'k' || n % 40, 'E', $1, '{}' from generate_series(1, 200) n returning aggregate_id, id",
                &[&topic.name],
            )
            .await
            .unwrap();
        for row in inserted {
            committed.entry(row.get(0)).or_default().push(row.get(1));
        }
        if round == 30 {
            // Whichever of the two deletes, the other goes on.
            one.kill().await;
        }
    }
    wait_until("everything is published and deleted", Duration::from_secs(90), async || {
        match count(&client, "outbox_events").await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
    let report = order::check(&committed, &sent_ids(&topic.records().await));
    report.expect_kept();
    two.wait_for_metric("outbox_relay_cleanup_deleted_rows_total", |rows| rows > 0.0).await;
    two.terminate().await;
    two.expect_no_error_lines();
}

/// Deleting waits while a replica has much to replay, and goes on when it has not.
#[tokio::test]
async fn a_replica_that_is_behind_is_waited_for() {
    let primary = PrivatePostgres::start().await;
    let database = TestDatabase::migrated_at(&primary.url).await;
    let standby = primary.standby().await;
    let replica = TestDatabase { url: standby.url.clone() };
    let (client, replica) = (database.connect().await, replica.reconnect().await);
    replica.batch_execute("select pg_wal_replay_pause()").await.unwrap();
    published(&client, 20_000, "9 days").await;
    let behind = "select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication";
    wait_until("the replica is behind", LIMIT, async || {
        let rows = client.query(behind, &[]).await.unwrap();
        match rows.first().and_then(|row| row.get::<_, Option<i64>>(0)) {
            Some(bytes) if bytes > 1 << 20 => Ok(()),
            other => Err(format!("{other:?} bytes")),
        }
    })
    .await;
    let strict = CleanupConfig {
        max_replica_lag: bytesize::ByteSize::mib(1),
        batch_rows: 1_000.try_into().unwrap(),
        ..settings()
    };
    let cleaner = start(&database, strict);
    wait_until("it says that it waits", LIMIT, async || match cleaner.metrics.cleanup_paused.get() {
        1 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    holds_for("nothing is deleted", Duration::from_secs(3), async || match count(&client, "outbox_events").await {
        20_000 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    replica.batch_execute("select pg_wal_replay_resume()").await.unwrap();
    wait_until("it goes on", LIMIT, async || match count(&client, "outbox_events").await {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    wait_until("it says that it does not wait any more", LIMIT, async || match cleaner.metrics.cleanup_paused.get() {
        0 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    cleaner.stop().await;
}
