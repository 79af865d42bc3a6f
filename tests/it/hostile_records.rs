//! Records of strangers before one judge: what producers, members, operators and other sessions do to the consumer,
//! drawn from a seed. A minute of it runs with all tests; `make hostile-records` runs for as long as it is told.
//!
//! `HOSTILE_SEED` is the first seed (each round takes the next one), `HOSTILE_SECONDS` how long the rounds go on at
//! least.

mod judge;
mod load;
mod records;
mod round;
mod stage;

use std::time::Duration;

use crate::hostile::number;
use crate::support::side_by_side;

/// Rounds where nothing else is asked for: always the same ones.
const ROUNDS: u64 = 2;

/// Promise: records.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_strangers_are_folded_parked_or_skipped_and_hold_nobody_up() {
    let (first, seconds) = (number("HOSTILE_SEED", 1), number("HOSTILE_SECONDS", 0));
    if seconds == 0 {
        return side_by_side(first..first + ROUNDS, async |seed| round::run(seed).await).await;
    }
    let begin = tokio::time::Instant::now();
    let mut seed = first;
    while seed < first + ROUNDS || begin.elapsed() < Duration::from_secs(seconds) {
        round::run(seed).await;
        seed += 1;
    }
    eprintln!("hostile records: seeds {first} to {}", seed - 1);
}

/// A hundred thousand records, every tenth of a stranger, while three members start, stop and die.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make hostile-records-load"]
async fn a_hundred_thousand_records_while_three_members_flap() {
    load::flapping(number("HOSTILE_SEED", 1), number("HOSTILE_RECORDS", 100_000)).await;
}

/// How fresh the other half of the partitions is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and wants the machine for itself: make hostile-records-load"]
async fn half_of_the_partitions_with_strangers_keep_the_other_half_fresh() {
    load::steady(number("HOSTILE_SEED", 1), Duration::from_secs(number("HOSTILE_SECONDS", 120).max(30))).await;
}
