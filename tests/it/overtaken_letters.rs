//! Dead letters about which somebody else decides while a redrive waits for them.

use std::time::Duration;

use crate::dlq::Shop;
use crate::support::outbox::row;
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

/// One each was published by a retry, discarded, deleted after a discard, and sent back by another redrive; the last
/// one is still there.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_were_decided_while_a_redrive_waited_are_told_apart() {
    let shop = Shop::open("overtaken-letters", 1).await;
    let ids = shop.fail(5).await;
    shop.publish().await;
    let letters = shop.letters.records().await;
    let of = |id: i64| letters.iter().find(|letter| letter.outbox_id() == id).expect("its dead letter");
    let mut other = shop.database.connect().await;
    let lock = other.transaction().await.expect("a transaction");
    lock.batch_execute("select from outbox_shards for update").await.expect("the shards");
    let running = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]).start();
    wait_until("the redrive waits", PATIENCE, async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = shop.client.query_one(waiting, &[]).await.map_err(|error| error.to_string())?.get(0);
        if waiting > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await;
    let set = "update outbox_events set status = $2, published_at = now() where id = $1";
    lock.execute(set, &[&ids[0], &"PUBLISHED"]).await.expect("published");
    lock.execute(set, &[&ids[1], &"DISCARDED"]).await.expect("discarded");
    lock.execute("insert into outbox_decisions (id, event_id, decision) select id, event_id, 'discard' from outbox_events where id = $1", &[&ids[2]])
        .await
        .expect("a decision");
    lock.execute("delete from outbox_events where id = $1", &[&ids[2]]).await.expect("deleted");
    let sent = of(ids[3]);
    let note = "insert into outbox_redriven (topic, partition, \"offset\", event_id, failed_at, actor) values ($1, $2, $3, $4::text::uuid, $5, 'other')";
    lock.execute(
        note,
        &[
            &shop.letters.name,
            &sent.partition,
            &sent.offset,
            &sent.header("outbox-event-id"),
            &sent.header("failed_at"),
        ],
    )
    .await
    .expect("sent back");
    lock.commit().await.expect("committed");

    let finished = running.finish().await.expect_code(5);
    let report = finished.json();
    let found = (&report["reopened"], &report["appended"], &report["left_alone"], &report["overtaken"]);
    assert_eq!(found, (&1.into(), &0.into(), &4.into(), &4.into()), "{report}");
    assert!(finished.stderr.contains("2 dead letters did not go back"), "{}", finished.stderr);
    let lines = report["letters"].as_array().expect("letters");
    let why = |id: i64| {
        let line = lines.iter().find(|line| line["offset"] == of(id).offset).expect("its line");
        line["why"].as_str().map(str::to_owned)
    };
    let went_back = Some("it went back before".to_owned());
    let discarded = Some("its row was discarded".to_owned());
    assert_eq!(
        ids.iter().map(|id| why(*id)).collect::<Vec<_>>(),
        [went_back.clone(), discarded.clone(), discarded, went_back, None]
    );
    assert_eq!(row(&shop.client, ids[4]).await.status, "PENDING");

    // Once more: nothing is left to do, and that is no failure.
    let again = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]).run().await.expect_code(0).json();
    assert_eq!((&again["left_alone"], &again["overtaken"]), (&5.into(), &0.into()), "{again}");
}
