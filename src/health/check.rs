//! One readiness check: what was last reported, since when it has been failing, and how long a success counts.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock;

/// Handle of one readiness check.
#[derive(Debug)]
pub struct Check {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Check {
    pub fn ok(&self) {
        self.set(Ok(()));
    }

    /// `reason` is shown to anyone who reads `/readyz`: no addresses with passwords, no keys, no payloads.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Leaves logging of changes, and since when, to the reporter.
    pub fn leave_log_to_reporter(&self) {
        if let Some(check) = self.shared.lock().checks.get_mut(&self.id) {
            check.state.logged_elsewhere = true;
        }
    }

    fn set(&self, state: Result<(), String>) {
        let reason = state.as_ref().err().cloned().unwrap_or_default();
        let news = self.shared.lock().checks.get_mut(&self.id).and_then(|check| {
            let news = check.state.report(state, clock::monotonic())?;
            Some((check.name.clone(), news))
        });
        // Not under the lock, which the admin server waits for.
        match news {
            Some((check, News::Fails)) => tracing::warn!(check = %check, reason, "a readiness check is failing"),
            Some((check, News::Recovered(lasted))) => {
                tracing::info!(check = %check, failed_for = ?lasted, "a readiness check recovered");
            }
            None => {}
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.shared.lock().checks.remove(&self.id);
    }
}

/// What a check last reported.
#[derive(Debug)]
pub(super) struct Standing {
    outcome: Result<(), String>,
    reported: Duration,
    /// Since when it has been failing after it had been ok; the start does not count as an outage.
    failing_since: Option<Duration>,
    /// How long a success counts; `None`: until the next report.
    lasts: Option<Duration>,
    /// The reporter logs about it.
    logged_elsewhere: bool,
}

/// What a report has changed.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Fails,
    /// After failing for this long.
    Recovered(Duration),
}

impl Standing {
    /// Failing until the first report.
    pub(super) fn starting(lasts: Option<Duration>) -> Self {
        Self {
            outcome: Err("starting".to_owned()),
            reported: clock::monotonic(),
            failing_since: None,
            lasts,
            logged_elsewhere: false,
        }
    }

    fn report(&mut self, outcome: Result<(), String>, now: Duration) -> Option<News> {
        let news = match (&self.outcome, &outcome) {
            (Ok(()), Err(_)) => {
                self.failing_since = Some(now);
                Some(News::Fails)
            }
            (Err(_), Ok(())) => self.failing_since.take().map(|since| News::Recovered(now.saturating_sub(since))),
            (Ok(()), Ok(())) | (Err(_), Err(_)) => None,
        };
        (self.outcome, self.reported) = (outcome, now);
        news.filter(|_| !self.logged_elsewhere)
    }

    pub(super) fn at(&self, now: Duration) -> Result<(), String> {
        self.outcome.clone().map_err(|reason| match self.failing_since {
            // What is logged elsewhere already says since when.
            Some(since) if !self.logged_elsewhere => {
                format!("{reason} (failing for {:.0} s)", now.saturating_sub(since).as_secs_f64())
            }
            Some(_) | None => reason,
        })?;
        let age = now.saturating_sub(self.reported);
        match self.lasts {
            Some(lasts) if age > lasts => Err(format!("no success for {:.0} s", age.as_secs_f64())),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_outage_is_news_and_the_end_of_a_start_is_not() {
        let second = Duration::from_secs(1);
        let mut standing = Standing::starting(None);
        assert_eq!(standing.report(Ok(()), second), None, "it has started");
        assert_eq!(standing.report(Ok(()), second * 2), None);
        assert_eq!(standing.report(Err("no answer".to_owned()), second * 3), Some(News::Fails));
        assert_eq!(standing.report(Err("no answer yet".to_owned()), second * 4), None);
        assert_eq!(standing.at(second * 8), Err("no answer yet (failing for 5 s)".to_owned()));
        assert_eq!(standing.report(Ok(()), second * 9), Some(News::Recovered(second * 6)));
        assert_eq!(standing.report(Ok(()), second * 10), None, "told once");
        standing.logged_elsewhere = true;
        assert_eq!(standing.report(Err("gone".to_owned()), second * 11), None);
        assert_eq!(standing.at(second * 12), Err("gone".to_owned()), "whoever reports says since when");
    }
}
