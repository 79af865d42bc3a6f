//! One run: load with faults, then none and everything healthy, then the deadline to converge, then the judge.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::checker::{Allowance, Checker, Verdict};
use crate::direct::Direct;
use crate::faults::{self, Scene, Tally};
use crate::history;
use crate::options::Options;
use crate::plan::{Mode, Plan};
use crate::stack::{CONVERGENCE, DIRECT_PARTITIONS, Servers, Stack};
use crate::strangers::Strangers;
use crate::time::pass;
use crate::writers::Writers;
use crate::{fold, monitor};

/// Resident memory of one process: the batches in flight, the client's queues and the rows of one claim are bounded by
/// settings; a debug build takes about 60 MB for itself.
const MEMORY_MAX: u64 = 256 << 20;

/// What a run found.
pub struct Outcome {
    pub plan: Plan,
    pub row: String,
    pub violations: Vec<String>,
}

/// The head of the table of results.
pub const HEAD: &str = "\
| mode, order, brokers | seed | minutes | events | kills | zombies (fenced) | SIGTERM | broker | PostgreSQL | network | lost | out of order | duplicates (late, not inherited) | converged in | result |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

pub async fn run(servers: &Servers, plan: Plan, options: &Options) -> Outcome {
    let stack = Stack::start(servers, &plan, options).await;
    let (tally, seen) = (Tally::default(), Mutex::new(Vec::new()));
    let writers = Writers::new(&stack.database, &stack.topics, plan.seed, options.rate);
    let direct = Direct::new(&stack.database, &stack.direct, DIRECT_PARTITIONS, &stack.group, plan.seed);
    let strangers = match options.hostile {
        true => Some(Strangers::new(&stack.database, servers.direct(), plan.seed).await),
        false => None,
    };
    let converged = {
        let work = async {
            let strange = async {
                let Some(strangers) = &strangers else { return };
                println!("{} rows of strangers", strangers.run().await);
            };
            let faults = async {
                faults::run(&Scene::new(&stack, &writers, &direct, &plan), &plan, &tally).await;
                println!("the faults are over");
                writers.stop();
                direct.stop();
                strangers.iter().for_each(Strangers::stop);
            };
            tokio::join!(writers.run(), direct.write(), strange, faults);
            converge(&stack, &direct).await
        };
        tokio::select! {
            converged = work => converged,
            () = direct.accept() => unreachable!("it looks for ever"),
            () = stack.fleet.supervise() => unreachable!("it supervises for ever"),
            () = monitor::watch(&stack.database, &seen) => unreachable!("it watches for ever"),
        }
    };
    let client = stack.database.reconnect().await;
    if converged.is_err() {
        println!("{}", monitor::shards(&client).await.expect("the database answers"));
    }
    let mut violations = seen.into_inner().expect("nobody panicked with it");
    violations.extend(monitor::in_the_end(&client).await.expect("the database answers"));
    stack.fleet.stop_all().await;
    violations.extend(stack.fleet.complaints());
    if stack.fleet.most_memory() > MEMORY_MAX {
        violations.push(format!("I9: a process took {} MiB", stack.fleet.most_memory() >> 20));
    }
    let verdict = judge(&stack, &plan, &client, &tally).await;
    violations.extend(verdict.violations.iter().cloned());
    let (complaints, told) = direct.judge(&client).await.expect("the database answers");
    violations.extend(complaints);
    println!("{told}, {} folds were taken back by crashes", Tally::get(&tally.taken_back));
    match &converged {
        Ok(_) => violations.extend(fold::complaints(&client).await.expect("the database answers")),
        Err(state) => violations.push(format!("I5: not within {CONVERGENCE:?} after the last fault: {state}")),
    }
    println!("{}\ntraps: {:?}", stack.fleet.story(), tally.sprung.lock().expect("nobody panicked with it"));
    let row = row(&plan, options, &verdict, &tally, &stack, converged.ok(), &violations);
    Outcome { plan, row, violations }
}

/// Waits until nothing is PENDING and everything is folded. Returns how long that took, or what was left.
async fn converge(stack: &Stack<'_>, direct: &Direct) -> Result<Duration, String> {
    let begin = Instant::now();
    let (mut left, mut published) = ("never looked".to_owned(), false);
    while begin.elapsed() < CONVERGENCE {
        match left_to_do(stack, direct).await {
            Ok(Left::Nothing) => {
                println!("everything is folded after {:.1} s", begin.elapsed().as_secs_f64());
                return Ok(begin.elapsed());
            }
            Ok(Left::ToFold(events)) => {
                if !published {
                    published = true;
                    println!("everything is published after {:.1} s", begin.elapsed().as_secs_f64());
                }
                left = format!("{events} events are not folded");
            }
            Ok(Left::ToPublish(rows)) => left = format!("{rows} rows are not PUBLISHED"),
            Err(error) => left = error.to_string(),
        }
        // Not more often: looking takes time from the processes that are looked at.
        pass(Duration::from_millis(250)).await;
    }
    Err(left)
}

enum Left {
    Nothing,
    ToPublish(i64),
    ToFold(i64),
}

async fn left_to_do(stack: &Stack<'_>, direct: &Direct) -> Result<Left, tokio_postgres::Error> {
    let client = stack.database.try_connect().await?;
    let waiting: i64 = client.query_one(monitor::UNPUBLISHED, &[]).await?.get(0);
    if waiting > 0 {
        return Ok(Left::ToPublish(waiting));
    }
    match fold::unhandled(&client, &stack.group).await? + direct.left(&client).await? {
        0 => Ok(Left::Nothing),
        events => Ok(Left::ToFold(events)),
    }
}

async fn judge(stack: &Stack<'_>, plan: &Plan, client: &Client, tally: &Tally) -> Verdict {
    let committed = history::committed(client).await;
    let inherited = "select id, count(*) from chaos_owners, unnest(in_flight) as id group by id";
    let inherited = client.query(inherited, &[]).await.expect("the owners");
    let times = |row: &tokio_postgres::Row| u32::try_from(row.get::<_, i64>(1)).expect("a few");
    let batches = |faults: u32| u64::from(faults) * u64::from(plan.batch_rows);
    let cut_off = Tally::get(&tally.broker) + Tally::get(&tally.network);
    let allowance = Allowance {
        exactly_once: plan.mode == Mode::ExactlyOnce,
        in_flight: inherited.iter().map(|row| (row.get(0), times(row))).collect(),
        unexplained: batches(cut_off),
        late: batches(cut_off + Tally::get(&tally.freezes) + Tally::get(&tally.postgres)),
    };
    let topics = stack.topics.clone();
    let strict = plan.strict;
    let judging = tokio::task::spawn_blocking(move || {
        let mut checker = Checker::new(&committed, strict);
        history::read_topics(&topics, |sent| checker.see(&sent));
        checker.finish(&allowance)
    });
    judging.await.expect("the checker does not panic")
}

fn row(
    plan: &Plan,
    options: &Options,
    verdict: &Verdict,
    tally: &Tally,
    stack: &Stack<'_>,
    converged: Option<Duration>,
    violations: &[String],
) -> String {
    let Tally { kills, freezes, stops, broker, postgres, network, .. } = tally;
    let n = |counter: &std::sync::atomic::AtomicU32| counter.load(Ordering::Relaxed);
    let converged = converged.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
    let result = if violations.is_empty() { "kept".to_owned() } else { format!("{} violations", violations.len()) };
    let Verdict { events, lost, out_of_order, repeats, late, unexplained, .. } = verdict;
    format!(
        "| {}, {}, {}{} | {} | {:.1} | {events} | {} | {} ({}) | {} | {} | {} | {} | {lost} | {out_of_order} | {repeats} ({late}, {unexplained}) | {converged} | {result} |",
        plan.mode.as_str(),
        plan.ordering(),
        plan.brokers,
        if options.hostile { ", hostile rows" } else { "" },
        plan.seed,
        plan.length.as_secs_f64() / 60.0,
        n(kills),
        n(freezes),
        stack.fleet.ended("75"),
        n(stops),
        n(broker),
        n(postgres),
        n(network),
    )
}
