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

On a terminal: q, Esc or Ctrl-C quits; Tab and the arrow keys select and scroll a table; p freezes the screen. It keeps running during an
outage of PostgreSQL. With -o json or ndjson, with --once or --count, or if standard output is not a terminal, it prints one line of JSON
per interval; a failed reading has \"state\": \"unreachable\". Rates start with the second line. Figures with ~ are estimates.

It counts waiting events row by row, with pauses ten times as long as each count. It never reads payloads or keys.")]
pub struct TopArgs {
    /// Time between two snapshots, for example 1s or 500ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,

    /// Print one snapshot and exit; status 4 if PostgreSQL does not respond
    #[arg(long, conflicts_with = "count")]
    pub once: bool,

    /// Print N snapshots and exit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

impl TopArgs {
    /// How many snapshots to print; `None` means no limit.
    pub fn count(&self) -> Option<u64> {
        if self.once { Some(1) } else { self.count }
    }
}

/// Bounded, so that `top` neither becomes the load nor stops being useful.
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
