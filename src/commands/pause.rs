//! `pause` and `resume`.

use super::{Context, Result, admin_pool, author};
use crate::cli::PauseArgs;
use crate::config::Needs;
use crate::operations::pause::{self, Change, Outcome, PauseLine, Request};
use crate::output::{self, Align, Cell, Table};

pub(super) async fn run(context: &Context, args: &PauseArgs, change: Change) -> Result<()> {
    let request = Request::new(args.topic.as_deref(), change, args.dry_run)?;
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let report = pause::run(&pool, &request, &author(args.reason.clone())).await?;
    output::data(context.format(), &report, &report.pauses, || table(&report.pauses))?;
    let what = request.subject();
    output::note(&match report.outcome {
        Outcome::WasPaused => format!("{what} was paused already"),
        Outcome::WouldPause => format!("would pause {what}"),
        Outcome::WouldResume => format!("would resume {what}"),
        Outcome::Paused => format!("{what} is paused, on every instance within about a second"),
        Outcome::Resumed => format!("{what} is resumed, on every instance within about two seconds"),
    });
    Ok(())
}

pub(super) fn table(lines: &[PauseLine]) -> String {
    if lines.is_empty() {
        return "nothing is paused\n".to_owned();
    }
    let mut table =
        Table::new(&[("PAUSED", Align::Left), ("SINCE", Align::Left), ("BY", Align::Left), ("REASON", Align::Left)]);
    for line in lines {
        table.row([
            Cell::new(&line.topic),
            Cell::new(&line.paused_at),
            Cell::new(&line.by),
            Cell::new(line.reason.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}
