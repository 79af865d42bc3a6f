//! Waiting for conditions: the one place of the tests where time passes.
//!
//! A test never sleeps. It says what must become true and how long that may take, and on failure learns the line that
//! waited and the last state seen. Limits are those of a quiet machine; each gets [`SLOW`] times as long, because a
//! passing test does not wait for them.

use std::panic::Location;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks that take long.
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// How much slower than a quiet machine a busy one may be: a build server has run this suite at a quarter of the speed.
const SLOW: u32 = 3;

/// The shortest limit of a wait. The scheduler may stop any process for seconds, and a wait only guards against a hang.
const LEAST: Duration = Duration::from_secs(60);

/// Looks until `check` gives `Ok`, and returns what it gave. `Err` is the state so far, shown when `limit` has passed.
///
/// Panics after [`SLOW`] times `limit`, and not before [`LEAST`], with the caller's line; also when `check` hangs.
#[track_caller]
pub fn wait_until<T, F>(what: &str, limit: Duration, check: F) -> impl Future<Output = T> + use<T, F>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    look_until(what, (limit * SLOW).max(LEAST), check)
}

#[track_caller]
fn look_until<T, F>(what: &str, limit: Duration, mut check: F) -> impl Future<Output = T> + use<T, F>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let caller = Location::caller();
    let what = what.to_owned();
    async move {
        let (start, end) = (Instant::now(), Instant::now() + limit);
        let mut ticks = ticks();
        let mut last = "never looked".to_owned();
        loop {
            ticks.tick().await;
            let looked = Instant::now();
            match timeout_at(end, check()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(state)) if Instant::now() < end => {
                    last = state;
                    // A look that takes long must not keep the machine from what is waited for: four of them took half
                    // of it.
                    ticks.reset_after((looked.elapsed() * 8).clamp(LOOK_EVERY, LOOK_SELDOM));
                }
                Ok(Err(state)) => panic!("{caller}: not within {limit:?}: {what}\n  last state: {state}"),
                Err(_) => panic!(
                    "{caller}: not within {limit:?}: {what}\n  last state: {last}\n  (the look at {:?} did not end)",
                    looked - start
                ),
            }
        }
    }
}

/// Looks for the whole of `duration`, and `check` must give `Ok` each time. Panics with the caller's line when it does
/// not.
#[track_caller]
pub fn holds_for<F>(what: &str, duration: Duration, mut check: F) -> impl Future<Output = ()> + use<F>
where
    F: AsyncFnMut() -> Result<(), String>,
{
    let caller = Location::caller();
    let what = what.to_owned();
    async move {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while start.elapsed() < duration {
            ticks.tick().await;
            if let Err(state) = check().await {
                panic!("{caller}: after {:?} this no longer held: {what}\n  state: {state}", start.elapsed());
            }
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[tokio::test]
#[should_panic(expected = "last state: 3 of 5")]
async fn a_wait_that_ends_in_vain_tells_the_last_state() {
    look_until("five of them", Duration::from_millis(100), async || Err::<(), _>("3 of 5".to_owned())).await;
}

#[tokio::test]
#[should_panic(expected = "support/wait.rs")]
async fn a_look_that_hangs_ends_at_the_limit_with_the_line_of_the_caller() {
    let hang = async || std::future::pending::<Result<(), String>>().await;
    look_until("an answer", Duration::from_millis(100), hang).await;
}

#[tokio::test]
#[should_panic(expected = "no longer held")]
async fn a_condition_that_breaks_while_it_must_hold_is_reported() {
    let mut looks = 0;
    holds_for("quiet", Duration::from_secs(60), async || {
        looks += 1;
        if looks < 3 { Ok(()) } else { Err("noise".to_owned()) }
    })
    .await;
}

/// Runs a test for each of some cases at the same time: each of them mostly waits.
pub async fn side_by_side<C>(cases: impl IntoIterator<Item = C>, test: impl AsyncFn(C)) {
    let running: Vec<_> = cases.into_iter().map(|case| Box::pin(test(case))).collect();
    join_all(running).await;
}
