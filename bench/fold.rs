//! How fast the consumer folds the records that wait in a topic.
//!
//! The rate is that of the records between the first and the last commit of offsets that is seen, so that nobody's
//! start counts. CPU is counted from the start of the consumer.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use crate::Result;
use crate::process::{Subject, limited, round};
use crate::servers::connect;

const FOLDED: &str = include_str!("sql/folded.sql");

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// The consumer group
    #[arg(long)]
    group: String,
    /// Records to wait for
    #[arg(long)]
    rows: u64,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 900)]
    within: u64,
}

pub async fn run(options: Options) -> Result<()> {
    limited(options.within, measure(&options)).await
}

async fn measure(options: &Options) -> Result<()> {
    let database = connect().await?;
    let (mut contender, before) = options.subject.begin().await?;
    let mut first: Option<(Instant, u64)> = None;
    let (mut folded, mut peak) = (0, 0.0_f64);
    while folded < options.rows {
        contender.check(true)?;
        peak = peak.max(contender.peak_mb());
        sleep(Duration::from_millis(20)).await;
        folded = database.query_one(FOLDED, &[&options.group]).await?.get::<_, i64>(0) as u64;
        if folded > 0 {
            first.get_or_insert_with(|| (Instant::now(), folded));
        }
    }
    let used = options.subject.usage(Some(&contender));
    let (since, at_first) = first.ok_or("nothing was folded")?;
    let seconds = since.elapsed().as_secs_f64();
    contender.end().await?;
    let rate = (folded - at_first) as f64 / seconds.max(0.001);
    let cpu = used.per_million(before, options.rows);
    options.subject.show(rate, &cpu, peak, 0);
    options.subject.record(json!({
        "rows": options.rows,
        "rate": rate.round(),
        "seconds": round(seconds),
        "cpu": cpu,
        "peak_mb": peak.round(),
    }))
}
