//! Two ways to look for a run that breaks a promise: thousands of random ones, and all of them within small bounds.
//!
//! What is found is made as short as it gets and printed action by action.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use crate::checks::{Violation, check, check_repeats};
use crate::rules::Luck;
use crate::world::{Action, World};

/// A run that ends in a violation.
pub struct Found {
    pub violation: Violation,
    pub actions: Vec<Action>,
    pub start: World,
    /// What was looked through to find it.
    pub how: String,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("{:?}, {}; {:?}\n", self.violation, self.how, self.start.setting.rules);
        let mut world = self.start.clone();
        for action in &self.actions {
            let before = if let Action::Relay(n, shard, _) = action {
                world.relays[*n].lanes[*shard].doing.to_string()
            } else if let (Action::Reshards(_), Some(resharder)) = (action, world.resharder) {
                format!("{:?}", resharder.stage)
            } else {
                String::new()
            };
            world.apply(*action);
            write!(text, "  {action:?} {before:12} ")?;
            for (number, shard) in world.db.shards().iter().enumerate() {
                write!(
                    text,
                    " | epoch {} seq {} ids {:?} marked {} low {} done {} again {:?}, marker {:?}",
                    shard.epoch,
                    shard.batch_seq,
                    shard.batch_ids,
                    shard.marked,
                    shard.low_id,
                    shard.done_id,
                    shard.again,
                    world.kafka.peek(number).map(|marker| marker.seq)
                )?;
            }
            writeln!(text)?;
        }
        writeln!(
            text,
            "  settled: {:?}",
            world.db.rows().iter().filter(|row| world.db.is_published(row)).map(|row| row.id).collect::<Vec<_>>()
        )?;
        for (partition, log) in world.kafka.logs.iter().enumerate() {
            let log: Vec<_> = log.iter().map(|logged| (logged.record.id, logged.fate)).collect();
            writeln!(text, "  partition {partition}: {log:?}")?;
        }
        f.write_str(&text)
    }
}

/// Runs random actions and then lets everything come to rest, once per seed. Looks for a broken promise that is
/// `wanted`.
pub fn random(
    start: &World,
    seeds: std::ops::Range<u64>,
    steps: usize,
    wanted: impl Fn(Violation) -> bool,
) -> Option<Found> {
    for seed in seeds {
        let (mut world, actions) = storm(start, seed, steps, |_| {});
        if let Some(violation) = ends_badly(&mut world).filter(|violation| wanted(*violation)) {
            let (actions, how) = (shorten(start, actions, violation), format!("seed {seed}"));
            return Some(Found { violation, actions, start: start.clone(), how });
        }
    }
    None
}

/// Random actions, up to the first broken promise or refusal.
pub fn storm(start: &World, seed: u64, steps: usize, mut look: impl FnMut(&World)) -> (World, Vec<Action>) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut world = start.clone();
    let mut actions = Vec::new();
    let mut asleep = vec![0_u32; world.relays.len()];
    for _ in 0..steps {
        let Some(action) = choose(&world, &mut dice, &mut asleep) else { break };
        actions.push(action);
        world.apply(action);
        look(&world);
        if check(&world).is_some() || world.refused() {
            break;
        }
    }
    (world, actions)
}

/// A relay mostly goes on for a while, and what goes wrong goes wrong now and then.
fn choose(world: &World, dice: &mut fastrand::Rng, asleep: &mut [u32]) -> Option<Action> {
    for naps in asleep.iter_mut() {
        *naps = naps.saturating_sub(1);
        if world.setting.zombies && dice.u32(..60) == 0 {
            *naps = dice.u32(5..80);
        }
    }
    let weight = |action: &Action| match action {
        Action::Relay(n, ..) | Action::Together(n, _) | Action::GivesWay(n) if asleep[*n] > 0 => 0,
        Action::Relay(_, _, Luck::Fine) | Action::Together(_, Luck::Fine) => 120,
        Action::Relay(..) | Action::Together(..) | Action::Restart(..) | Action::Stop(_) | Action::Time(_) => 3,
        Action::Reshards(Luck::Fine) | Action::GivesWay(_) => 60,
        Action::ReshardingBegins(_) => 10,
        Action::Reshards(_) | Action::ReshardingAbandoned => 3,
        Action::Straggler(_) | Action::DoubtEnds(..) | Action::TransactionFinishes => 15,
        Action::Leader(back) => {
            if *back {
                2
            } else {
                3
            }
        }
        Action::TransactionTimesOut
        | Action::PostgresGoesBack(_)
        | Action::MarkerExpires(_)
        | Action::RowDeleted(_) => 1,
        Action::WriterOpens(_) | Action::WriterDraws(_) | Action::WriterInserts(_) | Action::WriterEnds(..) => 10,
        Action::BarrierReadsId(_) | Action::BarrierLists(_) => 10,
    };
    let actions = world.actions();
    let mut point = dice.u32(..actions.iter().map(weight).sum::<u32>().max(1));
    actions.into_iter().find(|action| {
        let weight = weight(action);
        let hit = point < weight;
        point = point.saturating_sub(weight);
        hit
    })
}

fn ends_badly(world: &mut World) -> Option<Violation> {
    let mut violation = check(world);
    if violation.is_none() && !world.refused() {
        let rests = world.comes_to_rest(|world| violation = violation.or_else(|| check(world)));
        violation = violation.or((!rests).then_some(Violation::Stuck));
    }
    violation.or_else(|| if world.history_lost || world.repeats_vary { None } else { check_repeats(world) })
}

/// Leaves out one action after the other, as long as the same promise is broken.
fn shorten(start: &World, mut actions: Vec<Action>, violation: Violation) -> Vec<Action> {
    let mut chunk = actions.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < actions.len() {
            let mut fewer = actions.clone();
            fewer.drain(at..(at + chunk).min(actions.len()));
            match replay(start, &fewer) {
                Some((done, found)) if found == violation => actions = done,
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    actions
}

/// Runs what is possible of these actions.
fn replay(start: &World, actions: &[Action]) -> Option<(Vec<Action>, Violation)> {
    let mut world = start.clone();
    let mut done = Vec::new();
    for action in actions {
        if world.actions().contains(action) {
            world.apply(*action);
            done.push(*action);
            if let Some(violation) = check(&world) {
                return Some((done, violation));
            }
        }
    }
    ends_badly(&mut world).map(|violation| (done, violation))
}

/// So many states are looked at, at most.
const STATES_MAX: usize = 80_000;

/// Every state within the bounds of the budget, nearest first, up to [`STATES_MAX`]. Returns how many there are, or the
/// shortest run that breaks a promise; every `rest_every`-th state is also left to itself, to see it come to rest.
pub fn exhaustive(start: &World, rest_every: usize) -> Result<usize, Box<Found>> {
    let mut seen = HashSet::from([start.fingerprint()]);
    // How each state was reached: from which one, and how.
    let mut path: Vec<(usize, Option<Action>)> = vec![(0, None)];
    let mut open = VecDeque::from([(0_usize, start.clone())]);
    while let Some((at, world)) = open.pop_front() {
        if path.len() > STATES_MAX {
            break;
        }
        for action in world.actions() {
            let mut next = world.clone();
            next.apply(action);
            if !seen.insert(next.fingerprint()) {
                continue;
            }
            path.push((at, Some(action)));
            let number = path.len() - 1;
            let violation = check(&next)
                .or_else(|| if number.is_multiple_of(rest_every) { ends_badly(&mut next.clone()) } else { None });
            if let Some(violation) = violation {
                let how = format!("after {number} states");
                let actions = trace(&path, number);
                return Err(Box::new(Found { violation, actions, start: start.clone(), how }));
            }
            open.push_back((number, next));
        }
    }
    Ok(path.len())
}

fn trace(path: &[(usize, Option<Action>)], mut at: usize) -> Vec<Action> {
    let mut actions = Vec::new();
    while let (from, Some(action)) = path[at] {
        actions.push(action);
        at = from;
    }
    actions.reverse();
    actions
}
