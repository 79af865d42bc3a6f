//! `consumer positions`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::decider;
use crate::broker::admin::Admin;
use crate::cli::{PositionsAcceptArgs, PositionsCommand, PositionsLsArgs, PositionsSetArgs, WantedOffset};
use crate::commands::confirm::confirmed;
use crate::commands::{Context, Result, admin_pool};
use crate::config::{Config, Needs};
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::output::{self, Align, Cell, Table, Tone};
use crate::projection::decisions::positions::{self, Change, Line, Refused};
use crate::projection::position::Log;

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

#[derive(Debug, Serialize)]
struct Row<'a> {
    group: &'a str,
    topic: &'a str,
    partition: i32,
    /// `null`: all of the group.
    projection: Option<&'a str>,
    next_offset: i64,
    /// `ok`, or why it is stopped.
    state: &'a str,
    detail: Option<&'a str>,
    stopped_at: Option<String>,
    updated_at: String,
    last_offset: Option<i64>,
    cluster_id: Option<&'a str>,
    topic_id: Option<String>,
}

impl<'a> From<&'a Line> for Row<'a> {
    fn from(line: &'a Line) -> Self {
        Self {
            group: &line.group,
            topic: &line.topic,
            partition: line.partition,
            projection: line.projection.as_deref(),
            next_offset: line.next_offset,
            state: line.stopped.as_deref().unwrap_or("ok"),
            detail: line.detail.as_deref(),
            stopped_at: line.stopped_at.map(|at| at.to_string()),
            updated_at: line.updated_at.to_string(),
            last_offset: line.last_offset,
            cluster_id: line.cluster_id.as_deref(),
            topic_id: line.topic_id.map(|id| id.to_string()),
        }
    }
}

async fn ls(context: &Context, args: &PositionsLsArgs) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    let lines = positions::list(&pool, args.group.as_deref(), args.topic.as_deref()).await?;
    let rows: Vec<Row<'_>> = lines.iter().map(Row::from).collect();
    output::data(context.format(), &rows, &rows, || table(&lines))?;
    if rows.is_empty() {
        output::note("no group has read anything");
    }
    Ok(())
}

fn table(lines: &[Line]) -> String {
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
        let state = match &line.stopped {
            None => Cell::new("ok"),
            Some(reason) => Cell::new(output::printable(reason)).tone(Tone::Bad),
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

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Report<'a> {
    group: &'a str,
    dry_run: bool,
    /// Positions that were set.
    changed: u64,
    positions: Vec<Planned<'a>>,
}

#[derive(Debug, Serialize)]
struct Planned<'a> {
    topic: &'a str,
    partition: i32,
    /// `null`: the group has not read it.
    from: Option<i64>,
    to: i64,
    was: Option<&'a str>,
}

async fn set(context: &Context, args: &PositionsSetArgs) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let (Some(topic), Some(partition), Some(wanted)) = (&args.topic, args.partition, args.offset) else {
        return Err(Error::new(Code::Usage, "which position? --topic, --partition and --offset say it").into());
    };
    let group = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let log = logs(&settings, topic).await?.remove(&(topic.clone(), partition));
    let Some(log) = log else { return Err(no_such_partition(topic, Some(partition)).into()) };
    let to = match wanted {
        WantedOffset::Earliest => log.start,
        WantedOffset::Latest => log.end,
        WantedOffset::At(at) => at,
    };
    if !(log.start..=log.end).contains(&to) {
        let message = format!("the log of {topic}/{partition} does not hold offset {to}");
        return Err(Error::new(Code::Usage, message)
            .hint(format!("its first offset is {}, and {} is the one after its last", log.start, log.end))
            .into());
    }
    let pool = admin_pool(&settings)?;
    let known = positions::list(&pool, Some(group), Some(topic)).await?;
    let from =
        known.iter().find(|line| line.partition == partition && line.projection.is_none()).map(|line| line.next_offset);
    let change = Change { topic: topic.clone(), partition, projection: None, from, to, while_stopped: None };
    carry_out(context, &pool, group, &[change], &args.consent, "consumer positions set").await
}

async fn accept(context: &Context, args: &PositionsAcceptArgs) -> Result<()> {
    let settings = context.settings(Needs::BOTH)?;
    let group = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let pool = admin_pool(&settings)?;
    let mut lines = positions::list(&pool, Some(group), Some(&args.topic)).await?;
    lines.retain(|line| line.stopped.is_some() && args.partition.is_none_or(|partition| line.partition == partition));
    if lines.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no partition of {} is stopped in group {group}", args.topic))
            .hint("outbox-relay consumer positions ls lists what is")
            .into());
    }
    let logs = logs(&settings, &args.topic).await?;
    let changes = positions::acceptance(&lines, &logs)
        .map_err(|missing| Error::new(Code::NotFound, missing).hint("create the topic first; nothing was changed"))?;
    carry_out(context, &pool, group, &changes, &args.consent, "consumer positions accept").await
}

/// First and last offsets of the partitions of a topic, now.
async fn logs(settings: &Config, topic: &str) -> Result<BTreeMap<(String, i32), Log>> {
    let offsets = Admin::new(&settings.kafka)?.offsets(topic).await?;
    if offsets.is_empty() {
        return Err(no_such_partition(topic, None).into());
    }
    let log = |offsets: crate::broker::admin::PartitionOffsets| {
        ((topic.to_owned(), offsets.partition), Log { start: offsets.low, end: offsets.end })
    };
    Ok(offsets.into_iter().map(log).collect())
}

fn no_such_partition(topic: &str, partition: Option<i32>) -> Error {
    let name = partition.map_or_else(|| topic.to_owned(), |partition| format!("{topic}/{partition}"));
    Error::new(Code::NotFound, format!("{name} does not exist in Kafka"))
        .hint("outbox-relay consumer positions ls lists what was read")
}

async fn carry_out(
    context: &Context,
    pool: &Pool,
    group: &str,
    changes: &[Change],
    consent: &crate::cli::Consent,
    action: &str,
) -> Result<()> {
    let planned = |change: &'_ Change| format!("{}/{} at {}", change.topic, change.partition, change.to);
    let mut changed = 0;
    if !consent.dry_run {
        let list: Vec<String> = changes.iter().map(planned).collect();
        if !confirmed(consent.yes, &format!("let group {group} go on with {}?", list.join(", ")))? {
            return Ok(());
        }
        changed = positions::set(pool, group, changes, action, &decider(consent.reason.clone())).await?;
    }
    let report = Report {
        group,
        dry_run: consent.dry_run,
        changed,
        positions: changes
            .iter()
            .map(|change| Planned {
                topic: &change.topic,
                partition: change.partition,
                from: change.from,
                to: change.to,
                was: change.while_stopped.as_deref(),
            })
            .collect(),
    };
    output::one(context.format(), &report, || report_table(&report))?;
    output::note(if consent.dry_run {
        "nothing was changed"
    } else {
        "a running consumer goes on there within a few seconds"
    });
    if !consent.dry_run && changed < changes.len() as u64 {
        return Err(Error::new(Code::PartlyDone, "some partitions were not stopped any more and stay as they are")
            .hint("outbox-relay consumer positions ls shows where they are")
            .into());
    }
    Ok(())
}

fn report_table(report: &Report<'_>) -> String {
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("FROM", Align::Right),
        ("TO", Align::Right),
        ("WAS", Align::Left),
    ]);
    for position in &report.positions {
        table.row([
            Cell::new(position.topic),
            Cell::new(position.partition),
            Cell::optional(position.from),
            Cell::new(position.to),
            Cell::new(position.was.unwrap_or("ok")),
        ]);
    }
    table.render()
}

/// What one group has of another now.
#[derive(Debug, Serialize)]
struct TakenOver<'a> {
    from: &'a str,
    to: &'a str,
    dry_run: bool,
    partitions: u64,
    handled: u64,
    parked: u64,
}

async fn take_over(context: &Context, args: &PositionsSetArgs, from: &str) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let to = args.group.as_ref().unwrap_or(&settings.consumer.group);
    let pool = admin_pool(&settings)?;
    if from == to {
        return Err(Error::new(Code::Usage, format!("{from} is the group itself"))
            .hint("--from-group names the group as it was called before, --group or consumer.group as it is called now")
            .into());
    }
    let partitions = match positions::may_move(&pool, from, to).await? {
        Ok(partitions) => partitions,
        Err(Refused::Nothing) => {
            return Err(Error::new(Code::NotFound, format!("group {from} has no positions"))
                .hint("outbox-relay consumer positions ls lists the groups")
                .into());
        }
        Err(Refused::HasItsOwn(topic)) => {
            return Err(Error::new(Code::Usage, format!("group {to} has read {topic} itself"))
                .hint("two groups that have both folded cannot be made one; nothing was changed")
                .into());
        }
    };
    let mut report = TakenOver { from, to, dry_run: args.consent.dry_run, partitions, handled: 0, parked: 0 };
    if !args.consent.dry_run {
        let question = format!("let group {to} go on where {from} is? The consumer of {from} must be stopped");
        if !confirmed(args.consent.yes, &question)? {
            return Ok(());
        }
        let author = decider(args.consent.reason.clone());
        let moved = positions::move_group(&pool, from, to, &author, |handled| {
            tracing::debug!(handled, "copied handled events to the other group");
        });
        let moved = moved.await?;
        (report.partitions, report.handled, report.parked) = (moved.partitions, moved.handled, moved.parked);
    }
    output::one(context.format(), &report, || {
        format!(
            "{} partitions, {} handled events, {} parked events\n",
            report.partitions, report.handled, report.parked
        )
    })?;
    output::note(if args.consent.dry_run {
        "nothing was changed"
    } else {
        "a running consumer goes on within a few seconds"
    });
    Ok(())
}
