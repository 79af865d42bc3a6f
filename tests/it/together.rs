//! Steps of several shards in one transaction: what one of them meets is not the others' affair, and all is done or
//! nothing.

use std::num::NonZeroU32;
use std::time::Duration;

use outbox_relay::event::{OutboxEvent, Place};
use outbox_relay::outbox::leases::Leases;
use outbox_relay::outbox::{
    Claim, Fence, LastBatch, Limits, OutboxError, Outcome, Part, Published, Screening, Settlement, Source, Step,
};

use crate::outbox::Bench;
use crate::support::outbox::{counts, insert_many, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, order, parts::parts, wait_until};

/// One shard of the bench, with the events that it has in flight.
struct Shard {
    fence: Fence,
    in_flight: Vec<i64>,
    expected: Option<LastBatch>,
}

/// `shards` shards with `rows` events each.
async fn bench(name: &str, shards: usize, rows: usize) -> (Bench, Leases, Vec<Shard>) {
    let bench = Bench::new(name).await;
    let (leases, any, _) = bench.take_over("one").await;
    let mut all: Vec<Shard> = Vec::new();
    for n in 0.. {
        let of = bench.client.query_one("select outbox_shard_of($1, 0)", &[&format!("k{n}")]).await.expect("a shard");
        let fence = Fence { shard: of.get(0), ..any };
        if all.iter().any(|known| known.fence.shard == fence.shard) {
            continue;
        }
        let epoch = bench.client.query_one("select epoch from outbox_shards where shard = $1", &[&fence.shard]).await;
        let fence = Fence { epoch: epoch.expect("the shard").get(0), ..fence };
        for _ in 0..rows {
            NewRow::new("t", &format!("k{n}"), "{}").insert(&bench.client).await;
        }
        all.push(Shard { fence, in_flight: Vec::new(), expected: None });
        if all.len() == shards {
            break;
        }
    }
    (bench, leases, all)
}

/// Settles what is in flight and claims three events more, of all shards together. What was claimed is in flight
/// afterwards.
async fn step(bench: &Bench, shards: &mut [Shard]) -> Vec<Outcome<Step<i64>>> {
    let settlements: Vec<Settlement> = shards
        .iter()
        .map(|shard| Settlement {
            published: shard
                .in_flight
                .iter()
                .map(|id| Published::at(*id, Place { partition: 0, offset: *id }))
                .collect(),
            ..Settlement::default()
        })
        .collect();
    let limits =
        Limits { rows: NonZeroU32::new(3).expect("not zero"), bytes: 1 << 20, record_bytes: 1 << 20, row_bytes: 0 };
    let mut parts: Vec<_> = shards
        .iter()
        .zip(&settlements)
        .map(|(shard, settlement)| Part {
            fence: shard.fence,
            settlement,
            claim: Claim {
                source: Source::Waiting,
                release: true,
                limits,
                horizon: Default::default(),
                move_low_id: false,
                strict: false,
                numbered: false,
                marked: false,
                forget: false,
                expected: shard.expected,
            },
            screen: |event: &OutboxEvent<'_>| Screening::Publish(event.id),
        })
        .collect();
    let outcomes = bench.outbox.step_together(&mut parts).await;
    drop(parts);
    for (shard, outcome) in shards.iter_mut().zip(&outcomes) {
        if let Outcome::Done(step) = outcome {
            let events = step.batch.iter().flat_map(|batch| &batch.events);
            shard.in_flight = events.map(|event| event.id).collect();
            shard.expected = Some(step.last);
        }
    }
    outcomes
}

async fn published(bench: &Bench, shard: &Shard) -> i64 {
    let sql = "select count(*) from outbox_events where shard = $1 and status = 'PUBLISHED'";
    bench.client.query_one(sql, &[&shard.fence.shard]).await.expect("a count").get(0)
}

#[tokio::test]
async fn several_shards_take_one_transaction() {
    let (bench, _leases, mut shards) = bench("together", 3, 7).await;
    for (settled, claimed) in [(0, 3), (3, 3), (6, 1), (7, 0)] {
        for outcome in step(&bench, &mut shards).await {
            let Outcome::Done(step) = outcome else { panic!("{outcome:?}") };
            assert_eq!(step.missing, 0);
            assert_eq!(step.batch.map_or(0, |batch| batch.events.len()), claimed);
        }
        let owned: Vec<i16> = shards.iter().map(|shard| shard.fence.shard).collect();
        let sql = "select count(distinct xmin::text) from outbox_shards where shard = any($1)";
        let transactions = bench.client.query_one(sql, &[&owned]).await.expect("a count").get::<_, i64>(0);
        assert_eq!(transactions, 1);
        for shard in &shards {
            assert_eq!(published(&bench, shard).await, settled);
        }
    }
}

#[tokio::test]
async fn a_shard_that_is_fenced_or_has_moved_does_not_keep_the_others_from_their_step() {
    let (bench, _leases, mut shards) = bench("together-fenced", 3, 6).await;
    step(&bench, &mut shards).await;
    shards[0].fence.epoch -= 1;
    shards[1].expected = Some(LastBatch { seq: 17, in_flight: false });
    let before = bench.shards().await;
    let outcomes = step(&bench, &mut shards).await;
    assert!(matches!(outcomes[0], Outcome::NotTried), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Outcome::Failed(OutboxError::Moved { .. })), "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], Outcome::Done(_)), "{:?}", outcomes[2]);
    assert_eq!(published(&bench, &shards[0]).await, 0);
    assert_eq!(published(&bench, &shards[1]).await, 0);
    assert_eq!(published(&bench, &shards[2]).await, 3);
    let changed = bench.shards().await.iter().zip(&before).filter(|(now, then)| now != then).count();
    assert_eq!(changed, 1, "{before:?}");
}

#[tokio::test]
async fn a_shard_that_somebody_has_locked_is_not_waited_for() {
    let (bench, _leases, mut shards) = bench("together-locked", 2, 6).await;
    step(&bench, &mut shards).await;
    let mut other = bench.test.connect().await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("select 1 from outbox_shards where shard = $1 for update", &[&shards[0].fence.shard])
        .await
        .expect("the lock");
    let outcomes = step(&bench, &mut shards).await;
    assert!(matches!(outcomes[0], Outcome::NotTried), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Outcome::Done(_)), "{:?}", outcomes[1]);
    lock.rollback().await.expect("the end of the lock");
    assert!(step(&bench, &mut shards).await.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    assert_eq!((published(&bench, &shards[0]).await, published(&bench, &shards[1]).await), (3, 6));
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_leaves_the_step_of_all_undone() {
    let (bench, _leases, mut shards) = bench("together-row", 2, 6).await;
    step(&bench, &mut shards).await;
    let before = bench.shards().await;
    let mut other = bench.test.connect().await;
    let lock = other.transaction().await.expect("a transaction");
    let first = shards[0].in_flight[0];
    lock.execute("update outbox_events set source = 'by hand' where id = $1", &[&first]).await.expect("the lock");
    let outcomes = step(&bench, &mut shards).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::NotTried)), "{outcomes:?}");
    assert_eq!(bench.shards().await, before);
    assert_eq!(counts(&bench.client).await.get("PENDING"), Some(&12));
    // Alone, only the shard of the row waits.
    assert!(matches!(step(&bench, &mut shards[1..]).await[..], [Outcome::Done(_)]));
    lock.commit().await.expect("the end of the lock");
    assert!(step(&bench, &mut shards).await.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    assert_eq!((published(&bench, &shards[0]).await, published(&bench, &shards[1]).await), (3, 6));
}

/// Lanes with few events do take their steps together, with either tracking, and the promises hold.
#[tokio::test]
async fn lanes_with_few_events_commit_together() {
    for tracking in ["rows", "watermark"] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("few"), Topic::create("few", 3));
        let client = database.connect().await;
        let settings = RelaySettings::new(&database, &parts().kafka)
            .set("relay.tracking", tracking)
            // The leases of all shards are renewed in one statement, too.
            .steady()
            .set("relay.lease", "10m")
            .set("run.deployment", &crate::support::unique("few"));
        let mut relay = settings.start_ready().await;
        let mut rows = 0;
        wait_until("half of the shards have committed together", Duration::from_secs(60), async || {
            insert_many(&client, &topic.name, 40, 80).await;
            rows += 80;
            let sql = "select max(n)::bigint from ( \
                         select count(*) as n from outbox_shards where batch_seq > 2 group by xmin::text) by_commit";
            let together = client.query_one(sql, &[]).await.expect("a count").get::<_, Option<i64>>(0).unwrap_or(0);
            if together >= 4 { Ok(()) } else { Err(format!("{tracking}: {together}")) }
        })
        .await;
        assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, rows);
        relay.terminate().await;
        let committed = crate::support::outbox::committed_ids(&client).await;
        let sent = crate::support::kafka::sent_ids(&topic.records().await);
        order::check(&committed, &sent).expect_kept().expect_no_repeats();
    }
}
