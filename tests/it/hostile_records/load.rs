//! Long runs: many records under members that come and go, and how fresh the partitions without strangers are.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::judge;
use super::records::{Expected, Made, Maker, refused};
use super::stage::Stage;
use crate::support::{Relay, Signal};

const PARTITIONS: i32 = 12;
const LIMIT: Duration = Duration::from_secs(900);

/// Members that start, stop in order and die, until everything is read.
pub async fn flapping(seed: u64, records: u64) {
    let secret = format!("sEcReT{seed:08x}");
    let mut maker = Maker::new(seed, &secret);
    let stage = Stage::set(PARTITIONS).await;
    let settings = stage.settings().only("consumer,admin");
    let mut made: Vec<Made> = Vec::new();
    for n in 0..records {
        let partition = i32::try_from(n % u64::try_from(PARTITIONS).expect("positive")).expect("few");
        let odd = maker.random.u8(..10) == 0;
        made.push(if odd { maker.odd(partition, n % 50 == 0) } else { maker.good(partition, 1..30) });
    }
    let begin = Instant::now();
    let mut members: Vec<Option<Relay>> = (0..3).map(|_| Some(settings.start())).collect();
    let (mut starts, mut stops, mut kills) = (3, 0, 0);
    let writing = async {
        for wave in made.chunks(2_000) {
            stage.write(&stage.topic, wave).await;
        }
    };
    let flapping = async {
        let mut ticks = interval(Duration::from_secs(3));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut random = fastrand::Rng::with_seed(seed);
        let all = i64::try_from(records).expect("few");
        loop {
            ticks.tick().await;
            let read = stage.number("select coalesce(sum(next_offset), 0)::bigint from consumer_partitions").await;
            if read == all {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "seed {seed}: {read} of {all} read after {LIMIT:?}");
            let chosen = random.usize(..members.len());
            match members[chosen].take() {
                None => {
                    members[chosen] = Some(settings.start());
                    starts += 1;
                }
                // A member that has just begun handles no signals yet.
                Some(mut member) if member.try_admin().is_some() && random.bool() => {
                    member.signal(Signal::Terminate);
                    assert_eq!(member.wait_for_exit(Duration::from_secs(30)).await, Some(0), "{}", member.log_text());
                    stops += 1;
                }
                Some(mut member) => {
                    member.kill().await;
                    kills += 1;
                }
            }
            // Somebody has to work.
            if members.iter().all(Option::is_none) {
                members[0] = Some(settings.start());
                starts += 1;
            }
        }
    };
    tokio::join!(writing, flapping);
    let took = begin.elapsed();
    let expected = Expected::of(refused(&made).iter());
    judge::tables(seed, &stage, &expected).await;
    judge::parked(seed, &stage, &expected, &secret).await;
    for member in members.iter_mut().flatten() {
        judge::process(seed, member, &secret, usize::MAX).await;
    }
    judge::commands(seed, &stage, &secret).await;
    eprintln!(
        "seed {seed}: {records} records in {:.0} s, {} parked, {starts} starts, {stops} stops, {kills} kills: \
         all tables exact",
        took.as_secs_f64(),
        expected.parked.len()
    );
}

/// Two members, records of strangers in half of the partitions, and a clock for the other half.
pub async fn steady(seed: u64, duration: Duration) {
    let secret = format!("sEcReT{seed:08x}");
    let mut maker = Maker::new(seed, &secret);
    let stage = Stage::set(PARTITIONS).await;
    let first = stage.settings().start_ready().await;
    let second = stage.settings().only("consumer,admin").start_ready().await;
    let (mut made, mut quiet): (Vec<Made>, BTreeMap<Uuid, Timestamp>) = (Vec::new(), BTreeMap::new());
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(200));
    while begin.elapsed() < duration {
        ticks.tick().await;
        let mut wave = Vec::new();
        for n in 0..48 {
            let partition = n % PARTITIONS;
            let strange = partition < PARTITIONS / 2;
            let odd = strange && maker.random.bool();
            wave.push(if odd {
                maker.odd(partition, true)
            } else {
                maker.good(partition, if strange { 1..30 } else { 1_000..1_020 })
            });
        }
        let now = Timestamp::now();
        stage.write(&stage.topic, &wave).await;
        let calm = wave.iter().filter(|made| made.record.partition >= PARTITIONS / 2);
        quiet.extend(calm.filter_map(|made| Some((made.id?, now))));
        made.extend(wave);
    }
    stage.wait_until_read(&format!("seed {seed}: everything is read"), LIMIT, String::new).await;
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    let expected = Expected::of(refused(&made).iter());
    judge::tables(seed, &stage, &expected).await;
    judge::parked(seed, &stage, &expected, &secret).await;
    let delays = judge::delays(&stage, &quiet).await;
    let p99 = delays[delays.len() * 99 / 100];
    let mut lines = Vec::new();
    for mut member in [first, second] {
        judge::process(seed, &mut member, &secret, usize::MAX).await;
        lines.push(member.log_text().lines().count() as f64 / minutes);
        member.terminate().await;
    }
    eprintln!(
        "seed {seed}: {} records in {minutes:.1} minutes, {} parked; the quiet half: p50 {:.3} s, p99 {p99:.3} s, \
         longest {:.3} s; \
         lines of the log per minute: {lines:.0?}",
        made.len(),
        expected.parked.len(),
        delays[delays.len() / 2],
        delays.last().copied().unwrap_or_default()
    );
    assert!(p99 < 5.0, "p99 {p99} s");
    assert!(lines.iter().all(|lines| *lines < 200.0), "{lines:?} lines per minute");
}
