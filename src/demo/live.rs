//! The line per second that shows a demo at work.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::demo::ledger::Latency;
use crate::demo::progress::{Counts, Progress};
use crate::error::Result;
use crate::output;

/// The header comes again after so many lines, so that it is always on the screen.
const HEADER_EVERY: u32 = 20;
/// More than this many seconds of inserts waiting is shown as a warning.
const WAITING_WARNING: u64 = 1;

/// Prints a line on standard error with each call of [`Live::tick`].
pub struct Live<'a> {
    progress: &'a Progress,
    before: Counts,
    lines: u32,
}

impl<'a> Live<'a> {
    pub fn new(progress: &'a Progress) -> Self {
        Self { progress, before: Counts::default(), lines: 0 }
    }

    /// The next line, and what it says. Not cancel safe: the latencies since the last line would be lost.
    pub async fn tick(&mut self) -> Result<Counts> {
        let now = self.progress.counts().await?;
        if self.lines.is_multiple_of(HEADER_EVERY) {
            output::note(&header());
        }
        self.lines += 1;
        output::note(&line(&self.before, &now, &self.progress.take_latency()));
        self.before = now;
        Ok(now)
    }
}

fn header() -> String {
    let bold = Style::new().bold();
    format!(
        "{bold}{:>5} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7}{bold:#}",
        "TIME", "INSERTED", "PUBLISHED", "FOLDED", "WAITING", "INS/S", "PUB/S", "P50", "P99"
    )
}

fn line(before: &Counts, now: &Counts, latency: &Latency) -> String {
    let inserts = per_second(now.inserted - before.inserted, now.at - before.at);
    let publishes = per_second(now.published.saturating_sub(before.published), now.at - before.at);
    // A writer may learn of its commit after Kafka has the event.
    let waiting = now.inserted.saturating_sub(now.published);
    let tone = if waiting > inserts.max(1) * WAITING_WARNING { output::style(AnsiColor::Yellow) } else { Style::new() };
    format!(
        "{:>5} {:>9} {:>9} {:>9} {tone}{:>8}{tone:#} {:>7} {:>7} {:>7} {:>7}",
        clock(now.at),
        grouped(now.inserted),
        grouped(now.published),
        grouped(now.folded),
        grouped(waiting),
        grouped(inserts),
        grouped(publishes),
        quantile(latency, latency.p50),
        quantile(latency, latency.p99),
    )
}

/// How many per second, to the nearest whole one.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from((u128::from(count) * 1_000_000 + micros / 2) / micros).unwrap_or(u64::MAX)
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.42 ms`, `4.2 ms`, `42 ms`, `4.2 s`, `3m 20s`: two or three digits that count.
pub(super) fn short(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1_000.0;
    match duration.as_millis() {
        0 => format!("{millis:.2} ms"),
        1..10 => format!("{millis:.1} ms"),
        10..1_000 => format!("{millis:.0} ms"),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{}m {}s", duration.as_secs() / 60, duration.as_secs() % 60),
    }
}

fn quantile(latency: &Latency, value: Duration) -> String {
    if latency.events == 0 { "-".to_owned() } else { short(value) }
}

/// `0:07`, `61:02`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_lines_have_the_same_columns_also_without_colour() {
        let now = Counts { at: Duration::from_secs(62), inserted: 1_234_567, published: 1_230_000, folded: 999 };
        let latency = Latency {
            events: 3,
            p50: Duration::from_micros(4_210),
            p99: Duration::from_millis(1_300),
            ..Latency::default()
        };
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let (header, line) = (plain(&header()), plain(&line(&Counts::default(), &now, &latency)));
        assert_eq!(header.len(), line.len(), "\n{header}\n{line}");
        assert!(header.len() < 80, "a standard terminal has 80 columns");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "1:02 1,234,567 1,230,000 999 4,567 19,912 19,839 4.2 ms 1.3 s"
        );
    }

    #[test]
    fn a_second_without_acknowledgements_has_no_latency() {
        let text =
            line(&Counts::default(), &Counts { at: Duration::from_secs(1), ..Counts::default() }, &Latency::default());
        assert!(text.trim_end().ends_with('-'), "{text}");
    }

    #[test]
    fn figures_are_short_and_exact_enough() {
        assert_eq!([0, 12, 999, 1_000, 1_234_567].map(grouped), ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(per_second(3, Duration::from_secs(2)), 2);
        let texts = [420, 4_210, 42_400, 4_200_000, 200_000_000].map(|micros| short(Duration::from_micros(micros)));
        assert_eq!(texts, ["0.42 ms", "4.2 ms", "42 ms", "4.2 s", "3m 20s"]);
    }
}
