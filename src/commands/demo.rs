//! `demo`: everything at work with parts of its own, until its time is over or a signal comes.

use std::process;

use tokio_util::sync::CancellationToken;

use super::Context;
use super::run::Signals;
use crate::cli::DemoArgs;
use crate::config;
use crate::demo::{self, DemoOptions};
use crate::error::{Exit, Result};
use crate::output;

pub(super) async fn run(context: &Context, args: DemoArgs) -> Result<()> {
    let mut signals = Signals::new()?;
    let options = DemoOptions {
        duration: args.duration,
        rate: args.rate,
        instances: args.instances,
        keep: args.keep,
        bootstrap: args.kafka,
        seed: args.seed,
        path: config::search_path(),
    };
    let stop = CancellationToken::new();
    let mut work = Box::pin(demo::run(options, context.format(), stop.clone()));
    tokio::select! {
        outcome = &mut work => return outcome,
        name = signals.next() => {
            output::note(&format!("{name}: the writers stop, what they wrote is delivered and checked; a second signal exits at once"));
            stop.cancel();
        }
    }
    tokio::select! {
        outcome = &mut work => outcome,
        // The watchdog of the private PostgreSQL sees this process end, and stops and removes it.
        _ = signals.next() => process::exit(Exit::Unexpected as i32),
    }
}
