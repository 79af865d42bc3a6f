//! With a watermark, and with a row somewhere that refuses to be changed: a step that claims nothing new says nothing
//! of what waits.

use std::num::NonZeroU32;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::outbox::barrier::Barrier;
use outbox_relay::outbox::{Claim, Limits, Published, Screening, SettleMode, Settlement, Source};
use outbox_relay::secret::Secret;

use crate::outbox::Bench;
use crate::support::NewRow;

/// The watermark passes what a claim has read. A batch that is sent again, and a step that only settles, have read
/// nothing else: events behind it would count as published, and nobody would ever send them.
#[tokio::test]
async fn a_step_without_a_new_claim_passes_no_event_that_waits() {
    let bench = Bench::new("outcome-watermark").await;
    let refusing = NewRow::new("t", "another key", "{}").insert(&bench.client).await;
    let outcome = "insert into outbox_outcomes (id, event_id, status, sqlstate, last_error) \
         select id, event_id, 'FAILED', 'P0001', 'x: y' from outbox_events where id = $1";
    bench.client.execute(outcome, &[&refusing]).await.expect("an outcome");
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(NewRow::new("t", "k", "{}").insert(&bench.client).await);
    }
    let settings = DatabaseConfig { url: Secret::new(&bench.test.url), ..DatabaseConfig::default() };
    let database = Database::new(&settings).expect("a good URL");
    let horizon = Barrier::new(database.pool(Role::Lease, 2)).probe().await.expect("a look");
    let outbox = bench.outbox.clone().settling(SettleMode::Watermark);
    let (_leases, fence, _) = bench.take_over("one").await;
    let step = async |settlement: &Settlement, source: Source<'_>| {
        let limits =
            Limits { rows: NonZeroU32::new(3).expect("not zero"), bytes: 1 << 20, record_bytes: 1 << 20, row_bytes: 0 };
        let claim = Claim {
            source,
            release: true,
            limits,
            horizon,
            move_low_id: true,
            strict: false,
            numbered: false,
            marked: false,
            forget: false,
            expected: None,
        };
        let step = outbox.step(fence, settlement, claim, |event| Screening::Publish(event.id)).await.expect("ours");
        step.batch.map_or_else(Vec::new, |batch| batch.events.iter().map(|event| event.id).collect::<Vec<_>>())
    };
    let done_id = async || {
        let row = bench.client.query_one("select done_id from outbox_shards where shard = $1", &[&fence.shard]).await;
        row.expect("the shard").get::<_, i64>(0)
    };
    let nothing = Settlement::default();
    assert_eq!(step(&nothing, Source::Waiting).await, ids[..3]);
    assert_eq!(step(&nothing, Source::Manifest(&ids[..3])).await, ids[..3]);
    assert!(done_id().await < ids[3], "a batch was sent again, and {} wait", ids.len() - 3);
    let published = ids[..3].iter().map(|id| Published::somewhere(*id)).collect();
    assert!(step(&Settlement { published, ..Settlement::default() }, Source::Nothing).await.is_empty());
    assert!(done_id().await < ids[3], "a batch was settled, and {} wait", ids.len() - 3);
    assert_eq!(step(&nothing, Source::Waiting).await, ids[3..]);
}
