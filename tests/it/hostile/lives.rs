//! The lives of a relay in one round: how each of them ends, and what it has left behind for the judge.

use std::time::Duration;

use super::judge::{self, Rule};
use super::round::Plan;
use crate::support::Relay;
use crate::support::relay::{RelaySettings, Signal};
use crate::support::wait_until;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Crash,
    Stop,
}

/// What the lives that have ended left behind.
#[derive(Debug, Default)]
pub struct Past {
    pub log: String,
    /// The most memory that one of them had, in bytes.
    pub peak_bytes: u64,
}

/// The limit of `run.shutdown_timeout` and as much again.
const STOP: Duration = Duration::from_secs(30);

impl Past {
    /// Ends the process and starts another one.
    pub async fn end(&mut self, plan: &Plan, mut relay: Relay, end: End, settings: &RelaySettings) -> Relay {
        judge::runs(plan, &mut relay);
        self.peak_bytes = self.peak_bytes.max(relay.peak_bytes());
        match end {
            End::Crash => relay.kill().await,
            End::Stop => {
                relay.signal(Signal::Terminate);
                let what = format!("seed {}, rule \"{}\"", plan.seed, Rule::Stops);
                wait_until(&what, STOP, async || if relay.is_running() { Err(relay.log_text()) } else { Ok(()) }).await;
                let code = relay.wait_for_exit(STOP).await;
                judge::check(
                    plan,
                    Rule::Stops,
                    code == Some(0),
                    format!("{code:?} after SIGTERM\n{}", relay.log_text()),
                );
            }
        }
        self.log.push_str(&relay.log_text());
        judge::ready(plan, settings.start()).await
    }
}
