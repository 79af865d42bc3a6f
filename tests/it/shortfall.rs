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
    let slow = call(&["--topic", "t", "--rate", "5"]).start();
    wait_until("some are copied", PATIENCE, async || {
        let copied = client.query_opt("select 1 from outbox_replays where copied > 0", &[]).await.expect("a look");
        copied.map(|_| ()).ok_or_else(|| "none".to_owned())
    })
    .await;
    client.execute("delete from outbox_events where id between 31 and 60", &[]).await.expect("cleaned up");
    let ended = slow.finish().await.expect_code(5);
    let report = ended.json();
    assert_eq!((&report["matched"], &report["finished"]), (&60.into(), &true.into()), "{report}");
    let missing = 60 - report["copied"].as_i64().expect("a number");
    assert!(missing >= 20 && ended.stderr.contains(&format!("{missing} of 60")), "{}", ended.stderr);
    // Whoever looks at it later learns the same.
    let id = report["replay"].as_str().expect("an id");
    let again = call(&["--resume", id]).run().await.expect_code(5);
    assert!(again.stderr.contains("finished already"), "{}", again.stderr);
    // Nothing is missing of one that was left alone.
    call(&["--topic", "t", "--again"]).run().await.expect_code(0);
}
