//! How far a long command is: a bar that moves on a terminal, a line now and then elsewhere. On standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::age;
use crate::clock::monotonic;

const WIDTH: usize = 24;
/// Between two pictures on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines of a log.
const LINE: Duration = Duration::from_secs(10);

/// Draws as it is told how much is done. On a terminal the bar is taken away when it is dropped.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    started: Duration,
    drawn: Option<Duration>,
    terminal: bool,
}

impl Progress {
    /// `total` 0: it is not known.
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, started: monotonic(), drawn: None, terminal: io::stderr().is_terminal() }
    }

    pub fn at(&mut self, done: u64) {
        let now = monotonic();
        let elapsed = now.saturating_sub(self.started);
        let since = now.saturating_sub(self.drawn.unwrap_or(self.started));
        if since < if self.terminal { REDRAW } else { LINE } {
            return;
        }
        self.drawn = Some(now);
        let text = describe(self.what, done, self.total, elapsed);
        if self.terminal {
            self.write(&format!("\r\x1b[K{text}"));
        } else {
            self.write(&format!("{text}\n"));
        }
    }

    fn write(&self, text: &str) {
        let mut stream = io::stderr();
        // Nobody is left to be told when standard error is gone.
        drop(stream.write_all(text.as_bytes()).and_then(|()| stream.flush()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.drawn.is_some() {
            self.write("\r\x1b[K");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a picture for people")]
fn describe(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    if total == 0 {
        return format!("{what}: {done} rows, {rate:.0}/s");
    }
    let share = (done as f64 / total as f64).min(1.0);
    let filled = (0..WIDTH).filter(|n| (*n as f64) < share * WIDTH as f64).count();
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled));
    let left =
        Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(0.001)).min(Duration::from_secs(360_000));
    let left = if done == 0 { String::new() } else { format!(", {} left", age(left)) };
    format!("{what} [{bar}] {:.0}%  {done} of {total} rows, {rate:.0}/s{left}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_share_the_rate_and_what_is_left() {
        let text = describe("deleting", 250, 1_000, Duration::from_secs(5));
        assert_eq!(text, "deleting [######..................] 25%  250 of 1000 rows, 50/s, 15s left");
        assert_eq!(describe("counting", 500, 0, Duration::from_secs(5)), "counting: 500 rows, 100/s");
    }

    #[test]
    fn a_total_that_was_too_low_and_a_start_are_no_trouble() {
        assert!(describe("x", 12, 10, Duration::ZERO).contains("100%"));
        assert!(describe("x", 0, 10, Duration::ZERO).ends_with("0 of 10 rows, 0/s"));
    }
}
