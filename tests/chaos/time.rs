//! Where the harness lets time pass. A test waits for conditions, but a plan of faults, a slow network and a long
//! transaction are made of time; they take it from here, so that it can be seen who does.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

/// Lets `duration` pass.
pub async fn pass(duration: Duration) {
    // Nothing can arrive, so the end of the time is the only outcome.
    drop(timeout(duration, pending::<()>()).await);
}

/// Lets time pass until `moment`, or not at all if that is over.
pub async fn pass_until(moment: Instant) {
    drop(timeout_at(moment, pending::<()>()).await);
}
