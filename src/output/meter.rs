//! How far a long command is, on standard error: one line that is written over on a terminal, else a line every few seconds.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::note;
use crate::output::age;

const ON_TERMINAL: Duration = Duration::from_millis(100);
const IN_LOGS: Duration = Duration::from_secs(5);

/// Progress of a command that knows how much there is to do.
#[derive(Debug)]
pub struct Meter {
    what: &'static str,
    total: u64,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Meter {
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, started: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// `done` of the total are behind us. The end is always shown when something was shown before.
    pub fn at(&mut self, done: u64) {
        let pause = if self.terminal { ON_TERMINAL } else { IN_LOGS };
        let last = done >= self.total;
        let since = self.shown.map_or_else(|| self.started.elapsed(), |shown| shown.elapsed());
        if since < pause && !(last && self.shown.is_some()) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(self.what, done, self.total, self.started.elapsed());
        match self.terminal {
            // Back to the start of the line, and clear what was there.
            true => eprint_over(&line, last),
            false => note(&line),
        }
    }
}

fn eprint_over(line: &str, last: bool) {
    super::unfinished_note(&format!("\r\u{1b}[2K{line}{}", if last { "\n" } else { "" }));
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate.max(0.001)).unwrap_or_default();
    format!("{what}: {done} of {total} ({percent} %), {rate:.0}/s, {} left", age(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_rate_and_what_is_left() {
        let text = line("retry", 250, 1_000, Duration::from_secs(10));
        assert_eq!(text, "retry: 250 of 1000 (25 %), 25/s, 30s left");
        assert_eq!(line("retry", 0, 0, Duration::from_secs(1)), "retry: 0 of 0 (100 %), 0/s, 0.0s left");
    }
}
