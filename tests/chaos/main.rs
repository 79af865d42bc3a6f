//! A fault harness that tries to break every promise. Not shipped; `docs/chaos.md` says how to run it and how to
//! read a failure.
//!
//! `cargo test` runs its smoke run, with a fixed seed; `make chaos` a long one. The parts: `plan` says which fault
//! comes when, `stack` and `fleet` are what they come upon, `proxy` and `traps` the bad network, `writers` and `direct`
//! the load, `monitor`, `history`, `checker` and `fold` the judge. It is a program of its own rather than a test
//! function, so that a run can have a seed and print as it goes.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "it talks to a person")]
#![allow(clippy::large_futures, reason = "a run is one long future on a stack of its own")]

/// The parts that this harness shares with the integration tests.
#[path = "../it"]
#[expect(dead_code, unused_imports, reason = "it uses a part of them")]
mod it {
    pub mod support;
}
use it::support;

#[path = "../it/hostile/rows.rs"]
#[expect(dead_code, reason = "it uses a part of them")]
mod rows;

mod checker;
mod direct;
mod faults;
mod fleet;
mod fold;
mod history;
mod monitor;
mod options;
mod plan;
mod proxy;
mod run;
mod stack;
mod strangers;
mod time;
mod traps;
mod weather;
mod writers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use options::{Asked, Options};
use plan::{Mode, Plan};
use stack::Servers;

/// The ways of delivery that the relay has, in the order in which they are tried.
const MODES: &[Mode] = &[Mode::AtLeastOnce, Mode::ExactlyOnce];

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1), MODES) {
        Asked::Run(options) => options,
        Asked::Nothing => return ExitCode::SUCCESS,
        Asked::Usage(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    for check in [options::self_check, plan::self_check, traps::self_check, checker::self_check] {
        check();
    }
    println!("the harness's own checks can fail and do not");
    let plan = |mode: &Mode| {
        let plan = Plan::new(options.seed, *mode, options.length, options.kills);
        plan.remaking(options.remake).on_brokers(options.brokers)
    };
    let plans: Vec<Plan> = options.modes.iter().map(plan).collect();
    if options.only_plan {
        plans.iter().for_each(|plan| println!("{plan}"));
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    // The seed must be told however a run ends.
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(run_all(plans.clone(), &options)))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => {
            eprintln!("\nthe harness itself failed, see above; it was about to follow, or followed:");
            plans.iter().for_each(|plan| eprintln!("{plan}"));
            ExitCode::FAILURE
        }
    }
}

/// True when every promise was kept.
async fn run_all(plans: Vec<Plan>, options: &Options) -> bool {
    let servers = Servers::start(options.brokers).await;
    let (mut rows, mut kept) = (Vec::new(), true);
    for plan in plans {
        println!("\n{plan}");
        let outcome = run::run(&servers, plan, options).await;
        rows.push(outcome.row);
        if !outcome.violations.is_empty() {
            kept = false;
            eprintln!("\nBROKEN with seed {}:", outcome.plan.seed);
            outcome.violations.iter().for_each(|violation| eprintln!("  {violation}"));
            eprintln!("{}", outcome.plan);
            if !options.keep_on {
                break;
            }
        }
    }
    println!("\n{}\n{}", run::HEAD, rows.join("\n"));
    kept
}
