//! Whether a demo kept its promises: counted in the database and in Kafka, not from what the demo believes it did.
//!
//! Evaluated after the writers, the relay and the consumer have stopped, so nothing changes any more.

use serde::Serialize;

use crate::db::{Client, Database, DbError, Role};
use crate::demo::kafka::DemoKafka;
use crate::error::Result;
use crate::event::EventStatus;
use crate::projection::store;

const COUNT_BY_STATUS: &str = include_str!("sql/count_by_status.sql");
const FOLDED: &str = include_str!("sql/folded.sql");
const DIFFERENCES_FROM_SHOP: &str = include_str!("sql/differences_from_shop.sql");
const TOP_PRODUCTS: &str = include_str!("sql/top_products.sql");
const TOP: i64 = 5;
/// Differences that are named; the rest is counted.
const DIFFERENCES_SHOWN: usize = 10;

/// One promise, with what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub promise: &'static str,
    pub expected: u64,
    pub found: u64,
    pub holds: bool,
}

impl Check {
    fn equal(promise: &'static str, expected: u64, found: u64) -> Self {
        Self { promise, expected, found, holds: expected == found }
    }
}

/// A row of `product_metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Product {
    pub product_id: i64,
    pub views: i64,
    pub likes: i64,
    pub sales: i64,
    /// As text: a numeric may have more digits than a JSON number keeps.
    pub amount: String,
}

/// A product with the wrong row in `product_metrics`: what is there, and what the events say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub product_id: i64,
    pub folded: Option<String>,
    pub expected: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub checks: Vec<Check>,
    pub published: u64,
    pub records_in_kafka: u64,
    pub folded: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    pub top_products: Vec<Product>,
}

impl Verdict {
    /// `committed`: how many events the writers saw committed. Errors: the database or Kafka does not answer.
    pub async fn reach(database: &Database, kafka: &DemoKafka, group: &str, committed: u64) -> Result<Self> {
        let client = &database.connect(Role::Admin).await?;
        let (mut rows, mut published) = (0, 0);
        for row in client.query(COUNT_BY_STATUS, &[]).await? {
            let status: &str = row.try_get(0).map_err(DbError::from)?;
            let events = unsigned(row.try_get(1).map_err(DbError::from)?);
            rows += events;
            if status == EventStatus::Published.as_str() {
                published += events;
            }
        }
        let folded = number(client, FOLDED, &[&group]).await?;
        let records = kafka.records().await?;
        let differences = store::differences(database, group).await?;
        let checks = vec![
            Check::equal("every committed event is in the outbox", committed, rows),
            Check::equal("every event is PUBLISHED", rows, published),
            Check::equal("Kafka has every event once", rows, records),
            Check::equal("every record is folded", records, folded),
            Check::equal(
                "products where product_metrics differs from a fold of all events",
                0,
                differences.len() as u64,
            ),
            Check::equal(
                "products where product_metrics differs from the shop's own tables",
                0,
                number(client, DIFFERENCES_FROM_SHOP, &[]).await?,
            ),
        ];
        let differences = differences.into_iter().take(DIFFERENCES_SHOWN).map(|difference| Difference {
            product_id: difference.product_id,
            folded: difference.folded,
            expected: difference.expected,
        });
        Ok(Self {
            checks,
            published,
            records_in_kafka: records,
            folded,
            differences: differences.collect(),
            top_products: top_products(client).await?,
        })
    }

    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }
}

async fn number(
    client: &Client,
    statement: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<u64> {
    let row = client.query_one(statement, parameters).await?;
    Ok(unsigned(row.try_get(0).map_err(DbError::from)?))
}

/// A count, which is never negative.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

async fn top_products(client: &Client) -> Result<Vec<Product>> {
    let rows = client.query(TOP_PRODUCTS, &[&TOP]).await?;
    let product = |row: &tokio_postgres::Row| {
        Ok(Product {
            product_id: row.try_get(0)?,
            views: row.try_get(1)?,
            likes: row.try_get(2)?,
            sales: row.try_get(3)?,
            amount: row.try_get(4)?,
        })
    };
    rows.iter().map(product).collect::<Result<_, tokio_postgres::Error>>().map_err(|error| DbError::from(error).into())
}
