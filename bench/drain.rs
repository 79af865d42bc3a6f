//! How fast a contender drains the backlog that waits for it.
//!
//! The rate is that of the records in Kafka: their number by the time between the first and the last one, both by the
//! broker's clock, so that one definition serves all, and nobody's start counts. CPU is counted from the start of the
//! contender (or from when it is woken up) until everything has been sent and, for those who mark rows, marked.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use crate::Result;
use crate::process::{Subject, limited, round};
use crate::servers::{Reader, appended_at, connect};

const PENDING: &str = include_str!("sql/pending.sql");
const MARKED: &str = include_str!("sql/marked.sql");

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// The topic that the records come to; without it the rows are counted that are marked
    #[arg(long)]
    topic: Option<String>,
    /// Records to wait for
    #[arg(long)]
    rows: u64,
    /// The contender marks rows: it is done when none is PENDING
    #[arg(long)]
    marks: bool,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 900)]
    within: u64,
}

pub async fn run(options: Options) -> Result<()> {
    limited(options.within, measure(&options)).await
}

async fn measure(options: &Options) -> Result<()> {
    let database = connect().await?;
    let mut reader = options.topic.as_deref().map(Reader::new).transpose()?;
    let (mut contender, before) = options.subject.begin().await?;

    // The peak is noted on the way: a contender may end by itself.
    let mut peak = 0.0_f64;
    if let Some(reader) = &reader {
        while reader.offsets().await? < options.rows {
            contender.check(true)?;
            peak = peak.max(contender.peak_mb());
            sleep(Duration::from_millis(50)).await;
        }
    }
    let mut used = options.subject.usage(Some(&contender));
    if options.marks {
        while database.query_one(PENDING, &[]).await?.get::<_, bool>(0) {
            contender.check(false)?;
            peak = peak.max(contender.peak_mb());
            // Asking costs as well; what takes seconds need not be asked for twenty times in each.
            sleep(Duration::from_millis(if reader.is_some() { 20 } else { 250 })).await;
        }
        used = options.subject.usage(Some(&contender));
    }
    peak = peak.max(contender.peak_mb());
    contender.end().await?;

    let (records, seconds) = match &mut reader {
        Some(reader) => tokio::task::block_in_place(|| between(reader))?,
        None => {
            let row = database.query_one(MARKED, &[]).await?;
            (row.get::<_, i64>(0) as u64, row.get::<_, f64>(1))
        }
    };
    if records < options.rows {
        return Err(format!("{} of {} events are missing", options.rows - records, options.rows).into());
    }
    let rate = records as f64 / seconds.max(0.001);
    let cpu = used.per_million(before, options.rows);
    options.subject.show(rate, &cpu, peak, records - options.rows);
    options.subject.record(json!({
        "rows": options.rows,
        "rate": rate.round(),
        "seconds": round(seconds),
        "repeats": records - options.rows,
        "cpu": cpu,
        "peak_mb": peak.round(),
    }))
}

/// The records of a topic, and the seconds between its first and its last one.
fn between(reader: &mut Reader) -> Result<(u64, f64)> {
    let (mut records, mut first, mut last) = (0, i64::MAX, i64::MIN);
    reader.read_all(|message| {
        records += 1;
        first = first.min(appended_at(message));
        last = last.max(appended_at(message));
    })?;
    Ok((records, last.saturating_sub(first) as f64 / 1e3))
}
