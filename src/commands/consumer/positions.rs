//! `consumer positions`.

use crate::cli::{PositionsAcceptArgs, PositionsCommand, PositionsLsArgs, PositionsSetArgs};
use crate::commands::confirm::confirmed;
use crate::commands::{Context, Result, admin_pool, author};
use crate::config::Needs;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::consumer::positions::{self, Plan, PositionLine, Report};
use crate::output::{self, Align, Cell, Table, Tone};

pub(super) async fn run(context: &Context, command: &PositionsCommand) -> Result<()> {
    match command {
        PositionsCommand::Ls(args) => ls(context, args).await,
        PositionsCommand::Set(args) => match &args.from_group {
            Some(from) => take_over(context, args, from).await,
            None => set(context, args).await,
        },
        PositionsCommand::Accept(args) => accept(context, args).await,
    }
}

async fn ls(context: &Context, args: &PositionsLsArgs) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let lines = positions::list(&pool, args.group.as_deref(), args.topic.as_deref()).await?;
    output::data(context.format(), &lines, &lines, || table(&lines))?;
    if lines.is_empty() {
        output::note("no group has read anything");
    }
    Ok(())
}

fn table(lines: &[PositionLine]) -> String {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("NEXT", Align::Right),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("WHY", Align::Left),
    ]);
    for line in lines {
        let state = match line.is_stopped {
            false => Cell::new("ok"),
            true => Cell::new(output::printable(&line.state)).tone(Tone::Bad),
        };
        table.row([
            Cell::new(output::printable(&line.group)),
            Cell::new(&line.topic),
            Cell::new(line.partition),
            Cell::new(line.next_offset),
            state,
            Cell::optional(line.stopped_at.map(crate::db::StoredTime::to_seconds)),
            Cell::new(output::printable(line.detail.as_deref().unwrap_or_default())),
        ]);
    }
    table.render()
}

async fn set(context: &Context, args: &PositionsSetArgs) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let (Some(topic), Some(partition), Some(offset)) = (&args.topic, args.partition, args.offset) else {
        return Err(Error::new(Code::Usage, "no position given: use --topic, --partition and --offset").into());
    };
    let group = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let pool = admin_pool(&settings)?;
    let plan = positions::plan_set(&settings, &pool, group, topic, partition, offset).await?;
    carry_out(context, &pool, group, &plan, &args.consent).await
}

async fn accept(context: &Context, args: &PositionsAcceptArgs) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let group = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let pool = admin_pool(&settings)?;
    let plan = positions::plan_accept(&settings, &pool, group, &args.topic, args.partition).await?;
    carry_out(context, &pool, group, &plan, &args.consent).await
}

async fn carry_out(
    context: &Context,
    pool: &Pool,
    group: &str,
    plan: &Plan,
    consent: &crate::cli::Consent,
) -> Result<()> {
    let report = if consent.dry_run {
        plan.preview()
    } else {
        if !confirmed(consent.yes, &format!("let group {group} continue with {}?", plan.describe()))? {
            return Ok(());
        }
        plan.run(pool, &author(consent.reason.clone())).await?
    };
    output::one(context.format(), &report, || report_table(&report))?;
    output::note(if consent.dry_run {
        "nothing was changed"
    } else {
        "a running consumer continues there within a few seconds"
    });
    Ok(report.verdict()?)
}

fn report_table(report: &Report) -> String {
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("FROM", Align::Right),
        ("TO", Align::Right),
        ("WAS", Align::Left),
    ]);
    for position in &report.positions {
        table.row([
            Cell::new(&position.topic),
            Cell::new(position.partition),
            Cell::optional(position.from),
            Cell::new(position.to),
            Cell::new(position.was.as_deref().unwrap_or("ok")),
        ]);
    }
    table.render()
}

async fn take_over(context: &Context, args: &PositionsSetArgs, from: &str) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let to = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let pool = admin_pool(&settings)?;
    let plan = positions::plan_take_over(&pool, from, to).await?;
    let report = if args.consent.dry_run {
        plan.preview()
    } else {
        let question = format!("let group {to} continue where {from} is? The consumer of {from} must be stopped");
        if !confirmed(args.consent.yes, &question)? {
            return Ok(());
        }
        plan.run(&pool, &author(args.consent.reason.clone())).await?
    };
    output::one(context.format(), &report, || {
        format!(
            "{} partitions, {} handled events, {} parked events\n",
            report.partitions, report.handled, report.parked
        )
    })?;
    output::note(if args.consent.dry_run {
        "nothing was changed"
    } else {
        "a running consumer continues within a few seconds"
    });
    Ok(())
}
