//! What hit every record ends while a record is looked for.

use outbox_relay::projection::fold::fold_watched;
use outbox_relay::projection::store::locks::LockWait;
use outbox_relay::projection::suspicion::Suspicion;

use super::*;

/// Every call fails, up to as many as the table says; nothing takes the count of a sequence back.
const TABLES: &str = "
    create table copies (n bigint);
    create table mood (failures bigint, code text);
    insert into mood values (0, '');
    create sequence calls;
    create function fail() returns trigger language plpgsql as $$ declare m mood; begin
      select * into m from mood;
      if nextval('calls') <= m.failures then raise exception 'no' using errcode = m.code; end if;
      return new;
    end $$;
    create trigger fail before insert on copies for each row execute function fail()";

/// Whenever it ends: also between the last failure of a record and the look whether others pass.
///
/// Promise: records.
#[tokio::test]
async fn a_record_is_not_blamed_for_what_ends_while_it_is_looked_for() {
    let copies = projection("copies", &[], "insert into copies select \"offset\" from new_events");
    let bench = StoreBench::new("mended", vec![copies], TABLES).await;
    let epoch = bench.take().await;
    for failures in 1..=16 {
        let mood = format!("update mood set failures = {failures}, code = 'XX000'; alter sequence calls restart");
        bench.client.batch_execute(&mood).await.expect("a mood");
        let end = next_offset(&bench.client).await + 4;
        let records = likes(end - 4..end);
        let mut suspicion = Suspicion::default();
        loop {
            let next = next_offset(&bench.client).await;
            let rest: Vec<Record> = records.iter().filter(|record| record.offset >= next).cloned().collect();
            let (store, wait) = (&bench.store, LockWait::default());
            let folded = fold_watched(store, &bench.place, epoch, next, &rest, suspicion, &wait).await;
            suspicion = folded.suspicion;
            match folded.end {
                End::Done => break,
                End::Failed(_) => {}
                End::Elsewhere(standing) => panic!("{standing:?}"),
            }
        }
        assert_eq!(bench.parked().await, [], "after {failures} failures");
    }
    assert_eq!(number(&bench.client, "select count(*) from copies").await, 16 * 4);
}
