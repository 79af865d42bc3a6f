//! Every command of the command line, through rows and records of strangers, servers that do not answer, streams that
//! end, and signals. The list is `every_command/lines.rs`; the judge is the same for all.
//!
//! `COMMANDS_SEED` is the seed of what is drawn, printed when something is wrong; `COMMANDS_ALL=1` leaves nothing to
//! chance and takes several minutes (`make hostile-commands`).

mod call;
mod judge;
mod lines;
mod signals;
mod stage;
mod state;

use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use crate::support::{TestDatabase, parts::parts};
use call::{Surroundings, run};
use judge::{Ended, Wanted, complaints};
use lines::{Kind, LINES, Line, Needs};
use stage::{Stage, Topics, odd_shop, shop};

/// Commands at a time.
const TOGETHER: usize = 6;

/// What a run leaves to chance, and with which seed.
#[derive(Debug)]
struct Draw {
    seed: u64,
    /// Nothing is left out.
    all: bool,
}

impl Draw {
    fn new() -> Self {
        let number = |name: &str| std::env::var_os(name)?.to_str()?.parse::<u64>().ok();
        Self { seed: number("COMMANDS_SEED").unwrap_or(1), all: number("COMMANDS_ALL") == Some(1) }
    }

    /// The same for a seed and a place, whatever else is drawn.
    fn at(&self, place: usize) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1_000_003).wrapping_add(place as u64))
    }

    /// One of the formats, or both.
    fn formats(&self, place: usize) -> &'static [&'static str] {
        const BOTH: &[&str] = &["table", "json"];
        if self.all { BOTH } else { &BOTH[self.at(place).usize(..2)..][..1] }
    }
}

/// What all lines of a test have to say against the commands.
#[derive(Debug, Default)]
struct Faults(Mutex<Vec<String>>);

impl Faults {
    fn add(&self, found: impl IntoIterator<Item = String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }

    fn judge(&self, ended: &Ended, wanted: Wanted<'_>) {
        self.add(complaints(ended, wanted));
    }

    #[track_caller]
    fn expect_none(self, draw: &Draw) {
        let found = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(found.is_empty(), "COMMANDS_SEED={}: {} faults\n\n{}", draw.seed, found.len(), found.join("\n\n"));
    }
}

/// Runs each of these lines once per drawn format, each line that writes on a copy of the database.
async fn through(
    stage: &Stage,
    draw: &Draw,
    faults: &Faults,
    lines: impl Iterator<Item = &Line>,
    codes: impl Fn(&Line) -> Vec<i32>,
) {
    let jobs: Vec<(usize, &Line)> = lines.enumerate().collect();
    let work = stream::iter(jobs).for_each_concurrent(TOGETHER, |(place, line)| {
        let codes = codes(line);
        async move {
            for format in draw.formats(place) {
                let copy = if is_copied_for(line) { Some(stage.copy_for(line).await) } else { None };
                let ended = run(copy.as_ref().unwrap_or(stage), line, format, Surroundings::Plain, None).await;
                faults.judge(&ended, Wanted { line, format, codes: &codes, mixed: false });
                if let Some(copy) = copy {
                    copy.database.dropped().await;
                }
            }
        }
    });
    work.await;
}

/// Whether a line is run on a copy of the database.
fn is_copied_for(line: &Line) -> bool {
    line.kind == Kind::Writes || !line.before.is_empty()
}

/// Those that end by themselves.
fn ending() -> impl Iterator<Item = &'static Line> {
    LINES.iter().filter(|line| line.kind != Kind::Serves)
}

/// The last statement that leaves nobody connected.
async fn untouched(faults: &Faults, before: &str, database: &TestDatabase, what: &str) {
    let after = state::whole(&database.connect().await).await;
    if before != after {
        faults.add([format!(
            "{what}: commands that only look have changed the database\n{}",
            state::difference(before, &after)
        )]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_rows_letters_and_records_stop_no_command() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let stage = Stage::new(topics, odd_shop(topics, draw.all).await);
    let (looking, writing): (Vec<&Line>, Vec<&Line>) = ending().partition(|line| !is_copied_for(line));
    let codes = |_: &Line| vec![0, 5, 6];
    // Nobody may be connected while copies are made.
    through(&stage, &draw, &faults, writing.into_iter(), codes).await;
    let before = state::whole(&stage.database.connect().await).await;
    through(&stage, &draw, &faults, looking.into_iter(), codes).await;
    untouched(&faults, &before, &stage.database, "odd rows").await;
    faults.expect_none(&draw);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_outbox_stops_no_command() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let stage = Stage::new(topics, TestDatabase::migrated("commands-empty").await);
    // Nobody may be connected while copies are made.
    let (looking, writing): (Vec<&Line>, Vec<&Line>) = ending().partition(|line| !is_copied_for(line));
    through(&stage, &draw, &faults, writing.into_iter(), |_| vec![0, 5, 6]).await;
    through(&stage, &draw, &faults, looking.into_iter(), |_| vec![0, 5, 6]).await;
    faults.expect_none(&draw);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tables_every_command_says_how_to_make_them() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let stage = Stage::new(topics, TestDatabase::empty("commands-bare").await);
    let with_tables = |line: &&Line| line.before.is_empty();
    let codes = |line: &Line| match line.needs {
        Needs::Outbox => vec![6],
        Needs::Nothing | Needs::Server | Needs::Both => vec![0, 6],
    };
    let (looking, writing): (Vec<&Line>, Vec<&Line>) =
        ending().filter(with_tables).partition(|line| !is_copied_for(line));
    through(&stage, &draw, &faults, writing.into_iter(), codes).await;
    through(&stage, &draw, &faults, looking.into_iter(), codes).await;
    faults.expect_none(&draw);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_are_told_with_status_4_and_without_secrets() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::own().await);
    let database = shop(topics).await;
    let here = Stage::new(topics, database.clone());
    let away = format!("postgres://me:{}@127.0.0.1:9/shop", stage::PASSWORD);
    let without_postgres = here.clone().with("DATABASE_URL", &away);
    let stranger = here.database.url.replacen("postgres@", &format!("nobody-here:{}@", stage::PASSWORD), 1);
    let refused = here.clone().with("DATABASE_URL", &stranger);
    let without_kafka = here
        .clone()
        .with("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .with("OUTBOX_RELAY_KAFKA__SECURITY_PROTOCOL", "sasl_plaintext")
        .with("OUTBOX_RELAY_KAFKA__SASL_MECHANISM", "PLAIN")
        .with("OUTBOX_RELAY_KAFKA__SASL_USERNAME", "me")
        .with("OUTBOX_RELAY_KAFKA__SASL_PASSWORD", stage::PASSWORD);
    let before = state::whole(&database.connect().await).await;
    let plain = |line: &&Line| line.before.is_empty();
    for stage in [&without_postgres, &refused] {
        let lines = ending().filter(plain).map(|line| (line, Line { kind: Kind::Looks, ..*line }));
        let lines: Vec<Line> = lines.map(|(_, line)| line).collect();
        through(stage, &draw, &faults, lines.iter(), |line| match line.needs {
            Needs::Nothing => vec![0, 6],
            Needs::Outbox | Needs::Server | Needs::Both => vec![4],
        })
        .await;
    }
    untouched(&faults, &before, &database, "servers that do not answer").await;
    let of_kafka = |line: &&Line| line.needs == Needs::Both && line.before.is_empty();
    through(&without_kafka, &draw, &faults, ending().filter(of_kafka), |line| {
        // A replay goes on without knowing whether the topic is there; 6: no event matches.
        if line.starts_with("replay") { vec![0, 4, 6] } else { vec![4, 6] }
    })
    .await;
    faults.expect_none(&draw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_look_is_told_which_grant_is_missing() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let database = shop(topics).await;
    let client = database.connect().await;
    let role = database.name().to_owned();
    let grants = format!(
        "create role {role} login; grant usage on schema public to {role}; \
         grant select on all tables in schema public to {role}; grant select on all sequences in schema public to {role}"
    );
    client.batch_execute(&grants).await.expect("a role");
    let before = state::whole(&client).await;
    let url = database.url.replacen("postgres@", &format!("{role}:{}@", stage::PASSWORD), 1);
    let stage = Stage::new(topics, database.clone()).with("DATABASE_URL", &url);
    let lines: Vec<Line> = ending()
        .filter(|line| line.before.is_empty())
        .map(|line| Line { kind: if line.kind == Kind::Shows { Kind::Shows } else { Kind::Looks }, ..*line })
        .collect();
    through(&stage, &draw, &faults, lines.iter(), |_| vec![0, 1, 4, 5, 6]).await;
    untouched(&faults, &before, &database, "a role that may only look").await;
    faults.expect_none(&draw);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_full_closed_or_a_terminal_stop_no_command() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let stage = Stage::new(topics, shop(topics).await);
    let mut around: Vec<Surroundings> = Surroundings::ALL.to_vec();
    if !may_be_first() {
        eprintln!("unshare --pid is not allowed here: no command is tried as process 1");
        around.retain(|around| *around != Surroundings::FirstProcess);
    }
    // Nobody may be connected while copies are made.
    let (looking, writing): (Vec<_>, Vec<_>) = ending().enumerate().partition(|(_, line)| !is_copied_for(line));
    for jobs in [writing, looking] {
        let work = stream::iter(jobs).for_each_concurrent(TOGETHER, |(place, line)| {
            let (stage, draw, faults, around) = (&stage, &draw, &faults, &around);
            async move {
                let drawn = draw.at(place).usize(1..around.len());
                let two = [around[drawn], around[1 + drawn % (around.len() - 1)]];
                for around in if draw.all { around.as_slice() } else { &two } {
                    let copy = if is_copied_for(line) { Some(stage.copy_for(line).await) } else { None };
                    within(copy.as_ref().unwrap_or(stage), line, draw.formats(place)[0], *around, faults).await;
                    if let Some(copy) = copy {
                        copy.database.dropped().await;
                    }
                }
            }
        });
        work.await;
    }
    faults.expect_none(&draw);
}

/// Runs a line in these surroundings, and judges how it ended.
async fn within(stage: &Stage, line: &Line, format: &str, around: Surroundings, faults: &Faults) {
    let ended = run(stage, line, format, around, None).await;
    let mixed = matches!(around, Surroundings::Terminal | Surroundings::ErrorsFull | Surroundings::ErrorsClosed);
    let full = String::from_utf8_lossy(&ended.stderr).contains("cannot write to standard output");
    let codes: &[i32] = if full && matches!(around, Surroundings::OutputFull) { &[1] } else { &[0, 5, 6] };
    // Where the end of the output is somebody else's, it is no whole document.
    let whole = matches!(around, Surroundings::Plain | Surroundings::InputClosed | Surroundings::FirstProcess);
    let format = if whole { format } else { "" };
    faults.judge(&ended, Wanted { line, format, codes, mixed });
    // What is to be written is written, or the command fails.
    let prints = line.kind == Kind::Looks && (line.plain || line.starts_with("events ls") || line.starts_with("lag"));
    if around == Surroundings::OutputFull && prints && !full {
        faults.add([format!("{}: the output was lost, and it does not say so (status {:?})", ended.call, ended.code)]);
    }
}

/// Whether the machine lets us start a process 1.
fn may_be_first() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_every_command_and_leave_a_whole_database() {
    let (draw, faults, topics) = (Draw::new(), Faults::default(), Topics::shared().await);
    let stage = Stage::new(topics, shop(topics).await);
    assert!(parts().kafka.contains(':'));
    signals::everything(&stage, &draw, &faults, may_be_first()).await;
    faults.expect_none(&draw);
}
