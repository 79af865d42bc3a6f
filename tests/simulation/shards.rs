//! Several shards: their number changes while they are at work, and lanes of one relay share their commits.

use crate::step::Tracking;
use crate::world::{Budget, Setting};
use crate::{AT_LEAST, CALM, MIXED, ONCE, STORM, every, holds};

/// The number of shards changes again and again.
pub const RESHARDING: Budget = Budget { reshardings: 6, waits: 12, ..STORM };
/// The lanes of a relay share their steps.
pub const SHARED: Setting = Setting { shards: 2, shares: true, ..AT_LEAST };

const WATERMARK: &[Tracking] = &[Tracking::Watermark];
const BOTH: &[Tracking] = &[Tracking::Rows, Tracking::Watermark];

// The number changes.

#[test]
fn another_number_of_shards_keeps_every_promise() {
    for setting in [ONCE, AT_LEAST, MIXED] {
        holds(Setting { tracking: BOTH, budget: RESHARDING, ..setting });
    }
}

#[test]
fn another_number_of_shards_keeps_every_promise_with_a_watermark() {
    for setting in [ONCE, AT_LEAST] {
        holds(Setting { tracking: WATERMARK, budget: RESHARDING, ..setting });
    }
}

#[test]
fn another_number_of_shards_repeats_whole_batches_when_nobody_outsleeps_a_lease() {
    holds(Setting { budget: RESHARDING, zombies: false, tracking: BOTH, ..AT_LEAST });
}

#[test]
fn ids_that_are_drawn_early_are_published_after_another_number_of_shards() {
    let budget = Budget { draws: 4, ..RESHARDING };
    holds(Setting { budget, tracking: WATERMARK, ..AT_LEAST });
    holds(Setting { budget, tracking: BOTH, ..ONCE });
}

#[test]
fn postgresql_that_lost_another_number_of_shards_does_no_harm_or_is_refused() {
    let budget = Budget { failovers: 1, ..RESHARDING };
    holds(Setting { budget, tracking: BOTH, ..MIXED });
    holds(Setting { budget, tracking: WATERMARK, ..AT_LEAST });
}

#[test]
fn partitions_that_lose_their_leaders_keep_no_shard_from_another_number() {
    holds(Setting { budget: Budget { elections: 2, ..RESHARDING }, ..ONCE });
}

// Lanes share a commit.

#[test]
fn lanes_that_share_a_commit_keep_the_promises_of_lanes_alone() {
    holds(Setting { tracking: BOTH, ..SHARED });
    let budget = Budget { failovers: 1, parts: 4, ..STORM };
    holds(Setting { tracking: WATERMARK, budget, ..SHARED });
}

#[test]
fn lanes_that_share_their_commits_give_way_to_another_number_of_shards() {
    holds(Setting { tracking: BOTH, budget: Budget { parts: 4, ..RESHARDING }, ..SHARED });
}

// Every interleaving within small bounds.

#[test]
fn every_moment_of_a_change_of_the_number_of_shards_is_survived() {
    let budget = Budget { misfortunes: 1, waits: 1, rows: 2, reshardings: 1, ..CALM };
    every(20_000, Setting { budget, ..AT_LEAST }, &[0, 1]);
}

#[test]
fn every_interleaving_of_a_shared_step_is_survived() {
    let budget = Budget { misfortunes: 1, waits: 1, rows: 2, ..CALM };
    every(10_000, Setting { budget, ..SHARED }, &[0, 1]);
}
