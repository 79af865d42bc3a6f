//! `run`: the relay, the consumer and the admin server until a signal.

use std::process;

use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use super::{Context, Result, watchdog};
use crate::app::App;
use crate::cli::{Part, RunArgs};
use crate::config::{Config, Needs};
use crate::error::{Code, Error, Exit};
use crate::telemetry;

pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<()> {
    let mut settings = context.settings(Needs::BOTH)?;
    telemetry::init(&settings.telemetry, context.verbosity())?;
    choose_parts(&mut settings, &args.only)?;
    let signals = Signals::listen();
    let stop = CancellationToken::new();
    watchdog::start(stop.clone(), settings.run.shutdown_timeout)?;
    let (relay, consumer, admin) = (settings.relay.enabled, settings.consumer.enabled, settings.admin.enabled);
    let deployment = settings.run.deployment.clone();
    let app = App::build(settings)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = app.name(),
        deployment,
        relay,
        consumer,
        admin,
        "outbox-relay starting"
    );
    let Some(outcome) = signals.run(app.run(stop.clone()), &stop).await else {
        // Nothing may run after this, no destructor of a client that waits for its broker either.
        telemetry::finish();
        process::exit(Exit::Unexpected as i32);
    };
    outcome?;
    tracing::info!("outbox-relay stopped");
    Ok(())
}

/// `--only` names what runs, whatever the settings enable.
fn choose_parts(settings: &mut Config, only: &[Part]) -> Result<(), Error> {
    if !only.is_empty() {
        settings.relay.enabled = only.contains(&Part::Relay);
        settings.consumer.enabled = only.contains(&Part::Consumer);
        settings.admin.enabled = only.contains(&Part::Admin);
    } else if !(settings.relay.enabled || settings.consumer.enabled) {
        return Err(Error::new(Code::Usage, "there is nothing to run: the relay and the consumer are both off")
            .hint("set relay.enabled or consumer.enabled, or name a part with --only"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(only: &[Part], relay: bool, consumer: bool) -> Option<(bool, bool, bool)> {
        let mut settings = Config::default();
        settings.relay.enabled = relay;
        settings.consumer.enabled = consumer;
        choose_parts(&mut settings, only).ok()?;
        Some((settings.relay.enabled, settings.consumer.enabled, settings.admin.enabled))
    }

    #[test]
    fn only_names_exactly_what_runs() {
        assert_eq!(parts(&[], true, false), Some((true, false, true)));
        assert_eq!(parts(&[Part::Consumer], true, false), Some((false, true, false)));
        assert_eq!(parts(&[Part::Relay, Part::Admin], false, true), Some((true, false, true)));
        assert_eq!(parts(&[Part::Admin], false, false), Some((false, false, true)));
    }

    #[test]
    fn a_process_with_nothing_to_do_does_not_start() {
        assert_eq!(parts(&[], false, false), None);
    }
}
