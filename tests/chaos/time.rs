//! Where the harness lets time pass. A test waits for conditions; what is made of time takes it from here, so that it
//! can be seen who does: the seconds of a plan, how long a process, a server or a link is away or slow, the rate of the
//! writers, and the rests between two looks.

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
