//! `run`: the relay, the consumer and the admin server until a signal.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Context, seams};
use crate::cli::{Part, RunArgs};
use crate::error::{Code, Error, Exit, Result};
use crate::telemetry;

pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<()> {
    let settings = context.settings()?;
    telemetry::init(&settings.telemetry, context.verbosity())?;
    // Before the work begins, so that no signal meets the default action, which is to die at once.
    let mut signals = Signals::new()?;

    let wanted = |part, enabled| if args.only.is_empty() { enabled } else { args.only.contains(&part) };
    let only = seams::Only {
        relay: wanted(Part::Relay, settings.relay.enabled),
        consumer: wanted(Part::Consumer, settings.consumer.enabled),
        admin: wanted(Part::Admin, settings.admin.enabled),
    };
    if args.only.is_empty() && !(only.relay || only.consumer) {
        return Err(Error::new(Code::Usage, "there is nothing to run: relay and consumer are both off")
            .hint("enable one in the settings (relay.enabled, consumer.enabled), or name it with --only"));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        relay = only.relay,
        consumer = only.consumer,
        admin = only.admin,
        deployment = settings.run.deployment,
        "outbox-relay starts"
    );

    let stop = CancellationToken::new();
    let mut work = Box::pin(seams::run_app(settings, only, stop.clone()));
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: the batch in hand is finished; a second signal exits at once");
            stop.cancel();
            None
        }
    };
    let outcome = match ended {
        Some(outcome) => outcome,
        None => tokio::select! {
            outcome = &mut work => outcome,
            name = signals.next() => {
                tracing::warn!(signal = name, "second signal: exit without waiting");
                // Nothing may run after this, no destructor of a client that waits for its broker either.
                process::exit(Exit::Unexpected as i32);
            }
        },
    };
    if outcome.is_ok() {
        tracing::info!("outbox-relay stopped");
    }
    outcome
}

/// The signals that stop a command which runs until it is told to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on no signal ends the process by itself.
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::new(Code::Unexpected, "cannot listen for signals").caused_by(error))
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
