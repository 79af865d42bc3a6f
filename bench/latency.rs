//! Latency from commit to consumer under a steady load.
//!
//! A transaction inserts `per_commit` events; a new one is due at fixed times, whether the one before is finished or
//! not. An event is committed when PostgreSQL has said so to the writer, and has arrived when a `read_committed`
//! consumer in this process has it, both by one clock. One that arrives before the writer has its answer counts as
//! zero. Nothing counts before a first transaction has arrived, which shows that the contender is up, and what is
//! written during the warm-up after it does not count either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use rdkafka::message::Message as _;
use serde_json::json;
use tokio::time::{sleep, sleep_until};

use crate::Result;
use crate::process::{Subject, limited, round};
use crate::servers::{Reader, connect};

const WRITE: &str = include_str!("sql/write.sql");
const WRITERS: u64 = 8;
/// How long the first events and the last ones may take.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    #[arg(long)]
    topic: String,
    /// Events per second
    #[arg(long)]
    rate: u64,
    /// Events of one transaction
    #[arg(long, default_value_t = 10)]
    per_commit: u64,
    /// Seconds that do not count
    #[arg(long, default_value_t = 15)]
    warmup: u64,
    /// Seconds that count
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    #[arg(long, default_value_t = 1_000)]
    keys: u64,
    /// Bytes of the payload
    #[arg(long, default_value_t = 300)]
    payload: usize,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 600)]
    within: u64,
}

/// When each event was committed and when it arrived: nanoseconds since `begin`, zero for not yet.
struct Times {
    begin: Instant,
    committed: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Times {
    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// In microseconds, of the events that have arrived from `first` on.
    fn latencies(&self, first: usize) -> Result<Histogram<u64>> {
        let mut latencies = Histogram::<u64>::new(3)?;
        for (committed, arrived) in self.committed[first..].iter().zip(&self.arrived[first..]) {
            let arrived = arrived.load(Ordering::Relaxed);
            if arrived > 0 {
                latencies.record(arrived.saturating_sub(committed.load(Ordering::Relaxed)) / 1_000)?;
            }
        }
        Ok(latencies)
    }
}

pub async fn run(options: Options) -> Result<()> {
    limited(options.within, measure(&options)).await
}

async fn measure(options: &Options) -> Result<()> {
    let (mut contender, _) = options.subject.begin().await?;
    let events = options.per_commit + options.rate * (options.warmup + options.seconds);
    let zeros = || (0..events).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let times =
        Arc::new(Times { begin: Instant::now(), committed: zeros(), arrived: zeros(), over: AtomicBool::new(false) });
    let reader = Reader::new(&options.topic)?;
    let consumer = tokio::task::spawn_blocking({
        let times = Arc::clone(&times);
        move || consume(reader, &times)
    });
    let arrived = |from: usize, to: usize| times.arrived[from..to].iter().all(|time| time.load(Ordering::Relaxed) > 0);
    write(options, &times, Instant::now(), std::iter::once(0)).await?;
    let waited = Instant::now();
    while !arrived(0, options.per_commit as usize) {
        contender.check(false)?;
        if waited.elapsed() > GRACE {
            return Err(format!("the first events did not arrive within {} s", GRACE.as_secs()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }

    let start = Instant::now();
    let transactions = 1 + options.rate * (options.warmup + options.seconds) / options.per_commit;
    // Every eighth transaction is one writer's.
    let shares = (0..WRITERS).map(|writer| (1 + writer..transactions).step_by(WRITERS as usize));
    let writers = try_join_all(shares.map(|share| write(options, &times, start, share)));
    let counted = async {
        sleep(Duration::from_secs(options.warmup)).await;
        let before = options.subject.usage(Some(&contender));
        sleep(Duration::from_secs(options.seconds)).await;
        Ok((before, options.subject.usage(Some(&contender))))
    };
    let (_, (before, used)) = tokio::try_join!(writers, counted)?;
    let inserted_in = start.elapsed();
    let waited = Instant::now();
    let first = (options.per_commit + options.rate * options.warmup) as usize;
    let missing = || times.arrived[first..].iter().filter(|time| time.load(Ordering::Relaxed) == 0).count();
    while missing() > 0 && waited.elapsed() < GRACE {
        contender.check(false)?;
        sleep(Duration::from_millis(200)).await;
    }
    let missing = missing();
    times.over.store(true, Ordering::Relaxed);
    consumer.await??;
    let peak = contender.peak_mb();
    contender.end().await?;

    let latencies = times.latencies(first)?;
    let at = |quantile| round(latencies.value_at_quantile(quantile) as f64 / 1e3);
    let inserted = ((events - options.per_commit) as f64 / inserted_in.as_secs_f64()).round();
    let cpu = used.per_million(before, options.rate * options.seconds);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    println!(
        "{:<14} {:>9} {:>10} {p50:>10} {p99:>10} {p999:>10} {missing:>8}",
        options.subject.contender, options.rate, inserted
    );
    options.subject.record(json!({
        "offered": options.rate,
        "inserted": inserted,
        "per_commit": options.per_commit,
        "seconds": options.seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "max_ms": at(1.0),
        "missing": missing,
        "cpu": cpu,
        "peak_mb": peak.round(),
    }))
}

/// Writes these transactions, each when it is due after `start`: the first one at once.
async fn write(options: &Options, times: &Times, start: Instant, share: impl Iterator<Item = u64>) -> Result<()> {
    let client = connect().await?;
    let statement = client.prepare(WRITE).await?;
    // {"n": 1234567, "filler": "…"}
    let filler = "x".repeat(options.payload.saturating_sub(28));
    for number in share {
        let before = number.saturating_sub(1) * options.per_commit;
        sleep_until((start + Duration::from_secs_f64(before as f64 / options.rate as f64)).into()).await;
        let first = number * options.per_commit;
        let events: Vec<i64> = (first..first + options.per_commit).map(|n| n as i64).collect();
        client.execute(&statement, &[&options.topic, &events, &(options.keys as i64), &filler]).await?;
        let now = times.now();
        for event in events {
            times.committed[event as usize].store(now, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Notes when each event arrives, the first time.
fn consume(mut reader: Reader, times: &Times) -> Result<()> {
    reader.assign()?;
    while !times.over.load(Ordering::Relaxed) {
        let Some(message) = reader.next()? else { continue };
        let event = number_of(message.payload().unwrap_or_default()).ok_or("a record that is none of ours")?;
        let slot = times.arrived.get(event).ok_or("an event that was never written")?;
        // One that comes again keeps its first time.
        if slot.load(Ordering::Relaxed) == 0 {
            slot.store(times.now(), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The number in `{"n": 123, …}`, which is how PostgreSQL prints this jsonb.
fn number_of(payload: &[u8]) -> Option<usize> {
    let digits = payload.strip_prefix(b"{\"n\": ")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&digits[..end]).ok()?.parse().ok()
}
