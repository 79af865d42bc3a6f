//! The seam between lanes and PostgreSQL, without processes: what a fenced owner can still do, which is nothing, and
//! what a batch is.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::event::Place;
use outbox_relay::outbox::barrier::{Barrier, Reached};
use outbox_relay::outbox::failure::{FailedEvent, FailureAction, FailurePolicy};
use outbox_relay::outbox::leases::{Acquired, Leases};
use outbox_relay::outbox::{
    Claim, Fence, Limits, OutboxError, PgOutbox, Published, Screening, Settlement, Source, Step,
};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::outbox::{counts, make_due, row};
use crate::support::{NewRow, TestDatabase};

const LEASE: Duration = Duration::from_secs(60);

/// No event fails in these tests.
#[derive(Debug)]
struct HoldAll;

impl FailurePolicy for HoldAll {
    fn decide(&self, _: &FailedEvent<'_>) -> FailureAction {
        FailureAction::Hold
    }
}

pub struct Bench {
    pub client: Client,
    pub outbox: PgOutbox,
    database: Database,
    pub test: TestDatabase,
}

impl Bench {
    pub async fn new(name: &str) -> Self {
        let test = TestDatabase::migrated(name).await;
        let settings = DatabaseConfig { url: Secret::new(&test.url), ..DatabaseConfig::default() };
        let database = Database::new(&settings).expect("a good URL");
        let outbox = PgOutbox::new(database.pool(Role::Lane, 2), LEASE, Arc::new(HoldAll));
        Self { client: test.connect().await, outbox, database, test }
    }

    fn instance(&self, name: &str) -> Leases {
        Leases::new(self.database.pool(Role::Lease, 2), Uuid::new_v4(), name.to_owned(), LEASE, false)
    }

    /// Takes all shards for a new instance and returns the fence of the one that key `k` is in.
    pub async fn take_over(&self, name: &str) -> (Leases, Fence, Option<Vec<i64>>) {
        let expired = "update outbox_shards set lease_until = now() - interval '1 s' where owner is not null";
        self.client.execute(expired, &[]).await.expect("the leases end");
        let leases = self.instance(name);
        let acquired = leases.acquire(8).await.expect("the shards");
        assert_eq!(acquired.len(), 8);
        let shard: i16 = self.client.query_one("select outbox_shard_of('k', 0)", &[]).await.expect("a shard").get(0);
        let Acquired { epoch, batch_ids, .. } =
            acquired.into_iter().find(|taken| taken.shard == shard).expect("it is there");
        let fence = Fence { shard, owner: leases.instance(), epoch };
        (leases, fence, batch_ids)
    }

    async fn insert(&self, rows: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        for _ in 0..rows {
            ids.push(NewRow::new("t", "k", "{}").insert(&self.client).await);
        }
        ids
    }

    async fn step(&self, fence: Fence, published: &[i64], source: Source<'_>) -> Result<Step<i64>, OutboxError> {
        self.step_up_to(None, fence, published, source).await
    }

    async fn step_up_to(
        &self,
        horizon: Option<Reached>,
        fence: Fence,
        published: &[i64],
        source: Source<'_>,
    ) -> Result<Step<i64>, OutboxError> {
        let published = published.iter().map(|id| Published::at(*id, Place { partition: 0, offset: *id })).collect();
        let settlement = Settlement { published, ..Settlement::default() };
        let limits =
            Limits { rows: NonZeroU32::new(3).expect("not zero"), bytes: 1 << 20, record_bytes: 1 << 20, row_bytes: 0 };
        let claim = Claim {
            source,
            release: true,
            limits,
            horizon: horizon.unwrap_or_default(),
            move_low_id: horizon.is_some(),
            strict: false,
            numbered: false,
            marked: false,
            forget: false,
            expected: None,
        };
        self.outbox.step(fence, &settlement, claim, |event| Screening::Publish(event.id)).await
    }

    pub async fn shards(&self) -> Vec<String> {
        let state = "select s::text from outbox_shards s order by shard";
        let rows = self.client.query(state, &[]).await.expect("shards");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn batch(step: Step<i64>) -> Vec<i64> {
    step.batch.map_or_else(Vec::new, |batch| batch.events.iter().map(|event| event.id).collect())
}

#[tokio::test]
async fn whatever_a_fenced_owner_tries_changes_nothing() {
    let bench = Bench::new("fenced").await;
    let ids = bench.insert(6).await;
    let (former, old, _) = bench.take_over("former").await;
    assert_eq!(batch(bench.step(old, &[], Source::Waiting).await.expect("ours")), ids[..3]);
    let (_heir, new, manifest) = bench.take_over("heir").await;
    assert_eq!(manifest.as_deref(), Some(&ids[..3]), "the heir learns what was in flight");
    assert!(new.epoch > old.epoch, "an owner has an epoch of its own");

    let before = bench.shards().await;
    for source in [Source::Waiting, Source::Nothing, Source::Manifest(&ids[..3])] {
        let outcome = bench.step(old, &ids[..3], source).await;
        assert!(matches!(outcome, Err(OutboxError::Fenced(_))), "{outcome:?}");
    }
    assert!(matches!(bench.outbox.state(old).await, Err(OutboxError::Fenced(_))));
    assert!(former.renew(&[(old.shard, old.epoch)]).await.expect("an answer").is_lost(old.shard));
    former.release(old.shard, old.epoch).await.expect("an answer");
    assert_eq!(bench.shards().await, before);
    assert_eq!(counts(&bench.client).await.get("PENDING"), Some(&6), "it marked nothing");

    // An epoch of its own is not enough either: the same owner in an earlier life.
    let stale = Fence { epoch: new.epoch - 1, ..new };
    assert!(matches!(bench.step(stale, &[], Source::Waiting).await, Err(OutboxError::Fenced(_))));
    assert_eq!(batch(bench.step(new, &[], Source::Manifest(&ids[..3])).await.expect("ours")), ids[..3]);

    // Nor where there is no manifest to write, so that nothing but the fence can stop it.
    assert!(batch(bench.step(new, &ids[..3], Source::Nothing).await.expect("ours")).is_empty());
    let outcome = bench.step(stale, &ids[3..], Source::Nothing).await;
    assert!(matches!(outcome, Err(OutboxError::Fenced(_))), "{outcome:?}");
    assert_eq!(counts(&bench.client).await.get("PENDING"), Some(&3), "it marked nothing");
}

#[tokio::test]
async fn a_step_settles_one_batch_and_claims_the_next_in_order() {
    let bench = Bench::new("step").await;
    let ids = bench.insert(7).await;
    let (_leases, fence, _) = bench.take_over("one").await;
    let mut settled: Vec<i64> = Vec::new();
    for expected in [&ids[..3], &ids[3..6], &ids[6..], &[]] {
        let step = bench.step(fence, &settled, Source::Waiting).await.expect("ours");
        assert_eq!(step.missing, 0);
        settled = batch(step);
        assert_eq!(settled, expected);
        let manifest = bench.outbox.state(fence).await.expect("ours").batch_ids;
        assert_eq!(manifest.unwrap_or_default(), expected, "the manifest is the batch");
    }
    assert_eq!(counts(&bench.client).await.get("PUBLISHED"), Some(&7));
    let third = row(&bench.client, ids[2]).await;
    assert_eq!((third.published_partition, third.published_offset), (Some(0), Some(ids[2])));
}

/// The clocks of applications differ: only the id is the order, whatever `created_at` says.
#[tokio::test]
async fn rows_are_claimed_by_id_even_when_created_at_runs_backwards() {
    let bench = Bench::new("backwards").await;
    let mut ids = Vec::new();
    for hours in 0..4 {
        let row = NewRow::new("t", "k", "{}").sql("created_at", &format!("now() - interval '{hours} hours'"));
        ids.push(row.insert(&bench.client).await);
    }
    let (_leases, fence, _) = bench.take_over("one").await;
    let first = batch(bench.step(fence, &[], Source::Waiting).await.expect("ours"));
    assert_eq!(first, ids[..3]);
    assert_eq!(batch(bench.step(fence, &first, Source::Waiting).await.expect("ours")), ids[3..]);
}

/// The row count is checked: what was changed by hand in the meantime is told, and nothing else is held up.
#[tokio::test]
async fn rows_that_are_no_longer_pending_are_counted_as_missing() {
    let bench = Bench::new("missing").await;
    let ids = bench.insert(3).await;
    let (_leases, fence, _) = bench.take_over("one").await;
    let claimed = batch(bench.step(fence, &[], Source::Waiting).await.expect("ours"));
    bench.client.execute("delete from outbox_events where id = $1", &[&ids[1]]).await.expect("delete");
    let discard = "update outbox_events set status = 'DISCARDED' where id = $1";
    bench.client.execute(discard, &[&ids[2]]).await.expect("update");
    let step = bench.step(fence, &claimed, Source::Waiting).await.expect("ours");
    assert_eq!(step.missing, 2);
    assert_eq!(row(&bench.client, ids[0]).await.status, "PUBLISHED");
    assert_eq!(row(&bench.client, ids[2]).await.status, "DISCARDED", "a decision made by hand stands");
}

/// Never a range: an id between two others may belong to a transaction that is still open.
#[tokio::test]
async fn settling_a_batch_leaves_ids_between_its_own_alone() {
    let bench = Bench::new("between").await;
    let first = bench.insert(1).await;
    let mut writer = bench.test.connect().await;
    let open = writer.transaction().await.expect("begin");
    let between = NewRow::new("t", "k", "{}").statement();
    let between: i64 = open.query_one(&between, &[]).await.expect("insert").get(0);
    let last = bench.insert(1).await;
    let (_leases, fence, _) = bench.take_over("one").await;
    let claimed = batch(bench.step(fence, &[], Source::Waiting).await.expect("ours"));
    assert_eq!(claimed, [first[0], last[0]]);
    open.commit().await.expect("commit");
    let next = batch(bench.step(fence, &claimed, Source::Waiting).await.expect("ours"));
    assert_eq!(next, [between], "it is claimed with the next batch");
}

/// The scan bound passes rows that are held. Their release takes it back, or the next of their key would go first.
#[tokio::test]
async fn a_released_row_is_claimed_first_though_the_scan_bound_has_passed_it() {
    let bench = Bench::new("released").await;
    let delayed = NewRow::new("t", "k", "{}").sql("available_at", "now() + interval '1 hour'");
    let delayed = delayed.insert(&bench.client).await;
    let (_leases, fence, _) = bench.take_over("one").await;
    assert!(batch(bench.step(fence, &[], Source::Waiting).await.expect("ours")).is_empty());
    assert_eq!(row(&bench.client, delayed).await.status, "HELD");
    let mut horizon = Reached { id: delayed, server: 0 };
    bench.step_up_to(Some(horizon), fence, &[], Source::Nothing).await.expect("ours");
    let low_id_of_shard = "select low_id from outbox_shards where shard = $1";
    let row = bench.client.query_one(low_id_of_shard, &[&fence.shard]).await.expect("low_id");
    assert!(row.get::<_, i64>(0) <= delayed, "what another server had reached counts for nothing");
    horizon.server = Barrier::new(bench.database.pool(Role::Lease, 2)).probe().await.expect("a look").server;
    bench.step_up_to(Some(horizon), fence, &[], Source::Nothing).await.expect("ours");
    let low_id = "select low_id from outbox_shards where shard = $1";
    let low_id = bench.client.query_one(low_id, &[&fence.shard]).await.expect("low_id");
    assert_eq!(low_id.get::<_, i64>(0), delayed + 1, "the bound has passed it");

    let next = bench.insert(1).await;
    make_due(&bench.client, delayed).await;
    assert_eq!(batch(bench.step(fence, &[], Source::Waiting).await.expect("ours")), [delayed, next[0]]);
}
