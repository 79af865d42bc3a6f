//! What waits behind a bad row, and what an operator does about it.

use std::collections::HashMap;

use super::{Expected, Kind, MARKS, PATIENCE, Shop, Way};
use crate::support::{outbox_relay, side_by_side, wait_until};

/// Two texts with one MD5. Both wait, both go on, and nobody else is kept.
///
/// Promise: bad-rows.
#[tokio::test]
async fn keys_that_share_an_md5_wait_for_each_other() {
    const TWINS: [&str; 2] = [
        "TEXTCOLLBYfGiJUETHQ4hAcKSMd5zYpgqf1YRDhkmxHkhPWptrkoyz28wnI9V0aHeAuaKnak",
        "TEXTCOLLBYfGiJUETHQ4hEcKSMd5zYpgqf1YRDhkmxHkhPWptrkoyz28wnI9V0aHeAuaKnak",
    ];
    let shop = Shop::open(MARKS).await;
    let same: bool =
        shop.client.query_one("select md5($1) = md5($2)", &[&TWINS[0], &TWINS[1]]).await.expect("md5").get(0);
    assert!(same && TWINS[0] != TWINS[1]);
    let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload, available_at) \
        select key, 'E', $1, '{}', case when key = 'other' then null else now() + interval '5 s' end \
        from unnest($2::text[]) with ordinality as k(key, n) order by n returning id, aggregate_id";
    let keys = [TWINS[0], "other", TWINS[1], TWINS[0], "other", TWINS[1]];
    let rows = shop.client.query(statement, &[&shop.topic.name, &keys.as_slice()]).await.expect("rows");
    let others: Vec<_> = rows.iter().filter(|row| row.get::<_, &str>(1) == "other").collect();
    shop.settles("the other key", others.iter().map(|row| (row.get(0), Expected::Published)).collect()).await;
    shop.settles("all of them", rows.iter().map(|row| (row.get(0), Expected::Published)).collect()).await;
    let mut shop = shop;
    for row in &rows {
        shop.committed.entry(row.get(1)).or_default().push(row.get(0));
    }
    shop.close().await;
}

/// A HELD row that refuses to be PENDING again fails in its turn; what was held before it goes, what comes after waits.
///
/// Promise: bad-rows.
#[tokio::test]
async fn a_held_row_that_refuses_its_release_holds_its_key_alone() {
    side_by_side([MARKS, Way { tracking: "watermark", ..MARKS }], async |way| {
        let mut shop = Shop::open(way).await;
        let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload, available_at) \
            select k, t, $1, '{}', case when n = 1 then now() + interval '1 hour' end \
            from unnest(array['a', 'a', 'a', 'a', 'b', 'b', 'b'], array['E', 'E', 'LateE', 'E', 'E', 'E', 'E']) with ordinality as r(k, t, n) \
            order by n returning id, aggregate_id";
        let rows = shop.client.query(statement, &[&shop.topic.name]).await.expect("rows");
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        shop.settles("one key waits", ids[..4].iter().map(|id| (*id, Expected::Held)).collect()).await;
        // Its time has come.
        let due = "update outbox_events set available_at = now() where available_at is not null; \
                   update outbox_held_keys set release_at = now() where partition_key = 'a'";
        shop.client.batch_execute(due).await.expect("an update");
        let expected = [
            Expected::Published,
            Expected::Published,
            Expected::Failed("unchangeable: PostgreSQL rejects changes to the row (SQLSTATE ZZ999)"),
            Expected::Held,
            Expected::Published,
            Expected::Published,
            Expected::Published,
        ];
        shop.settles(&format!("both keys ({way:?})"), ids.iter().copied().zip(expected).collect()).await;
        shop.committed = HashMap::from([("a".to_owned(), ids[..2].to_vec()), ("b".to_owned(), ids[4..].to_vec())]);
        shop.close().await;
    })
    .await;
}

/// What an operator does about it: the commands find such events, and after the row has been mended they go on.
///
/// Promise: bad-rows.
#[tokio::test]
async fn outcomes_are_listed_retried_and_discarded_like_any_other() {
    side_by_side([MARKS, Way { tracking: "watermark", ..MARKS }], async |way| {
        let mut shop = Shop::open(way).await;
        let rows = shop.insert(&[Kind::CheckedNoTopic, Kind::GuardedBehind], 2, 5).await;
        shop.settles("the rows", rows.clone()).await;
        let of = |expected: fn(&Expected) -> bool| -> Vec<i64> {
            rows.iter().filter(|(_, what)| expected(what)).map(|(id, _)| *id).collect()
        };
        let failed = of(|what| matches!(what, Expected::Failed("23514")));
        let command = async |arguments: &[&str]| {
            let run = outbox_relay(arguments).env("DATABASE_URL", &shop.database.url).run().await;
            run.expect_code(0).stdout.clone()
        };
        let listed = command(&["events", "ls", "--status", "failed", "-o", "json"]).await;
        for id in &failed {
            assert!(listed.contains(&format!("\"id\": {id},")), "row {id} is not in {listed}");
        }
        assert!(command(&["events", "show", &failed[0].to_string()]).await.contains("23514"));
        let pending: i64 = shop
            .client
            .query_one("select count(*) from outbox_current where status = 'PENDING'", &[])
            .await
            .expect("a count")
            .get(0);
        assert_eq!(pending, 0, "nothing waits for ever");

        // Mended: the check is gone and the rows have a topic.
        let mend = format!(
            "alter table outbox_events drop constraint shop_types, disable trigger shop_guard; \
             update outbox_events set topic = '{}' where topic is null",
            shop.topic.name
        );
        shop.client.batch_execute(&mend).await.expect("mended");
        command(&["events", "discard", &failed[1].to_string(), "--yes"]).await;
        command(&["events", "retry", "--status", "failed", "--yes"]).await;
        let gone_on = rows.iter().map(|(id, _)| *id).filter(|id| *id != failed[1]);
        let expected = gone_on.map(|id| (id, Expected::Published)).collect();
        shop.settles(&format!("all but the discarded one ({way:?})"), expected).await;
        wait_until("the rows say it themselves", PATIENCE * 2, async || {
            let left = "select count(*) from outbox_outcomes where status <> 'DISCARDED'";
            let left: i64 = shop.client.query_one(left, &[]).await.expect("a count").get(0);
            if left == 0 { Ok(()) } else { Err(format!("{left} outcomes")) }
        })
        .await;
        assert_eq!(shop.state(failed[1]).await.map(|state| state.0).as_deref(), Some("DISCARDED"));
        let all = shop
            .client
            .query("select aggregate_id, id from outbox_events where id <> $1 order by id", &[&failed[1]])
            .await;
        shop.committed.clear();
        for row in all.expect("rows") {
            shop.committed.entry(row.get(0)).or_default().push(row.get(1));
        }
        shop.close().await;
    })
    .await;
}
