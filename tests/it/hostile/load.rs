//! A hundred thousand rows over a thousand keys, a hundred of which carry bad rows, every second of theirs: what the
//! other keys feel of it.
//!
//! Prints a line for each combination and asserts what the judge does; the two figures are compared with a clean run of
//! the same minute. Ignored in a normal run: `make hostile-load`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::time::Instant;
use tokio_postgres::Client;

use super::judge::{self, Written};
use super::lives::Past;
use super::round::{Plan, Settling};
use super::rows::{self, Targets, oddities};
use super::stage::Stage;
use crate::support::kafka::client_config;
use crate::support::{Relay, Topic, unique, wait_until};

const GOOD_KEYS: usize = 900;
const BAD_KEYS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(600);

/// Sizes of a run, for quick ones.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Rows of each key.
    pub rows_per_key: usize,
    pub kills: usize,
    /// Rows per second, and for how long, in the run that measures delays.
    pub offered: usize,
    pub seconds: usize,
}

/// Of a good row, from the insert to a consumer, in the run that measures delays.
const P99_MAX: Duration = Duration::from_secs(5);
/// Of the rate of a clean run.
const RATIO_MIN: f64 = 0.5;
/// With fewer rows of each key the starts of the process count for more than the rows.
const ROWS_TO_COMPARE: usize = 50;

/// One combination. Returns its line, and whether the figures are as they should be.
pub async fn run(plan: &Plan, load: Load) -> (String, bool) {
    let clean = drain(&Plan { bad_keys: 0, ..plan.clone() }, load).await;
    let hostile = drain(plan, load).await;
    let (p50, p99) = delay(plan, load).await;
    let ratio = hostile / clean;
    let line = format!(
        "{:<13} {:<9} {:<11} clean {clean:>7.0}/s  hostile {hostile:>7.0}/s  ratio {ratio:.2}  p50 {:>5} ms  p99 {:>5} ms",
        plan.delivery,
        format!("{:?}", plan.settling).to_lowercase(),
        plan.on_exhausted,
        p50.as_millis(),
        p99.as_millis(),
    );
    (line, p99 < P99_MAX && (ratio >= RATIO_MIN || load.rows_per_key < ROWS_TO_COMPARE))
}

/// Good rows per second, from the start of the relay over a backlog to the last good row, kills among it.
async fn drain(plan: &Plan, load: Load) -> f64 {
    let stage = Stage::set(plan).await;
    let mut written = Written::default();
    let mut random = Rng::with_seed(plan.seed);
    for _ in 0..load.rows_per_key {
        chunk(plan, &mut random, &stage.application, &stage.targets, &mut written, GOOD_KEYS, BAD_KEYS).await;
    }
    let settings = stage.relay(plan);
    let begin = Instant::now();
    let mut relay = settings.start_ready().await;
    let mut log = String::new();
    for kill in 1..=load.kills {
        let part = written.good_count() * kill / (load.kills + 1);
        wait_for_published(&stage.application, &written, part).await;
        relay.kill().await;
        log += &relay.log_text();
        relay = settings.start_ready().await;
    }
    wait_for_published(&stage.application, &written, written.good_count()).await;
    let rate = written.good_count() as f64 / begin.elapsed().as_secs_f64();
    judge::wait_for_the_end(plan, &stage.application, &written, &relay).await;
    log += &relay.log_text();
    judge::records(&Plan { kills: load.kills, ..plan.clone() }, &stage.topics, &stage.application, &written, &log)
        .await;
    judge::process(plan, &mut relay, &Past::default(), &stage.targets.secret).await;
    rate
}

/// p50 and p99 from the insert of a row of a good key to a consumer, while bad rows come in all the time.
async fn delay(plan: &Plan, load: Load) -> (Duration, Duration) {
    let stage = Stage::set(plan).await;
    let relay: Relay = stage.relay(plan).start_ready().await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = read_delays(&stage.good, plan.delivery, Arc::clone(&stop));
    let (mut written, mut random) = (Written::default(), Rng::with_seed(plan.seed));
    let (good, bad) = (load.offered * 9 / 100, load.offered / 100);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..load.seconds * 10 {
        ticks.tick().await;
        chunk(plan, &mut random, &stage.application, &stage.targets, &mut written, good, bad).await;
    }
    wait_for_published(&stage.application, &written, written.good_count()).await;
    stop.store(true, Ordering::Relaxed);
    let mut delays = reader.await.expect("the reader");
    drop(relay);
    delays.sort_unstable();
    assert!(delays.len() >= written.good_count(), "{} records of {}", delays.len(), written.good_count());
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}

/// A row of each of so many good keys in one statement, and one of each of so many bad ones.
async fn chunk(
    plan: &Plan,
    random: &mut Rng,
    client: &Client,
    targets: &Targets,
    written: &mut Written,
    good: usize,
    bad: usize,
) {
    let found = client
        .query(
            "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
             select 'Order', 'good-' || (n % $3::bigint), 'OrderCreatedEvent', $1, jsonb_build_object('n', n, 'pad', repeat('x', 200)) \
             from generate_series(1, $2::bigint) as n returning id, aggregate_id",
            &[&targets.good, &(good as i64), &(GOOD_KEYS as i64)],
        )
        .await
        .expect("good rows");
    for row in found {
        written.good.entry(row.get(1)).or_default().push(row.get(0));
    }
    if plan.bad_keys == 0 {
        return;
    }
    for place in 0..bad {
        let key = format!("bad-{}", place % BAD_KEYS);
        let (name, row) = match random.bool() {
            true => ("good row of a bad key".to_owned(), rows::good(targets, &key)),
            // The largest take seconds to insert, and say nothing more.
            false => loop {
                let oddity = &oddities()[random.usize(..oddities().len())];
                if !oddity.is_heavy() {
                    break (oddity.name.clone(), oddity.row(targets, &key));
                }
            },
        };
        if let Ok(inserted) = client.query_one(&row.statement(), &[]).await {
            written.bad.push((inserted.get(0), name));
        }
    }
}

async fn wait_for_published(client: &Client, written: &Written, at_least: usize) {
    let ids = written.good_ids();
    wait_until(&format!("{at_least} good rows are published"), PATIENCE, async || {
        let waiting = judge::good_waiting(client, &ids).await?;
        let published = ids.len() - waiting;
        if published >= at_least { Ok(()) } else { Err(format!("{published} published")) }
    })
    .await;
}

/// Reads good keys' records until `stop`, and returns how long each took from its timestamp.
fn read_delays(topic: &Topic, delivery: &str, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<Duration>> {
    let mut config = client_config(&topic.bootstrap);
    config.set("group.id", unique("delays")).set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "10");
    config.set("isolation.level", if delivery == "exactly-once" { "read_committed" } else { "read_uncommitted" });
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[&topic.name]).expect("subscribed");
    tokio::task::spawn_blocking(move || {
        let mut delays = Vec::new();
        let mut idle = 0;
        // A little longer than told, for what is on its way.
        while !stop.load(Ordering::Relaxed) || idle < 20 {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.key().is_some_and(|key| key.starts_with(b"good-")) => {
                    let now = jiff::Timestamp::now().as_millisecond();
                    let sent = message.timestamp().to_millis().unwrap_or(now);
                    delays.push(Duration::from_millis(u64::try_from(now - sent).unwrap_or(0)));
                    idle = 0;
                }
                Some(_) => {}
                None => idle += 1,
            }
        }
        delays
    })
}

/// All combinations, for `make hostile-load`.
pub async fn matrix(load: Load) {
    // One kind alone, to repeat it: `HOSTILE_ONLY=exactly-once/watermark/hold`, or a part of that.
    let only = std::env::var_os("HOSTILE_ONLY").and_then(|only| only.into_string().ok()).unwrap_or_default();
    let (mut lines, mut kept) = (Vec::new(), true);
    for delivery in ["at-least-once", "exactly-once"] {
        for settling in [Settling::Mark, Settling::Delete, Settling::Watermark] {
            for on_exhausted in ["hold", "dead-letter"] {
                if !format!("{delivery}/{settling:?}/{on_exhausted}").to_lowercase().contains(&only) {
                    continue;
                }
                let plan =
                    Plan { settling, on_exhausted, rules: true, bad_keys: BAD_KEYS, ..super::calm(301, delivery) };
                let (line, good) = run(&plan, load).await;
                eprintln!("{line}");
                lines.push(line);
                kept &= good;
            }
        }
    }
    assert!(!lines.is_empty(), "HOSTILE_ONLY={only} is none of them");
    let build = if cfg!(debug_assertions) { "the build of the tests" } else { "a release build" };
    let lines = lines.join("\n");
    let binary = std::env::var_os("OUTBOX_TEST_BINARY").map(|path| path.to_string_lossy().into_owned());
    eprintln!("\n{}\n{lines}", binary.unwrap_or_else(|| build.to_owned()));
    assert!(kept, "p99 below {P99_MAX:?} and a ratio of {RATIO_MIN} at least:\n{lines}");
}
