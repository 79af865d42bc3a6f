//! `outbox-relay demo`: the whole product on one machine, under load, with a verdict at the end.
//!
//! Starts its own servers: a private PostgreSQL (`postgres`) and an in-process Kafka (`kafka`). It reads no settings
//! file and no `database.url`, so it cannot touch an existing database. What runs between the two is the real [`App`].
//! Invariant: however the demo ends, the private PostgreSQL ends with it (`postgres` explains how).

mod account;
pub(crate) mod binaries;
mod conduct;
mod kafka;
mod ledger;
mod live;
mod load;
mod postgres;
mod progress;
mod scratch;
mod shop;
mod summary;
mod verdict;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::config::{AdminConfig, Config, ConsumerConfig, RunConfig};
use crate::db::{Database, Role};
use crate::error::{Code, Error, Result};
use crate::migrations;
use crate::output::{self, Format};
use crate::supervisor::Supervisor;
use conduct::{Conductor, Course};
use kafka::DemoKafka;
use ledger::Ledger;
use live::per_second;
use load::{LoadSettings, Tally};
use postgres::{Afterwards, PrivatePostgres};
use progress::Progress;
use summary::{LatencyMillis, Summary};
use verdict::Verdict;

const DATABASE: &str = "shop";
const GROUP: &str = "outbox-relay-demo";

const CREATE_DATABASE: &str = include_str!("demo/sql/create_database.sql");
const CREATE_ORDERS: &str = include_str!("demo/sql/create_orders.sql");
const CREATE_LIKES: &str = include_str!("demo/sql/create_likes.sql");

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// How long to write events. `None`: until the stop token is cancelled.
    pub duration: Option<Duration>,
    /// Events per second.
    pub rate: u32,
    /// Relays that share the work, all in this process. The first one consumes, too.
    pub instances: u16,
    /// Leaves the data folder of PostgreSQL behind.
    pub keep: bool,
    /// A real Kafka instead of the one in this process; the demo makes topics of its own there and removes them.
    pub bootstrap: Option<String>,
    /// The same seed gives the same business.
    pub seed: u64,
    /// The folders of `PATH`, to look for PostgreSQL in.
    pub path: Vec<PathBuf>,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { duration: None, rate: 2_000, instances: 1, keep: false, bootstrap: None, seed: 1, path: Vec::new() }
    }
}

/// Runs a demo: live lines on standard error, the summary on standard output. `stop` ends the load; what was written is
/// still delivered and checked.
///
/// Errors: [`Code::NoPostgresBinaries`]; [`Code::CheckNotMet`] when something was lost, repeated or miscounted;
/// whatever made a part fail. Cancel safe: dropping the future stops and removes everything.
pub async fn run(options: DemoOptions, format: Format, stop: CancellationToken) -> Result<()> {
    let mut parts = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()), // Nothing was written yet.
        parts = Parts::start(&options) => parts?,
    };
    let outcome = parts.demonstrate(&options, format, &stop).await;
    // A failure to tidy up a foreign Kafka matters less than why the demo failed.
    let tidied = if options.keep { Ok(()) } else { parts.kafka.remove_topics().await };
    // A server that died says why in its log; what others met after that is only a consequence.
    parts.postgres.check().and(outcome).and(tidied)
}

/// The servers that a demo needs, with an empty schema.
struct Parts {
    binaries: binaries::Binaries,
    postgres: PrivatePostgres,
    kafka: DemoKafka,
    database: Database,
}

impl Parts {
    async fn start(options: &DemoOptions) -> Result<Self> {
        let binaries = binaries::find(&options.path)?;
        output::note(&format!(
            "Starting a private PostgreSQL {} from {}",
            binaries.version(),
            binaries.folder().display()
        ));
        let afterwards = if options.keep { Afterwards::Keep } else { Afterwards::Remove };
        let postgres = PrivatePostgres::start(&binaries, afterwards).await?;
        let kafka = match &options.bootstrap {
            None => DemoKafka::in_process()?,
            Some(bootstrap) => DemoKafka::connect(bootstrap, &Uuid::new_v4().simple().to_string()[..8]).await?,
        };
        let server = Database::new(&postgres.settings("postgres"))?.connect(Role::Admin).await?;
        server.execute(CREATE_DATABASE, &[]).await?;
        let database = Database::new(&postgres.settings(DATABASE))?;
        migrations::up(&database, Config::default().outbox.shards).await?;
        let client = database.connect(Role::Admin).await?;
        for table in [CREATE_ORDERS, CREATE_LIKES] {
            client.execute(table, &[]).await?;
        }
        Ok(Self { binaries, postgres, kafka, database })
    }

    async fn demonstrate(&self, options: &DemoOptions, format: Format, stop: &CancellationToken) -> Result<()> {
        let (ledger, tally) = (Arc::new(Ledger::default()), Arc::new(Tally::default()));
        let apps_stop = CancellationToken::new();
        let mut apps = Supervisor::new(apps_stop.clone());
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres::free_port()?));
        for number in 1..=options.instances.max(1) {
            let tap = Arc::clone(&ledger);
            let app = App::build(self.config(number, admin))?
                .with_ack_tap(Arc::new(move |ids: &[i64]| tap.acknowledged(ids, Instant::now())));
            apps.spawn("relay", app.run(apps_stop.clone()));
        }
        self.introduce(options, admin);
        let progress = Progress::new(&self.database, Arc::clone(&ledger), GROUP).await?;
        let load = |load_stop| {
            let settings = LoadSettings { rate: options.rate, seed: options.seed };
            let (database, topics) = (self.postgres.settings(DATABASE), self.kafka.topics().clone());
            load::run(database, topics, settings, Arc::clone(&ledger), Arc::clone(&tally), load_stop)
        };
        let lag_limit = self.kafka.lag_limit();
        let duration = options.duration;
        let conductor = Conductor { progress: &progress, duration, lag_limit, stop, apps_stop: &apps_stop };
        let (course, ended) = tokio::join!(conductor.conduct(load), apps.wait());
        // A failed part is the cause of what the conductor met.
        ended?;
        let course = course?;
        output::note("Checking what arrived");
        let verdict = Verdict::reach(&self.database, &self.kafka, GROUP, ledger.counts().committed).await?;
        let summary = self.summary(options, &course, &ledger, &tally, verdict);
        output::one(format, &summary, || summary.table())?;
        self.farewell(options);
        if summary.holds {
            return Ok(());
        }
        let broken: Vec<_> =
            summary.verdict.checks.iter().filter(|check| !check.holds).map(|check| check.promise).collect();
        Err(Error::new(Code::CheckNotMet, format!("does not hold: {}", broken.join("; ")))
            .hint("this would be a bug: outbox-relay demo --keep leaves the database for a look"))
    }

    /// Settings of one instance: defaults, except for where things are.
    fn config(&self, number: u16, admin: SocketAddr) -> Config {
        let first = number == 1;
        Config {
            database: self.postgres.settings(DATABASE),
            kafka: self.kafka.settings().clone(),
            consumer: ConsumerConfig {
                enabled: first,
                group: GROUP.to_owned(),
                topics: self.kafka.topics().names(),
                ..ConsumerConfig::default()
            },
            admin: AdminConfig { enabled: first, listen: admin },
            run: RunConfig {
                deployment: "outbox-relay-demo".to_owned(),
                instance: Some(format!("demo-{number}")),
                ..RunConfig::default()
            },
            ..Config::default()
        }
    }

    fn kafka_text(&self) -> String {
        let servers = &self.kafka.settings().bootstrap_servers;
        if self.kafka.is_in_process() { format!("in this process, {servers}") } else { servers.clone() }
    }

    fn introduce(&self, options: &DemoOptions, admin: SocketAddr) {
        let end = match options.duration {
            Some(duration) => format!("for {}", output::age(duration)),
            None => "until Ctrl-C".to_owned(),
        };
        // Without the client the address still serves any other.
        let psql = self.binaries.psql(&options.path).unwrap_or_else(|| PathBuf::from("psql"));
        output::note(&format!(
            "\n  database   {} '{}'\n  kafka      {}\n  metrics    http://{admin}/metrics\n  load       {} events/s {end}, durable commits\n",
            psql.display(),
            self.postgres.public_url(DATABASE),
            self.kafka_text(),
            live::grouped(u64::from(options.rate)),
        ));
        output::note("Waiting for the consumer to join its group, which takes Kafka about 3 s\n");
    }

    fn summary(
        &self,
        options: &DemoOptions,
        course: &Course,
        ledger: &Ledger,
        tally: &Tally,
        verdict: Verdict,
    ) -> Summary {
        let counts = ledger.counts();
        let rows = verdict.published;
        Summary {
            holds: verdict.holds(),
            postgres_version: self.binaries.version().to_owned(),
            kafka: self.kafka_text(),
            rate: options.rate,
            instances: options.instances.max(1),
            seed: options.seed,
            load_seconds: course.load.as_secs_f64(),
            drain_seconds: course.drain.as_secs_f64(),
            inserted: counts.committed,
            inserted_per_second: per_second(counts.committed, course.load),
            published_per_second: per_second(rows, course.publishing),
            transactions: tally.transactions.load(Ordering::Relaxed),
            late_transactions: tally.late_transactions.load(Ordering::Relaxed),
            rolled_back_events: tally.rolled_back_events.load(Ordering::Relaxed),
            duplicates: verdict.records_in_kafka.saturating_sub(rows),
            latency: LatencyMillis::new(&ledger.total(), counts.untimed),
            peak_rss_bytes: summary::peak_rss_bytes(),
            verdict,
        }
    }

    fn farewell(&self, options: &DemoOptions) {
        if options.keep {
            output::note(&format!(
                "\nThe database is kept. To start it again:\n  {}",
                self.postgres.restart_command(&self.binaries)
            ));
        }
        output::note(
            "\nNext, with a database and a Kafka of your own:\n  outbox-relay init     writes a commented relay.toml\n  \
             outbox-relay check    tells what is missing, and how to fix it",
        );
    }
}
