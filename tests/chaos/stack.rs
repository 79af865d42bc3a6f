//! What a run stands on: a PostgreSQL, a Kafka and the proxies before them, a database that watches its owners, topics,
//! and the processes under test.
//!
//! Writers, the monitor and the checker go round the proxies, so that only the processes under test meet bad weather.

use std::path::Path;
use std::time::Duration;

use crate::fleet::{Fleet, Member};
use crate::it::support::{PrivateKafka, PrivatePostgres, TestDatabase, Topic};
use crate::monitor;
use crate::plan::{LEASE, Link, Plan, Who};
use crate::proxy::Proxy;
use crate::traps::Protocol;

const PARTITIONS: i32 = 6;

/// The servers, for all runs of a process.
pub struct Servers {
    pub postgres: PrivatePostgres,
    pub kafka: PrivateKafka,
    kafka_proxy: Proxy,
}

/// One run on them.
pub struct Stack<'a> {
    pub servers: &'a Servers,
    /// The database, not through a proxy.
    pub database: TestDatabase,
    pub topics: [Topic; 2],
    pub group: String,
    pub fleet: Fleet,
    postgres_proxies: Vec<(Who, Proxy)>,
}

impl Servers {
    pub async fn start() -> Self {
        let kafka_proxy = Proxy::start(Protocol::Kafka).await;
        let advertised = kafka_proxy.port.to_string();
        let options = ["--advertised-port", &advertised];
        let (kafka, postgres) = tokio::join!(PrivateKafka::start_with(&options), PrivatePostgres::start());
        kafka_proxy.lead_to(port_of(&kafka.bootstrap));
        Self { postgres, kafka, kafka_proxy }
    }
}

impl<'a> Stack<'a> {
    pub async fn start(servers: &'a Servers, plan: &Plan, settings: &[String]) -> Self {
        let name = format!("chaos-{}-{}", plan.mode.as_str(), plan.seed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        drop(std::fs::remove_dir_all(&folder)); // the logs of an earlier run with this seed
        std::fs::create_dir_all(&folder).expect("a folder below the target folder");
        let (database, catalog, orders) = tokio::join!(
            watched_database(servers, plan),
            Topic::create_on(&servers.kafka.direct, "catalog-events", PARTITIONS),
            Topic::create_on(&servers.kafka.direct, "order-events", PARTITIONS),
        );
        let mut postgres_proxies = Vec::new();
        for who in everybody(plan) {
            let proxy = Proxy::to(Protocol::Postgres, port_of(database.url.rsplit_once('/').expect("a URL").0)).await;
            postgres_proxies.push((who, proxy));
        }
        let topics = [catalog, orders];
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let members = postgres_proxies.iter().map(|(who, proxy)| {
            let (role, part) = (role_of(*who), part_of(*who));
            let url = format!("postgres://{role}@127.0.0.1:{}/{}", proxy.port, database.name());
            let mut environment = vec![
                setting("DATABASE_URL", &url),
                setting("KAFKA_BOOTSTRAP_SERVERS", &format!("127.0.0.1:{}", servers.kafka_proxy.port)),
                setting("OUTBOX_RELAY_RUN__INSTANCE", &role),
                setting("OUTBOX_RELAY_RUN__DEPLOYMENT", &name),
                setting("OUTBOX_RELAY_RELAY__LEASE", &format!("{}s", LEASE.as_secs())),
                setting("OUTBOX_RELAY_RELAY__ORDERING", plan.ordering()),
                setting("OUTBOX_RELAY_RELAY__BATCH_ROWS", &plan.batch_rows.to_string()),
                setting("OUTBOX_RELAY_KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", &plan.patience.as_millis().to_string()),
                setting("OUTBOX_RELAY_CONSUMER__GROUP", &name),
                setting("OUTBOX_RELAY_CONSUMER__TOPICS", &format!("{},{}", topics[0].name, topics[1].name)),
            ];
            if matches!(who, Who::Consumer(_)) {
                // A killed consumer is missed after this time; with the 30 s of the default it would hardly ever fold.
                environment.push(setting("OUTBOX_RELAY_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"));
            }
            let delivery = format!("relay.delivery={}", plan.mode.as_str());
            let settings = std::iter::once(&delivery).chain(settings);
            let arguments = settings.flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect();
            Member { who: *who, name: role, part, environment, arguments }
        });
        let fleet = Fleet::start(&folder, members.collect());
        Self { servers, database, topics, group: name, fleet, postgres_proxies }
    }

    pub fn proxy(&self, link: Link) -> &Proxy {
        match link {
            Link::Kafka => &self.servers.kafka_proxy,
            Link::Postgres(who) => {
                let found = self.postgres_proxies.iter().find(|(other, _)| *other == who);
                &found.expect("every process has a proxy").1
            }
        }
    }
}

fn everybody(plan: &Plan) -> impl Iterator<Item = Who> {
    (0..plan.relays).map(Who::Relay).chain((0..plan.consumers).map(Who::Consumer))
}

/// Name of a process, of its role in PostgreSQL and of its instance.
fn role_of(who: Who) -> String {
    who.to_string().replace(' ', "_")
}

fn part_of(who: Who) -> &'static str {
    match who {
        Who::Relay(_) => "relay",
        Who::Consumer(_) => "consumer",
    }
}

fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address with a port")
}

/// A migrated database that keeps a record of who owned which shard, and of rows that were marked by somebody who did not.
async fn watched_database(servers: &Servers, plan: &Plan) -> TestDatabase {
    let server = TestDatabase { url: servers.postgres.url.clone() };
    let name = format!("chaos_{}_{}", plan.mode.as_str().replace('-', "_"), plan.seed);
    let client = server.connect().await;
    client.batch_execute(&format!("create database {name}")).await.expect("a database");
    for who in everybody(plan) {
        let role = role_of(who);
        let create =
            format!("do $$ begin create role {role} superuser login; exception when duplicate_object then end $$");
        client.batch_execute(&create).await.expect("a role");
    }
    let (address, _) = server.url.rsplit_once('/').expect("a URL with a database");
    let database = TestDatabase { url: format!("{address}/{name}") };
    database.migrate().await;
    let mut client = database.connect().await;
    client.batch_execute(include_str!("watch.sql")).await.expect("the watching triggers");
    monitor::self_check(&mut client, &role_of(Who::Relay(0))).await.expect("the database answers");
    database
}

/// How long a healthy stack may take to publish and fold everything.
pub const CONVERGENCE: Duration = Duration::from_secs(60);
