//! Failures that may be a record's fault or anybody else's: too slow, out of memory, internal errors, locks. One record
//! never stops its partition, and no record is parked for what hits them all.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;

use super::kafka::{Bench, Running};
use super::*;
use crate::support::{holds_for, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// A table whose trigger fails as an event asks for it. A slow one waits for [`HELD`], which takes no CPU, and not as
/// for a lock: until statement_timeout.
const COPIES: &str = "
    create table copies (n bigint, kind text);
    create function fail() returns trigger language plpgsql set lock_timeout = 0 as $$ begin
      if new.kind = 'slow' then perform pg_advisory_lock(4711);
      elsif new.kind <> 'good' then raise exception 'secret-%', new.kind using errcode = new.kind;
      end if;
      return new;
    end $$;
    create trigger fail before insert on copies for each row execute function fail()";

pub(super) fn copies() -> Projection {
    projection("copies", &["Copy"], "insert into copies select \"offset\", payload ->> 'kind' from new_events")
}

pub(super) fn event(kind: &str) -> (Uuid, &'static str, String) {
    (Uuid::new_v4(), "Copy", format!(r#"{{"kind": "{kind}"}}"#))
}

/// What the test holds as long as it lasts.
const HELD: &str = "select pg_advisory_lock(4711)";

/// With statements that take too long after this time.
async fn bench(name: &str, partitions: i32, statement_timeout: Duration) -> Bench {
    let mut bench = Bench::new(name, partitions).await;
    let settings = DatabaseConfig { url: Secret::new(&bench.test.url), statement_timeout, ..DatabaseConfig::default() };
    bench.database = Database::new(&settings).expect("a valid URL");
    bench.client.batch_execute(COPIES).await.expect("the table");
    bench.client.batch_execute(HELD).await.expect("the lock");
    bench
}

pub(super) async fn wait_for(bench: &Bench, running: &Running, what: &str, sql: &str, expected: i64) {
    wait_until(what, PATIENCE, async || {
        let now = number(&bench.client, sql).await;
        if now == expected { Ok(()) } else { Err(format!("{now}; {:?}", running.status.reason())) }
    })
    .await;
}

pub(super) const COPIED: &str = "select count(*) from copies";

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn one_record_that_fails_by_itself_is_parked_whatever_the_failure_is() {
    // A good record must not be slow, whatever the machine does.
    let bench = bench("blame", 3, Duration::from_secs(5)).await;
    let running = bench.start_with(vec![copies()]);
    let kinds = ["slow", "XX000", "53200", "53400", "0A000", "55000", "38000", "39P03", "XX001"];
    let mut events: Vec<_> = (0..30).map(|_| event("good")).collect();
    for kind in kinds {
        // The second one of a kind follows at once, and the last record of all is a bad one.
        events.extend(["good", "good", "good", kind, "good", "good", kind].map(event));
    }
    let good = events.iter().filter(|(_, _, value)| value.contains("good")).count();
    let bad = i64::try_from(2 * kinds.len()).unwrap();
    bench.produce(events, 3).await;
    wait_for(&bench, &running, "all are parked", "select count(*) from consumer_parked", bad).await;
    wait_for(&bench, &running, "the others are folded", COPIED, i64::try_from(good).unwrap()).await;
    for kind in kinds {
        let code = if kind == "slow" { "took longer than database.statement_timeout" } else { kind };
        let sql = format!(
            "select count(*) from consumer_parked where convert_from(value, 'UTF8') like '%\"{kind}\"%' \
             and error like 'projection copies: %{code}%while other events succeeded'"
        );
        assert_eq!(number(&bench.client, &sql).await, 2, "{kind}");
    }
    let quoted = "select count(*) from consumer_parked where error like '%secret%'";
    assert_eq!(number(&bench.client, quoted).await, 0, "what a trigger says may be anything");
    let running = running.ready().await;

    // Released before anything was mended: parked again, and nobody waits for it.
    bench.client.batch_execute("update consumer_parked set release_asked_at = now()").await.expect("released");
    let again = "select count(*) from consumer_parked where attempts = 2";
    wait_for(&bench, &running, "all are parked again", again, bad).await;
    bench.produce((0..3).map(|_| event("good")).collect(), 3).await;
    wait_for(&bench, &running, "others are folded", COPIED, i64::try_from(good).unwrap() + 3).await;
    running.ready().await.stop().await.expect("a clean stop");
}

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn what_hits_every_record_parks_none() {
    /// Each of them takes its time where all are slow.
    const EVENTS: i64 = 6;
    let bench = bench("blameless", 2, Duration::from_secs(2)).await;
    let running = bench.start_with(vec![copies()]);
    bench.produce((0..EVENTS).map(|_| event("good")).collect(), 2).await;
    wait_for(&bench, &running, "the good ones are folded", COPIED, EVENTS).await;
    for (kind, words) in [("XX000", "XX000"), ("slow", "took longer"), ("42P01", "42P01")] {
        let before = number(&bench.client, COPIED).await;
        let all = format!("create or replace view mood as select '{kind}'::text as kind");
        bench.client.batch_execute(&all).await.expect("a view");
        let moody = "create or replace function fail() returns trigger language plpgsql set lock_timeout = 0 as $$ declare k text; begin
              select kind into k from mood;
              if k = 'slow' then perform pg_advisory_lock(4711); end if;
              if k <> 'good' then raise exception 'secret' using errcode = k; end if;
              return new;
            end $$";
        bench.client.batch_execute(moody).await.expect("a trigger");
        bench.produce((0..EVENTS).map(|_| event("good")).collect(), 2).await;
        running.wait_for_reason(words).await;
        // Each attempt takes the partition anew.
        let epochs = number(&bench.client, "select min(epoch) from consumer_partitions").await;
        wait_until("it was tried more often than a record that is blamed", PATIENCE, async || {
            let now = number(&bench.client, "select min(epoch) from consumer_partitions").await;
            if now >= epochs + 4 { Ok(()) } else { Err(format!("{epochs} {now}")) }
        })
        .await;
        assert_eq!(number(&bench.client, "select count(*) from consumer_parked").await, 0, "{kind}");
        bench.client.batch_execute("create or replace view mood as select 'good'::text as kind").await.expect("mended");
        wait_for(&bench, &running, "all are folded once it is mended", COPIED, before + EVENTS).await;
    }
    running.ready().await.stop().await.expect("a clean stop");
}

/// More partitions wait for a lock than there are connections.
///
/// Promise: read-model-locks.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_wait_for_a_lock_leave_connections_to_the_others() {
    let bench = Bench::new("turns", 10).await;
    bench.client.batch_execute("create table others (n bigint)").await.expect("a table");
    let others = projection("others", &["Other"], "insert into others select \"offset\" from new_events");
    let running = bench.start_with(vec![Projection::product_metrics(), others]).ready().await;
    let mut holder = bench.test.connect().await;
    let pid = number(&holder, "select pg_backend_pid()::bigint").await;
    let transaction = holder.transaction().await.expect("begin");
    transaction.batch_execute("lock table product_metrics in exclusive mode").await.expect("the lock");
    // Eight partitions wait, two do not.
    let value = r#"{"productId": 1}"#;
    let flows = async {
        for round in 1..=10 {
            let kind = |n| if n < 8 { "LikeAddedEvent" } else { "Other" };
            bench.produce((0..10).map(|n| (Uuid::new_v4(), kind(n), value.to_owned())).collect(), 10).await;
            wait_for(&bench, &running, "others", "select count(*) from others", round * 2).await;
        }
    };
    tokio::time::timeout(PATIENCE, flows).await.expect("the two partitions flow");
    for partition in [0, 7] {
        let words = format!(
            "{}/{partition} waits for a lock on product_metrics held by PostgreSQL process {pid}",
            bench.topic.name
        );
        running.wait_for_reason(&words).await;
    }
    // What is said does not change while the lock is held, or each change would be a line of the log.
    let mut said = String::new();
    wait_until("all eight are named", PATIENCE, async || {
        said = running.status.reason().unwrap_or_default();
        if said.matches("waits for a lock").count() == 8 { Ok(()) } else { Err(said.clone()) }
    })
    .await;
    holds_for("the same is said", Duration::from_secs(5), async || {
        let now = running.status.reason().unwrap_or_default();
        // On a machine that stalls it may say that the consumer is silent.
        let is_another = now.contains("waits for a lock") && now != said;
        if is_another { Err(now) } else { Ok(()) }
    })
    .await;
    transaction.rollback().await.expect("rollback");
    bench.wait_for_likes(80).await;
    running.ready().await.stop().await.expect("a clean stop");
}

/// A short number may print a hundred thousand digits.
///
/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_huge_numbers_in_one_event_take_no_time() {
    let bench = bench("digits", 1, Duration::from_secs(20)).await;
    let running = bench.start();
    let lines = vec![r#"{"productId": 1, "quantity": 1, "amount": 1e131071}"#; 15_000].join(",");
    let mut events = vec![(Uuid::new_v4(), "OrderCreatedEvent", format!(r#"{{"items": [{lines}]}}"#))];
    events.push((Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#.to_owned()));
    bench.produce(events, 1).await;
    bench.wait_for_likes(1).await;
    let refused = "select count(*) from consumer_parked where error like '%amount is more than 1000000000000000'";
    assert_eq!(number(&bench.client, refused).await, 1);
    running.stop().await.expect("a clean stop");
}

/// Promise: read-model-locks.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_somebody_has_locked_holds_up_its_partition_alone() {
    let bench = Bench::new("locked-position", 3).await;
    let running = bench.start();
    bench.produce_likes(3, 3).await;
    bench.wait_for_likes(3).await;
    running.stop().await.expect("a clean stop");
    let mut holder = bench.test.connect().await;
    let transaction = holder.transaction().await.expect("begin");
    let lock = "select 1 from consumer_partitions where partition = 1 for update";
    transaction.batch_execute(lock).await.expect("the lock");
    bench.produce_likes(30, 3).await;
    let running = bench.start();
    bench.wait_for_likes(23).await;
    running.wait_for_reason("/1: its row in consumer_partitions is locked by another session").await;
    transaction.rollback().await.expect("rollback");
    bench.wait_for_likes(33).await;
    running.ready().await.stop().await.expect("a clean stop");
}
