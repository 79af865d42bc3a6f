//! A crash, an error and a hang at every step of the relay and of the consumer, in both delivery modes.
//!
//! The binary under test has the feature `failpoints`; what stands between two steps is in `src/failpoint.rs`. Each
//! case owns its database and topic: it puts a backlog in, lets the first relay run into the point, starts another one
//! if it died, and asks whether every row is in Kafka, in order, and how often.

use std::time::Duration;

use crate::consumer::{Shop, expect_the_fold, handled};
use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts};
use crate::support::relay::RelaySettings;
use crate::support::{Relay, Signal, TestDatabase, Topic, parts::parts, repeats, unique, wait_until};
use futures_util::StreamExt;
use outbox_relay::failpoint::Point;

const ROWS: i64 = 400;
const BATCH: usize = 20;
const SHARDS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(90);
/// What the first one says at the point.
const ACTS: &str = "a test acts here";
/// Cases that run side by side.
const PARALLEL: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Fail,
    /// Longer than the lease of three seconds.
    Hang,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    point: Point,
    action: Action,
    delivery: &'static str,
}

impl Case {
    /// Whether a relay in this mode passes the point at all.
    fn exists(&self) -> bool {
        match self.point {
            Point::FenceDone | Point::MarkerRead | Point::Resolved | Point::OffsetsSent | Point::CommitBefore => {
                self.delivery == "exactly-once"
            }
            Point::ConsumerTurn | Point::FoldBeforeCommit | Point::FoldAfterCommit => false,
            Point::LeaseAcquired
            | Point::StepBeforeCommit
            | Point::StepAfterCommit
            | Point::ProduceFirst
            | Point::ProduceMid
            | Point::CommitAfter
            | Point::ShutdownDraining => true,
        }
    }

    /// In the language of the crate `fail`. Points that are passed by every batch act in the middle of the work.
    fn instruction(&self) -> String {
        let action = match self.action {
            Action::Kill => "1*return(kill)",
            Action::Fail => "2*return(error)",
            Action::Hang => "1*return(4500)",
        };
        let skipped = if self.point == Point::ShutdownDraining {
            ""
        } else if matches!(self.point, Point::LeaseAcquired | Point::FenceDone | Point::MarkerRead | Point::Resolved) {
            "2*off->"
        } else {
            "9*off->"
        };
        format!("{}={skipped}{action}->off", self.point.name())
    }
}

async fn run(case: Case) {
    let name = format!("{} {:?} {}", case.point.name(), case.action, case.delivery);
    let (database, topic) = tokio::join!(TestDatabase::migrated("failpoint"), Topic::create("failpoint", 3));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 24, ROWS).await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .set("relay.delivery", case.delivery)
        .set("relay.batch_rows", &BATCH.to_string())
        .set("run.deployment", &unique("failpoint"));
    let mut first = settings.clone().instance("first").env("FAILPOINTS", &case.instruction()).start();
    if case.point == Point::ShutdownDraining {
        wait_until("batches are in flight", PATIENCE, async || {
            let published = counts(&client).await.get("PUBLISHED").copied().unwrap_or(0);
            if published > 0 { Ok(()) } else { Err(format!("{name}: {published}")) }
        })
        .await;
        first.signal(Signal::Terminate);
    }
    let mut second = None;
    let mut acted = false;
    wait_until("every row is PUBLISHED", PATIENCE, async || {
        acted = acted || first.log_text().contains(ACTS);
        if second.is_none() && !first.is_running() {
            second = Some(settings.clone().instance("second").start());
        }
        let counts = counts(&client).await;
        match counts.get("PUBLISHED") {
            Some(published) if counts.len() == 1 => Ok(*published),
            _ => Err(format!("{name}: {counts:?}, first runs: {}\n{}", second.is_none(), first.log_text())),
        }
    })
    .await;
    acted = acted || first.log_text().contains(ACTS);
    // A drain with nothing in hand does not pass its point.
    assert!(
        acted || case.point == Point::ShutdownDraining,
        "{name}: the point was never reached\n{}",
        first.log_text()
    );
    if case.action == Action::Kill && acted {
        assert_eq!(first.wait_for_exit(PATIENCE).await, None, "{name}: it should have died");
    }
    let log = first.log_text() + &second.as_ref().map(Relay::log_text).unwrap_or_default();
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    assert!(report.violations.is_empty(), "{name}: {report:?}");
    match case.delivery {
        "exactly-once" => assert_eq!(report.repeats, 0, "{name}: {report:?}\n{}", first.log_text()),
        // A batch of each shard; and what was given up because the machine stalled for longer than a lease.
        _ => {
            let allowed = (SHARDS * BATCH).max(repeats::allowed_by(&log, BATCH, true));
            assert!(report.repeats <= allowed, "{name}: {report:?}");
        }
    }
    assert_eq!(most_attempts(&client).await, 0, "{name}: a crash is not an attempt");
    println!("{name}: {} repeats", report.repeats);
}

/// Three actions at every point that a relay passes, in both modes.
///
/// Promise: exactly-once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_the_relay_survives_a_crash_an_error_and_a_hang() {
    let mut cases = Vec::new();
    for delivery in ["at-least-once", "exactly-once"] {
        for &point in Point::ALL {
            cases.extend([Action::Kill, Action::Fail, Action::Hang].map(|action| Case { point, action, delivery }));
        }
    }
    cases.retain(Case::exists);
    assert_eq!(cases.len(), 3 * (7 + 12));
    futures_util::stream::iter(cases).map(run).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

/// What the consumer does at `point` while it folds the fourth batch.
async fn run_consumer(point: Point, action: Action) {
    const EVENTS: i64 = 1_000;
    let name = format!("{} {action:?}", point.name());
    let shop = Shop::open("failpoint-fold").await;
    let client = shop.database.connect().await;
    shop.publish(&client, EVENTS).await;
    let settings = shop.settings("consumer,admin").set("consumer.batch_records", "50");
    let instruction = match action {
        Action::Kill => "3*off->1*return(kill)->off",
        Action::Fail => "3*off->2*return(error)->off",
        // Longer than Kafka waits for a member that does not ask for records: another one has its partitions when it
        // wakes up.
        Action::Hang => "3*off->1*return(9000)->off",
    };
    let hanging = settings.clone().env("OUTBOX_RELAY_KAFKA__PROPERTIES__MAX_POLL_INTERVAL_MS", "6000");
    let first = if action == Action::Hang { &hanging } else { &settings };
    let mut first =
        first.clone().instance("first").env("FAILPOINTS", &format!("{}={instruction}", point.name())).start();
    wait_until("the point is reached", PATIENCE, async || {
        if first.log_text().contains(ACTS) { Ok(()) } else { Err(format!("{name}: {}", first.log_text())) }
    })
    .await;
    let mut second = None;
    match action {
        Action::Kill => {
            assert_eq!(first.wait_for_exit(PATIENCE).await, None, "{name}: it should have died");
            second = Some(settings.instance("second").start());
        }
        Action::Hang => second = Some(settings.instance("second").start()),
        Action::Fail => {}
    }
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    assert_eq!(handled(&client).await, EVENTS, "{name}: each event once");
    let parked = client.query_one("select count(*) from consumer_parked", &[]).await.expect("parked");
    assert_eq!(parked.get::<_, i64>(0), 0, "{name}: no event is to blame");
    // A zombie may end for its supervisor to start it again, and in no other way.
    if action != Action::Kill && !first.is_running() {
        assert_eq!(first.wait_for_exit(PATIENCE).await, Some(75), "{name}: {}", first.log_text());
    }
    drop(second);
}

/// The same for the two steps of the consumer: before and after the commit that folds a batch and moves its offsets.
///
/// Promise: projections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_the_consumer_survives_a_crash_an_error_and_a_hang() {
    let points = [Point::FoldBeforeCommit, Point::FoldAfterCommit];
    let cases =
        points.into_iter().flat_map(|point| [Action::Kill, Action::Fail, Action::Hang].map(|action| (point, action)));
    let running = cases.map(|(point, action)| run_consumer(point, action));
    futures_util::stream::iter(running).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}
