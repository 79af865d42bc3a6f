//! One round: a database, topics and a relay drawn from a seed, good and bad rows mixed, and the judge's look at what
//! came of it.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::judge::{self, Written};
use super::lives::{End, Past};
use super::rows::{self, Oddity, Targets, oddities};
use super::settings::DEFAULTS;
use super::stage::{Stage, url_of};
use super::theme::Theme;
use crate::proxy::Proxy;
use crate::support::NewRow;
use crate::time::pass;
use crate::traps::Protocol;
use crate::weather::{Direction, Weather};

/// Longer than the lease.
const WEATHER: Duration = Duration::from_secs(8);

/// What a round is like. Everything that is not fixed by the caller comes from the seed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub theme: Theme,
    pub delivery: &'static str,
    /// Rows are marked, deleted, or passed by a watermark.
    pub settling: Settling,
    pub on_exhausted: &'static str,
    /// Indexes into [`DEFAULTS`].
    pub defaults: Vec<usize>,
    /// The relay is killed and started again while rows wait.
    pub kills: usize,
    /// The same with SIGTERM.
    pub stops: usize,
    /// What happens to the relay's link to PostgreSQL for some seconds while rows wait.
    pub weather: Option<Weather>,
    /// What happens to Kafka meanwhile.
    pub kafka: Option<Trouble>,
    /// The application's own rules, which some rows break: a check that is not valid and triggers.
    pub rules: bool,
    /// The relay works as a role of its own, from which row-level security hides the rows at first.
    pub role: bool,
    /// One of the topics is deleted while rows for it wait.
    pub deletes: bool,
    /// How long topics that do not exist are waited for.
    pub grace: &'static str,
    /// Before all other rows.
    pub floods: Vec<Flood>,
    /// Good rows that are written at once before each time that the relay ends.
    pub backlog: usize,
    /// `relay.batch_rows`, if that is not to be the default.
    pub batch_rows: Option<u32>,
    /// The relay logs what it does in detail.
    pub loud: bool,
    /// In the end all FAILED events are retried.
    pub retries: bool,
    pub good_keys: usize,
    pub bad_keys: usize,
    pub rows_per_key: usize,
    /// Each key gets the odd value of its number, instead of one drawn from the seed.
    pub in_turn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    Mark,
    Delete,
    Watermark,
}

/// What may happen to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its process does not run for some seconds.
    Frozen,
    /// The way to it.
    Link(Weather),
}

/// Odd values of which many come at once, by column and expression: each has its own way to take from others.
const FLOODS: &[(&str, &str)] = &[
    ("topic", "MISSING EACH"),
    ("topic", "KEYLESS"),
    ("topic", "TARDY"),
    ("topic", "PUNCTUAL"),
    ("topic", "STARVED"),
    ("topic", "'__consumer_offsets'"),
    ("payload", "(select jsonb_agg(1e131071::numeric) from generate_series(1, 6))"),
    ("payload", "(select jsonb_agg(1e131071::numeric) from generate_series(1, 10))"),
    ("headers", "'[]'"),
    ("retry_count", "2147483647"),
];
const FLOOD_ROWS: usize = 300;

/// One odd value in many rows, each with a key of its own.
#[derive(Debug, Clone)]
pub struct Flood {
    pub oddity: Oddity,
    pub rows: usize,
}

impl Flood {
    pub fn of(column: &'static str, expression: &str, rows: usize) -> Self {
        Self { oddity: Oddity::new(column, expression), rows }
    }
}

impl Plan {
    pub fn draw(seed: u64, delivery: &'static str) -> Self {
        let mut random = Rng::with_seed(seed);
        let (theme, _) = Theme::of(seed);
        let drawn = Self::draw_all(seed, delivery, &mut random);
        theme.apply(drawn, &mut random)
    }

    fn draw_all(seed: u64, delivery: &'static str, random: &mut Rng) -> Self {
        let settling = match random.u8(..4) {
            0 => Settling::Delete,
            1 => Settling::Watermark,
            _ => Settling::Mark,
        };
        let on_exhausted = ["hold", "dead-letter", "skip"][random.usize(..3)];
        let mut defaults: Vec<usize> = (0..DEFAULTS.len()).collect();
        random.shuffle(&mut defaults);
        defaults.truncate(match random.u8(..4) {
            0 => DEFAULTS.len(),
            1 => 3,
            _ => 0,
        });
        let kills = random.usize(..3).saturating_sub(1);
        let rules = random.bool();
        let (weather, kafka) = match random.u8(..10) {
            0 => (Some(Weather::Hold), None),
            1 => (Some(Weather::Swallow), None),
            2 => (Some(Weather::Delay(Duration::from_millis(150))), None),
            3 => (Some(Weather::Throttle { bytes_per_second: 200_000 }), None),
            4 => {
                let link = [Weather::Swallow, Weather::Hold, Weather::Throttle { bytes_per_second: 50_000 }];
                (None, [Some(Trouble::Frozen), Some(Trouble::Link(link[random.usize(..3)]))][random.usize(..2)])
            }
            _ => (None, None),
        };
        let flood = random.bool().then(|| {
            let (column, expression) = FLOODS[random.usize(..FLOODS.len())];
            Flood::of(column, expression, FLOOD_ROWS)
        });
        Self {
            seed,
            theme: Theme::Anything,
            delivery,
            settling,
            on_exhausted,
            defaults,
            kills,
            stops: usize::from(random.u8(..4) == 0),
            weather,
            kafka,
            rules,
            role: random.u8(..4) == 0,
            deletes: random.u8(..3) == 0,
            grace: if random.bool() { "1s" } else { "10m" },
            floods: flood.into_iter().collect(),
            backlog: 0,
            batch_rows: [None, None, None, Some(7)][random.usize(..4)],
            loud: random.u8(..4) == 0,
            retries: random.u8(..4) == 0,
            good_keys: 40,
            bad_keys: 40,
            rows_per_key: 6,
            in_turn: false,
        }
    }

    /// How the lives of the relay end, one after the other.
    fn ends(&self) -> Vec<End> {
        let mut ends = vec![End::Crash; self.kills];
        ends.resize(self.kills + self.stops, End::Stop);
        Rng::with_seed(self.seed).shuffle(&mut ends);
        ends
    }

    /// Nothing happens to any server or process.
    pub fn is_calm(&self) -> bool {
        self.kills + self.stops == 0 && self.weather.is_none() && self.kafka.is_none()
    }
}

/// Runs it. Panics with the seed and the rule when the judge is not content.
pub async fn run(plan: &Plan) {
    eprintln!("hostile round: {plan:?}");
    let begin = Instant::now();
    let stage = Stage::set(plan).await;
    let (application, targets) = (&stage.application, &stage.targets);
    let secret = &targets.secret;
    let mut written = write(plan, &mut Rng::with_seed(plan.seed), &stage).await;
    let wrote = begin.elapsed();
    let proxy = Proxy::to(Protocol::Postgres, stage.database.port()).await;
    let url = stage.database.through(proxy.port);
    let mut settings = stage.relay(plan).env("DATABASE_URL", &url);
    if plan.role {
        let role = stage.hide_rows().await;
        settings = settings.env("DATABASE_URL", &url_of(&url, &role));
        judge::refuses_to_start(plan, settings.start()).await;
        stage.open_rows().await;
    }
    let mut relay = judge::ready(plan, settings.start()).await;
    let mut past = Past::default();
    if let Some(weather) = plan.weather {
        proxy.set_weather(Direction::Both, Some(weather));
        pass(WEATHER).await;
        proxy.set_weather(Direction::Both, None);
        // What was swallowed is never answered, as behind a firewall that forgot the connection.
        proxy.reset();
    }
    upset_kafka(plan, &stage).await;
    if plan.deletes {
        judge::wait_for_some_progress(plan, application, &written, &written.good_ids(), &relay).await;
        stage.doomed.delete().await;
        write_late(plan, &stage, &mut written).await;
    }
    for end in plan.ends() {
        let ids = match plan.backlog {
            0 => written.good_ids(),
            rows => write_backlog(rows, &stage, &mut written).await,
        };
        judge::wait_for_some_progress(plan, application, &written, &ids, &relay).await;
        relay = past.end(plan, relay, end, &settings).await;
    }
    judge::wait_for_the_end(plan, application, &written, &relay).await;
    if plan.retries {
        judge::retry_all(plan, &stage).await;
        judge::wait_for_the_end(plan, application, &written, &relay).await;
    }
    let ended = begin.elapsed();
    let log = format!("{}{}", past.log, relay.log_text());
    judge::records(plan, &stage.topics, application, &written, &log).await;
    judge::isolation(plan, application).await;
    judge::good_keys_never_wait(plan, application, &written).await;
    judge::process(plan, &mut relay, &past, secret).await;
    judge::no_secret_in_rows(plan, application, secret).await;
    judge::commands(plan, &stage, &written).await;
    let (memory, judged) = (relay.peak_bytes() >> 20, begin.elapsed());
    eprintln!(
        "hostile round {} kept: written {wrote:.1?}, at the end {ended:.1?}, judged {judged:.1?}, {memory} MB",
        plan.seed
    );
}

async fn upset_kafka(plan: &Plan, stage: &Stage) {
    let Some(kafka) = &stage.kafka else { return };
    match plan.kafka {
        None => {}
        Some(Trouble::Frozen) => {
            kafka.broker.pause().await;
            pass(WEATHER).await;
            kafka.broker.resume().await;
        }
        Some(Trouble::Link(weather)) => {
            kafka.proxy.set_weather(Direction::Both, Some(weather));
            pass(WEATHER).await;
            kafka.proxy.set_weather(Direction::Both, None);
            kafka.proxy.reset();
        }
    }
}

/// Rows that break the first may wait from before it was added.
const CHECK_NOT_VALID: &str = "alter table outbox_events add constraint hostile_check check (correlation_id is distinct from 'unchecked') not valid";

/// Good keys have good rows only; of a bad key every second row is bad. Keys take turns, so that bad rows stand among
/// good ones.
async fn write(plan: &Plan, random: &mut Rng, stage: &Stage) -> Written {
    let (client, targets) = (&stage.application, &stage.targets);
    let mut written = Written::default();
    let mut odd_keys = rows::odd_keys(targets);
    for Flood { oddity, rows } in &plan.floods {
        let row = oddity.row(targets, "flood");
        let keyless = !row.statement().contains("'flood'");
        let row = if keyless { row } else { row.sql("aggregate_id", "'flood-' || n") };
        let statement = row.statement_of_many(*rows);
        let found = client.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        written.bad.extend(found.iter().map(|row| (row.get(0), oddity.name.clone())));
    }
    for turn in 0..plan.rows_per_key {
        for place in 0..plan.good_keys.max(plan.bad_keys) {
            if place < plan.good_keys {
                let (key, row) = rows::good_of(targets, place);
                written.good.entry(key).or_default().push(row.insert(client).await);
            }
            if place < plan.bad_keys {
                let key = format!("bad-{place}");
                let (name, row) = match turn % 2 {
                    0 => (
                        "good row of a bad key".to_owned(),
                        rows::good_for(targets, &key, if plan.theme == Theme::Refusals { 3 } else { place }),
                    ),
                    _ if plan.in_turn => {
                        let oddity = &oddities()[place % oddities().len()];
                        (oddity.name.clone(), oddity.row(targets, &key))
                    }
                    _ => bad(plan, random, targets, &key),
                };
                // What the table refuses has done no harm.
                if let Ok(inserted) = client.query_one(&row.statement(), &[]).await {
                    written.bad.push((inserted.get(0), name));
                }
            }
        }
        if let Some(key) = odd_keys.pop() {
            for _ in 0..2 {
                let id = rows::good(targets, &key).insert(client).await;
                written.bad.push((id, format!("odd key of {} characters", key.chars().count())));
            }
        }
    }
    if plan.rules {
        client.batch_execute(CHECK_NOT_VALID).await.expect("the application's check");
    }
    written
}

/// Many good rows at once. Returns their ids.
async fn write_backlog(rows: usize, stage: &Stage, written: &mut Written) -> Vec<i64> {
    const KEYS: usize = 40;
    let row = rows::good(&stage.targets, "").sql("aggregate_id", &format!("'backlog-' || n % {KEYS}"));
    let statement = row.statement_of_many(rows) + ", aggregate_id";
    let found = stage.application.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    for row in &found {
        written.good.entry(row.get(1)).or_default().push(row.get(0));
    }
    found.iter().map(|row| row.get(0)).collect()
}

/// Rows for the topic that is gone, and some for the others.
async fn write_late(plan: &Plan, stage: &Stage, written: &mut Written) {
    let (client, targets) = (&stage.application, &stage.targets);
    for place in 0..plan.good_keys {
        let late = rows::good(targets, &format!("late-{place}")).text("topic", &targets.doomed).insert(client).await;
        written.bad.push((late, "for a topic that was deleted".to_owned()));
        let (key, row) = rows::good_of(targets, place);
        written.good.entry(key).or_default().push(row.insert(client).await);
    }
}

fn bad(plan: &Plan, random: &mut Rng, targets: &Targets, key: &str) -> (String, NewRow) {
    // The largest take seconds to insert, and there are floods of their kind.
    let takes_heavy = plan.theme == Theme::Anything;
    let oddity = loop {
        let oddity = &oddities()[random.usize(..oddities().len())];
        if takes_heavy || !oddity.is_heavy() {
            break oddity;
        }
    };
    let row = oddity.row(targets, key);
    let refused = || rows::good(targets, key).text("topic", "");
    let kinds = if matches!(plan.theme, Theme::Rules | Theme::Watermark) { 8 } else { 12 };
    match random.u8(..kinds) {
        0 if plan.rules => (format!("{}, unchangeable", oddity.name), row.text("source", "unchangeable")),
        1 if plan.rules => (format!("{}, unchecked", oddity.name), row.text("correlation_id", "unchecked")),
        2 if plan.rules => ("a dead letter is refused".to_owned(), refused().text("source", "unlettered")),
        3 if plan.rules => ("fails and is unchangeable".to_owned(), refused().text("source", "unchangeable")),
        4 if plan.rules => (format!("{}, contended", oddity.name), row.text("source", "contended")),
        5..9 if plan.theme == Theme::Refusals => {
            let tardy = Oddity::new("topic", "TARDY");
            (tardy.name.clone(), tardy.row(targets, key))
        }
        _ => (oddity.name.clone(), row),
    }
}
