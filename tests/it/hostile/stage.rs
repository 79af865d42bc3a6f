//! What a round stands on: a database, topics of every kind, a Kafka behind a proxy for the rounds that need a bad one,
//! and a role.

use fastrand::Rng;
use tokio::sync::{Mutex, MutexGuard, OnceCell, oneshot};
use tokio_postgres::Client;

use super::round::{Plan, Settling};
use super::rows::Targets;
use super::settings::{self, DEFAULTS};
use crate::proxy::Proxy;
use crate::support::relay::RelaySettings;
use crate::support::{PrivateKafka, TestDatabase, Topic, parts::parts, unique};
use crate::traps::Protocol;

/// A broker that rounds may freeze or cut off, one round at a time.
pub struct BadKafka {
    pub broker: PrivateKafka,
    pub proxy: Proxy,
}

async fn bad_kafka() -> MutexGuard<'static, BadKafka> {
    static KAFKA: OnceCell<Mutex<BadKafka>> = OnceCell::const_new();
    let kafka = KAFKA.get_or_init(|| async {
        let (started, proxy) = oneshot::channel();
        // Each test has a runtime that ends with it; the proxy is there for all of them.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                drop(started.send(Proxy::start(Protocol::Kafka).await));
                std::future::pending::<()>().await;
            });
        });
        let proxy = proxy.await.expect("the thread runs");
        let broker = PrivateKafka::start_with(&["--advertised-port", &proxy.port.to_string()]).await;
        let port = broker.bootstrap.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        proxy.lead_to(port);
        Mutex::new(BadKafka { broker, proxy })
    });
    kafka.await.lock().await
}

/// What a round stands on.
pub struct Stage {
    pub database: TestDatabase,
    /// A session of the application, with the defaults that the database had before the round.
    pub application: Client,
    pub good: Topic,
    /// Those that good keys go to, the first one included.
    pub topics: Vec<Topic>,
    pub doomed: Topic,
    pub targets: Targets,
    /// `None`: the broker of all tests, and nothing happens to it.
    pub kafka: Option<MutexGuard<'static, BadKafka>>,
    /// The address that the relay and commands are given.
    pub bootstrap: String,
}

impl Stage {
    pub async fn set(plan: &Plan) -> Self {
        let mut random = Rng::with_seed(plan.seed ^ 0x5eed);
        let database = TestDatabase::migrated("hostile").await;
        let kafka = if plan.kafka.is_some() { Some(bad_kafka().await) } else { None };
        let (bootstrap, direct) = match &kafka {
            Some(kafka) => (format!("127.0.0.1:{}", kafka.proxy.port), kafka.broker.direct.clone()),
            None => (parts().kafka.clone(), parts().kafka.clone()),
        };
        let topic = async |name: &str, partitions, settings: &[(&str, &str)]| {
            let topic = Topic { name: unique(name), bootstrap: direct.clone() };
            topic.created_with(partitions, settings).await
        };
        let future = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "3600000")];
        let (good, small, punctual, compacted, starved, doomed) = tokio::join!(
            topic("hostile-good", 3, &[]),
            topic("hostile-small", 1, &[("max.message.bytes", "20000")]),
            topic("hostile-punctual", 1, &future),
            topic("hostile-compacted", 1, &[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "86400000")]),
            topic("hostile-starved", 1, &[("min.insync.replicas", "3")]),
            topic("hostile-doomed", 1, &[]),
        );
        let targets = Targets {
            good: good.name.clone(),
            small: small.name.clone(),
            punctual: punctual.name.clone(),
            compacted: compacted.name.clone(),
            starved: starved.name,
            doomed: doomed.name.clone(),
            missing: unique("hostile-missing"),
            secret: format!("s3cret{:08x}", random.u32(..)),
        };
        // Before the defaults of the database change, so that they are not those of this session.
        let application = database.connect().await;
        for place in &plan.defaults {
            let statement = settings::alter(database.name(), DEFAULTS[*place]);
            application.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        application.batch_execute(WAITS).await.expect("notes of keys that wait");
        if plan.rules {
            application.batch_execute(RULES).await.expect("the application's rules");
        }
        let topics = vec![good.clone(), small, punctual, compacted];
        Self { database, application, good, topics, doomed, targets, kafka, bootstrap }
    }

    pub fn relay(&self, plan: &Plan) -> RelaySettings {
        let settings = RelaySettings::new(&self.database, &self.bootstrap)
            .set("run.deployment", &unique("hostile"))
            .set("relay.delivery", plan.delivery)
            // Whatever the defaults say of the search_path.
            .set("outbox.schema", "public")
            .set("relay.lease", "6s")
            .set("relay.unknown_topic_grace", plan.grace)
            .set("retry.initial_backoff", "200ms")
            .set("retry.max_backoff", "400ms")
            .set("retry.on_exhausted", plan.on_exhausted)
            .instance("hostile");
        let settings = match plan.batch_rows {
            Some(rows) => settings.set("relay.batch_rows", &rows.to_string()),
            None => settings,
        };
        let settings = match plan.loud {
            true => settings.set("telemetry.log_filter", "outbox_relay=trace"),
            false => settings,
        };
        match plan.settling {
            Settling::Mark => settings.set("relay.tracking", "rows"),
            Settling::Delete => settings.set("relay.tracking", "rows").set("relay.after_publish", "delete"),
            Settling::Watermark => settings.set("relay.tracking", "watermark"),
        }
    }

    /// A role that owns nothing and may do everything with our tables. From its sight row-level security hides every
    /// event, until [`Stage::open_rows`]. Returns its name.
    pub async fn hide_rows(&self) -> String {
        let role = unique("hostile").replace('-', "_");
        let statements = format!(
            "create role {role} login; \
             grant all on all tables in schema public to {role}; \
             grant all on all sequences in schema public to {role}; \
             grant execute on all functions in schema public to {role}; \
             grant usage, create on schema public to {role}"
        );
        // In a transaction of its own: behind the grants it could deadlock with an autovacuum.
        let hide = "alter table outbox_events enable row level security";
        self.application.batch_execute(hide).await.expect("as owner");
        self.application.batch_execute(&statements).await.expect("a role");
        role
    }

    pub async fn open_rows(&self) {
        self.application.batch_execute("alter table outbox_events disable row level security").await.expect("as owner");
    }
}

/// The URL of the same database for another role.
pub fn url_of(url: &str, role: &str) -> String {
    let (_, rest) = url.split_once('@').expect("a user in the URL");
    format!("postgres://{role}@{rest}")
}

/// Notes each key that is held, why, and by what kind of transaction: afterwards nothing tells any more.
const WAITS: &str = "
    create table hostile_waits (key text, why text, isolation text default current_setting('transaction_isolation'));
    create function hostile_note_wait() returns trigger language plpgsql security definer as $$
    begin
      insert into public.hostile_waits (key, why) values (new.partition_key, concat_ws(', ', new.reason, new.topic, new.detail));
      return null;
    end $$;
    create trigger hostile_note_wait after insert on outbox_held_keys for each row execute function hostile_note_wait();
";

/// Some rows refuse every change, some the first ones, some dead letters to be written. What a failed statement says
/// about a row holds its contents.
const RULES: &str = "
    create sequence hostile_contended;
    create function hostile_refuse() returns trigger language plpgsql as $$
    begin
      if new.source = 'unchangeable' then raise exception 'not this one: %', new.payload; end if;
      if new.source = 'contended' and nextval('hostile_contended') % 3 = 1 and lastval() < 40 then
        raise exception 'not now: %', new.payload using errcode = 'deadlock_detected';
      end if;
      return new;
    end $$;
    create trigger hostile_refuse before update on outbox_events for each row execute function hostile_refuse();
    create function hostile_refuse_letter() returns trigger language plpgsql as $$
    begin
      if new.dead_letter_of is not null and new.source = 'unlettered' then raise exception 'no letter: %', new.payload; end if;
      return new;
    end $$;
    create trigger hostile_refuse_letter before insert on outbox_events for each row execute function hostile_refuse_letter();
";
