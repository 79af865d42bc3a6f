//! One round: records and troubles from a seed, a restart with decisions, and the judge.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::{Client, error::SqlState};
use uuid::Uuid;

use super::judge;
use super::records::{ENDLESS, Expected, Made, Maker, refused};
use super::stage::{PATIENCE, Stage};
use crate::support::outbox::{insert_many, wait_until_published};
use crate::support::{Relay, wait_until};

const PARTITIONS: i32 = 6;
/// Products of the partitions without strangers.
const QUIET: std::ops::Range<i64> = 1_000..1_020;
/// Lines of one process in one round.
const LINES: usize = 600;

/// What happens beside the records.
#[derive(Debug)]
struct Plan {
    records: usize,
    /// Of a hundred records.
    odd: u8,
    row_lock: bool,
    member: bool,
    kill: bool,
    /// A transaction that stays open for a while, and then commits or not.
    open: bool,
    commits: bool,
    /// Records that take longer than any statement may.
    endless: i32,
}

impl Plan {
    fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            records: random.usize(300..600),
            odd: random.u8(5..70),
            row_lock: random.bool(),
            member: random.bool(),
            kill: random.bool(),
            open: random.bool(),
            commits: random.bool(),
            endless: random.i32(0..3),
        }
    }
}

/// Everything that was written and is to be read.
struct Written {
    made: Vec<Made>,
    /// When the events of the quiet partitions were written.
    quiet: BTreeMap<Uuid, Timestamp>,
}

impl Written {
    async fn wave(&mut self, stage: &Stage, maker: &mut Maker, plan: &Plan) {
        let mut wave = Vec::with_capacity(plan.records);
        for n in 0..plan.records {
            let partition = i32::try_from(n).expect("few") % PARTITIONS;
            let made = if partition >= PARTITIONS / 2 {
                maker.good(partition, QUIET)
            } else if maker.random.u8(..100) < plan.odd {
                maker.odd(partition, true)
            } else {
                maker.good(partition, 1..30)
            };
            wave.push(made);
        }
        let now = Timestamp::now();
        stage.write(&stage.topic, &wave).await;
        let quiet = wave.iter().filter(|made| made.record.partition >= PARTITIONS / 2);
        self.quiet.extend(quiet.filter_map(|made| Some((made.id?, now))));
        self.made.extend(wave);
    }

    async fn write(&mut self, stage: &Stage, topic: &crate::support::Topic, made: Vec<Made>) {
        stage.write(topic, &made).await;
        self.made.extend(made);
    }

    async fn wait_until_read(&self, stage: &Stage, seed: u64, relay: &Relay) {
        let log = relay.log.clone();
        let state = move || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        stage.wait_until_read(&format!("seed {seed}: everything is read"), PATIENCE, state).await;
    }
}

pub async fn run(seed: u64) {
    let secret = format!("sEcReT{seed:08x}");
    let mut maker = Maker::new(seed, &secret);
    let plan = Plan::draw(&mut maker.random);
    eprintln!("hostile records, seed {seed}: {plan:?}");
    let stage = Stage::set(PARTITIONS).await;
    let mut written = Written { made: Vec::new(), quiet: BTreeMap::new() };

    // Deleted before anybody has read it: the group begins behind it.
    let gone: Vec<Made> = (0..20).map(|_| maker.good(0, 1..30)).collect();
    stage.write(&stage.truncated, &gone).await;
    Stage::delete_records_before(&stage.truncated, 15).await;
    written.made.extend_from_slice(&gone[15..]);
    let some: Vec<Made> = (0..20).map(|_| maker.good(0, 1..30)).collect();
    written.write(&stage, &stage.remade, some).await;

    let mut relay = stage.settings().start_ready().await;
    insert_many(&stage.client, &stage.own.name, 10, 200).await;
    written.wave(&stage, &mut maker, &plan).await;
    let endless = (0..plan.endless).map(|partition| maker.like_of(partition, ENDLESS)).collect();
    written.write(&stage, &stage.topic, endless).await;
    relay = troubles(&stage, &mut maker, &plan, &mut written, relay, seed, &secret).await;
    written.wait_until_read(&stage, seed, &relay).await;
    wait_until_published(&stage.database, PATIENCE).await;
    judge::process(seed, &mut relay, &secret, LINES).await;

    // What an operator finds in the morning: records that are gone, a topic that is another one, offsets of strangers.
    relay.terminate().await;
    let lost: Vec<Made> = (0..20).map(|_| maker.good(0, 1..30)).collect();
    stage.write(&stage.truncated, &lost).await;
    Stage::delete_records_before(&stage.truncated, 30).await;
    written.made.extend_from_slice(&lost[10..]);
    stage.remade.delete().await;
    stage.remade.clone().created(1).await;
    let some: Vec<Made> = (0..30).map(|_| maker.good(0, 1..30)).collect();
    written.write(&stage, &stage.remade, some).await;
    stage.foreign_commits().await;
    let mut relay = stage.settings().start();
    let stops = "select count(*) from consumer_partitions where stopped_reason in ('records-lost', 'topic-recreated')";
    stage.wait_for_number("two partitions are stopped", stops, 2).await;
    written.wave(&stage, &mut maker, &plan).await;
    stage.command(&["consumer", "positions", "ls"]).await.expect_code(0);
    for topic in [&stage.truncated.name, &stage.remade.name] {
        stage.command(&["consumer", "positions", "accept", "--topic", topic, "--yes"]).await.expect_code(0);
    }
    written.wait_until_read(&stage, seed, &relay).await;

    let with_rule = refused(&written.made);
    let expected = Expected::of(with_rule.iter());
    judge::tables(seed, &stage, &expected).await;
    judge::parked(seed, &stage, &expected, &secret).await;
    let delays = judge::delays(&stage, &written.quiet).await;
    let longest = delays.last().copied().unwrap_or_default();
    judge::check(seed, longest < judge::FRESH, format!("a good record of a quiet partition took {longest} s"));
    judge::commands(seed, &stage, &secret).await;

    // The rule goes, and what it refused is folded after all.
    let mended =
        "alter table product_metrics drop constraint of_a_stranger; drop trigger of_a_stranger on product_metrics";
    stage.client.batch_execute(mended).await.expect("dropped");
    let freed = written.made.len() - with_rule.iter().zip(&written.made).filter(|(a, b)| a.fate == b.fate).count();
    if !expected.parked.is_empty() {
        stage.command(&["consumer", "parked", "release", "--all", "--yes", "--no-wait"]).await.expect_code(0);
    }
    let expected = Expected::of(written.made.iter());
    let parked = i64::try_from(expected.parked.len()).expect("few");
    let again =
        "select count(*) filter (where attempts = 2) - count(*) filter (where attempts <> 2) from consumer_parked";
    stage.wait_for_number(&format!("seed {seed}: {freed} are folded, the others parked again"), again, parked).await;
    judge::tables(seed, &stage, &expected).await;
    judge::parked(seed, &stage, &expected, &secret).await;
    if parked > 0 {
        stage.command(&["consumer", "parked", "discard", "--all", "--yes"]).await.expect_code(0);
    }
    judge::process(seed, &mut relay, &secret, LINES).await;
    relay.terminate().await;
}

/// Locks rows that folds write to, in a transaction that stays open. Folds of several partitions lock them as well, so
/// this session may be the victim of a deadlock.
async fn lock_rows(locker: &Client) {
    let rows = "begin; select 1 from product_metrics where product_id between 1 and 30 order by product_id for update";
    wait_until("the rows are locked", PATIENCE, async || {
        let Err(error) = locker.batch_execute(rows).await else { return Ok(()) };
        locker.batch_execute("rollback").await.expect("rollback");
        assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}");
        Err(error.to_string())
    })
    .await;
}

/// What happens while the wave is read. Returns the process that is left.
async fn troubles(
    stage: &Stage,
    maker: &mut Maker,
    plan: &Plan,
    written: &mut Written,
    mut relay: Relay,
    seed: u64,
    secret: &str,
) -> Relay {
    let events: Vec<Made> = (0..15).map(|n| maker.good(n % (PARTITIONS / 2), 1..30)).collect();
    let open = if plan.open { Some(stage.write_in_transaction(&events).await) } else { None };
    let locker = stage.database.connect().await;
    if plan.row_lock {
        lock_rows(&locker).await;
    }
    if plan.member {
        stage.foreign_member().await;
    }
    written.wave(stage, maker, plan).await;
    if plan.row_lock || open.is_some() {
        let last: Vec<Uuid> = written.quiet.keys().copied().collect();
        wait_until(&format!("seed {seed}: partitions without strangers flow"), PATIENCE, async || {
            let sql = "select count(*) from event_handled where event_id = any($1)";
            let row = stage.client.query_one(sql, &[&last]).await.map_err(|error| error.to_string())?;
            let (now, all) = (row.get::<_, i64>(0), i64::try_from(last.len()).expect("few"));
            if now == all { Ok(()) } else { Err(format!("{now} of {all}")) }
        })
        .await;
    }
    if plan.kill {
        judge::process(seed, &mut relay, secret, LINES).await;
        relay.kill().await;
        relay = stage.settings().start_ready().await;
    }
    if plan.row_lock {
        locker.batch_execute("rollback").await.expect("rollback");
    }
    if let Some(producer) = open {
        Stage::end_transaction(producer, plan.commits).await;
        if plan.commits {
            written.made.extend(events);
        }
    }
    relay
}
