//! The protocol of the relay under every order of events: PostgreSQL and Kafka as small models, and an adversary that
//! kills, delays and loses. Thousands of runs, and every interleaving of small ones, take seconds.
//!
//! What a lane does next is the product's own code, and cannot drift: `relay::protocol` with `relay::takeover`, in both
//! delivery modes; so are `outbox::barrier::Horizon` and `outbox::watermark::Watermark`. What a step does in PostgreSQL
//! (`step.rs`), what the client and the brokers do (`sending.rs`, `kafka.rs`) are models and have to follow the
//! product. So do a step of several lanes in one commit (`together.rs`) and a change of the number of shards
//! (`resharding.rs`, `resharder.rs`).
//!
//! Modelled: both modes and changes between them; marks and watermarks; rows that wait again; two shards, whose number
//! changes while everything else happens; lanes of one relay that share a commit; graceful stops; failovers of
//! PostgreSQL that lose commits and give ids out again; elections, expired markers and a Kafka that went back. Left
//! out: events that fail, wait or are held, and rows that refuse to be moved; shares of instances, limits of size and
//! time, permits and turns; strict order; the look at a marker by a relay on a copy of the database.
//!
//! Each safeguard is also switched off once, in the product's code or in the model of a statement, and then the search
//! has to find a broken promise. `docs/simulation.md` has the list, written by a test here.
//!
//! A failure prints the shortest run that was found. Seeds are fixed: the test that failed fails again in the same way.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/kafka.rs"]
mod kafka;
#[path = "simulation/lane.rs"]
mod lane;
#[path = "simulation/postgres.rs"]
mod postgres;
#[path = "simulation/relay.rs"]
mod relay;
#[path = "simulation/resharder.rs"]
mod resharder;
#[path = "simulation/resharding.rs"]
mod resharding;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/search.rs"]
mod search;
#[path = "simulation/sending.rs"]
mod sending;
#[path = "simulation/shard.rs"]
mod shard;
#[path = "simulation/shards.rs"]
mod shards;
#[path = "simulation/step.rs"]
mod step;
#[path = "simulation/together.rs"]
mod together;
#[path = "simulation/without.rs"]
mod without;
#[path = "simulation/world.rs"]
mod world;

use checks::check;

use lane::Doing;
use lane::Mode::{self, AtLeastOnce, ExactlyOnce};
use rules::{Luck, Rules};
use search::{exhaustive, random, storm};
use step::Tracking;
use world::{Action, Budget, Setting, World};

const SEEDS: u64 = 600;
const STEPS: usize = 250;

const STORM: Budget = Budget {
    restarts: 6,
    stops: 2,
    misfortunes: 12,
    waits: 8,
    rows: 10,
    barriers: 40,
    timeouts: 2,
    failovers: 0,
    expiries: 0,
    elections: 0,
    deletions: 0,
    parts: 0,
    reshardings: 0,
    draws: 0,
};
const CALM: Budget = Budget {
    restarts: 0,
    stops: 0,
    misfortunes: 0,
    waits: 0,
    rows: 0,
    barriers: 0,
    timeouts: 0,
    failovers: 0,
    expiries: 0,
    elections: 0,
    deletions: 0,
    parts: 0,
    reshardings: 0,
    draws: 0,
};

const ONCE: Setting = setting(&[ExactlyOnce; 2], &[ExactlyOnce], STORM);
const AT_LEAST: Setting = setting(&[AtLeastOnce; 2], &[AtLeastOnce], STORM);
const MIXED: Setting = setting(&[ExactlyOnce, AtLeastOnce], &[ExactlyOnce, AtLeastOnce], STORM);

const fn setting(modes: &'static [Mode], later: &'static [Mode], budget: Budget) -> Setting {
    Setting {
        modes,
        later,
        tracking: &[Tracking::Rows],
        shards: 1,
        shares: false,
        rules: Rules { without: None },
        zombies: true,
        budget,
    }
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
fn what_is_settled_after_a_failover_that_gave_ids_out_again_is_what_was_sent() {
    let failovers = Budget { failovers: 1, parts: 2, ..STORM };
    holds(Setting { budget: failovers, ..AT_LEAST });
    holds(Setting { budget: failovers, shares: true, tracking: &[Tracking::Watermark], ..AT_LEAST });
}

#[test]
fn a_watermark_and_marks_keep_the_same_promises() {
    for tracking in [&[Tracking::Watermark] as &[Tracking], &[Tracking::Rows, Tracking::Watermark]] {
        for setting in [ONCE, AT_LEAST, MIXED] {
            holds(Setting { tracking, ..setting });
        }
    }
    let tracking = &[Tracking::Watermark];
    holds(Setting { tracking, budget: Budget { failovers: 1, ..STORM }, ..ONCE });
}

#[test]
fn shared_steps_keep_the_promises_of_steps_alone() {
    holds(Setting { shares: true, ..AT_LEAST });
    holds(Setting { shares: true, tracking: &[Tracking::Rows, Tracking::Watermark], ..MIXED });
}

#[test]
fn what_kafka_did_not_take_of_a_batch_is_sent_later_and_in_order() {
    let budget = Budget { parts: 6, ..STORM };
    for setting in [AT_LEAST, MIXED] {
        for tracking in [&[Tracking::Rows] as &[Tracking], &[Tracking::Rows, Tracking::Watermark]] {
            holds(Setting { budget, tracking, ..setting });
        }
    }
}

#[test]
fn rows_that_an_operator_deletes_stop_nobody() {
    let budget = Budget { deletions: 2, ..STORM };
    for setting in [ONCE, AT_LEAST, MIXED] {
        holds(Setting { budget, ..setting });
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
            let markers = &world.kafka.markers;
            if !markers.is_empty() && past.last().is_none_or(|last: &kafka::Kafka| last.markers != *markers) {
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
            let state = |world: &World| {
                let lane = &world.relays[0].lanes[0];
                (lane.doing.clone(), lane.sending.sent)
            };
            let before = state(world);
            world.apply(Action::Relay(0, 0, Luck::Fine));
            if before.0 == Doing::Produce && before == state(world) {
                // It has waited long enough.
                world.apply(Action::Relay(0, 0, Luck::LostBefore));
            }
            world.apply(Action::TransactionFinishes);
            world.apply(Action::Time(1));
        }
    };
    // The first transaction is that of the marker alone.
    let commits = |world: &World| {
        let lane = &world.relays[0].lanes[0];
        lane.doing == Doing::Commit && !lane.sending.is_empty()
    };
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
        steps(&mut world, 80);
        assert!(world.db.rows().iter().all(|row| row.marked), "restarted: {restarted}, {:?}", world.relays[0]);
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

#[track_caller]
fn holds(setting: Setting) {
    if let Some(found) = random(&World::new(setting), 0..SEEDS, STEPS, |_| true) {
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
