//! `recover`: what PostgreSQL and Kafka say of each shard in exactly-once delivery, and how a shard goes on after they
//! disagreed.

use super::progress::Shown;
use super::{Context, Result, admin_pool, author};
use crate::cli::RecoverArgs;
use crate::config::Needs;
use crate::operations::recover::{self, Line, Request, Rows};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, args: &RecoverArgs) -> Result<()> {
    let request = Request {
        shard: args.shard,
        rows: match (args.from_kafka, args.scan) {
            (true, _) => Some(Rows::Pending),
            (false, true) => Some(Rows::InFlight),
            (false, false) => None,
        },
        since: args.since,
        topics: args.topic.clone(),
        apply: args.apply,
    };
    request.check()?;
    let settings = context.settings(Needs::BOTH)?;
    let pool = admin_pool(&settings)?;
    let author = author(args.reason.clone());
    let report = recover::run(&settings, &pool, &request, &author, &Shown::default()).await?;
    output::data(context.format(), &report, &report.lines, || table(&report.lines))?;
    Ok(report.verdict()?)
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::new(&[
        ("SHARD", Align::Right),
        ("BATCH", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("MARKER", Align::Right),
        ("IN KAFKA", Align::Right),
        ("NOT IN KAFKA", Align::Right),
        ("VERDICT", Align::Left),
    ]);
    for line in lines {
        let (verdict, tone) = match line.verdict.as_str() {
            "ok" => ("ok", Tone::Good),
            _ if line.recovered => ("recovered", Tone::Good),
            other => (other, Tone::Bad),
        };
        table.row([
            Cell::new(line.shard),
            Cell::new(line.batch),
            Cell::new(line.in_flight),
            Cell::optional(line.marker),
            Cell::optional(line.found),
            Cell::optional(line.missing),
            Cell::new(verdict).tone(tone),
        ]);
    }
    table.render()
}
