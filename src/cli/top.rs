//! Flags of `top`.

use std::time::Duration;

use clap::Args;

use super::values;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay top
  outbox-relay top -o json --interval 10s | tee -a outbox.ndjson
  outbox-relay top --count 2 | tail -1 | jq .rates

On a terminal: q, Esc or Ctrl-C quit; tab and the arrows choose and scroll a table; p freezes the screen. It goes on through an outage
of PostgreSQL. With -o json or ndjson, --once or --count, and where standard output is no terminal, it prints a line of JSON per
interval; one that could not be read has \"state\": \"unreachable\". Rates need a second line. Figures with ~ are estimates.

It counts what waits row by row, with pauses ten times as long as that takes. It never reads payloads or keys.")]
pub struct TopArgs {
    /// Wait between two looks, as in 1s, 500ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,

    /// Print one snapshot and end; status 4 when PostgreSQL does not answer
    #[arg(long, conflicts_with = "count")]
    pub once: bool,

    /// Print so many snapshots and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

impl TopArgs {
    /// How many snapshots to print; `None`: without end.
    pub fn count(&self) -> Option<u64> {
        if self.once { Some(1) } else { self.count }
    }
}

/// Not so short that the view is the load, not so long that it is none.
fn interval(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        short if short < Duration::from_millis(100) => Err("at least 100ms".to_owned()),
        long if long > Duration::from_secs(3_600) => Err("at most 1h".to_owned()),
        interval => Ok(interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_bounds() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert!(interval("0s").is_err() && interval("2h").is_err());
    }
}
