//! `demo`: flags and signals for [`crate::demo`].

use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use super::{Context, Result};
use crate::cli::DemoArgs;
use crate::demo::{self, DemoOptions};
use crate::error::{Code, Error};

pub(super) async fn run(context: &Context, args: DemoArgs) -> Result<()> {
    let signals = Signals::listen();
    let stop = CancellationToken::new();
    let options = DemoOptions {
        duration: args.duration,
        rate: args.rate,
        instances: args.instances,
        keep: args.keep,
        bootstrap: args.kafka,
        seed: args.seed,
        path: crate::config::search_path(),
    };
    let work = demo::run(options, context.format(), stop.clone());
    match signals.run(work, &stop).await {
        Some(outcome) => Ok(outcome?),
        // Dropped where it was; its parts have stopped with it.
        None => Err(Error::new(Code::Unexpected, "interrupted before everything had arrived").into()),
    }
}
