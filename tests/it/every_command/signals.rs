//! Signals at moments that are drawn. A command that writes ends, is run again, and then the database is as if nothing
//! had come in between.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::call::{Strike, Surroundings, run};
use super::judge::{Ended, Wanted, complaints};
use super::lines::{Kind, LINES, Line};
use super::stage::Stage;
use super::{Draw, Faults, TOGETHER, is_copied_for, state};

const SIGNALS: [&str; 4] = ["TERM", "INT", "HUP", "PIPE"];

/// One of the first ones. Under `nohup` commands ignore SIGHUP, and so would these.
fn draw_signal(random: &mut fastrand::Rng, first: usize) -> &'static str {
    match SIGNALS[random.usize(..first)] {
        "HUP" if ignores_hangup() => "TERM",
        other => other,
    }
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

/// Of one line, where nothing is said of it.
const STRIKES: usize = 1;
const STRIKES_OF_ALL: usize = 12;
/// One that serves must have begun by then, mostly.
const SERVES: Duration = Duration::from_secs(3);
/// One that only looks has ended by then, mostly.
const LOOKS: Duration = Duration::from_millis(400);

/// A way to end: the status, and what is in the database.
#[derive(Debug, Clone)]
struct End {
    code: Option<i32>,
    state: String,
}

async fn end_of(stage: &Stage, ended: &Ended) -> End {
    End { code: ended.code, state: state::lasting(&stage.database.connect().await).await }
}

/// What finishes an interrupted line.
async fn finishing(stage: &Stage, line: &Line) -> Line {
    let client = stage.database.connect().await;
    let own = "select id::text from outbox_replays where finished_at is null and id::text <> '0198f2c4-0000-7000-8000-0000000000aa'";
    let begun = if line.starts_with("replay") { client.query_opt(own, &[]).await.expect("a look") } else { None };
    match begun {
        None => *line,
        // It lives as long as the test process.
        Some(row) => {
            Line { text: Box::leak(format!("replay --resume {}", row.get::<_, String>(0)).into_boxed_str()), ..*line }
        }
    }
}

pub async fn everything(stage: &Stage, draw: &Draw, faults: &Faults, may_be_first: bool) {
    // Nobody may be connected while copies are made.
    let (looking, others): (Vec<_>, Vec<_>) =
        LINES.iter().enumerate().partition(|(_, line)| line.kind != Kind::Serves && !is_copied_for(line));
    for jobs in [others, looking] {
        let work = stream::iter(jobs).for_each_concurrent(TOGETHER, |(place, line)| async move {
            let mut random = draw.at(1_000 + place);
            let around = if may_be_first && random.bool() { Surroundings::FirstProcess } else { Surroundings::Plain };
            match line.kind {
                Kind::Writes => {
                    writer(stage, draw, faults, line, &mut random, around).await;
                }
                Kind::Serves => {
                    let copy = stage.copy_for(line).await;
                    // The last signal is no end of one that serves. Process 1 that has not yet begun to listen hears
                    // nothing, and would go on.
                    let strike = Strike { signal: draw_signal(&mut random, 3), after: SERVES.mul_f64(random.f64()) };
                    let ended = run(&copy, line, "json", Surroundings::Plain, Some(strike)).await;
                    copy.database.dropped().await;
                    judge(faults, line, &ended);
                }
                Kind::Looks | Kind::Shows => {
                    let copy = if is_copied_for(line) { Some(stage.copy_for(line).await) } else { None };
                    let strike = Strike { signal: draw_signal(&mut random, 4), after: LOOKS.mul_f64(random.f64()) };
                    let ended = run(copy.as_ref().unwrap_or(stage), line, "json", around, Some(strike)).await;
                    if let Some(copy) = copy {
                        copy.database.dropped().await;
                    }
                    judge(faults, line, &ended);
                }
            }
        });
        work.await;
    }
}

/// A signal may end it, at whatever moment.
fn judge(faults: &Faults, line: &Line, ended: &Ended) {
    // Before it listens, the system ends it.
    if matches!(ended.signal, Some(1 | 2 | 13 | 15)) {
        return;
    }
    let codes = [0, 5, 6, 129, 130, 143];
    // What it was printing when the signal came is no document.
    let format = if ended.code == Some(0) && line.kind != Kind::Serves { "json" } else { "" };
    faults.add(complaints(ended, Wanted { line, format, codes: &codes, mixed: false }));
}

async fn writer(
    stage: &Stage,
    draw: &Draw,
    faults: &Faults,
    line: &Line,
    random: &mut fastrand::Rng,
    around: Surroundings,
) {
    // What it does when it is let alone, once and twice.
    let alone = stage.copy_for(line).await;
    let begin = Instant::now();
    let once = run(&alone, line, "json", Surroundings::Plain, None).await;
    let took = begin.elapsed();
    let once = end_of(&alone, &once).await;
    let twice = run(&alone, line, "json", Surroundings::Plain, None).await;
    let twice = end_of(&alone, &twice).await;
    alone.database.dropped().await;
    for _ in 0..if draw.all { STRIKES_OF_ALL } else { STRIKES } {
        let copy = stage.copy_for(line).await;
        let strike = Strike { signal: draw_signal(random, 4), after: took.mul_f64(random.f64() * 1.1) };
        let struck = run(&copy, line, "json", around, Some(strike)).await;
        judge(faults, line, &struck);
        let again = run(&copy, &finishing(&copy, line).await, "json", Surroundings::Plain, None).await;
        let after = end_of(&copy, &again).await;
        let same_code = [once.code, twice.code].contains(&after.code) || after.code == Some(0);
        if !same_code || (after.state != once.state && after.state != twice.state) {
            faults.add([format!(
                "{}: run again it ends with {:?} instead of {:?} or {:?}\n{}  stderr: {}",
                struck.call,
                after.code,
                once.code,
                twice.code,
                state::difference(&once.state, &after.state),
                String::from_utf8_lossy(&again.stderr)
            )]);
        }
        copy.database.dropped().await;
    }
}
