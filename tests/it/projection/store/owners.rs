//! Whose batch it is: owners that come and go, positions that are not believed, sessions that die.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;

use super::counts;
use crate::projection::*;
use crate::support::wait_until;

/// A projection that waits for a lock of the test, however long, and then refuses nothing.
const WAITS: &str = "select ordinal, event_type from new_events where not waited_for()";

const WAITED_FOR: &str = "create function waited_for() returns boolean language plpgsql set lock_timeout = 0 as \
    $$ begin perform pg_advisory_xact_lock(1); return true; end $$";

/// Another instance has taken the partition.
fn is_fenced(folded: &Folded, epoch: i64) -> bool {
    matches!(&folded.end, End::Elsewhere(Some(standing)) if standing.epoch > epoch)
}

#[tokio::test]
async fn a_batch_of_an_earlier_owner_changes_nothing() {
    let bench = StoreBench::product_metrics("zombie").await;
    let zombie = bench.take().await;
    let heir = bench.take().await;
    let records = likes(0..10);
    let folded = bench.fold(zombie, &records).await;
    assert!(is_fenced(&folded, zombie) && folded.next_offset.is_none(), "{folded:?}");
    assert!(product_metrics(&bench.client).await.is_empty());
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 0);
    assert_eq!(bench.fold(heir, &records).await.counts, counts(10, 0, 0, 0));
    // Also when the heir has gone past the batch, and when the row is gone.
    assert!(is_fenced(&bench.fold(zombie, &likes(10..20)).await, zombie));
    bench.client.batch_execute("delete from consumer_partitions").await.unwrap();
    assert!(matches!(bench.fold(heir, &likes(10..20)).await.end, End::Elsewhere(None)));
    assert_eq!(product_metrics(&bench.client).await, ["1 10 0 0 0"]);
}

/// A new owner waits for the transaction in flight and begins behind it.
#[tokio::test]
async fn taking_a_partition_waits_for_the_fold_in_flight() {
    let slow = projection("slow", &[], WAITS);
    let bench = StoreBench::new("wait", vec![Projection::product_metrics(), slow], WAITED_FOR).await;
    let epoch = bench.take().await;
    bench.client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let records = likes(0..10);
    let mut folding = std::pin::pin!(bench.fold(epoch, &records));
    poll_until(&bench, folding.as_mut(), 1).await;
    let places = [(bench.place.clone(), 0)];
    let mut taking = std::pin::pin!(async {
        loop {
            // It waits for two seconds at once, as the consumer does.
            if let Ok(fences) = bench.store.take(&places, true).await {
                break fences;
            }
        }
    });
    poll_until(&bench, taking.as_mut(), 2).await;
    bench.client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    let (folded, fences) = tokio::join!(folding, taking);
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!((fences[0].epoch, fences[0].position.next_offset), (epoch + 1, 10));
}

/// The consumer dies between fold and commit: the connection breaks and PostgreSQL takes everything back.
#[tokio::test]
async fn a_fold_that_dies_before_its_commit_leaves_nothing() {
    let slow = projection("slow", &[], WAITS);
    let bench = StoreBench::new("abort", vec![Projection::product_metrics(), slow], WAITED_FOR).await;
    let epoch = bench.take().await;
    bench.client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let records = likes(0..10);
    {
        let mut folding = std::pin::pin!(bench.fold(epoch, &records));
        poll_until(&bench, folding.as_mut(), 1).await;
        let seen = number(&bench.client, "select count(*) from product_metrics").await;
        assert_eq!(seen, 0, "not committed");
    }
    bench.client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    wait_until("the session of the dead fold is gone", Duration::from_secs(10), async || {
        let left = "select count(*) from pg_locks where locktype = 'advisory' and database = \
                    (select oid from pg_database where datname = current_database())";
        match number(&bench.client, left).await {
            0 => Ok(()),
            left => Err(format!("{left} locks")),
        }
    })
    .await;
    assert_eq!((next_offset(&bench.client).await, product_metrics(&bench.client).await.len()), (0, 0));
    assert_eq!(bench.fold_all(&records).await, counts(10, 0, 0, 0));
    assert_eq!(product_metrics(&bench.client).await, ["1 10 0 0 0"]);
}

/// A position moves only from exactly where its reader believes it to be, whichever side is ahead. (A commit whose
/// answer was lost is told apart from that: `every_step_of_the_consumer_survives_a_crash_an_error_and_a_hang`.)
#[tokio::test]
async fn a_batch_from_another_position_changes_nothing() {
    let bench = StoreBench::product_metrics("elsewhere").await;
    let epoch = bench.take().await;
    let records = likes(0..20);
    assert_eq!(bench.fold(epoch, &records[..6]).await.counts, counts(6, 0, 0, 0));
    for (believed, rest) in [(0, &records[..]), (7, &records[7..]), (10, &records[10..])] {
        let folded = fold_batch(&bench.store, &bench.place, epoch, believed, rest).await;
        let End::Elsewhere(Some(standing)) = &folded.end else { panic!("{folded:?}") };
        assert_eq!((standing.epoch, standing.next_offset, standing.written_offset), (epoch, 6, Some(6)));
        assert_eq!((folded.counts, folded.next_offset), (counts(0, 0, 0, 0), None));
    }
    assert_eq!(product_metrics(&bench.client).await, ["1 6 0 0 0"]);
    assert_eq!(bench.fold(epoch, &records[6..]).await.counts, counts(14, 0, 0, 0));
}

#[tokio::test]
async fn connections_that_died_while_idle_are_replaced() {
    let bench = StoreBench::product_metrics("idle").await;
    let epoch = bench.take().await;
    assert!(matches!(bench.fold(epoch, &likes(0..2)).await.end, End::Done));
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where application_name like 'outbox-relay%' and datname = current_database()";
    assert!(number(&bench.client, sql).await > 0);
    let folded = bench.fold(epoch, &likes(2..4)).await;
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!(product_metrics(&bench.client).await, ["1 4 0 0 0"]);
}

/// Drives `future` until as many sessions of the consumer wait for a lock.
async fn poll_until<F: Future>(bench: &StoreBench, mut future: std::pin::Pin<&mut F>, blocked: i64) {
    let sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
               and application_name = 'outbox-relay consumer' and datname = current_database()";
    wait_until("the consumer waits for a lock", Duration::from_secs(10), async || {
        assert!(future.as_mut().now_or_never().is_none(), "it did not wait");
        match number(&bench.client, sql).await {
            waiting if waiting == blocked => Ok(()),
            waiting => Err(format!("{waiting} waiting")),
        }
    })
    .await;
}
