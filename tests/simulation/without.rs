//! Each safeguard switched off: one test each, and the page that lists them.
//!
//! Safeguards of the protocol are switched off in the product's own code, those of the statements in their models.

use std::fmt::Write;
use std::path::Path;

use outbox_relay::relay::protocol::Safeguard;

use crate::checks::Violation::{self, *};
use crate::checks::check;
use crate::lane::Mode;
use crate::rules::{Luck, Off, Precaution, Rules};
use crate::search::random;
use crate::shards::{RESHARDING, SHARED};
use crate::step::Tracking;
use crate::world::{Action, Budget, Setting, World};
use crate::{AT_LEAST, CALM, ELECTIONS, MIXED, ONCE, STEPS, STORM};

/// Seeds in which a broken promise has to turn up when a safeguard is missing.
const SEEDS_TO_FIND: u64 = 10_000;

/// Where a missing safeguard shows, and how.
type Shows = (&'static str, Setting, &'static [Violation]);

struct Case {
    off: Off,
    test: &'static str,
    /// What the table says about it.
    breaks: &'static str,
    shows: &'static [Shows],
}

/// A failover that gives an id out again while the lane has it in hand.
const IDS_AGAIN: Setting =
    Setting { modes: &[Mode::AtLeastOnce], budget: Budget { rows: 3, parts: 1, failovers: 1, ..CALM }, ..AT_LEAST };
const PARTS: Budget = Budget { parts: 4, ..STORM };
/// Rare: PostgreSQL has to lose a takeover and its first batch, and the former owner has to go on from there.
const LOST_TAKEOVER: Budget = Budget { waits: 2, rows: 4, failovers: 1, restarts: 1, ..CALM };
const DELETIONS: Budget = Budget { deletions: 2, ..STORM };
const WATERMARK: &[Tracking] = &[Tracking::Watermark];
/// The number of shards changes.
const ONCE_RESHARDED: Setting = Setting { budget: RESHARDING, ..ONCE };
const AT_LEAST_RESHARDED: Setting = Setting { budget: RESHARDING, ..AT_LEAST };
/// A writer draws an id, a shard goes and comes back, and then the event is inserted.
const DRAWN_EARLY: Setting = Setting {
    modes: &[Mode::AtLeastOnce],
    shards: 2,
    budget: Budget { rows: 2, draws: 1, reshardings: 2, ..CALM },
    ..AT_LEAST
};
const IDS_AGAIN_SHARED: Setting = Setting { shares: true, ..IDS_AGAIN };

macro_rules! cases {
    ($($test:ident: $off:expr, $breaks:literal, [$($shows:expr),+ $(,)?];)+) => {
        const CASES: &[Case] = &[$(Case { off: $off, test: stringify!($test), breaks: $breaks, shows: &[$($shows),+] }),+];
        $(
            #[test]
            fn $test() {
                breaks(stringify!($test));
            }
        )+
    };
}

cases! {
    without_a_look_at_the_number_a_late_commit_makes_a_gap:
        Off::Protocol(Safeguard::StepComparesBatch), "a commit that comes late makes a gap, and after a failover rows are settled that nobody sent", [
            ("exactly once", ONCE, &[RefusedForNothing, Twice]),
            ("at least once", IDS_AGAIN, &[Lost]),
        ];
    a_recovery_that_goes_by_ids_alone_settles_rows_that_nobody_sent:
        Off::Protocol(Safeguard::RecoveryComparesBatch), "after a failover that gave ids out again, rows are settled that nobody sent", [
            ("at least once", IDS_AGAIN, &[Lost]),
        ];
    a_manifest_that_is_not_resent_breaks_up_its_batch:
        Off::Protocol(Safeguard::ManifestResent), "a repeat after a crash is not the same batch again", [
            ("at least once", AT_LEAST, &[AnotherBatch]),
        ];
    a_mark_that_at_least_once_leaves_on_breaks_up_its_batch:
        Off::Protocol(Safeguard::MarkCleared), "the next exactly-once owner believes that the batch was sent in a transaction", [
            ("modes in turn", MIXED, &[AnotherBatch, RefusedForNothing]),
        ];
    a_mark_set_before_the_first_marker_is_refused_for_nothing:
        Off::Protocol(Safeguard::ResendUnmarked), "a batch that may be in Kafka counts as never sent, or a healthy shard is refused", [
            ("modes in turn", MIXED, &[AnotherBatch, RefusedForNothing]),
        ];
    a_resend_of_nothing_leaves_a_gap_before_the_next_batch:
        Off::Protocol(Safeguard::EmptyResendReopens), "a healthy shard is refused", [
            ("modes in turn", Setting { budget: DELETIONS, ..MIXED }, &[RefusedForNothing]),
        ];
    without_read_back_a_committed_batch_is_sent_twice:
        Off::Protocol(Safeguard::MarkerDecides), "a committed batch is sent twice", [
            ("exactly once", ONCE, &[Twice]),
        ];
    a_marker_read_before_init_may_change_afterwards:
        Off::Protocol(Safeguard::FenceBeforeMarker), "the marker changes after it was read", [
            ("exactly once", ONCE, &[Twice]),
        ];
    a_manifest_older_than_the_marker_is_refused_for_nothing:
        Off::Protocol(Safeguard::ManifestAfterFence), "a healthy shard is refused", [
            ("exactly once", ONCE, &[RefusedForNothing]),
        ];
    two_batches_of_one_number_are_confused_when_the_marker_does_not_name_them:
        Off::Protocol(Safeguard::MarkerNamesBatch), "two batches of one number are confused, and rows are lost", [
            ("exactly once", Setting { budget: LOST_TAKEOVER, ..ONCE }, &[Lost]),
        ];
    a_number_that_is_skipped_is_refused_for_nothing:
        Off::Protocol(Safeguard::ForgottenNumberReused), "a healthy shard is refused", [
            ("exactly once", ONCE, &[RefusedForNothing]),
        ];
    a_first_batch_without_a_marker_before_it_is_refused_for_nothing:
        Off::Protocol(Safeguard::BaselineWritten), "a healthy shard is refused", [
            ("exactly once", ONCE, &[RefusedForNothing]),
        ];
    without_recycling_a_late_request_ends_a_later_transaction:
        Off::Protocol(Safeguard::UnusualReopens), "a late request ends a later transaction", [
            ("exactly once", ONCE, &[Twice, Lost]),
        ];
    a_transactional_id_that_is_left_too_early_repeats_a_batch:
        Off::Protocol(Safeguard::LeaveOnlyDecided), "a former owner's batch is sent twice", [
            ("exactly once", ELECTIONS, &[Twice, RefusedForNothing]),
        ];
    a_transactional_id_that_no_successor_knows_of_repeats_a_batch:
        Off::Protocol(Safeguard::NextIdNotedFirst), "a successor fences the wrong producer", [
            ("exactly once", ELECTIONS, &[Twice, RefusedForNothing]),
        ];
    without_the_epoch_fence_a_former_owner_does_harm:
        Off::Statements(Precaution::EpochFence), "a former owner does harm", [
            ("at least once", AT_LEAST, &[Lost, AnotherBatch, Disorder]),
            ("exactly once", ONCE, &[Lost, Twice, RefusedForNothing, Stuck]),
        ];
    settling_by_a_range_loses_a_row_that_is_committed_late:
        Off::Statements(Precaution::SettleByList), "a row that is committed late is lost", [
            ("at least once", AT_LEAST, &[Lost]),
            ("exactly once", ONCE, &[Lost]),
        ];
    without_the_barrier_a_row_that_is_committed_late_is_never_claimed:
        Off::Statements(Precaution::Barrier), "a row that is committed late is never claimed", [
            ("at least once", AT_LEAST, &[BelowLowId]),
            ("exactly once", ONCE, &[BelowLowId]),
            ("at least once, watermark", Setting { tracking: WATERMARK, ..AT_LEAST }, &[Lost]),
            ("exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE }, &[Lost]),
        ];
    a_row_that_is_given_up_below_the_watermark_and_not_listed_is_lost:
        Off::Statements(Precaution::Requeue), "a row that Kafka did not take counts as published", [
            ("at least once, watermark", Setting { tracking: WATERMARK, budget: PARTS, ..AT_LEAST }, &[Lost]),
            ("exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE }, &[Lost]),
        ];
    what_waits_again_and_is_claimed_last_comes_too_late:
        Off::Statements(Precaution::AgainFirst), "an event is published after a later one of its key", [
            ("resharding, at least once, watermark", Setting { tracking: WATERMARK, ..AT_LEAST_RESHARDED }, &[Disorder]),
            ("resharding, exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE_RESHARDED }, &[Disorder]),
        ];
    a_shared_step_with_a_part_whose_fence_fails_lets_a_former_owner_do_harm:
        Off::Statements(Precaution::FencedLeftOut), "a former owner does harm", [
            ("shared steps", SHARED, &[Lost, AnotherBatch, Disorder]),
        ];
    a_shared_step_with_a_part_that_has_moved_settles_rows_that_nobody_sent:
        Off::Statements(Precaution::MovedLeftOut), "after a failover that gave ids out again, rows are settled that nobody sent", [
            ("shared steps", IDS_AGAIN_SHARED, &[Lost]),
        ];
    a_shared_step_whose_answer_is_lost_for_one_lane_alone_breaks_up_the_batch_of_another:
        Off::Statements(Precaution::LostForAll), "a lane sends a batch that was never written down", [
            ("shared steps", SHARED, &[Twice, AnotherBatch, Disorder]),
        ];
    a_shard_that_is_taken_with_a_batch_in_flight_repeats_it:
        Off::Statements(Precaution::TakenIdle), "a batch in flight is moved under its owner", [
            ("resharding, at least once", AT_LEAST_RESHARDED, &[Disorder, AnotherBatch, Lost]),
            ("resharding, exactly once", ONCE_RESHARDED, &[Twice, Disorder, Lost, RefusedForNothing]),
        ];
    a_change_that_waits_for_no_writer_leaves_an_event_in_the_wrong_shard:
        Off::Statements(Precaution::WritersAwaited), "an event that is committed late is in the wrong shard, or in one that is gone", [
            ("resharding, at least once", AT_LEAST_RESHARDED, &[Lost, Disorder]),
            ("resharding, exactly once", ONCE_RESHARDED, &[Lost, Disorder]),
        ];
    what_is_published_ahead_of_the_watermark_and_moved_is_published_twice:
        Off::Statements(Precaution::AheadMarked), "a published event is moved and published again", [
            ("resharding, exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE_RESHARDED }, &[Twice]),
        ];
    what_waits_and_is_not_moved_is_lost_or_overtaken:
        Off::Statements(Precaution::WaitingMoved), "an event is lost with its shard, or a later one of its key overtakes it", [
            ("resharding, at least once", AT_LEAST_RESHARDED, &[Lost, Disorder]),
            ("resharding, exactly once", ONCE_RESHARDED, &[Lost, Disorder]),
        ];
    what_is_moved_below_a_watermark_and_not_listed_is_lost:
        Off::Statements(Precaution::PassedListed), "a moved event counts as published", [
            ("resharding, at least once, watermark", Setting { tracking: WATERMARK, ..AT_LEAST_RESHARDED }, &[Lost]),
            ("resharding, exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE_RESHARDED }, &[Lost]),
        ];
    what_is_moved_below_the_claim_is_never_claimed:
        Off::Statements(Precaution::LowIdLowered), "a moved event is never claimed", [
            ("resharding, at least once", AT_LEAST_RESHARDED, &[BelowLowId]),
            ("resharding, exactly once", ONCE_RESHARDED, &[BelowLowId]),
        ];
    a_shard_that_comes_back_with_other_numbers_is_refused_for_nothing:
        Off::Statements(Precaution::NumbersKept), "a healthy shard is refused", [
            ("resharding, exactly once", ONCE_RESHARDED, &[RefusedForNothing]),
        ];
    a_shard_that_comes_back_without_its_watermark_publishes_twice:
        Off::Statements(Precaution::DoneKept), "what was published before is published again", [
            ("resharding, exactly once, watermark", Setting { tracking: WATERMARK, ..ONCE_RESHARDED }, &[Twice]),
        ];
    an_id_that_is_drawn_before_its_shard_goes_and_comes_back_is_lost:
        Off::Statements(Precaution::OwnWatermark), "an event whose id was drawn early counts as published", [
            ("resharding, at least once", DRAWN_EARLY, &[Lost]),
        ];
    a_change_that_is_abandoned_too_late_lets_events_overtake_others:
        Off::Statements(Precaution::AbandonedBefore), "shards are given back before what waits has moved", [
            ("resharding, at least once", AT_LEAST_RESHARDED, &[Lost, Disorder]),
            ("resharding, exactly once", ONCE_RESHARDED, &[Lost, Disorder]),
        ];
}

#[track_caller]
fn breaks(test: &str) {
    let case = CASES.iter().find(|case| case.test == test).expect("it is in the list");
    for (mode, setting, expected) in case.shows {
        let rules = Rules { without: Some(case.off) };
        let world = World::new(Setting { rules, ..*setting });
        let wanted = |violation| expected.contains(&violation);
        let found = match setting.budget == IDS_AGAIN.budget {
            true => ids_again(world).is_some_and(wanted),
            false => random(&world, 0..SEEDS_TO_FIND, STEPS, wanted).is_some(),
        };
        assert!(found, "none of {expected:?} is found without {:?}, {mode}", case.off);
    }
}

/// Too rare for a search by chance: a lane has a batch in hand that begins like the one before it, PostgreSQL loses
/// that batch and a row of it, and gives the id of that row to another event.
fn ids_again(world: World) -> Option<Violation> {
    let relay = || Action::Relay(0, 0, Luck::Fine);
    let commits = |key| [Action::WriterOpens(key), Action::WriterInserts(0), Action::WriterEnds(0, true)];
    let mut world = world.with_rows(&[0]);
    let mut run = vec![relay(), relay(), Action::Relay(0, 0, Luck::LostBefore)];
    run.extend(commits(1));
    run.extend([relay(), relay(), relay(), Action::PostgresGoesBack(2)]);
    run.extend(commits(2));
    for action in run {
        world.apply(action);
    }
    assert_eq!(world.db.last_id(), 2, "the second id was given out again");
    let mut violation = None;
    let rests = world.comes_to_rest(|world| violation = violation.or_else(|| check(world)));
    violation.or((!rests).then_some(Stuck))
}

#[test]
fn ids_that_are_given_out_again_do_no_harm_to_a_lane_that_compares_batches() {
    assert_eq!(ids_again(World::new(IDS_AGAIN)), None);
    assert_eq!(ids_again(World::new(IDS_AGAIN_SHARED)), None);
}

#[test]
fn every_safeguard_of_the_protocol_is_switched_off_in_a_test() {
    for safeguard in Safeguard::ALL {
        assert!(CASES.iter().any(|case| case.off == Off::Protocol(safeguard)), "{safeguard:?} is not");
    }
}

/// `BLESS=1` writes the page.
#[test]
fn the_page_lists_every_safeguard_and_its_test() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/simulation.md");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/simulation.md is out of date; BLESS=1 cargo test --test simulation writes it");
}

fn page() -> String {
    let mut page = String::from(HEAD);
    for case in CASES {
        let (name, place) = match case.off {
            Off::Protocol(safeguard) => (format!("{safeguard:?}"), "protocol"),
            Off::Statements(precaution) => (format!("{precaution:?}"), "statements"),
        };
        let modes: Vec<&str> = case.shows.iter().map(|(mode, _, _)| *mode).collect();
        let Case { test, breaks, .. } = case;
        writeln!(page, "| `{name}` | {place} | {breaks} | {} | `{test}` |", modes.join("; ")).expect("a string");
    }
    page
}

const HEAD: &str = "\
# The simulation

`tests/simulation.rs` runs the relay without its parts: PostgreSQL and Kafka are small models, and an adversary kills
processes, delays and loses requests, lets leases run out, and makes either side forget commits. It tries thousands of
random runs, and every interleaving of small ones.

What a lane does next is not a model. The simulation drives [`relay::protocol`](../src/relay/lane/protocol.rs) and
[`relay::takeover`](../src/relay/takeover.rs), the code that the product runs. The head of `tests/simulation.rs` says what is
modelled and what is left out.

```sh
cargo test --locked --test simulation              # all of it
BLESS=1 cargo test --locked --test simulation page # writes this page
```

## What each safeguard is for

Each one is switched off in a test, and the search then finds a broken promise. The product always runs with all of them. Those of
the protocol are switched off in the product's own code (`Safeguards` in [`protocol/safeguards.rs`](../src/relay/lane/protocol/safeguards.rs)
says what each one does). Those of the statements are switched off in the model of the statement.

| without | of the | breaks | shown in | test |
|---|---|---|---|---|
";
