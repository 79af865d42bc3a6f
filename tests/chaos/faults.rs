//! Carries a plan out: one task per lane, each fault at its second, or as soon as the one before it in its lane is
//! over.
//!
//! Every fault takes back what it did, so that at the end of the last one everything is healthy again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::direct::Direct;
use crate::it::support::StopMode;
use crate::plan::{Fault, Lane, Link, Plan, Planned, Who};
use crate::proxy::Proxy;
use crate::stack::Stack;
use crate::time::{pass, pass_until};
use crate::traps::{How, Trap};
use crate::weather::{Direction, Request, Weather};
use crate::writers::Writers;

/// How long open transactions may take before a crash while all is idle, and single records to be folded.
const QUIET_LIMIT: Duration = Duration::from_secs(4);
const SINGLES_LIMIT: Duration = Duration::from_secs(3);

/// What faults come upon.
pub struct Scene<'a> {
    stack: &'a Stack<'a>,
    writers: &'a Writers,
    direct: &'a Direct,
    relays: usize,
    /// One at a time does something to PostgreSQL.
    postgres: tokio::sync::Mutex<()>,
}

impl<'a> Scene<'a> {
    pub fn new(stack: &'a Stack<'a>, writers: &'a Writers, direct: &'a Direct, plan: &Plan) -> Self {
        Self { stack, writers, direct, relays: plan.relays, postgres: tokio::sync::Mutex::new(()) }
    }
}

/// How long a trap waits for its request.
const TRAP_LASTS: Duration = Duration::from_secs(4);

/// What was done, for the row of results.
#[derive(Debug, Default)]
pub struct Tally {
    pub kills: AtomicU32,
    pub freezes: AtomicU32,
    pub stops: AtomicU32,
    pub broker: AtomicU32,
    pub postgres: AtomicU32,
    /// Bad weather, resets, and traps that sprang.
    pub network: AtomicU32,
    /// Folds of idle partitions that a crash has lost.
    pub taken_back: AtomicU32,
    /// What kinds of traps sprang, and how often.
    pub sprung: Mutex<BTreeMap<String, u32>>,
}

impl Tally {
    pub fn get(counter: &AtomicU32) -> u32 {
        counter.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Runs the whole plan and returns when the last fault is over.
pub async fn run(scene: &Scene<'_>, plan: &Plan, tally: &Tally) {
    let begin = Instant::now();
    let lane = async |lane: Lane| {
        for planned in plan.of(lane) {
            pass_until(begin + planned.at).await;
            println!("{:>9.3} s  {planned}", begin.elapsed().as_secs_f64());
            inflict(scene, planned, tally).await;
        }
    };
    tokio::join!(
        lane(Lane::Crashes),
        lane(Lane::Freezes),
        lane(Lane::Consumers),
        lane(Lane::Postgres),
        lane(Lane::Broker),
        lane(Lane::Network),
        lane(Lane::Traps),
        lane(Lane::Positions),
        pass_until(begin + plan.length),
    );
}

async fn inflict(scene: &Scene<'_>, planned: Planned, tally: &Tally) {
    let stack = scene.stack;
    let (fleet, servers, brokers) = (&stack.fleet, stack.servers, planned.brokers);
    match planned.fault {
        Fault::Kill(who) => {
            fleet.kill(who);
            count(&tally.kills);
        }
        Fault::Stop(who) => {
            fleet.stop(who);
            count(&tally.stops);
        }
        Fault::Freeze(who, lasts) => {
            let process = fleet.freeze(who);
            pass(lasts).await;
            fleet.thaw(who, process);
            count(&tally.freezes);
        }
        Fault::CrashPostgres => {
            let _alone = scene.postgres.lock().await;
            servers.postgres.restart(StopMode::Crash).await;
            count(&tally.postgres);
        }
        Fault::CrashIdlePostgres => {
            let _alone = scene.postgres.lock().await;
            crash_idle(scene, tally).await;
            count(&tally.postgres);
        }
        Fault::RemakeTopic => {
            if !scene.direct.remake().await {
                println!("             (not while a broker is away)");
            }
        }
        Fault::FreezeSessions(lasts) => {
            let _alone = scene.postgres.lock().await;
            freeze_sessions(stack, lasts).await;
            count(&tally.postgres);
        }
        Fault::KillBroker => {
            for broker in servers.brokers(brokers) {
                broker.stop(StopMode::Crash).await;
                broker.start_again().await;
            }
            count(&tally.broker);
        }
        Fault::FreezeBroker(lasts) => {
            for broker in servers.brokers(brokers) {
                broker.pause().await;
            }
            pass(lasts).await;
            for broker in servers.brokers(brokers) {
                broker.resume().await;
            }
            count(&tally.broker);
        }
        Fault::Bad(link, direction, weather, lasts) => {
            bad_weather(&stack.proxies(link, brokers), direction, weather, lasts).await;
            count(&tally.network);
        }
        Fault::Reset(link) => {
            stack.proxies(link, brokers).into_iter().for_each(Proxy::reset);
            count(&tally.network);
        }
        Fault::LoseAnswers(link, request) => {
            set_trap(&stack.proxies(link, brokers), request, How::AnswerLost, tally).await;
        }
        Fault::DelayRequest(link, request, by) => {
            set_trap(&stack.proxies(link, brokers), request, How::Late(by), tally).await;
        }
        Fault::EndTxnIntoNext(limit) => {
            let proxies = stack.proxies(Link::Kafka, brokers);
            set_trap(&proxies, Request::END_TXN, How::IntoNext(limit), tally).await;
        }
    }
}

async fn bad_weather(proxies: &[&Proxy], direction: Direction, weather: Weather, lasts: Duration) {
    proxies.iter().for_each(|proxy| proxy.set_weather(direction, Some(weather)));
    pass(lasts).await;
    proxies.iter().for_each(|proxy| proxy.set_weather(direction, None));
}

async fn set_trap(proxies: &[&Proxy], request: Request, how: How, tally: &Tally) {
    let trap = Trap { request, how };
    proxies.iter().for_each(|proxy| proxy.traps().set(trap));
    pass(TRAP_LASTS).await;
    // Each is taken away, so that none springs in a later fault.
    let left = proxies.iter().filter(|proxy| proxy.traps().remove(trap)).count();
    if left == proxies.len() {
        return; // nothing sprang it
    }
    count(&tally.network);
    let (told, late) = match how {
        How::AnswerLost => ("its answer lost", Duration::ZERO),
        How::Late(by) => ("delayed", by),
        // Its own limit is shorter than the time to converge, so the lane goes on.
        How::IntoNext(_) => ("into the next transaction", Duration::ZERO),
    };
    *tally.sprung.lock().expect("nobody panics with it").entry(format!("{request:?} {told}")).or_default() += 1;
    // A late request is out there for as long as the plan says; the run ends after it has arrived.
    pass(late.saturating_sub(TRAP_LASTS)).await;
}

/// Nothing is committed but the folds of single records, whose commits do not wait for the disk; a crash takes them
/// back, and the next single records come before the consumers have noticed.
async fn crash_idle(scene: &Scene<'_>, tally: &Tally) {
    let Scene { stack, writers, direct, relays, .. } = scene;
    writers.hold(true);
    // Commits of the relays are flushed, and all before them with them.
    let frozen: Vec<_> = (0..*relays).map(Who::Relay).map(|who| (who, stack.fleet.freeze(who))).collect();
    let client = stack.database.reconnect().await;
    let open = "select count(*) from pg_stat_activity where backend_xid is not null and datname = current_database()";
    let end = Instant::now() + QUIET_LIMIT;
    while Instant::now() < end && client.query_one(open, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0) {
        pass(Duration::from_millis(50)).await;
    }
    let ids = direct.write_singles(SINGLES_LIMIT).await;
    let folded = direct.unhandled(&client, &ids).await.ok();
    stack.servers.postgres.restart(StopMode::Crash).await;
    let client = stack.database.reconnect().await;
    let (before, after) = (folded, direct.unhandled(&client, &ids).await.ok());
    drop(direct.write_singles(SINGLES_LIMIT).await);
    for (who, process) in frozen {
        stack.fleet.thaw(who, process);
        count(&tally.freezes);
    }
    writers.hold(false);
    if let (Some(before), Some(after)) = (before, after) {
        tally.taken_back.fetch_add(u32::try_from((after - before).max(0)).unwrap_or(0), Ordering::Relaxed);
    }
}

/// SIGSTOP to the server's processes behind our sessions: they hold their locks and answer nothing.
async fn freeze_sessions(stack: &Stack<'_>, lasts: Duration) {
    let client = stack.database.reconnect().await;
    let ours = "select pid from pg_stat_activity where application_name like 'outbox-relay%'";
    // A crash of the server is in the same lane, so it stays up meanwhile.
    let rows = client.query(ours, &[]).await.expect("the sessions");
    let processes: Vec<String> = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
    signal("STOP", &processes).await;
    pass(lasts).await;
    signal("CONT", &processes).await;
}

/// Some of the processes may have ended meanwhile.
async fn signal(name: &str, processes: &[String]) {
    if !processes.is_empty() {
        let sent = tokio::process::Command::new("kill").arg(format!("-{name}")).args(processes).output().await;
        drop(sent.expect("kill starts"));
    }
}
