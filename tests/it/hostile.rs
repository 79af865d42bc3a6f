//! What strangers write, set and break, drawn from a seed, before one judge. Three minutes of it run with all tests;
//! `make hostile` runs for as long as it is told.
//!
//! `HOSTILE_SEED` is the first seed (each round takes the next one), `HOSTILE_SECONDS` how long each of the two tests
//! of rounds goes on at least.

mod judge;
mod lives;
mod load;
mod round;
pub mod rows;
mod settings;
mod stage;
mod theme;

use std::cell::Cell;
use std::time::Duration;

use round::{Plan, Settling, Trouble};
use settings::DEFAULTS;
use theme::Theme;

use crate::support::side_by_side;
use crate::weather::Weather;

/// Rounds of each of the two tests: always the same ones where nothing else is asked for, with different themes.
const ROUNDS: u64 = 2;

pub fn number(name: &str, default: u64) -> u64 {
    let number = |text: std::ffi::OsString| text.to_str().and_then(|text| text.parse().ok());
    std::env::var_os(name).map_or(default, |text| number(text).unwrap_or_else(|| panic!("{name}: a number")))
}

async fn rounds(delivery: &'static str, first: u64) {
    let (first, seconds) = (number("HOSTILE_SEED", first), number("HOSTILE_SECONDS", 0));
    if seconds == 0 {
        // In a normal run a bad Kafka has a test of its own.
        let plans = (first..first + ROUNDS).map(|seed| Plan { kafka: None, ..Plan::draw(seed, delivery) });
        return side_by_side(plans, async |plan| round::run(&plan).await).await;
    }
    let begin = tokio::time::Instant::now();
    let mut seed = first;
    while seed < first + ROUNDS || begin.elapsed() < Duration::from_secs(seconds) {
        round::run(&Plan::draw(seed, delivery)).await;
        seed += 1;
    }
    eprintln!("hostile rounds, {delivery}: seeds {first} to {}", seed - 1);
}

/// Promise: at-least-once.
#[tokio::test]
async fn rows_of_strangers_cost_nobody_else_anything_at_least_once() {
    rounds("at-least-once", 2).await;
}

#[tokio::test]
async fn rows_of_strangers_cost_nobody_else_anything_exactly_once() {
    rounds("exactly-once", 6).await;
}

/// Without anything that happens to servers, processes and topics, and with the defaults of PostgreSQL.
fn calm(seed: u64, delivery: &'static str) -> Plan {
    let drawn = Plan::draw(seed, delivery);
    Plan {
        defaults: Vec::new(),
        kills: 0,
        weather: None,
        kafka: None,
        role: false,
        deletes: false,
        grace: "1s",
        stops: 0,
        floods: Vec::new(),
        backlog: 0,
        batch_rows: None,
        loud: false,
        retries: false,
        ..drawn
    }
}

/// A Kafka that is frozen, cut off or slow for longer than a lease, and rows that need it.
#[tokio::test]
async fn a_bad_kafka_costs_nothing_but_time() {
    let (slow, gone) = (Weather::Throttle { bytes_per_second: 50_000 }, Weather::Swallow);
    for (seed, delivery, kafka) in [
        (401, "exactly-once", Trouble::Frozen),
        (402, "at-least-once", Trouble::Link(gone)),
        (403, "exactly-once", Trouble::Link(slow)),
    ] {
        let plan = Plan { kafka: Some(kafka), good_keys: 20, bad_keys: 20, rows_per_key: 4, ..calm(seed, delivery) };
        round::run(&plan).await;
    }
}

/// Each default of a database that can change what a statement means, all of them at once.
#[tokio::test]
async fn defaults_of_a_database_change_nothing() {
    side_by_side([(101, "at-least-once"), (102, "exactly-once")], async |(seed, delivery)| {
        let plan = Plan {
            defaults: (0..DEFAULTS.len()).collect(),
            settling: Settling::Mark,
            rules: false,
            kills: 1,
            ..calm(seed, delivery)
        };
        round::run(&plan).await;
    })
    .await;
}

/// For `scripts/hostile-faults.sh`: rounds in both modes, three at a time because they mostly wait, until the judge is
/// not content or the time is over.
#[tokio::test]
#[ignore = "with one fault switched on: make hostile-faults"]
async fn rounds_with_a_fault() {
    let (seed, seconds) = (Cell::new(number("HOSTILE_SEED", 1)), number("HOSTILE_SECONDS", 120));
    let begin = tokio::time::Instant::now();
    let rounds = async || {
        while begin.elapsed() < Duration::from_secs(seconds) {
            let seed = seed.replace(seed.get() + 1);
            let drawn = Plan::draw(seed, Theme::of(seed).1);
            // Bad weather explains nothing here, and takes time.
            round::run(&Plan { weather: None, kafka: None, ..drawn }).await;
        }
    };
    tokio::join!(rounds(), rounds(), rounds());
}

/// `HOSTILE_ROWS` is how many rows each of the thousand keys has.
#[tokio::test]
#[ignore = "takes half an hour and wants the machine for itself: make hostile-load"]
async fn a_hundred_bad_keys_among_a_thousand() {
    let rows_per_key = usize::try_from(number("HOSTILE_ROWS", 100)).expect("a small number");
    load::matrix(load::Load { rows_per_key, kills: 2, offered: 1_000, seconds: 20 }).await;
}

/// Every odd value of every column at least once.
#[tokio::test]
async fn every_odd_value_ends_and_holds_nobody_else() {
    let plan = Plan {
        settling: Settling::Mark,
        on_exhausted: "hold",
        rules: false,
        bad_keys: rows::oddities().len(),
        rows_per_key: 3,
        in_turn: true,
        ..calm(201, "at-least-once")
    };
    round::run(&plan).await;
}
