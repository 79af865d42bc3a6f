//! Time of this process. Time that instances compare comes from the database, never from here.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Monotonic time since the process started: it goes on while the process is stopped and never jumps.
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
