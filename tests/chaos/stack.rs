//! What a run stands on: a PostgreSQL, a Kafka and the proxies before them, a database that watches its owners, topics,
//! and the processes under test.
//!
//! Writers, the monitor and the checker go round the proxies, so that only the processes under test meet bad weather.

use std::path::Path;
use std::time::Duration;

use crate::fleet::{Fleet, Member};
use crate::it::support::{PrivateKafka, PrivatePostgres, TestDatabase, Topic};
use crate::monitor;
use crate::options::Options;
use crate::plan::{Brokers, LEASE, Link, Plan, RETENTION, Who};
use crate::proxy::Proxy;
use crate::traps::Protocol;

const PARTITIONS: i32 = 6;
/// Of the topic that no relay writes to.
pub const DIRECT_PARTITIONS: i32 = 4;

/// The servers, for all runs of a process.
pub struct Servers {
    pub postgres: PrivatePostgres,
    /// Each broker with the proxy through which it tells its clients to come back.
    brokers: Vec<(PrivateKafka, Proxy)>,
}

/// One run on them.
pub struct Stack<'a> {
    pub servers: &'a Servers,
    /// The database, not through a proxy.
    pub database: TestDatabase,
    pub topics: [Topic; 2],
    /// Not of the relay.
    pub direct: Topic,
    pub group: String,
    pub fleet: Fleet,
    postgres_proxies: Vec<(Who, Proxy)>,
}

impl Servers {
    /// With one broker, or a cluster of three.
    pub async fn start(brokers: usize) -> Self {
        let mut proxies = Vec::new();
        for _ in 0..brokers {
            proxies.push(Proxy::start(Protocol::Kafka).await);
        }
        let kafka = async {
            match proxies.as_slice() {
                [one, two, three] => {
                    PrivateKafka::cluster([one, two, three].map(|proxy| Some(proxy.port))).await.into()
                }
                [one] => vec![PrivateKafka::start_with(&["--advertised-port", &one.port.to_string()]).await],
                other => unreachable!("a cluster of {}", other.len()),
            }
        };
        let (kafka, postgres) = tokio::join!(kafka, PrivatePostgres::start());
        let brokers: Vec<(PrivateKafka, Proxy)> = kafka.into_iter().zip(proxies).collect();
        brokers.iter().for_each(|(broker, proxy)| proxy.lead_to(port_of(&broker.bootstrap)));
        Self { postgres, brokers }
    }

    pub fn brokers(&self, which: Brokers) -> impl Iterator<Item = &PrivateKafka> {
        self.of(which).map(|(broker, _)| broker)
    }

    fn of(&self, which: Brokers) -> impl Iterator<Item = &(PrivateKafka, Proxy)> {
        self.brokers.iter().enumerate().filter(move |(n, _)| which.has(*n)).map(|(_, both)| both)
    }

    /// Past the proxies.
    pub fn direct(&self) -> String {
        let addresses: Vec<&str> = self.brokers(Brokers::All).map(|broker| broker.direct.as_str()).collect();
        addresses.join(",")
    }

    fn bootstrap(&self) -> String {
        let addresses: Vec<String> =
            self.brokers.iter().map(|(_, proxy)| format!("127.0.0.1:{}", proxy.port)).collect();
        addresses.join(",")
    }
}

impl<'a> Stack<'a> {
    pub async fn start(servers: &'a Servers, plan: &Plan, options: &Options) -> Self {
        let name = format!("chaos-{}-{}", plan.mode.as_str(), plan.seed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        drop(std::fs::remove_dir_all(&folder)); // the logs of an earlier run with this seed
        std::fs::create_dir_all(&folder).expect("a folder below the target folder");
        let direct = servers.direct();
        let (database, catalog, orders, others) = tokio::join!(
            watched_database(servers, plan),
            Topic::create_on(&direct, "catalog-events", PARTITIONS),
            Topic::create_on(&direct, "order-events", PARTITIONS),
            Topic::create_on(&direct, "other-events", DIRECT_PARTITIONS),
        );
        let mut postgres_proxies = Vec::new();
        for who in everybody(plan) {
            let proxy = Proxy::to(Protocol::Postgres, port_of(database.url.rsplit_once('/').expect("a URL").0)).await;
            postgres_proxies.push((who, proxy));
        }
        let (topics, bootstrap) = ([catalog, orders], servers.bootstrap());
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let members = postgres_proxies.iter().map(|(who, proxy)| {
            let (role, part) = (role_of(*who), part_of(*who));
            let url = format!("postgres://{role}@127.0.0.1:{}/{}", proxy.port, database.name());
            let mut environment = vec![
                setting("DATABASE_URL", &url),
                setting("KAFKA_BOOTSTRAP_SERVERS", &bootstrap),
                setting("OUTBOX_RELAY_RUN__INSTANCE", &role),
                setting("OUTBOX_RELAY_RUN__DEPLOYMENT", &name),
                setting("OUTBOX_RELAY_RELAY__LEASE", &format!("{}s", LEASE.as_secs())),
                setting("OUTBOX_RELAY_RELAY__ORDERING", plan.ordering()),
                setting("OUTBOX_RELAY_RELAY__BATCH_ROWS", &plan.batch_rows.to_string()),
                setting("OUTBOX_RELAY_KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", &plan.patience.as_millis().to_string()),
                setting("OUTBOX_RELAY_CLEANUP__INTERVAL", "1s"),
                setting("OUTBOX_RELAY_CLEANUP__PUBLISHED_OLDER_THAN", &format!("{}s", RETENTION.as_secs())),
                setting("OUTBOX_RELAY_CLEANUP__HANDLED_OLDER_THAN", "never"),
                setting("OUTBOX_RELAY_CONSUMER__GROUP", &name),
                setting(
                    "OUTBOX_RELAY_CONSUMER__TOPICS",
                    &format!("{},{},{}", topics[0].name, topics[1].name, others.name),
                ),
            ];
            if matches!(who, Who::Consumer(_)) {
                // A killed consumer is missed after this time; with the 30 s of the default it would hardly ever fold.
                environment.push(setting("OUTBOX_RELAY_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"));
            }
            let delivery = format!("relay.delivery={}", plan.mode.as_str());
            let tracking = match who {
                Who::Relay(number) => Some(format!("relay.tracking={}", options.tracking.of(*number))),
                Who::Consumer(_) => None,
            };
            let settings = std::iter::once(&delivery).chain(&tracking).chain(&options.settings);
            let arguments = settings.flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect();
            Member { who: *who, name: role, part, environment, arguments }
        });
        let fleet = Fleet::start(&folder, members.collect());
        Self { servers, database, topics, direct: others, group: name, fleet, postgres_proxies }
    }

    /// The proxies of a link; `brokers` says of which brokers, if it is that to Kafka.
    pub fn proxies(&self, link: Link, brokers: Brokers) -> Vec<&Proxy> {
        match link {
            Link::Kafka => self.servers.of(brokers).map(|(_, proxy)| proxy).collect(),
            Link::Postgres(who) => {
                let found = self.postgres_proxies.iter().find(|(other, _)| *other == who);
                vec![&found.expect("every process has a proxy").1]
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

/// A migrated database that keeps a record of who owned which shard, and of rows that were marked by somebody who did
/// not.
async fn watched_database(servers: &Servers, plan: &Plan) -> TestDatabase {
    let server = TestDatabase { url: servers.postgres.url.clone() };
    let name = format!("chaos_{}_{}", plan.mode.as_str().replace('-', "_"), plan.seed);
    let client = server.connect().await;
    // Commits that do not wait for the disk get there late, so that a crash takes them back.
    for statement in ["alter system set wal_writer_delay = '10s'", "select pg_reload_conf()"] {
        client.batch_execute(statement).await.expect("a setting");
    }
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
