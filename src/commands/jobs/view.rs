//! Jobs as a table and as a block of text.

use crate::operations::jobs::JobLine;
use crate::operations::progress::{Progress, Step};
use crate::output::{self, Align, Cell, Table, Tone};

/// Characters of a name in the table; JSON has it whole.
const NAME_WIDTH: usize = 40;

pub(super) fn table(lines: &[JobLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("PROGRESS", Align::Left),
        ("STARTED BY", Align::Left),
        ("STARTED", Align::Left),
        ("UPDATED", Align::Left),
    ]);
    for line in lines {
        table.row([
            Cell::new(&line.id),
            Cell::new(output::shortened(&line.kind, NAME_WIDTH)),
            Cell::new(&line.state).tone(tone(&line.state)),
            Cell::new(output::shortened(&current(line), NAME_WIDTH)),
            Cell::new(output::shortened(&line.actor, NAME_WIDTH)),
            Cell::new(line.started_at.to_seconds()),
            Cell::new(line.updated_at.to_seconds()),
        ]);
    }
    table.render()
}

fn tone(state: &str) -> Tone {
    match state {
        "stalled" | "failed" => Tone::Bad,
        "cancelling" | "cancelled" => Tone::Warning,
        "running" => Tone::Good,
        _ => Tone::Faint,
    }
}

/// The part that is under way, or was last.
fn current(line: &JobLine) -> String {
    line.parts.last().map(|part| amount(&part.what, part.done, part.total)).unwrap_or_default()
}

fn amount(what: &str, done: u64, total: u64) -> String {
    match total {
        0 => format!("{done} {what}"),
        total => format!("{done} of {total} {what}"),
    }
}

pub(super) fn block(line: &JobLine) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<15} {}\n", output::printable(&value)));
        }
    };
    field("job", Some(line.id.clone()));
    field("kind", Some(line.kind.clone()));
    field("state", Some(line.state.clone()));
    field("stalled since", line.stalled_since.map(|at| at.to_string()));
    for part in &line.parts {
        field("progress", Some(amount(&part.what, part.done, part.total)));
    }
    field("result", line.result.as_ref().map(ToString::to_string));
    field(
        "error",
        line.error.as_ref().map(|error| match &line.error_code {
            Some(code) => format!("{code}: {error}"),
            None => error.clone(),
        }),
    );
    for (n, hint) in line.hint.iter().flat_map(|hint| hint.lines()).enumerate() {
        field(if n == 0 { "hint" } else { "" }, Some(hint.to_owned()));
    }
    field("started by", Some(line.actor.clone()));
    field("reason", line.reason.clone());
    field("started at", Some(line.started_at.to_string()));
    field("resumed at", line.resumed_at.map(|at| at.to_string()));
    field("process", Some(line.run_by.clone()));
    field("updated at", Some(line.updated_at.to_string()));
    field("ended at", line.ended_at.map(|at| at.to_string()));
    field("cancelled by", line.cancelled_by.clone());
    field("epoch", Some(line.epoch.to_string()));
    field("arguments", line.arguments.as_ref().map(ToString::to_string));
    field(
        "resumable",
        Some(match &line.not_resumable_because {
            None => "yes".to_owned(),
            Some(why) => format!("no: {why}"),
        }),
    );
    text
}

/// Shows how far a job of another process is.
pub(super) fn progress(line: &JobLine, shown: &dyn Progress) {
    if let Some(part) = line.parts.last() {
        let what = if part.what == "copied" { "copied" } else { "done" };
        // Rows of somebody else may have any number.
        let sane = |figure: u64| figure.min(1 << 53);
        shown.report(Step::new(what, sane(part.done), sane(part.total)));
    }
}
