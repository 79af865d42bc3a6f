//! The phases of a demo: wait for the consumer, load, drain, stop.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::demo::live::{Live, grouped};
use crate::demo::progress::{Counts, Progress};
use crate::error::Result;
use crate::output;

/// The drain goes on while something moves; without any progress for this long it has failed.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// A Kafka consumer group waits 3 s for more members when the first one joins.
const GROUP_JOIN_LIMIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Leads through one demo.
pub struct Conductor<'a> {
    pub progress: &'a Progress,
    /// How long to load; `None` until `stop`.
    pub duration: Option<Duration>,
    /// How far the consumer may fall behind before the load ends early; `None` for a Kafka that keeps its records.
    pub lag_limit: Option<u64>,
    /// Ends the load early.
    pub stop: &'a CancellationToken,
    /// Cancelled at the end of the course; cancelled by others when a relay or the consumer has failed.
    pub apps_stop: &'a CancellationToken,
}

/// How the load and the drain went.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    pub load: Duration,
    /// From the beginning until nothing was PENDING any more.
    pub publishing: Duration,
    /// From the end of the load until everything was folded, too.
    pub drain: Duration,
}

impl Conductor<'_> {
    /// Runs `load` until it is time to stop, waits until everything has arrived, and stops the apps, whatever happens.
    pub async fn conduct<F>(&self, load: impl FnOnce(CancellationToken) -> F) -> Result<Course>
    where
        F: Future<Output = Result<()>>,
    {
        let _apps_stop = self.apps_stop.clone().drop_guard();
        self.wait_for_consumer().await?;
        let mut live = Live::new(self.progress);
        let started = self.progress.start_clock();
        let load_stop = self.apps_stop.child_token();
        let watch = async {
            let _load_stop = load_stop.clone().drop_guard();
            self.watch_load(&mut live, &load_stop).await
        };
        let (written, watched) = tokio::join!(load(load_stop.clone()), watch);
        written?;
        watched?;
        let load = started.elapsed();
        output::note("The writers have stopped; what is left drains");
        let published = self.drain(&mut live).await?;
        Ok(Course {
            load,
            publishing: published.saturating_duration_since(started),
            drain: started.elapsed().saturating_sub(load),
        })
    }

    /// So that the first line already shows folded events. Goes on without when it takes too long: the verdict will
    /// tell.
    async fn wait_for_consumer(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < GROUP_JOIN_LIMIT && !self.stop.is_cancelled() && !self.apps_stop.is_cancelled() {
            if self.progress.is_assigned().await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// A line per second until the load shall end.
    async fn watch_load(&self, live: &mut Live<'_>, load_stop: &CancellationToken) -> Result<()> {
        let mut seconds = every_second();
        let end = async {
            match self.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = load_stop.cancelled() => return Ok(()), // A writer or an app failed; it says why itself.
                () = &mut end => return Ok(()),
                _ = seconds.tick() => {}
            }
            let counts = live.tick().await?;
            let lag = counts.published.saturating_sub(counts.folded);
            if self.lag_limit.is_some_and(|limit| lag > limit) {
                output::note(&format!(
                    "The consumer is {} events behind. The Kafka in this process would soon forget them, so the load ends here.",
                    grouped(lag)
                ));
                return Ok(());
            }
        }
    }

    /// Waits until nothing is PENDING and everything that was published is folded. Gives up, without an error, when
    /// nothing moves any more: the verdict names what is missing. Returns when the last event was settled.
    async fn drain(&self, live: &mut Live<'_>) -> Result<Instant> {
        let mut seconds = every_second();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut moved, mut before) = (Instant::now(), Counts::default());
        let mut settled = None;
        loop {
            tokio::select! {
                biased;
                () = self.apps_stop.cancelled() => return Ok(Instant::now()),
                _ = seconds.tick() => drop(live.tick().await?),
                _ = looks.tick() => {}
            }
            if settled.is_none() && !self.progress.is_pending().await? {
                settled = Some(Instant::now());
            }
            // After the look for PENDING: only then is the number of published events the last one.
            let counts = self.progress.counts().await?;
            if let Some(settled) = settled
                && counts.folded >= counts.published
            {
                live.tick().await?;
                return Ok(settled);
            }
            if (counts.published, counts.folded) != (before.published, before.folded) {
                (moved, before) = (Instant::now(), counts);
            } else if moved.elapsed() > DRAIN_PATIENCE {
                output::note(&format!("nothing has moved for {} s", DRAIN_PATIENCE.as_secs()));
                return Ok(settled.unwrap_or_else(Instant::now));
            }
        }
    }
}

/// Ticks each second from the next one on, without catching up.
fn every_second() -> tokio::time::Interval {
    let second = Duration::from_secs(1);
    let mut seconds = tokio::time::interval_at(tokio::time::Instant::now() + second, second);
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    seconds
}
