//! What a demo prints at its end: figures, verdict, best sellers.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::AnsiColor;
use serde::Serialize;

use crate::demo::ledger::Latency;
use crate::demo::live::{grouped, short};
use crate::demo::verdict::{Check, Verdict};
use crate::output::{self, Align, Cell, Table};

/// Everything about a finished demo; the JSON that `-o json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub holds: bool,
    pub postgres_version: String,
    pub kafka: String,
    pub rate: u32,
    pub instances: u16,
    pub seed: u64,
    /// How long the writers wrote.
    pub load_seconds: f64,
    /// From the end of the load until everything was folded.
    pub drain_seconds: f64,
    pub inserted: u64,
    pub inserted_per_second: u64,
    /// Until nothing was PENDING any more.
    pub published_per_second: u64,
    pub transactions: u64,
    pub late_transactions: u64,
    pub rolled_back_events: u64,
    /// Records in Kafka beyond one per row.
    pub duplicates: u64,
    pub latency: LatencyMillis,
    /// Peak memory of this process, the in-process Kafka included. Linux only.
    pub peak_rss_bytes: Option<u64>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// From the return of COMMIT at the writer to the acknowledgement of Kafka.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyMillis {
    pub events: u64,
    /// Acknowledged, but not timed, because too many events waited.
    pub untimed: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl LatencyMillis {
    pub fn new(latency: &Latency, untimed: u64) -> Self {
        let millis = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            events: latency.events,
            untimed,
            p50: millis(latency.p50),
            p99: millis(latency.p99),
            p999: millis(latency.p999),
            max: millis(latency.max),
        }
    }
}

impl Summary {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::from("\n");
        let mut row = |name: &str, figure: &str| {
            writeln!(text, "{name:<12} {figure}").expect("writing to a String cannot fail");
        };
        let (rate, asked) = (grouped(self.inserted_per_second), grouped(u64::from(self.rate)));
        let load = short(Duration::from_secs_f64(self.load_seconds));
        row("inserted", &format!("{} events in {load}, {rate}/s of the {asked}/s asked for", grouped(self.inserted)));
        let (transactions, late) = (grouped(self.transactions), grouped(self.late_transactions));
        row("", &format!("{transactions} transactions, {late} of them kept open for a while"));
        row("rolled back", &format!("{} events", grouped(self.rolled_back_events)));
        let (published, rate) = (grouped(self.verdict.published), grouped(self.published_per_second));
        let (duplicates, drain) = (grouped(self.duplicates), short(Duration::from_secs_f64(self.drain_seconds)));
        row("published", &format!("{published} events, {rate}/s, {duplicates} duplicates; the drain took {drain}"));
        row("folded", &format!("{} events", grouped(self.verdict.folded)));
        row("latency", &self.latency_text());
        row("", "from the commit of the writer to the acknowledgement of Kafka");
        if let Some(bytes) = self.peak_rss_bytes {
            row("memory", &format!("{} MB at most: relay, consumer, writers and in-process Kafka", bytes / 1_000_000));
        }
        text.push('\n');
        for check in &self.verdict.checks {
            text.push_str(&check_line(check));
        }
        for wrong in &self.verdict.differences {
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            let line = format!(
                "     product {}: {}; expected {}\n",
                wrong.product_id,
                side(&wrong.folded),
                side(&wrong.expected)
            );
            text.push_str(&line);
        }
        text.push('\n');
        text.push_str(&self.products());
        text
    }

    fn latency_text(&self) -> String {
        let LatencyMillis { p50, p99, p999, max, untimed, .. } = self.latency;
        let [p50, p99, p999, max] =
            [p50, p99, p999, max].map(|millis| short(Duration::from_secs_f64(millis / 1_000.0)));
        let mut text = format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}");
        if untimed > 0 {
            write!(text, " ({} events not timed)", grouped(untimed)).expect("writing to a String cannot fail");
        }
        text
    }

    fn products(&self) -> String {
        let mut table = Table::new(&[
            ("PRODUCT", Align::Left),
            ("VIEWS", Align::Right),
            ("LIKES", Align::Right),
            ("SALES", Align::Right),
            ("AMOUNT", Align::Right),
        ]);
        for product in &self.verdict.top_products {
            table.row([
                Cell::new(product.product_id),
                Cell::new(product.views),
                Cell::new(product.likes),
                Cell::new(product.sales),
                Cell::new(&product.amount),
            ]);
        }
        format!("best sellers in product_metrics\n{}", table.render())
    }
}

fn check_line(check: &Check) -> String {
    let (word, tone) = if check.holds {
        ("ok", output::style(AnsiColor::Green))
    } else {
        ("BAD", output::style(AnsiColor::Red).bold())
    };
    let figure = if check.holds {
        grouped(check.found)
    } else {
        format!("{}, expected {}", grouped(check.found), grouped(check.expected))
    };
    format!("{tone}{word:>3}{tone:#}  {}: {figure}\n", check.promise)
}

/// Highest resident memory of this process so far, where the system tells.
pub fn peak_rss_bytes() -> Option<u64> {
    parse_peak_rss(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_in_bytes() {
        assert_eq!(parse_peak_rss("VmPeak:\t  900000 kB\nVmHWM:\t   65432 kB\nVmRSS:\t 1 kB\n"), Some(65_432 * 1024));
        assert_eq!(parse_peak_rss("Name:\tx\n"), None);
    }

    #[test]
    fn a_broken_promise_shows_what_was_expected() {
        let check = Check { promise: "every event is PUBLISHED", expected: 1_000, found: 998, holds: false };
        let line = anstream::adapter::strip_str(&check_line(&check)).to_string();
        assert_eq!(line, "BAD  every event is PUBLISHED: 998, expected 1,000\n");
    }
}
