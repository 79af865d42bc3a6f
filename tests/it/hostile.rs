//! What strangers write, set and break, drawn from a seed, before one judge. Three minutes of it run with all tests; `make hostile` runs
//! for as long as it is told.
//!
//! `HOSTILE_SEED` is the first seed (each round takes the next one), `HOSTILE_SECONDS` how long each of the two tests of rounds goes on at
//! least.

mod judge;
mod load;
mod round;
pub mod rows;
mod settings;

use std::time::Duration;

use round::{Plan, Settling};
use settings::DEFAULTS;

/// Rounds of each of the two tests: always the same ones where nothing else is asked for.
const ROUNDS: u64 = 3;

fn number(name: &str, default: u64) -> u64 {
    let number = |text: std::ffi::OsString| text.to_str().and_then(|text| text.parse().ok());
    std::env::var_os(name).map_or(default, |text| number(text).unwrap_or_else(|| panic!("{name}: a number")))
}

async fn rounds(delivery: &'static str) {
    let (first, seconds) = (number("HOSTILE_SEED", 1), number("HOSTILE_SECONDS", 0));
    let begin = tokio::time::Instant::now();
    let mut seed = first;
    while seed < first + ROUNDS || begin.elapsed() < Duration::from_secs(seconds) {
        round::run(&Plan::draw(seed, delivery)).await;
        seed += 1;
    }
    eprintln!("hostile rounds, {delivery}: seeds {first} to {}", seed - 1);
}

#[tokio::test]
async fn rows_of_strangers_cost_nobody_else_anything_at_least_once() {
    rounds("at-least-once").await;
}

#[tokio::test]
async fn rows_of_strangers_cost_nobody_else_anything_exactly_once() {
    rounds("exactly-once").await;
}

/// Each default of a database that can change what a statement means, all of them at once.
#[tokio::test]
async fn defaults_of_a_database_change_nothing() {
    for (seed, delivery) in [(101, "at-least-once"), (102, "exactly-once")] {
        let plan = Plan {
            defaults: (0..DEFAULTS.len()).collect(),
            settling: Settling::Mark,
            rules: false,
            kills: 1,
            weather: None,
            ..Plan::draw(seed, delivery)
        };
        round::run(&plan).await;
    }
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
        defaults: Vec::new(),
        settling: Settling::Mark,
        on_exhausted: "hold",
        rules: false,
        kills: 0,
        weather: None,
        bad_keys: rows::oddities().len(),
        rows_per_key: 3,
        in_turn: true,
        ..Plan::draw(201, "at-least-once")
    };
    round::run(&plan).await;
}
