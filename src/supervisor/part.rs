//! Components of a process that fail independently: each is restarted when it fails, panics or hangs, and the others do
//! not notice.
//!
//! Each start is an attempt with a stop token, a place in the readiness report and, if the component asks for it, its
//! own identity. A hanging component cannot be ended: it is abandoned with its thread, and the next attempt takes over
//! from it as another instance would. Invariant: an abandoned attempt is ignored, both its outcome and its health
//! reports.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Supervisor;
use crate::clock::{monotonic, wall};
use crate::error::{Code, Error, Result};
use crate::health::{Check, Health};
use crate::retry::Backoff;

/// Before a part is restarted: first and longest wait.
const RESTART_WAIT: (Duration, Duration) = if cfg!(test) {
    (Duration::from_millis(5), Duration::from_millis(20))
} else {
    (Duration::from_secs(1), Duration::from_secs(30))
};
/// An attempt that works for this long has nothing to do with the failure before it.
const STEADY: Duration = Duration::from_secs(60);
/// How often a hanging component is replaced. Each time costs a thread that cannot be ended.
const HUNG_MAX: u32 = 3;
/// Time between two checks whether the component hangs, and whether it has recovered.
const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });

/// A part to keep running.
pub struct Part {
    /// In logs and in `/readyz`.
    pub name: &'static str,
    /// The health of the process.
    pub health: Health,
    /// Whether an error of the part ends the process instead.
    pub ends: fn(Code) -> bool,
}

/// One start of a part.
pub struct Attempt {
    /// Tells the part to end in order.
    pub stop: CancellationToken,
    /// For the checks and heartbeats of this attempt. A part with a heartbeat that falls silent hangs.
    pub health: Health,
    /// 1 for the first start.
    pub number: u32,
    /// Keeps the process from being ready until the component has its own checks; dropped then.
    pub starting: Check,
}

/// What an attempt does until it is told to stop.
pub type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl Supervisor {
    /// Keeps a component running: `start` makes attempts, one after the other. The stop token ends it; so does an error
    /// that [`Part::ends`] names, and then the process too.
    pub fn keep(&mut self, part: Part, start: impl Fn(Attempt) -> Work + Send + Sync + 'static) {
        let stop = self.stop.clone();
        self.spawn(part.name, Keeper::new(part, stop).run(Arc::new(start)));
    }
}

/// How an attempt ended.
enum End {
    Stopped,
    Failed(Error),
    Panicked,
    Hung,
}

struct Keeper {
    part: Part,
    stop: CancellationToken,
    backoff: Backoff,
    attempts: u32,
    hung: u32,
    /// The check of a failed component, and since when it has been failing.
    failing: Option<(Check, Timestamp)>,
    /// The first attempt: made before the part runs, so that the process is never ready without having asked it.
    first: Option<Attempt>,
}

impl Part {
    fn attempt(&self, stop: &CancellationToken, number: u32) -> Attempt {
        let health = self.health.part();
        let starting = health.check(self.name);
        Attempt { stop: stop.child_token(), health, number, starting }
    }
}

impl Keeper {
    fn new(part: Part, stop: CancellationToken) -> Self {
        let backoff = Backoff::new(RESTART_WAIT.0, RESTART_WAIT.1);
        let first = Some(part.attempt(&stop, 1));
        Self { part, stop, backoff, attempts: 0, hung: 0, failing: None, first }
    }

    async fn run(mut self, start: Arc<impl Fn(Attempt) -> Work + Send + Sync + 'static>) -> Result<()> {
        loop {
            let begun = monotonic();
            let end = self.attempt(&start).await;
            if monotonic().saturating_sub(begun) >= STEADY {
                self.backoff.reset();
            }
            let why = match end {
                End::Stopped => return Ok(()),
                End::Failed(error) if (self.part.ends)(error.code()) => return Err(error),
                End::Failed(error) => self.failed(&error),
                End::Panicked => {
                    // The report of the panic says where; what it says may quote data.
                    tracing::error!(part = self.part.name, "a component panicked; restarting it");
                    "it panicked; see the log".to_owned()
                }
                End::Hung => {
                    self.hung += 1;
                    if self.hung > HUNG_MAX {
                        return Err(Error::new(
                            Code::Unexpected,
                            format!("the part {} hung {} times", self.part.name, self.hung),
                        )
                        .hint("its threads cannot be recovered; restart the process"));
                    }
                    tracing::error!(
                        part = self.part.name,
                        replaced = self.hung,
                        "a component hangs; abandoning and replacing it"
                    );
                    "it hung and was replaced".to_owned()
                }
            };
            self.tell(&why);
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.backoff.next_wait()) => {}
            }
        }
    }

    async fn attempt(&mut self, start: &Arc<impl Fn(Attempt) -> Work + Send + Sync + 'static>) -> End {
        self.attempts += 1;
        let begun = monotonic();
        let attempt = self.first.take().unwrap_or_else(|| self.part.attempt(&self.stop, self.attempts));
        // An attempt whose future is dropped is told to stop in any case.
        let _told = attempt.stop.clone().drop_guard();
        let (health, start) = (attempt.health.clone(), Arc::clone(start));
        let mut work = JoinSet::new();
        work.spawn(async move { start(attempt).await });
        loop {
            let joined = tokio::select! {
                biased;
                joined = work.join_next() => joined,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    // A stop has limits of its own.
                    if health.is_silent() && !self.stop.is_cancelled() {
                        health.abandon();
                        return End::Hung;
                    }
                    if health.is_working() || monotonic().saturating_sub(begun) >= STEADY {
                        self.failing = None;
                    }
                    continue;
                }
            };
            return match joined {
                Some(Ok(Ok(()))) if self.stop.is_cancelled() => End::Stopped,
                Some(Ok(Ok(()))) | None => End::Failed(Error::new(Code::Unexpected, "it ended unexpectedly")),
                Some(Ok(Err(error))) => End::Failed(error),
                Some(Err(_)) => End::Panicked,
            };
        }
    }

    /// Logs the failure. Returns it for `/readyz`.
    fn failed(&self, error: &Error) -> String {
        let (part, code) = (self.part.name, error.code().as_str());
        if error.code() == Code::PostgresUnreachable || error.code() == Code::KafkaUnreachable {
            tracing::warn!(part, code, error = %error.chain(), "a component cannot work yet; restarting it");
            // Addresses of servers are not for everyone who may read this.
            return format!("{error} ({code})");
        }
        let help = error.hint_text().unwrap_or_default();
        tracing::error!(part, code, error = %error.chain(), help, "a component failed; restarting it");
        format!("{} ({code})", error.chain())
    }

    fn tell(&mut self, why: &str) {
        let health = &self.part.health;
        let (check, since) =
            self.failing.get_or_insert_with(|| (health.check(format!("part {}", self.part.name)), wall()));
        check.failing(format!("failing since {since:.0}, attempt {}: {why}", self.attempts));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn part(name: &'static str, health: &Health) -> Part {
        Part { name, health: health.clone(), ends: |code| code == Code::Fenced }
    }

    /// A neighbour that must not notice anything.
    fn neighbour(supervisor: &mut Supervisor, health: &Health) -> Arc<AtomicU32> {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        supervisor.keep(part("neighbour", health), move |attempt| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let check = attempt.health.check("neighbour");
                check.ok();
                drop(attempt.starting);
                attempt.stop.cancelled().await;
                Ok(())
            })
        });
        starts
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    #[tokio::test]
    async fn a_part_that_panics_or_fails_is_started_again_and_says_so_and_its_neighbour_goes_on() {
        let (health, stop) = (Health::default(), CancellationToken::new());
        let mut supervisor = Supervisor::new(stop.clone());
        let starts = neighbour(&mut supervisor, &health);
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (told, whole) = (Arc::clone(&reports), health.clone());
        supervisor.keep(part("consumer", &health), move |attempt| {
            told.lock().unwrap_or_else(PoisonError::into_inner).push(whole.readiness().to_string());
            assert!(attempt.number != 2, "it panics when it is made, too");
            Box::pin(async move {
                let check = attempt.health.check("consumer");
                match attempt.number {
                    1 => panic!("in the middle"),
                    3 => return Err(Error::new(Code::ProjectionInvalid, "no table product_metrics")),
                    4 => return Ok(()),
                    _ => check.ok(),
                }
                attempt.stop.cancelled().await;
                Ok(())
            })
        });
        until("it works in the end", || {
            reports.lock().unwrap_or_else(PoisonError::into_inner).len() >= 5 && health.readiness().is_ok()
        })
        .await;
        let reports = reports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (report, expected) in
            reports[1..].iter().zip(["panicked", "panicked", "no table product_metrics (OR-J001)", "unexpectedly"])
        {
            assert!(
                report.contains("[-]part consumer failed: failing since ") && report.contains(expected),
                "{report}"
            );
            assert!(report.contains("[+]neighbour ok"), "{report}");
        }
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        stop.cancel();
        supervisor.wait().await.expect("nothing that ends the process");
    }

    #[tokio::test]
    async fn only_what_is_named_ends_the_process() {
        let health = Health::default();
        let mut supervisor = Supervisor::new(CancellationToken::new());
        neighbour(&mut supervisor, &health);
        supervisor.keep(part("relay", &health), |attempt| {
            Box::pin(async move {
                let code = if attempt.number < 4 { Code::PostgresStatement } else { Code::Fenced };
                Err(Error::new(code, format!("attempt {}", attempt.number)))
            })
        });
        let ended = supervisor.wait().await.expect_err("it was fenced");
        assert_eq!((ended.code(), ended.to_string().as_str()), (Code::Fenced, "attempt 4"));
    }

    /// Threads that nobody can end: the part is replaced three times, and then the process ends with what works
    /// drained.
    #[tokio::test]
    async fn a_part_that_hangs_is_replaced_three_times_at_most() {
        let (health, release) = (Health::default(), CancellationToken::new());
        let mut supervisor = Supervisor::new(CancellationToken::new());
        let starts = neighbour(&mut supervisor, &health);
        let attempts: Arc<Mutex<Vec<Begun>>> = Arc::default();
        let handles = Arc::new(Mutex::new(Vec::new()));
        let (hung, begun, kept, whole) = (release.clone(), Arc::clone(&attempts), Arc::clone(&handles), health.clone());
        supervisor.keep(part("consumer", &health), move |attempt| {
            // The one before is told to stop before its successor begins, and is not asked any more.
            let told = locked(&begun).last().is_none_or(|before| before.stop.is_cancelled());
            let asked = whole.liveness().to_string().contains("consumer");
            locked(&begun).push(Begun { stop: attempt.stop.clone(), told, asked });
            // A thread that hangs keeps both.
            let beat = attempt.health.heartbeat("consumer", Duration::from_millis(10));
            locked(&kept).push((beat, attempt.health.check("consumer")));
            let hung = hung.clone();
            Box::pin(async move {
                // Its token is cancelled, and it does not hear it.
                hung.cancelled().await;
                Ok(())
            })
        });
        let ended = tokio::time::timeout(PATIENCE, supervisor.wait()).await.expect("it gives up");
        let ended = ended.expect_err("it always hangs");
        assert!(ended.code() == Code::Unexpected && ended.to_string().contains("hung 4 times"), "{ended}");
        assert_eq!(ended.code().exit() as u8, 1, "the status of the process");
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        let attempts = std::mem::take(&mut *locked(&attempts));
        assert_eq!(attempts.len(), 4, "the first one and three in its place");
        for (number, Begun { stop, told, asked }) in attempts.iter().enumerate() {
            assert!(stop.is_cancelled() && *told && !asked, "attempt {}: told {told}, asked {asked}", number + 1);
        }
        assert!(!health.liveness().to_string().contains("consumer"), "those that were abandoned are not asked");
        until("nothing of it is left", || !health.readiness().to_string().contains("consumer")).await;
        release.cancel();
    }

    struct Begun {
        stop: CancellationToken,
        told: bool,
        asked: bool,
    }

    fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only the least time is known: a machine that is busy waits for longer.
    #[tokio::test]
    async fn a_part_that_fails_at_once_is_started_again_ever_more_seldom() {
        let (health, stop) = (Health::default(), CancellationToken::new());
        let mut supervisor = Supervisor::new(stop.clone());
        let starts: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let begun = Arc::clone(&starts);
        supervisor.keep(part("consumer", &health), move |_| {
            locked(&begun).push(monotonic());
            Box::pin(async { Err(Error::new(Code::PostgresStatement, "always")) })
        });
        until("it was started six times", || locked(&starts).len() >= 6).await;
        stop.cancel();
        supervisor.wait().await.expect("an orderly end");
        let starts = locked(&starts).clone();
        for (number, pair) in starts.windows(2).enumerate() {
            // The jitter takes half of a wait at most.
            let full = (RESTART_WAIT.0 * 2_u32.pow(u32::try_from(number).expect("a few"))).min(RESTART_WAIT.1);
            let waited = pair[1].saturating_sub(pair[0]);
            assert!(waited >= full / 2, "{waited:?} before start {}", number + 2);
        }
    }
}
