//! Errors by which PostgreSQL blames itself: a deadlock, a full disk, a shutdown, a lock. One record that fails with
//! such an error for ever does not stop its partition, and no record is parked for what hits them all.

use std::time::Duration;

use super::blame::{COPIED, copies, event, wait_for};
use super::kafka::Bench;
use super::*;
use crate::support::{side_by_side, wait_until};

const PATIENCE: Duration = Duration::from_secs(180);

/// A table whose trigger fails as an event asks for it. `file` and `statement` are errors of PostgreSQL itself.
const COPIES: &str = "
    create table copies (n bigint, kind text);
    create function fail() returns trigger language plpgsql as $$ begin
      case new.kind
        when 'good' then return new;
        when 'file' then perform pg_read_file('no-such-file');
        when 'statement' then execute 'execute no_such_statement';
        else raise exception 'secret-%', new.kind using errcode = new.kind;
      end case;
      return new;
    end $$;
    create trigger fail before insert on copies for each row execute function fail()";

const PARKED: &str = "select count(*) from consumer_parked";

async fn bench(name: &str, partitions: i32) -> Bench {
    let bench = Bench::new(name, partitions).await;
    bench.client.batch_execute(COPIES).await.expect("the table");
    bench
}

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn one_record_is_parked_whose_failure_always_looks_like_one_of_the_server() {
    let kinds = [
        "40001",
        "40P01",
        "57P01",
        "57P03",
        "58030",
        "53100",
        "53300",
        "55P03",
        "08006",
        "28000",
        "42501",
        "42P01",
        "25006",
        "file",
        "statement",
    ];
    let partitions = i32::try_from(kinds.len()).unwrap();
    let bench = bench("doubt", partitions).await;
    let running = bench.start_with(vec![copies()]);
    // One kind in each partition, among good events.
    let good = || kinds.map(|_| event("good"));
    let events: Vec<_> = [good(), good(), kinds.map(event), good(), good()].into_iter().flatten().collect();
    let all_good = i64::try_from(4 * kinds.len()).unwrap();
    bench.produce(events, partitions).await;
    let bad = i64::from(partitions);
    wait_for(&bench, &running, "all are parked", PARKED, bad).await;
    wait_for(&bench, &running, "the others are folded", COPIED, all_good).await;
    for kind in kinds {
        let code = match kind {
            "file" => "58P01",
            "statement" => "26000",
            code => code,
        };
        let sql = format!(
            "select count(*) from consumer_parked where convert_from(value, 'UTF8') like '%\"{kind}\"%' \
             and error like 'projection copies: %{code}%while other events succeeded'"
        );
        assert_eq!(number(&bench.client, &sql).await, 1, "{kind}");
    }
    let quoted = "select count(*) from consumer_parked where error like '%secret%'";
    assert_eq!(number(&bench.client, quoted).await, 0, "what a trigger says may be anything");
    let running = running.ready().await;

    // Released before anything was mended: parked again, and nobody waits for it.
    bench.client.batch_execute("update consumer_parked set release_asked_at = now()").await.expect("released");
    let again = "select count(*) from consumer_parked where attempts = 2";
    wait_for(&bench, &running, "all are parked again", again, bad).await;
    running.ready().await.stop().await.expect("a clean stop");
}

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_the_only_one_is_parked_when_a_trigger_refuses_it() {
    let bench = bench("doubt-alone", 1).await;
    let running = bench.start_with(vec![copies()]);
    bench.produce(vec![event("40001")], 1).await;
    wait_for(&bench, &running, "it is parked", PARKED, 1).await;
    running.ready().await.stop().await.expect("a clean stop");
}

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_to_every_record_parks_none() {
    let moody = "create or replace function fail() returns trigger language plpgsql as $$ declare k text; begin
          select kind into k from mood;
          if k = 'file' then perform pg_read_file('no-such-file'); end if;
          if k <> 'good' then raise exception 'secret' using errcode = k; end if;
          return new;
        end $$";
    let mood = |kind: &str| format!("create or replace view mood as select '{kind}'::text as kind");
    // Also where each partition has a single event.
    side_by_side([("53100", 20), ("file", 2), ("40001", 2)], async |(kind, events)| {
        let bench = bench("doubt-all", 2).await;
        bench.client.batch_execute(&format!("{}; {moody}", mood("good"))).await.expect("a trigger");
        let running = bench.start_with(vec![copies()]);
        bench.client.batch_execute(&mood(kind)).await.expect("a mood");
        bench.produce((0..events).map(|_| event("good")).collect(), 2).await;
        let begun = tokio::time::Instant::now();
        let epoch = "select coalesce(min(epoch), 0) from consumer_partitions";
        let epochs = number(&bench.client, epoch).await;
        wait_until("it was tried for longer than a record that is blamed", PATIENCE, async || {
            let now = number(&bench.client, epoch).await;
            let lasted = begun.elapsed() > Duration::from_secs(25);
            if now >= epochs + 8 && lasted { Ok(()) } else { Err(format!("{epochs} {now}")) }
        })
        .await;
        assert_eq!(number(&bench.client, PARKED).await, 0, "{kind}");
        bench.client.batch_execute(&mood("good")).await.expect("mended");
        wait_for(&bench, &running, "all are folded once it is mended", COPIED, events).await;
        running.ready().await.stop().await.expect("a clean stop");
    })
    .await;
}
