//! Progress of a long command, on standard error: a bar on a terminal, otherwise an occasional line.

use std::io::{self, IsTerminal};
use std::time::Duration;

use super::{age, note};
use crate::clock::monotonic;
use crate::stderr;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two pictures of the bar.
const BAR_EVERY: Duration = Duration::from_millis(100);
const BAR_CELLS: u64 = 30;

/// A count that grows towards a total that may be an estimate.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    /// Done when this process began.
    start: u64,
    terminal: bool,
    started: Duration,
    shown: Option<Duration>,
}

impl Progress {
    /// `what` follows the figures: `1200 of 5000 copied`. A `total` of 0 is one that nobody knows.
    pub fn new(what: &'static str, done: u64, total: u64) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { what, total, start: done, terminal, started: monotonic(), shown: None }
    }

    /// Shows `done`, unless something was shown a moment ago.
    pub fn at(&mut self, done: u64) {
        let now = monotonic();
        let since = now.saturating_sub(self.shown.unwrap_or(self.started));
        if since < if self.terminal { BAR_EVERY } else { LINE_EVERY } {
            return;
        }
        self.shown = Some(now);
        let text = self.text(done, now.saturating_sub(self.started));
        if self.terminal {
            let bar = if self.total == 0 { String::new() } else { bar(done, self.total) };
            draw(&format!("\r{bar} {text}\x1b[K"));
        } else {
            note(&text);
        }
    }

    /// Takes the bar away, so that what follows begins on a line of its own; so does the end of this value.
    pub fn clear(&self) {
        if self.terminal && self.shown.is_some() {
            draw("\r\x1b[K");
        }
    }

    fn text(&self, done: u64, elapsed: Duration) -> String {
        let rate = (done.saturating_sub(self.start)) as f64 / elapsed.as_secs_f64().max(0.001);
        if self.total == 0 {
            return format!("{done} {}, {rate:.0}/s", self.what);
        }
        let mut text = format!("{done} of {} {}, {rate:.0}/s", self.total, self.what);
        if rate > 0.0 && done < self.total {
            let left = (self.total - done) as f64 / rate;
            text.push_str(&format!(", {} left", age(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))));
        }
        text
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, total: u64) -> String {
    let full = usize::try_from((done.min(total) * BAR_CELLS).checked_div(total).unwrap_or(BAR_CELLS)).unwrap_or(0);
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR_CELLS as usize - full))
}

fn draw(text: &str) {
    // Nobody is left to be told when standard error is gone.
    stderr::write(text.as_bytes().to_vec());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_fast_and_how_long_still() {
        let progress = Progress {
            what: "copied",
            total: 5_000,
            start: 1_000,
            terminal: false,
            started: Duration::ZERO,
            shown: None,
        };
        assert_eq!(progress.text(2_000, Duration::from_secs(10)), "2000 of 5000 copied, 100/s, 30s left");
        assert_eq!(progress.text(5_000, Duration::from_secs(40)), "5000 of 5000 copied, 100/s");
        assert_eq!(progress.text(1_000, Duration::ZERO), "1000 of 5000 copied, 0/s");
    }

    #[test]
    fn the_bar_stays_within_its_cells() {
        assert_eq!(bar(0, 0), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(5, 10), format!("[{}{}]", "#".repeat(15), "-".repeat(15)));
        assert_eq!(bar(20, 10), format!("[{}]", "#".repeat(30)));
    }
}
