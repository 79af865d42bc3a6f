//! The protocol of the relay without its parts: relays, PostgreSQL and Kafka as small models, and an adversary that
//! kills, delays and loses. Thousands of runs, and every interleaving of small ones, take seconds.
//!
//! `relay::takeover::resolve` and `outbox::barrier::Horizon` are the production's own. The rest is a model of what
//! `relay`, `outbox` and `broker` do, and has to follow them; not in it are events that fail or wait, and limits of
//! size and time. Each safeguard is also switched off once, and then the search has to find a broken promise: that
//! shows that it can.
//!
//! A failure prints the shortest run that was found. Seeds are fixed: the test that failed fails again in the same way.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/kafka.rs"]
mod kafka;
#[path = "simulation/postgres.rs"]
mod postgres;
#[path = "simulation/relay.rs"]
mod relay;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/search.rs"]
mod search;
#[path = "simulation/sending.rs"]
mod sending;
#[path = "simulation/takeover.rs"]
mod takeover;
#[path = "simulation/world.rs"]
mod world;

use checks::Violation::{self, *};
use checks::check;
use relay::Mode::{self, AtLeastOnce, ExactlyOnce};
use rules::{Luck, Rules, Safeguard};
use search::{exhaustive, random, storm};
use world::{Action, Budget, Setting, World};

const SEEDS: u64 = 1_500;
/// Seeds in which a broken promise has to turn up when a safeguard is missing.
const SEEDS_TO_FIND: u64 = 10_000;
const STEPS: usize = 250;

const STORM: Budget = Budget {
    restarts: 6,
    misfortunes: 12,
    waits: 8,
    rows: 10,
    barriers: 40,
    timeouts: 2,
    failovers: 0,
    expiries: 0,
    elections: 0,
};
const CALM: Budget = Budget {
    restarts: 0,
    misfortunes: 0,
    waits: 0,
    rows: 0,
    barriers: 0,
    timeouts: 0,
    failovers: 0,
    expiries: 0,
    elections: 0,
};

const ONCE: Setting = setting(&[ExactlyOnce; 2], &[ExactlyOnce], STORM);
const AT_LEAST: Setting = setting(&[AtLeastOnce; 2], &[AtLeastOnce], STORM);
const MIXED: Setting = setting(&[ExactlyOnce, AtLeastOnce], &[ExactlyOnce, AtLeastOnce], STORM);

const fn setting(modes: &'static [Mode], later: &'static [Mode], budget: Budget) -> Setting {
    Setting { modes, later, rules: Rules { without: None }, zombies: true, budget }
}

// Random storms.

#[test]
fn exactly_once_holds_with_three_relays() {
    holds(Setting { modes: &[ExactlyOnce; 3], ..ONCE });
}

#[test]
fn at_least_once_holds_with_three_relays() {
    holds(Setting { modes: &[AtLeastOnce; 3], ..AT_LEAST });
}

#[test]
fn at_least_once_repeats_whole_batches_when_nobody_outsleeps_a_lease() {
    holds(Setting { zombies: false, ..AT_LEAST });
}

#[test]
fn the_modes_may_follow_each_other() {
    holds(MIXED);
}

#[test]
fn postgresql_that_lost_commits_ends_in_a_refusal_or_does_no_harm() {
    for setting in [ONCE, MIXED] {
        holds(Setting { budget: Budget { failovers: 1, ..STORM }, ..setting });
    }
}

#[test]
fn a_marker_that_expired_ends_in_a_refusal_or_does_no_harm() {
    holds(Setting { budget: Budget { expiries: 1, ..STORM }, ..ONCE });
}

#[test]
fn kafka_that_lost_transactions_is_refused_by_whoever_starts_then() {
    let mut refused = 0;
    for seed in 0..SEEDS {
        let mut past = Vec::new();
        let (mut world, _) = storm(&World::new(ONCE), seed, STEPS, |world| {
            // A marker that is gone altogether is another story: it may have expired, and nothing tells what else is
            // gone.
            let marker = &world.kafka.marker;
            if marker.is_some() && past.last().is_none_or(|last: &kafka::Kafka| last.marker != *marker) {
                past.push(world.kafka.clone());
            }
        });
        for relay in 0..world.relays.len() {
            world.apply(Action::Restart(relay, ExactlyOnce));
        }
        world.apply(Action::TransactionTimesOut);
        world.kafka.finish_all();
        let Some(former) = past.len().checked_sub(2 + (seed % 3) as usize) else { continue };
        world.kafka.go_back(&past[former]);
        world.history_lost = true;
        assert!(world.comes_to_rest(|_| {}), "seed {seed}");
        // Where nobody refuses, only the batch in flight was lost, and it is sent again.
        assert!(world.refused() || check(&world).is_none(), "seed {seed}: {:?}", check(&world));
        refused += u64::from(world.refused());
    }
    assert!(refused > SEEDS / 4, "{refused}");
}

/// Transactions that cannot be ended, and relays that go on without waiting for that.
const ELECTIONS: Setting = Setting { budget: Budget { elections: 3, ..STORM }, ..ONCE };

#[test]
fn partitions_that_lose_their_leaders_inside_transactions_lose_and_repeat_nothing() {
    holds(ELECTIONS);
    holds(Setting { modes: &[ExactlyOnce; 3], ..ELECTIONS });
    holds(Setting { budget: Budget { elections: 3, ..STORM }, ..MIXED });
}

/// A lane whose transaction cannot be ended goes on with what is for other partitions, and so does its successor.
#[test]
fn a_transaction_that_cannot_be_ended_keeps_nobody_waiting() {
    let budget = Budget { rows: 3, elections: 1, ..CALM };
    let mut world = World::new(Setting { modes: &[ExactlyOnce], budget, ..ONCE }).with_rows(&[0]);
    let steps = |world: &mut World, count: usize| {
        for _ in 0..count {
            let before = (world.relays[0].at, world.relays[0].batch.sent);
            world.apply(Action::Relay(0, Luck::Fine));
            if before.0 == relay::At::Produce && before == (world.relays[0].at, world.relays[0].batch.sent) {
                // It has waited long enough.
                world.apply(Action::Relay(0, Luck::LostBefore));
            }
            world.apply(Action::TransactionFinishes);
            world.apply(Action::Time(1));
        }
    };
    // The first transaction is that of the marker alone.
    let commits = |world: &World| world.relays[0].at == relay::At::Commit && !world.relays[0].batch.ids.is_empty();
    while !commits(&world) {
        steps(&mut world, 1);
    }
    world.apply(Action::Leader(false));
    steps(&mut world, 5);
    for restarted in [false, true] {
        if restarted {
            world.apply(Action::Restart(0, ExactlyOnce));
            world.apply(Action::Time(postgres::LEASE));
        }
        world.apply(Action::WriterOpens(1));
        world.apply(Action::WriterInserts(0));
        world.apply(Action::WriterEnds(0, true));
        steps(&mut world, 60);
        assert!(world.db.rows.iter().all(|row| row.published), "restarted: {restarted}, {:?}", world.relays[0]);
        assert!(world.kafka.leaderless && world.kafka.is_ending(), "the first transaction is still not ended");
    }
    assert!(world.comes_to_rest(|_| {}));
    assert_eq!(check(&world), None);
}

// Every interleaving within small bounds.

#[test]
fn every_kill_with_every_misfortune_is_survived() {
    let budget = Budget { restarts: 1, misfortunes: 1, waits: 1, rows: 2, ..CALM };
    every(60_000, Setting { budget, ..ONCE }, &[0, 1]);
}

#[test]
fn every_switch_of_modes_is_survived() {
    let budget = Budget { restarts: 1, misfortunes: 0, waits: 2, rows: 2, ..CALM };
    every(10_000, Setting { budget, ..MIXED }, &[0, 1]);
}

#[test]
fn every_failover_is_survived_or_refused() {
    let budget = Budget { waits: 1, rows: 1, failovers: 1, ..CALM };
    every(10_000, Setting { budget, ..ONCE }, &[0]);
}

#[test]
fn every_election_with_every_kill_is_survived() {
    let budget = Budget { restarts: 1, waits: 1, rows: 2, elections: 1, ..CALM };
    every(10_000, Setting { budget, ..ONCE }, &[0, 1]);
}

// Without a safeguard.

#[test]
fn without_read_back_a_committed_batch_is_sent_twice() {
    breaks(Safeguard::ReadBack, ONCE, &[Twice]);
}

#[test]
fn without_the_epoch_fence_a_former_owner_does_harm() {
    breaks(Safeguard::EpochFence, AT_LEAST, &[Lost, AnotherBatch, Disorder]);
    breaks(Safeguard::EpochFence, ONCE, &[Lost, Twice, RefusedForNothing, Stuck]);
}

#[test]
fn settling_by_a_range_loses_a_row_that_is_committed_late() {
    breaks(Safeguard::SettleByList, ONCE, &[Lost]);
    breaks(Safeguard::SettleByList, AT_LEAST, &[Lost]);
}

#[test]
fn without_recycling_a_late_request_ends_a_later_transaction() {
    breaks(Safeguard::Recycle, ONCE, &[Twice, Lost]);
}

#[test]
fn without_the_barrier_a_row_that_is_committed_late_is_never_claimed() {
    breaks(Safeguard::Barrier, ONCE, &[BelowLowId]);
    breaks(Safeguard::Barrier, AT_LEAST, &[BelowLowId]);
}

#[test]
fn a_marker_read_before_init_may_change_afterwards() {
    breaks(Safeguard::InitBeforeMarker, ONCE, &[Twice]);
}

#[test]
fn without_a_look_at_the_number_a_late_commit_makes_a_gap() {
    breaks(Safeguard::NumberChecked, ONCE, &[RefusedForNothing, Twice]);
}

#[test]
fn a_manifest_older_than_the_marker_is_refused_for_nothing() {
    breaks(Safeguard::ManifestAfterMarker, ONCE, &[RefusedForNothing]);
}

#[test]
fn two_batches_of_one_number_are_confused_when_the_marker_does_not_name_them() {
    // Rare: PostgreSQL has to lose a takeover and its first batch, and the former owner has to go on from there.
    let budget = Budget { waits: 2, rows: 4, failovers: 1, restarts: 1, ..CALM };
    for setting in [ONCE, MIXED] {
        breaks(Safeguard::BatchNamed, Setting { budget, ..setting }, &[Lost]);
    }
}

#[test]
fn a_mark_that_at_least_once_leaves_on_breaks_up_its_batch() {
    breaks(Safeguard::MarkTakenOff, MIXED, &[AnotherBatch, RefusedForNothing]);
}

#[test]
fn a_mark_set_before_the_first_marker_is_refused_for_nothing() {
    breaks(Safeguard::ResendUnmarked, MIXED, &[RefusedForNothing]);
}

#[test]
fn a_transactional_id_that_is_left_too_early_repeats_a_batch() {
    breaks(Safeguard::LeaveDecided, ELECTIONS, &[Twice, RefusedForNothing]);
}

#[test]
fn a_transactional_id_that_no_successor_knows_of_repeats_a_batch() {
    breaks(Safeguard::LeaveNoted, ELECTIONS, &[Twice, RefusedForNothing]);
}

#[track_caller]
fn holds(setting: Setting) {
    if let Some(found) = random(&World::new(setting), 0..SEEDS, STEPS) {
        panic!("{found}");
    }
}

/// `least` states, or the bounds have become too small to mean anything.
#[track_caller]
fn every(least: usize, setting: Setting, keys: &[postgres::Key]) {
    match exhaustive(&World::new(setting).with_rows(keys), 100) {
        Ok(states) => assert!(states >= least, "only {states} states"),
        Err(found) => panic!("{found}"),
    }
}

#[track_caller]
fn breaks(safeguard: Safeguard, setting: Setting, expected: &[Violation]) {
    let rules = Rules { without: Some(safeguard) };
    let found = random(&World::new(Setting { rules, ..setting }), 0..SEEDS_TO_FIND, STEPS);
    let found = found.unwrap_or_else(|| panic!("nothing is found without {safeguard:?}"));
    assert!(expected.contains(&found.violation), "something else is found without {safeguard:?}: {found}");
}
