//! `events trace`: the history of an event, from its row to the consumers that handled it.

use super::super::{Context, Result};
use crate::cli::EventsTraceArgs;
use crate::db::Pool;
use crate::operations::events::{self, Subject, TraceLine};
use crate::output::{self, Align, Cell, Table, Tone};

const DETAILS_WIDTH: usize = 80;

pub(super) async fn run(context: &Context, pool: &Pool, args: &EventsTraceArgs) -> Result<()> {
    let subject = match (args.event, &args.correlation_id) {
        (Some(event), _) => Subject::Event(event),
        (None, correlation_id) => Subject::Correlation(correlation_id.clone().unwrap_or_default()),
    };
    let traced = events::trace(pool, &subject).await?;
    if traced.is_cut() {
        output::note(&format!("only the first {} events of this correlation id are traced", traced.events));
    }
    output::data(context.format(), &traced, &traced.lines, || table(&traced.lines, traced.events > 1))?;
    Ok(())
}

fn table(lines: &[TraceLine], several: bool) -> String {
    let mut columns = vec![
        ("AT", Align::Left),
        ("WHAT", Align::Left),
        ("ROW", Align::Right),
        ("WHERE", Align::Left),
        ("DETAILS", Align::Left),
    ];
    if several {
        columns.insert(1, ("EVENT_ID", Align::Left));
    }
    let mut table = Table::new(&columns);
    for line in lines {
        let tone = match line.what.as_str() {
            "published" | "handled" => Tone::Good,
            "failed" | "parked" => Tone::Bad,
            "held" | "discarded" => Tone::Warning,
            _ => Tone::Plain,
        };
        let topic = line.topic.as_deref().map(output::printable).unwrap_or_default();
        let place = match (line.partition, line.offset) {
            (Some(partition), Some(offset)) => format!("{topic}/{partition}/{offset}"),
            _ => topic.into_owned(),
        };
        let details = output::printable(line.details.as_deref().unwrap_or_default());
        let mut cells = vec![
            Cell::new(line.at),
            Cell::new(&line.what).tone(tone),
            Cell::optional(line.row),
            Cell::new(place),
            Cell::new(output::shortened(&details, DETAILS_WIDTH)),
        ];
        if several {
            cells.insert(1, Cell::new(&line.event_id));
        }
        table.row(cells);
    }
    table.render()
}
