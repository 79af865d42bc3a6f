//! `lag`: what waits in the outbox, and how far a consumer group is behind, per partition.

mod view;

use super::{Context, Result, admin_pool};
use crate::cli::LagArgs;
use crate::config::Needs;
use crate::operations::lag::{self, Thresholds};

pub(super) async fn run(context: &Context, args: &LagArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let own_group = settings.consumer.enabled.then(|| settings.consumer.group.clone());
    let group = args.group.clone().or(own_group);
    let settings = if group.is_some() { context.settings(Needs::BOTH)? } else { settings };
    let pool = admin_pool(&settings)?;
    let measured = lag::measure(&settings, &pool, group).await?;
    view::print(context.format(), &measured.report)?;
    if let Some(error) = measured.failed {
        return Err(error.into());
    }
    let limits = Thresholds { events: args.fail_over, age: args.fail_over_age };
    Ok(limits.check(&measured.report)?)
}
