//! PostgreSQL and the schema: asks, and hands the facts to `judge_server` and `judge_schema`.

mod judge_schema;
mod judge_server;

use std::time::Duration;

use super::finding::{Finding, Part};
use crate::clock;
use crate::config::Config;
use crate::db::{Database, DbError, Role};
use crate::error::Error;
use crate::migrations::{self, State};
use crate::operations::preflight::{obstacles, purposes};
use crate::operations::{self, Result};
use crate::outbox::grants::wanted;
use crate::outbox::home;
use crate::outbox::inspect;
use crate::outbox::inspect::server::{Inspector, Wanted, is_refused_by_pooler};
use crate::outbox::preflight::trial;
use crate::projection::{Projection, prepare_all};

/// Transactions older than this are reported. The relay's own last milliseconds.
const LONG_TRANSACTION: Duration = Duration::from_secs(60);

/// Which migrations are applied.
const HISTORY: Wanted = Wanted { object: "outbox_schema_history", privilege: "select", column: None };

/// Topics that rows of the outbox name.
#[derive(Debug, Default)]
pub(super) struct OutboxTopics {
    /// Of waiting rows (`None`: routing decides), and how many rows were seen to.
    pub(super) waiting: Vec<(Option<String>, i64)>,
    /// Of the newest rows, whatever has become of them.
    pub(super) recent: Vec<String>,
}

/// Adds what there is to say of PostgreSQL and the schema. Returns the topics of the outbox, none if it cannot be read.
/// Errors: settings that make no connection possible.
pub(super) async fn look(settings: &Config, findings: &mut Vec<Finding>) -> Result<OutboxTopics> {
    let database = Database::of(settings)?;
    let inspector = match Inspector::connect(&database).await {
        Ok(inspector) => inspector,
        Err(error) if is_refused_by_pooler(&error) => {
            findings.push(judge_server::pooler_refuses(&error.into()));
            return Ok(OutboxTopics::default());
        }
        Err(error) => {
            findings.push(Finding::failed(Part::Postgres, "postgres.connection", &error.into()));
            return Ok(OutboxTopics::default());
        }
    };
    let where_to = database.describe();
    server(settings, &where_to, &database, &inspector, findings).await;
    schema(settings, &database, &inspector, findings).await;

    let pool = operations::pool(settings)?;
    // A schema that is not there has been reported already.
    Ok(OutboxTopics {
        waiting: inspect::pending_topics(&pool).await.unwrap_or_default(),
        recent: inspect::recent_topics(&pool).await.unwrap_or_default(),
    })
}

async fn server(
    settings: &Config,
    where_to: &str,
    database: &Database,
    inspector: &Inspector,
    findings: &mut Vec<Finding>,
) {
    let before = clock::wall();
    let answer = inspector.server().await;
    let after = clock::wall();
    let Some(facts) = known(Part::Postgres, "postgres.connection", answer, findings) else { return };
    judge_server::server(&facts, where_to, findings);
    judge_server::clock(facts.clock, before, after, findings);
    judge_server::durability(&facts, findings);
    judge_server::connections(&facts, settings, findings);

    let pooled = inspector.is_transaction_pooled(database).await;
    if let Some(pooled) = known(Part::Postgres, "postgres.pooler", pooled, findings) {
        judge_server::pooler(pooled, &facts, findings);
    }
    let open = inspector.open_transactions(LONG_TRANSACTION).await;
    if let Some(open) = known(Part::Postgres, "postgres.transactions", open, findings) {
        judge_server::transactions(&open, facts.sees_all_sessions, findings);
    }
}

async fn schema(settings: &Config, database: &Database, inspector: &Inspector, findings: &mut Vec<Finding>) {
    let history = inspector.grants(&[HISTORY]).await;
    let Some(history) = known(Part::Schema, "schema.migrations", history, findings) else { return };
    let readable = history.iter().all(|grant| grant.granted != Some(false));
    match migrations::status(database).await {
        _ if !readable => findings.push(judge_schema::history_hidden()),
        Ok(migrations) => {
            if let Some(trouble) = migrations::trouble(&migrations) {
                findings.push(Finding::failed(Part::Schema, "schema.migrations", &trouble));
            }
            let missing: Vec<i32> =
                migrations.iter().filter(|known| known.state == State::Pending).map(|known| known.version).collect();
            judge_schema::migrations(migrations.len(), &missing, findings);
            if missing.len() == migrations.len() {
                // Nothing is there: every other question would only say so again.
                return;
            }
        }
        Err(error) => findings.push(Finding::failed(Part::Schema, "schema.migrations", &error)),
    }
    let grants = inspector.grants(&wanted(&purposes(settings))).await;
    if let Some(grants) = known(Part::Schema, "schema.grants", grants, findings) {
        judge_schema::grants(&grants, findings);
    }
    let indexes = inspector.claim_indexes().await;
    if let Some(indexes) = known(Part::Schema, "schema.claim_index", indexes, findings) {
        judge_schema::claim_index(&indexes, findings);
    }
    others(settings, database, findings).await;
    if settings.relay.enabled {
        let standing = home::look(&database.pool(Role::Admin, 1)).await;
        if let Some(standing) = known(Part::Schema, "schema.home", standing, findings) {
            judge_schema::home(&standing, findings);
        }
        let partitions = inspector.partitions().await;
        if let Some(Some(partitions)) = known(Part::Schema, "schema.partitions", partitions, findings) {
            judge_schema::partitions(&partitions, findings);
        }
    }
    projections(settings, database, findings).await;
}

/// What others have put on the database and on our tables, and whether our own statements pass.
async fn others(settings: &Config, database: &Database, findings: &mut Vec<Finding>) {
    const OTHERS: &str = "schema.others";
    const TRIAL: &str = "schema.trial";
    let obstacles = obstacles(settings, database).await;
    if let Some(obstacles) = known(Part::Schema, OTHERS, obstacles, findings) {
        judge_schema::obstacles(obstacles, "nothing foreign interferes with the tables", OTHERS, findings);
    }
    let mut tried = Vec::new();
    if settings.relay.enabled {
        tried.extend(known(Part::Schema, TRIAL, trial::relay(database).await, findings).unwrap_or_default());
    }
    if settings.consumer.enabled {
        tried.extend(known(Part::Schema, TRIAL, trial::consumer(database).await, findings).unwrap_or_default());
    }
    judge_schema::obstacles(tried, "trial writes succeeded and were rolled back", TRIAL, findings);
}

/// Whether PostgreSQL takes the SQL of the projections.
async fn projections(settings: &Config, database: &Database, findings: &mut Vec<Finding>) {
    if !settings.consumer.enabled {
        return;
    }
    let loaded = if settings.projection.is_empty() {
        Ok(vec![Projection::product_metrics()])
    } else {
        settings.projection.iter().map(Projection::load).collect::<Result<Vec<_>, Error>>()
    };
    let prepared = match &loaded {
        Ok(projections) => prepare_all(database, projections).await,
        Err(_) => Ok(()),
    };
    match (loaded, prepared) {
        (Err(error), _) | (Ok(_), Err(error)) => {
            findings.push(Finding::failed(Part::Schema, "schema.projections", &error));
        }
        (Ok(projections), Ok(())) => {
            let names: Vec<&str> = projections.iter().map(Projection::name).collect();
            let text = format!("the SQL of the projections is valid: {}", names.join(", "));
            findings.push(Finding::ok(Part::Schema, "schema.projections", text));
        }
    }
}

/// The answer, or a finding that there is none.
fn known<T>(part: Part, check: &'static str, answer: Result<T, DbError>, findings: &mut Vec<Finding>) -> Option<T> {
    answer.map_err(|error| findings.push(Finding::failed(part, check, &error.into()))).ok()
}
