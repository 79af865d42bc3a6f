//! Use cases without a command line: what an API or a dashboard would call.

use std::sync::Mutex;

use outbox_relay::config::{Config, DatabaseConfig};
use outbox_relay::db::Pool;
use outbox_relay::operations::events::{self, Action, Chosen, Filter, Page};
use outbox_relay::operations::progress::{Progress, Step};
use outbox_relay::operations::{self, Author, EventRef, lag, pause, shards};
use outbox_relay::secret::Secret;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::outbox::{counts, insert_many};
use crate::support::{NewRow, TestDatabase, outbox_relay};

/// More than two transactions of a retry or discard.
const FAILED: i64 = 2_500;

struct Stage {
    database: TestDatabase,
    settings: Config,
    pool: Pool,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let database = TestDatabase::migrated(name).await;
        let url = Secret::new(database.url.clone());
        let settings = Config { database: DatabaseConfig { url, ..DatabaseConfig::default() }, ..Config::default() };
        let pool = operations::pool(&settings).expect("a pool");
        Self { database, settings, pool }
    }

    async fn printed(&self, args: &[&str]) -> Value {
        let call = outbox_relay(&[args, &["-o", "json"]].concat()).env("DATABASE_URL", &self.database.url);
        call.run().await.expect_code(0).json()
    }
}

fn json(report: &impl Serialize) -> Value {
    serde_json::to_value(report).expect("a report")
}

fn author() -> Author {
    Author { actor: "dashboard".to_owned(), reason: Some("a test".to_owned()) }
}

/// Hears every step, and cancels a token when the first part of the work is done.
#[derive(Default)]
struct Listener {
    steps: Mutex<Vec<Step>>,
    stop: CancellationToken,
}

impl Progress for Listener {
    fn report(&self, step: Step) {
        if step.done > 0 {
            self.stop.cancel();
        }
        self.steps.lock().expect("not poisoned").push(step);
    }

    fn remark(&self, _: &str) {}
}

#[tokio::test]
async fn a_command_prints_the_report_of_its_use_case() {
    let stage = Stage::new("operations").await;
    let client = stage.database.connect().await;
    let id = NewRow::new("orders", "k", r#"{"price": 12345678901234567890.10}"#).insert(&client).await;
    insert_many(&client, "orders", 3, 9).await;
    let request = pause::Request::new(Some("orders"), pause::Change::Pause, false).expect("a topic");
    let paused = pause::run(&stage.pool, &request, &author()).await.expect("a pause");
    assert_eq!(paused.outcome, pause::Outcome::Paused);
    assert_eq!(json(&paused)[0]["by"], "dashboard");

    let page = Page { after: None, oldest_first: true, limit: 4 };
    let listed = events::list(&stage.pool, &Filter::default(), page).await.expect("a list");
    assert_eq!((listed.events.len(), listed.next), (4, Some(id + 3)));
    assert_eq!(stage.printed(&["events", "ls", "--oldest-first", "--limit", "4"]).await, json(&listed));
    let shown = events::show(&stage.pool, &[EventRef::Id(id)]).await.expect("an event");
    assert!(shown.verdict().is_ok());
    assert_eq!(stage.printed(&["events", "show", &id.to_string()]).await, json(&shown));
    let missing = events::show(&stage.pool, &[EventRef::Id(-1)]).await.expect("a look").verdict();
    assert_eq!(missing.expect_err("no such event").code().as_str(), "OR-U002");
    let again = pause::Request { dry_run: true, ..request };
    let looked = pause::run(&stage.pool, &again, &author()).await.expect("a look");
    assert_eq!(stage.printed(&["pause", "--topic", "orders", "--dry-run"]).await, json(&looked));
    assert_eq!(
        stage.printed(&["shards", "ls"]).await.as_array().map(Vec::len),
        json(&shards::lines(&stage.pool).await.expect("shards")).as_array().map(Vec::len)
    );
    let measured = lag::measure(&stage.settings, &stage.pool, None).await.expect("a measurement");
    let (printed, report) = (stage.printed(&["lag", "--set", "consumer.enabled=false"]).await, json(&measured.report));
    assert_eq!(printed["outbox"]["pending"], report["outbox"]["pending"]);
    assert_eq!(fields(&printed), fields(&report));
}

fn fields(document: &Value) -> Vec<&String> {
    document.as_object().expect("an object").keys().collect()
}

#[tokio::test]
async fn a_plan_changes_nothing_and_a_stop_ends_its_run_between_two_transactions() {
    let stage = Stage::new("operations-stop").await;
    let client = stage.database.connect().await;
    insert_many(&client, "orders", FAILED, FAILED).await;
    let failed = "update outbox_events set status = 'FAILED', last_error = 'too-large: x', failed_at = now()";
    client.batch_execute(failed).await.expect("failed rows");

    let chosen = Chosen { all: true, ..Chosen::default() };
    let plan = events::plan(&stage.pool, &chosen, Action::Discard).await.expect("a plan");
    let preview = json(&plan.preview());
    assert_eq!(
        (&preview["dry_run"], &preview["matched"], &preview["changed"]),
        (&true.into(), &FAILED.into(), &0.into())
    );
    assert_eq!(counts(&client).await.get("FAILED"), Some(&FAILED));

    let listener = Listener::default();
    let report = plan.run(&stage.pool, &author(), &listener, &listener.stop).await.expect("a run");
    let discarded = counts(&client).await.get("DISCARDED").copied().unwrap_or_default();
    assert_eq!(report.changed, discarded.unsigned_abs());
    assert!((1..FAILED).contains(&discarded), "{discarded} were discarded");
    let steps = listener.steps.lock().expect("not poisoned").clone();
    assert_eq!(steps.first(), Some(&Step::new("events", 0, FAILED.unsigned_abs())));
    assert_eq!(steps.last().map(|step| step.done), Some(discarded.unsigned_abs()));
}
