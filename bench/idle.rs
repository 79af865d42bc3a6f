//! What a contender costs while there is nothing to do: transactions in PostgreSQL, and CPU.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use crate::Result;
use crate::process::{Subject, limited, round, shown};
use crate::servers::connect;

const TRANSACTIONS: &str = include_str!("sql/transactions.sql");
/// After its start a contender has work to do that is not idleness.
const SETTLES: Duration = Duration::from_secs(15);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// Seconds to look on. The counters of PostgreSQL may lag a second behind.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub async fn run(options: Options) -> Result<()> {
    limited(options.seconds + 120, measure(&options)).await
}

async fn measure(options: &Options) -> Result<()> {
    let database = connect().await?;
    let (mut contender, _) = options.subject.begin().await?;
    sleep(SETTLES).await;
    let before = options.subject.usage(Some(&contender));
    let begin = Instant::now();
    let first: i64 = database.query_one(TRANSACTIONS, &[]).await?.get(0);
    sleep(Duration::from_secs(options.seconds)).await;
    contender.check(false)?;
    let last: i64 = database.query_one(TRANSACTIONS, &[]).await?.get(0);
    let took = begin.elapsed();
    let cpu = options.subject.usage(Some(&contender)).percent(before, took);
    let peak = contender.peak_mb();
    contender.end().await?;
    // Our own two looks are transactions as well; each is counted once it is over.
    let per_second = round((last - first - 1).max(0) as f64 / took.as_secs_f64());
    println!(
        "{:<14} {per_second:>16} {:>12} {:>12} {:>12}",
        options.subject.contender,
        shown(&cpu["contender"]),
        shown(&cpu["postgres"]),
        shown(&cpu["kafka"])
    );
    options.subject.record(json!({
        "seconds": options.seconds,
        "transactions_per_second": per_second,
        "cpu_percent": cpu,
        "peak_mb": peak.round(),
    }))
}
