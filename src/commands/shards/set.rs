//! `shards set`: another number of shards while applications insert and instances are at work.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::ShardsSetArgs;
use crate::commands::confirm::confirmed;
use crate::commands::progress::Shown;
use crate::commands::signals::Signals;
use crate::commands::{Context, Result, admin_pool, author};
use crate::config::{Config, Needs};
use crate::db::Pool;
use crate::operations::shards::set::{self, Plan, Report};
use crate::output;

/// Refusals that are told one by one; JSON has them all.
const REFUSALS_SHOWN: usize = 20;

pub(super) async fn run(context: &Context, args: &ShardsSetArgs) -> Result<()> {
    let (shards, consent) = (args.count, &args.consent);
    let settings = context.settings(Needs::DATABASE)?;
    let pool = admin_pool(&settings)?;
    let plan = set::plan(&pool, shards).await?;
    if plan.is_done() {
        output::note(&format!("the outbox has {shards} shards already"));
        return print(context, &plan.nothing(consent.dry_run));
    }
    if consent.dry_run {
        let report = plan.preview(&pool).await?;
        output::note(&format!(
            "would spread keys over {shards} shards instead of {}, and look at {} events that wait or failed; nothing was changed",
            report.from,
            report.waiting.unwrap_or_default()
        ));
        return print(context, &report);
    }
    let question = format!("Spread keys over {shards} shards instead of {}? Publishing pauses meanwhile.", plan.from());
    if !confirmed(consent.yes, &question)? {
        return Ok(());
    }
    carry_out(context, &settings, &pool, plan, args.timeout, consent.reason.clone()).await
}

/// Continues a job that has stopped in the middle.
pub(in crate::commands) async fn resume(
    context: &Context,
    job: Uuid,
    shards: u16,
    timeout: Duration,
    reason: Option<String>,
) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let pool = admin_pool(&settings)?;
    let plan = set::plan(&pool, shards).await?.of_job(job);
    if plan.is_done() {
        plan.end_job(&pool, &author(reason)).await?;
        output::note(&format!("the outbox has {shards} shards already"));
        return print(context, &plan.nothing(false));
    }
    carry_out(context, &settings, &pool, plan, timeout, reason).await
}

async fn carry_out(
    context: &Context,
    settings: &Config,
    pool: &Pool,
    mut plan: Plan,
    timeout: Duration,
    reason: Option<String>,
) -> Result<()> {
    let shards = plan.shards();
    if plan.needs_kafka(settings) {
        plan.prepare(&context.settings(Needs::BOTH)?).await?;
    } else {
        plan.prepare(settings).await?;
    }
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let (author, progress) = (author(reason), Shown::default());
    let work = plan.run(pool, timeout, &author, &progress, &stop);
    let Some(outcome) = signals.run(Box::pin(work), &stop).await else { return Err(set::interrupted(shards).into()) };
    drop(progress);
    let report = outcome?;
    output::note(&format!(
        "keys are spread over {shards} shards; set outbox.shards = {shards} where the settings are kept, for a new outbox"
    ));
    print(context, &report)?;
    for refusal in report.refused.iter().take(REFUSALS_SHOWN) {
        output::note(&format!("event {}: {}", refusal.id, refusal.reason));
    }
    Ok(report.verdict()?)
}

fn print(context: &Context, report: &Report) -> Result<()> {
    output::data(context.format(), report, std::slice::from_ref(report), || match report.dry_run {
        true => String::new(),
        false => format!("{} shards, {} events moved\n", report.shards, report.moved),
    })?;
    Ok(())
}
