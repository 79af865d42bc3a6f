//! How long a lane may send: less than its lease lasts.

use std::time::Duration;

/// When a lane must have stopped sending: before the lease that was asked for at `asked` can end.
pub(super) fn permit_end(asked: Duration, lease: Duration) -> Duration {
    asked + permit_length(lease)
}

/// The margin is a fifth of the lease, three seconds at most: time for a request in flight to be answered.
pub(super) fn permit_length(lease: Duration) -> Duration {
    lease - (lease / 5).min(Duration::from_secs(3))
}
