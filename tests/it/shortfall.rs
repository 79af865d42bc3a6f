//! A replay that copies fewer events than had matched says so.

use std::time::Duration;

use crate::support::{TestDatabase, outbox_relay, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Promise: replay.
#[tokio::test]
async fn a_replay_beside_a_cleanup_says_what_it_has_missed() {
    let database = TestDatabase::migrated("shortfall").await;
    let client = database.connect().await;
    client
        .batch_execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, status, published_at) \
             select 'k', 'E', 't', '{}', 'PUBLISHED', now() from generate_series(1, 60)",
        )
        .await
        .expect("rows");
    let call = |args: &[&str]| {
        let args = [&["replay"], args, &["--yes", "-o", "json"]].concat();
        outbox_relay(&args).env("DATABASE_URL", &database.url)
    };
    // It counts what matches, and then waits before it copies anything.
    let mut cleaner = database.connect().await;
    let cleaning = cleaner.transaction().await.expect("a transaction");
    cleaning.batch_execute("lock table outbox_events in share mode").await.expect("the lock");
    let slow = call(&["--topic", "t"]).start();
    wait_until("it has counted, and waits", PATIENCE, async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
             and application_name = 'outbox-relay admin' and exists (select from outbox_replays)";
        let waiting: i64 = client.query_one(waiting, &[]).await.expect("a look").get(0);
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    cleaning.execute("delete from outbox_events where id between 31 and 60", &[]).await.expect("cleaned up");
    cleaning.commit().await.expect("committed");
    let ended = slow.finish().await.expect_code(5);
    let report = ended.json();
    assert_eq!((&report["matched"], &report["finished"]), (&60.into(), &true.into()), "{report}");
    assert_eq!(report["copied"], 30, "{report}");
    assert!(ended.stderr.contains("30 of 60"), "{}", ended.stderr);
    // Whoever looks at it later learns the same.
    let id = report["replay"].as_str().expect("an id");
    let again = call(&["--resume", id]).run().await.expect_code(5);
    assert!(again.stderr.contains("finished already"), "{}", again.stderr);
    // Nothing is missing of one that was left alone.
    call(&["--topic", "t", "--again"]).run().await.expect_code(0);
}
