//! One round: a database, topics and a relay drawn from a seed, good and bad rows mixed, and the judge's look at what came of it.

use std::time::Duration;

use fastrand::Rng;
use tokio_postgres::Client;

use super::judge::{self, Written};
use super::rows::{self, Targets, oddities};
use super::settings::{self, DEFAULTS};
use crate::plan::{Direction, Weather};
use crate::proxy::Proxy;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, unique};
use crate::time::pass;
use crate::traps::Protocol;

/// Longer than the lease.
const WEATHER: Duration = Duration::from_secs(8);

/// What a round is like. Everything that is not fixed by the caller comes from the seed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub delivery: &'static str,
    /// Rows are marked, deleted, or passed by a watermark.
    pub settling: Settling,
    pub on_exhausted: &'static str,
    /// Indexes into [`DEFAULTS`].
    pub defaults: Vec<usize>,
    /// The relay is killed and started again while rows wait.
    pub kills: usize,
    /// What happens to the relay's link to PostgreSQL for some seconds while rows wait.
    pub weather: Option<Weather>,
    /// The application's own rules, which some rows break: a check that is not valid and a trigger.
    pub rules: bool,
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

impl Plan {
    pub fn draw(seed: u64, delivery: &'static str) -> Self {
        let mut random = Rng::with_seed(seed);
        let settling = match random.u8(..4) {
            0 => Settling::Delete,
            1 => Settling::Watermark,
            _ => Settling::Mark,
        };
        let on_exhausted = ["hold", "dead-letter", "skip"][random.usize(..3)];
        let defaults = (0..random.usize(..4)).map(|_| random.usize(..DEFAULTS.len())).collect();
        let kills = random.usize(..3).saturating_sub(1);
        let rules = random.bool();
        let weather = match random.u8(..6) {
            0 => Some(Weather::Hold),
            1 => Some(Weather::Swallow),
            2 => Some(Weather::Delay(Duration::from_millis(150))),
            3 => Some(Weather::Throttle { bytes_per_second: 200_000 }),
            _ => None,
        };
        Self {
            seed,
            delivery,
            settling,
            on_exhausted,
            defaults,
            kills,
            weather,
            rules,
            good_keys: 40,
            bad_keys: 40,
            rows_per_key: 6,
            in_turn: false,
        }
    }
}

/// What a round stands on.
pub struct Stage {
    pub database: TestDatabase,
    /// A session of the application, with the defaults that the database had before the round.
    pub application: Client,
    pub good: Topic,
    pub targets: Targets,
}

impl Stage {
    pub async fn set(plan: &Plan) -> Self {
        let mut random = Rng::with_seed(plan.seed ^ 0x5eed);
        let database = TestDatabase::migrated("hostile").await;
        let good = Topic::create("hostile-good", 3).await;
        let small = Topic::planned("hostile-small").created_with(1, &[("max.message.bytes", "20000")]).await;
        let future = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "60000")];
        let punctual = Topic::planned("hostile-punctual").created_with(1, &future).await;
        let targets = Targets {
            good: good.name.clone(),
            small: small.name,
            punctual: punctual.name,
            missing: unique("hostile-missing"),
            secret: format!("s3cret{:08x}", random.u32(..)),
        };
        // Before the defaults of the database change, so that they are not those of this session.
        let application = database.connect().await;
        for place in &plan.defaults {
            let statement = settings::alter(database.name(), DEFAULTS[*place]);
            application.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        if plan.rules {
            application.batch_execute(RULES).await.expect("the application's rules");
        }
        Self { database, application, good, targets }
    }

    pub fn relay(&self, plan: &Plan) -> RelaySettings {
        let settings = RelaySettings::new(&self.database, &parts().kafka)
            .set("run.deployment", &unique("hostile"))
            .set("relay.delivery", plan.delivery)
            // Whatever the defaults say of the search_path.
            .set("outbox.schema", "public")
            .set("relay.lease", "6s")
            .set("relay.unknown_topic_grace", "1s")
            .set("retry.initial_backoff", "200ms")
            .set("retry.max_backoff", "400ms")
            .set("retry.on_exhausted", plan.on_exhausted)
            .instance("hostile");
        match plan.settling {
            Settling::Mark => settings.set("relay.tracking", "rows"),
            Settling::Delete => settings.set("relay.tracking", "rows").set("relay.after_publish", "delete"),
            Settling::Watermark => settings.set("relay.tracking", "watermark"),
        }
    }
}

/// Runs it. Panics with the seed when the judge is not content.
pub async fn run(plan: &Plan) {
    eprintln!("hostile round: {plan:?}");
    let stage = Stage::set(plan).await;
    let Stage { database, application, good, targets } = &stage;
    let secret = &targets.secret;
    let written = write(plan, &mut Rng::with_seed(plan.seed), application, targets).await;
    let proxy = Proxy::to(Protocol::Postgres, database.port()).await;
    let settings = stage.relay(plan).env("DATABASE_URL", &database.through(proxy.port));
    let mut relay = settings.start_ready().await;
    if let Some(weather) = plan.weather {
        proxy.set_weather(Direction::Both, Some(weather));
        pass(WEATHER).await;
        proxy.set_weather(Direction::Both, None);
        // What was swallowed is never answered, as behind a firewall that forgot the connection.
        proxy.reset();
    }
    for _ in 0..plan.kills {
        judge::wait_for_some_progress(application, &written).await;
        relay.kill().await;
        relay = settings.start_ready().await;
    }
    judge::wait_for_the_end(plan, application, &written, &relay).await;
    judge::records(plan, good, &written).await;
    judge::process(plan, &mut relay, secret).await;
    judge::no_secret_in_rows(plan, application, secret).await;
    judge::commands(plan, database, application, &written, secret).await;
}

/// Rows that break the first may wait from before it was added; the second refuses every change of some rows.
const RULES: &str = "
    create function hostile_refuse() returns trigger language plpgsql as $$
    begin
      if new.source = 'unchangeable' then raise exception 'not this one: %', new.payload; end if;
      return new;
    end $$;
    create trigger hostile_refuse before update on outbox_events for each row execute function hostile_refuse();
";

const CHECK_NOT_VALID: &str = "alter table outbox_events add constraint hostile_check check (correlation_id is distinct from 'unchecked') not valid";

/// Good keys have good rows only; of a bad key every second row is bad. Keys take turns, so that bad rows stand among good ones.
async fn write(plan: &Plan, random: &mut Rng, client: &Client, targets: &Targets) -> Written {
    let mut written = Written::default();
    let mut odd_keys = rows::odd_keys(targets);
    for turn in 0..plan.rows_per_key {
        for place in 0..plan.good_keys.max(plan.bad_keys) {
            if place < plan.good_keys {
                let key = format!("good-{place}");
                let id = rows::good(targets, &key).insert(client).await;
                written.good.entry(key).or_default().push(id);
            }
            if place < plan.bad_keys {
                let key = format!("bad-{place}");
                let (name, row) = match turn % 2 {
                    0 => ("good row of a bad key".to_owned(), rows::good(targets, &key)),
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

fn bad(plan: &Plan, random: &mut Rng, targets: &Targets, key: &str) -> (String, NewRow) {
    let oddity = &oddities()[random.usize(..oddities().len())];
    let row = oddity.row(targets, key);
    match random.u8(..8) {
        0 if plan.rules => (format!("{}, unchangeable", oddity.name), row.text("source", "unchangeable")),
        1 if plan.rules => (format!("{}, unchecked", oddity.name), row.text("correlation_id", "unchecked")),
        _ => (oddity.name.clone(), row),
    }
}
