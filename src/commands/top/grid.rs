//! The tables of `top` as text, and which of their columns a width has room for. Pure; a build without the live view
//! has only its tests.
#![cfg_attr(not(feature = "tui"), allow(dead_code, reason = "only the live view draws"))]

use std::time::Duration;

use crate::operations::top::Snapshot;
use crate::output::{self, Tone};
use crate::signals::time;

/// What one table shows. The order is that of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Shards,
    Topics,
    Held,
    Consumers,
    Waits,
    Pauses,
    Instances,
}

impl Tab {
    pub(super) const ALL: [Self; 7] =
        [Self::Shards, Self::Topics, Self::Held, Self::Consumers, Self::Waits, Self::Pauses, Self::Instances];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Shards => "Shards",
            Self::Topics => "Topics",
            Self::Held => "Held keys",
            Self::Consumers => "Consumers",
            Self::Waits => "Waits",
            Self::Pauses => "Pauses",
            Self::Instances => "Instances",
        }
    }

    /// As many places further, round and round.
    pub(super) fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or_default();
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// A column: its title, how wide it is, and how soon it goes when there is no room (0: never).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Text columns take what is left over.
    pub(super) width: u16,
    pub(super) is_text: bool,
    rank: u8,
}

const fn number(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, is_text: false, rank }
}

const fn text(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, is_text: true, rank }
}

pub(super) type Cell = (String, Tone);

/// A table with all of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// Why there is no row.
    pub(super) empty: &'static str,
}

impl Grid {
    pub(super) fn of(tab: Tab, snapshot: &Snapshot) -> Self {
        match tab {
            Tab::Shards => shards(snapshot),
            Tab::Topics => topics(snapshot),
            Tab::Held => held(snapshot),
            Tab::Consumers => consumers(snapshot),
            Tab::Waits => waits(snapshot),
            Tab::Pauses => pauses(snapshot),
            Tab::Instances => instances(snapshot),
        }
    }

    /// Leaves out columns, the least important first, until the rest fits. One space stands between two.
    pub(super) fn fit(mut self, width: u16) -> Self {
        loop {
            let needed: u16 = self.columns.iter().map(|column| column.width + 1).sum();
            let last = self.columns.iter().enumerate().max_by_key(|(_, column)| column.rank);
            let Some((at, column)) = last else { return self };
            if needed <= width + 1 || column.rank == 0 {
                return self;
            }
            self.columns.remove(at);
            for row in &mut self.rows {
                row.remove(at);
            }
        }
    }
}

fn plain(value: impl ToString) -> Cell {
    (value.to_string(), Tone::Plain)
}

/// Text from the database must not steer the terminal.
fn name(value: &str) -> Cell {
    plain(output::printable(value))
}

fn counted(count: i64, tone: Tone) -> Cell {
    (grouped(count), if count > 0 { tone } else { Tone::Plain })
}

fn optional(value: Option<String>) -> Cell {
    value.map_or_else(|| ("-".to_owned(), Tone::Faint), plain)
}

fn topic(value: Option<&str>) -> Cell {
    value.map_or_else(|| ("(by routing)".to_owned(), Tone::Faint), name)
}

fn shards(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        number("SHARD", 5, 0),
        text("OWNER", 10, 0),
        number("EPOCH", 6, 5),
        number("LEASE", 7, 1),
        number("BATCH", 10, 4),
        number("IN FLIGHT", 9, 3),
        number("HELD KEYS", 9, 2),
        number("OLDEST", 8, 0),
    ];
    let rows = snapshot.shards.iter().map(|line| {
        let owner = match &line.owner {
            Some(owner) if line.is_owned() => name(owner),
            Some(owner) => (format!("{} (lease over)", output::printable(owner)), Tone::Warning),
            None => ("nobody".to_owned(), Tone::Warning),
        };
        vec![
            plain(line.shard),
            owner,
            plain(line.epoch),
            optional(line.lease_left_seconds.map(output::age_of)),
            plain(grouped(line.batch)),
            plain(line.in_flight),
            counted(line.held_keys, Tone::Warning),
            optional(line.oldest_pending_seconds.map(output::age_of)),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "there are no shards" }
}

fn topics(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        text("TOPIC", 14, 0),
        number("PENDING", 9, 0),
        number("HELD", 9, 2),
        number("FAILED", 9, 1),
        number("OLDEST", 8, 3),
    ];
    let Some(outbox) = &snapshot.outbox else {
        let empty = "too much waits to be counted within database.statement_timeout";
        return Grid { columns, rows: Vec::new(), empty };
    };
    let rows = outbox.topics.iter().map(|line| {
        vec![
            topic(line.topic.as_deref()),
            plain(grouped(line.pending)),
            counted(line.held, Tone::Warning),
            counted(line.failed, Tone::Bad),
            optional(line.oldest_pending_seconds.map(output::age_of)),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "nothing is waiting" }
}

fn held(snapshot: &Snapshot) -> Grid {
    let columns =
        vec![text("REASON", 8, 0), text("WAITS FOR TOPIC", 15, 1), number("KEYS", 9, 0), number("OLDEST", 8, 0)];
    let rows = snapshot.held_keys.iter().map(|line| {
        let tone = if line.reason == "failed" { Tone::Bad } else { Tone::Warning };
        vec![
            name(&line.reason),
            line.topic.as_deref().map_or_else(|| optional(None), name),
            counted(line.keys, tone),
            plain(output::age_of(line.oldest_seconds)),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "no key is held" }
}

fn consumers(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        text("GROUP", 10, 1),
        text("TOPIC", 14, 0),
        number("PARTS", 5, 4),
        number("REC/S", 8, 2),
        number("BEHIND", 9, 0),
        number("MOVED", 8, 3),
    ];
    let Some(consumers) = &snapshot.consumers else {
        return Grid { columns, rows: Vec::new(), empty: "this role may not read consumer_partitions" };
    };
    let rows = consumers.iter().map(|line| {
        vec![
            name(&line.group),
            name(&line.topic),
            plain(line.partitions),
            optional(line.records_per_second.map(rate)),
            optional(line.behind.map(grouped).or(line.behind_at_least.map(|behind| format!("≥{}", grouped(behind))))),
            plain(output::age_of(line.idle_seconds)),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "no consumer keeps its positions here" }
}

fn waits(snapshot: &Snapshot) -> Grid {
    let columns = vec![text("WAITS", 16, 0), text("WHERE", 10, 1), text("SINCE", 20, 2), text("WHAT FOR", 20, 0)];
    let rows = snapshot.waits.iter().map(|wait| {
        let tone = if wait.situation.fails_threshold() { Tone::Bad } else { Tone::Warning };
        vec![
            (wait.situation.code().to_owned(), tone),
            name(&wait.place()),
            optional(wait.since.map(time)),
            name(wait.text()),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "nothing is waiting" }
}

fn pauses(snapshot: &Snapshot) -> Grid {
    let columns = vec![text("PAUSED", 14, 0), text("SINCE", 20, 0), text("BY", 10, 1), text("REASON", 12, 2)];
    let rows = snapshot.pauses.iter().map(|line| {
        let what = if line.topic == "*" { "everything" } else { &line.topic };
        vec![
            (output::printable(what).into_owned(), Tone::Warning),
            name(line.paused_at.get(..19).unwrap_or(&line.paused_at)),
            name(&line.by),
            name(line.reason.as_deref().unwrap_or_default()),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "nothing is paused" }
}

fn instances(snapshot: &Snapshot) -> Grid {
    let columns = vec![
        text("INSTANCE", 14, 0),
        text("STATE", 7, 0),
        number("SHARDS", 6, 1),
        number("HEARTBEAT", 9, 2),
        number("UP", 8, 3),
        text("VERSION", 8, 4),
    ];
    let rows = snapshot.instances.iter().map(|line| {
        let state = if line.alive { ("alive", Tone::Good) } else { ("silent", Tone::Bad) };
        vec![
            name(&line.name),
            (state.0.to_owned(), state.1),
            plain(line.shards),
            plain(output::age_of(line.silent_seconds)),
            plain(output::age_of(line.up_seconds)),
            name(&line.version),
        ]
    });
    Grid { rows: rows.collect(), columns, empty: "no relay is running, or none has run yet" }
}

/// A number in groups of three digits.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Something per second: whole, unless it is small.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { grouped(per_second.round() as i64) }
}

/// An estimate of a count: `1.2M`.
pub(super) fn about(count: i64) -> String {
    match count {
        ..10_000 => grouped(count),
        10_000..1_000_000 => format!("{}k", count / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// How long ago a moment was, given as RFC 3339 twice.
pub(super) fn between(since: &str, at: &str) -> Option<Duration> {
    let (since, at): (jiff::Timestamp, jiff::Timestamp) = (since.parse().ok()?, at.parse().ok()?);
    Duration::try_from(at.duration_since(since)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::top::tests::snapshot;

    fn titles(tab: Tab, width: u16) -> Vec<&'static str> {
        Grid::of(tab, &snapshot(2)).fit(width).columns.iter().map(|column| column.title).collect()
    }

    #[test]
    fn columns_go_in_the_order_of_their_rank_and_rows_with_them() {
        assert_eq!(titles(Tab::Shards, 120).len(), 8);
        assert_eq!(titles(Tab::Shards, 40), ["SHARD", "OWNER", "LEASE", "OLDEST"]);
        assert_eq!(titles(Tab::Shards, 1), ["SHARD", "OWNER", "OLDEST"]);
        for tab in Tab::ALL {
            for width in 0..140 {
                let grid = Grid::of(tab, &snapshot(3)).fit(width);
                assert!(grid.rows.iter().all(|row| row.len() == grid.columns.len()), "{tab:?} {width}");
            }
        }
    }

    #[test]
    fn tabs_go_round() {
        assert_eq!(Tab::Shards.step(1), Tab::Topics);
        assert_eq!(Tab::Instances.step(1), Tab::Shards);
        assert_eq!(Tab::Shards.step(Tab::ALL.len() - 1), Tab::Instances);
    }

    #[test]
    fn names_from_the_database_cannot_steer_the_terminal() {
        let mut evil = snapshot(1);
        evil.shards[0].owner = Some("a\x1b[2J".to_owned());
        evil.pauses[0].reason = Some("\u{202e}x".to_owned());
        let all = Tab::ALL.map(|tab| Grid::of(tab, &evil));
        let texts: Vec<&str> =
            all.iter().flat_map(|grid| &grid.rows).flatten().map(|(text, _)| text.as_str()).collect();
        assert!(texts.iter().all(|text| !text.contains(['\x1b', '\u{202e}'])), "{texts:?}");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!((grouped(0), grouped(-1_000)), ("0".to_owned(), "-1 000".to_owned()));
        assert_eq!((rate(0.25), rate(1_204.4)), ("0.2".to_owned(), "1 204".to_owned()));
        assert_eq!((about(12), about(45_678), about(1_234_567)), ("12".into(), "45k".into(), "1.2M".into()));
    }
}
