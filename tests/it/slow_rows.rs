//! Rows that take longer to read than any step has: each costs itself and its key, and nobody else.

use std::time::Duration;

use crate::support::outbox::insert_many;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// The view that lanes read: to read a row of the type `Slow` takes as long as the test holds a lock.
const SLOW: &str = "
do $$
declare columns text;
begin
  select string_agg(case column_name
    when 'event_version' then 'case when event_type = ''Slow'' then (select 1 from pg_advisory_xact_lock_shared(4712)) else event_version end as event_version'
    else quote_ident(column_name) end, ', ' order by ordinal_position)
  into columns from information_schema.columns where table_name = 'outbox_claimable' and table_schema = current_schema();
  alter view outbox_claimable rename to shop_claimable;
  execute 'create view outbox_claimable with (security_invoker = true) as select ' || columns || ' from shop_claimable';
end $$";

/// Enough that each shard has more rows than are read at once.
const GOOD: i64 = 800;

/// Promise: bad-rows.
#[tokio::test]
async fn a_row_that_is_never_read_in_time_fails_alone_however_many_wait_behind_it() {
    for tracking in ["rows", "watermark"] {
        let (database, topic) = tokio::join!(TestDatabase::migrated("slow"), Topic::create("slow", 1));
        let client = database.connect().await;
        client.batch_execute(SLOW).await.expect("the view");
        client.batch_execute("select pg_advisory_lock(4712)").await.expect("the lock");
        // The first one of its shard, so that every part of what is read begins with it.
        let slow = NewRow::new(&topic.name, "slow", "{}").text("event_type", "Slow").insert(&client).await;
        insert_many(&client, &topic.name, GOOD, GOOD).await;
        let relay = RelaySettings::new(&database, &parts().kafka).set("relay.tracking", tracking).start_ready().await;
        wait_until("the good rows are published, and the slow one has failed", PATIENCE, async || {
            let row = client
                .query_one(
                    "select count(*) filter (where status = 'PUBLISHED'), \
                     coalesce(max(last_error) filter (where id = $1 and status = 'FAILED'), '') from outbox_current",
                    &[&slow],
                )
                .await
                .map_err(|error| error.to_string())?;
            let (published, error): (i64, String) = (row.get(0), row.get(1));
            let ended = published == GOOD && error.starts_with("unreadable: ");
            if ended {
                Ok(())
            } else {
                Err(format!("{tracking}: {published} published, {error:?}\n{}", relay.log_text()))
            }
        })
        .await;
    }
}
