//! `top`: the outbox, live. On a terminal a view that refreshes itself; elsewhere one snapshot per line of JSON.
//!
//! `grid` makes tables, `view` draws, `live` is the loop with the keys.

mod grid;
#[cfg(feature = "tui")]
mod live;
#[cfg(feature = "tui")]
mod view;

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{Context, Result, admin_pool};
use crate::cli::TopArgs;
use crate::config::Needs;
use crate::error::{Code, Error};
use crate::operations::top::{Look, Watch};
use crate::output::{self, Format};

/// Whether it draws; then nothing else may write to the terminal.
pub(super) fn takes_the_screen(format: Format, args: &TopArgs) -> bool {
    format == Format::Table && args.count().is_none() && output::is_terminal()
}

pub(super) async fn run(context: &Context, args: &TopArgs) -> Result<()> {
    let draws = takes_the_screen(context.format(), args);
    if draws && !cfg!(feature = "tui") {
        return Err(Error::new(Code::Usage, "this program was built without the live view")
            .hint("build it with the feature: cargo build --release --features tui\nor have a snapshot per line: outbox-relay top -o json")
            .into());
    }
    let settings = context.settings(Needs::DATABASE)?;
    let watch = Watch::new(&settings, admin_pool(&settings)?)?;
    #[cfg(feature = "tui")]
    if draws {
        return live::run(watch, args.interval).await;
    }
    print(watch, args.interval, args.count()).await
}

/// A line per interval, for ever or `count` times. Errors: that of the last look, if PostgreSQL did not answer then.
async fn print(mut watch: Watch, interval: Duration, count: Option<u64>) -> Result<()> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = 0;
    loop {
        ticks.tick().await;
        let look = watch.look().await?;
        if !output::line(&look)? {
            // Nobody reads any more.
            return Ok(());
        }
        printed += 1;
        if count.is_some_and(|count| printed >= count) {
            return match look {
                Look::Ok(_) => Ok(()),
                Look::Unreachable { error, .. } => Err(Error::new(Code::PostgresUnreachable, error).into()),
            };
        }
    }
}
