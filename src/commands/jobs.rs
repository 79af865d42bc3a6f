//! `jobs`: long-running commands, wherever they were started.

mod view;

use std::time::Duration;

use super::progress::Shown;
use super::{Context, Result, admin_pool, author, cleanup, dlq, replay, shards};
use crate::cli::{JobsCancelArgs, JobsCommand, JobsLsArgs, JobsResumeArgs, JobsShowArgs};
use crate::config::Needs;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::jobs::{self, Cancelled, Filter, JobLine, Resumable};
use crate::output::{self, Format};

/// Between two looks at a job that is followed.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, command: &JobsCommand) -> Result<()> {
    let pool = admin_pool(&context.settings(Needs::DATABASE)?)?;
    match command {
        JobsCommand::Ls(args) => ls(context, &pool, args).await,
        JobsCommand::Show(args) => show(context, &pool, args).await,
        JobsCommand::Cancel(args) => cancel(context, &pool, args).await,
        JobsCommand::Resume(args) => resume(context, &pool, args).await,
    }
}

async fn ls(context: &Context, pool: &Pool, args: &JobsLsArgs) -> Result<()> {
    let filter = Filter { states: args.state.clone(), kinds: args.kind.clone(), limit: args.limit };
    let lines = jobs::list(pool, &filter).await?;
    output::data(context.format(), &lines, &lines, || view::table(&lines))?;
    if lines.is_empty() {
        output::note("no job matches");
    }
    Ok(())
}

async fn show(context: &Context, pool: &Pool, args: &JobsShowArgs) -> Result<()> {
    let mut job = jobs::show(pool, args.id).await?;
    if args.follow {
        let progress = Shown::default();
        let per_line = context.format() == Format::Ndjson;
        while !job.is_at_rest() {
            view::progress(&job, &progress);
            tokio::time::sleep(LOOK).await;
            let now = jobs::show(pool, args.id).await?;
            // A reader that has gone wants no more.
            if per_line && now != job && !output::line(&job)? {
                return Ok(());
            }
            job = now;
        }
    }
    print(context, &job)
}

async fn cancel(context: &Context, pool: &Pool, args: &JobsCancelArgs) -> Result<()> {
    if args.dry_run {
        print(context, &jobs::show(pool, args.id).await?)?;
        output::note("nothing was changed");
        return Ok(());
    }
    let (job, cancelled) = jobs::cancel(pool, args.id, &author(args.reason.clone())).await?;
    print(context, &job)?;
    output::note(match cancelled {
        Cancelled::Asked => "its process stops after the portion under way, within about a second",
        Cancelled::Ended => "no process was at work on it; it is cancelled",
        Cancelled::Nothing => "it had ended already; nothing was changed",
    });
    Ok(())
}

async fn resume(context: &Context, pool: &Pool, args: &JobsResumeArgs) -> Result<()> {
    let (id, reason) = (args.id, args.reason.clone());
    let Some(rest) = jobs::resume(pool, id, args.take_over).await? else {
        print(context, &jobs::show(pool, id).await?)?;
        output::note("it is done; there is nothing to resume");
        return Ok(());
    };
    if args.rate.is_some() && !matches!(rest, Resumable::Replay { .. } | Resumable::Redrive(_)) {
        return Err(Error::new(Code::Usage, "--rate is for replays and redrives").into());
    }
    if args.dry_run {
        print(context, &jobs::show(pool, id).await?)?;
        output::note("nothing was changed");
        return Ok(());
    }
    match rest {
        Resumable::Replay { ignore_retention } => {
            let (rate, take_over, dry_run) = (args.rate, args.take_over, false);
            let how = replay::Resume { id, ignore_retention, rate, reason, dry_run, take_over };
            Box::pin(replay::resume(context, how)).await
        }
        Resumable::Cleanup(mut paused) => {
            paused.take_over = args.take_over;
            Box::pin(cleanup::resume(context, *paused, reason)).await
        }
        Resumable::Redrive(mut paused) => {
            paused.take_over = args.take_over;
            paused.at_rate(args.rate.and_then(|rate| u32::try_from(rate).ok()));
            Box::pin(dlq::resume(context, *paused, reason)).await
        }
        Resumable::Reshard { shards, timeout } => {
            Box::pin(shards::set::resume(context, id, shards, timeout, reason)).await
        }
    }
}

fn print(context: &Context, job: &JobLine) -> Result<()> {
    Ok(output::one(context.format(), job, || view::block(job))?)
}
