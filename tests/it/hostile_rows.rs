//! Rows that make a statement of the step fail: each costs itself and its key, and nobody else.
//!
//! Every case is one transaction of bad rows among good ones of other keys, so that they meet in the same batches.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::kafka::sent_ids;
use crate::support::relay::RelaySettings;
use crate::support::{
    Relay, TestDatabase, Topic, http, order, outbox_relay, parts::parts, side_by_side, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What an application of a stranger has added to the table.
const STRANGE: &str = "
create function shop_guard() returns trigger language plpgsql as $$
begin
  if old.event_type like 'Guarded%' then raise exception 'guarded: %', old.payload; end if;
  if old.event_type like 'Slow%' then perform pg_advisory_xact_lock_shared(4711); end if;
  if old.event_type like 'Late%' and old.status = 'HELD' then raise exception 'not any more' using errcode = 'ZZ999'; end if;
  if old.event_type like 'Silent%' then return null; end if;
  if tg_op = 'DELETE' then return old; end if;
  if old.event_type like 'Reverted%' then new.status := old.status; end if;
  return new;
end $$;
create function shop_objection() returns trigger language plpgsql as $$
begin
  if new.event_type like 'Deferred%' then raise exception 'too late' using errcode = 'ZZ998'; end if;
  return null;
end $$;
create constraint trigger shop_objection after update on outbox_events deferrable initially deferred
  for each row execute function shop_objection();
create trigger shop_guard before update or delete on outbox_events for each row execute function shop_guard();
";

/// The view that lanes read, such that reading some rows fails.
const POISON: &str = "
do $$
declare columns text;
begin
  select string_agg(case column_name
    when 'event_version' then 'case when event_type = ''Unreadable'' then 1 / (id - id)::int else event_version end as event_version'
    else quote_ident(column_name) end, ', ' order by ordinal_position)
  into columns from information_schema.columns where table_name = 'outbox_claimable' and table_schema = current_schema();
  alter view outbox_claimable rename to shop_claimable;
  execute 'create view outbox_claimable with (security_invoker = true) as select ' || columns || ' from shop_claimable';
end $$";

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Published,
    /// Its row does not say so, and this is what it answered: an SQLSTATE, or how it begins.
    PublishedUnmarked(&'static str),
    /// With this in `last_error`.
    Failed(&'static str),
    Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No topic, and attempts that cannot be counted any further.
    Attempts,
    /// Violates a check that is NOT VALID, and can be published.
    Checked,
    /// The same, and cannot be published either.
    CheckedNoTopic,
    Guarded,
    GuardedNoTopic,
    /// Waits behind a failed one, and refuses that.
    GuardedBehind,
    Slow,
    Unreadable,
    /// A trigger skips each update and delete, without an error.
    Silent,
    SilentNoTopic,
    SilentBehind,
    /// A trigger puts the state back.
    Reverted,
    RevertedNoTopic,
    RevertedBehind,
    /// Refused when the transaction commits.
    Deferred,
    DeferredNoTopic,
}

const KINDS: [Kind; 16] = [
    Kind::Attempts,
    Kind::Checked,
    Kind::CheckedNoTopic,
    Kind::Guarded,
    Kind::GuardedNoTopic,
    Kind::GuardedBehind,
    Kind::Slow,
    Kind::Unreadable,
    Kind::Silent,
    Kind::SilentNoTopic,
    Kind::SilentBehind,
    Kind::Reverted,
    Kind::RevertedNoTopic,
    Kind::RevertedBehind,
    Kind::Deferred,
    Kind::DeferredNoTopic,
];

impl Kind {
    /// Type of the event, whether it has a topic, its attempts; and what becomes of it and of one more event of its
    /// key.
    fn row(self) -> (&'static str, bool, i32, Expected, Expected) {
        use Expected::{Failed, Held, Published, PublishedUnmarked};
        match self {
            Self::Attempts => ("Attempts", false, i32::MAX, Failed("no-topic: "), Held),
            Self::Checked => ("Forbidden", true, 0, PublishedUnmarked("23514"), Published),
            Self::CheckedNoTopic => ("Forbidden", false, 0, Failed("23514"), Held),
            Self::Guarded => ("Guarded", true, 0, PublishedUnmarked("P0001"), Published),
            Self::GuardedNoTopic => ("Guarded", false, 0, Failed("P0001"), Held),
            Self::GuardedBehind => ("GuardedBehind", true, 0, Held, Held),
            Self::Silent => ("Silent", true, 0, PublishedUnmarked("27000"), Published),
            Self::SilentNoTopic => ("Silent", false, 0, Failed("27000"), Held),
            Self::SilentBehind => ("SilentBehind", true, 0, Held, Held),
            Self::Reverted => ("Reverted", true, 0, PublishedUnmarked("27"), Published),
            Self::RevertedNoTopic => ("Reverted", false, 0, Failed("27000"), Held),
            Self::RevertedBehind => ("RevertedBehind", true, 0, Held, Held),
            Self::Deferred => ("Deferred", true, 0, PublishedUnmarked("ZZ998"), Published),
            Self::DeferredNoTopic => ("Deferred", false, 0, Failed("ZZ998"), Held),
            Self::Slow => ("Slow", true, 0, PublishedUnmarked("5"), Published),
            Self::Unreadable => {
                ("Unreadable", true, 0, Failed("unreadable: PostgreSQL cannot read the row (SQLSTATE 22012)"), Held)
            }
        }
    }
}

struct Shop {
    database: TestDatabase,
    client: Client,
    topic: Topic,
    relay: Relay,
    /// Of the good rows, and of bad ones that are published, by key.
    committed: HashMap<String, Vec<i64>>,
    tracking: &'static str,
    after_publish: &'static str,
}

#[derive(Debug, Clone, Copy)]
struct Way {
    delivery: &'static str,
    tracking: &'static str,
    after_publish: &'static str,
}

impl Shop {
    async fn open(way: Way) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated("hostile"), Topic::create("hostile", 3));
        let client = database.connect().await;
        client.batch_execute(STRANGE).await.expect("the trigger");
        // For as long as the test lasts.
        client.execute("select pg_advisory_lock(4711)", &[]).await.expect("a lock");
        client.batch_execute(POISON).await.expect("the view");
        let relay = RelaySettings::new(&database, &parts().kafka)
            .set("relay.delivery", way.delivery)
            .set("relay.tracking", way.tracking)
            .set("relay.after_publish", way.after_publish)
            .steady()
            .set("run.deployment", &unique("hostile"))
            .set("database.statement_timeout", "2s")
            .start_ready()
            .await;
        let Way { tracking, after_publish, .. } = way;
        Self { database, client, topic, relay, committed: HashMap::new(), tracking, after_publish }
    }

    /// Inserts in one transaction, the bad rows spread among the good ones. Returns what is expected of each id.
    async fn insert(&mut self, kinds: &[Kind], bad: usize, good: usize) -> Vec<(i64, Expected)> {
        let name = unique("key");
        let mut rows = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            for n in 0..bad {
                let (event_type, has_topic, attempts, expected, behind) = kind.row();
                let key = format!("{name}-bad-{index}-{n}");
                if matches!(kind, Kind::GuardedBehind | Kind::SilentBehind | Kind::RevertedBehind) {
                    rows.push((key.clone(), "NoTopic", false, 0, Expected::Failed("no-topic")));
                } else {
                    rows.push((key.clone(), "Good", true, 0, Expected::Published));
                }
                rows.push((key.clone(), event_type, has_topic, attempts, expected));
                rows.push((key, "Good", true, 0, behind));
            }
        }
        let of_bad = rows.len();
        for n in 0..good {
            // Several of each key, between the bad ones.
            let row = (format!("{name}-good-{}", n % 10), "Good", true, 0, Expected::Published);
            rows.insert((n * 7) % (of_bad + n + 1), row);
        }
        // A check that is NOT VALID, and rows that were there before it.
        let mut statement = "begin; alter table outbox_events drop constraint if exists shop_types;\n".to_owned();
        for (key, event_type, has_topic, attempts, _) in &rows {
            let topic = if *has_topic { format!("'{}'", self.topic.name) } else { "null".to_owned() };
            writeln!(
                statement,
                "insert into outbox_events (aggregate_id, event_type, topic, payload, retry_count) \
                 values ('{key}', '{event_type}', {topic}, '{{\"secret\": \"SECRET\"}}', {attempts}) returning id;"
            )
            .expect("a String grows");
        }
        statement.push_str(
            "alter table outbox_events add constraint shop_types check (event_type <> 'Forbidden') not valid; commit",
        );
        // PostgreSQL may choose it as the victim of a deadlock: it takes the table from lanes that wait for a row.
        let answers =
            wait_until("the rows are there", PATIENCE, async || match self.client.simple_query(&statement).await {
                Ok(answers) => Ok(answers),
                Err(error) => {
                    self.client.batch_execute("rollback").await.expect("rollback");
                    assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}");
                    Err(error.to_string())
                }
            })
            .await;
        let ids = answers.iter().filter_map(|answer| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = answer else { return None };
            row.get(0).and_then(|id| id.parse::<i64>().ok())
        });
        let mut expected = Vec::new();
        for ((key, .., what), id) in rows.into_iter().zip(ids) {
            if matches!(what, Expected::Published | Expected::PublishedUnmarked(_)) {
                self.committed.entry(key).or_default().push(id);
            }
            expected.push((id, what));
        }
        expected
    }

    async fn state(&self, id: i64) -> Option<(String, Option<String>, Option<String>)> {
        let statement = "select c.status, c.last_error, o.sqlstate \
            from outbox_current c left join outbox_outcomes o using (id) where id = $1";
        let row = self.client.query_opt(statement, &[&id]).await;
        row.expect("the state").map(|row| (row.get(0), row.get(1), row.get(2)))
    }

    async fn is_as(&self, id: i64, expected: Expected) -> Result<(), String> {
        let state = self.state(id).await;
        let fits = match (&state, expected) {
            (None, Expected::Published | Expected::PublishedUnmarked("23514" | "27" | "ZZ998")) => {
                self.after_publish == "delete"
            }
            (None, _) => false,
            // In time, or after waiting for a slow one in vain.
            (Some((status, _, code)), Expected::Published) => {
                status == "PUBLISHED" && code.as_ref().is_none_or(|code| code.starts_with('5'))
            }
            // A watermark passes a row without writing to it.
            (Some((status, _, code)), Expected::PublishedUnmarked(answer)) => {
                status == "PUBLISHED"
                    && (self.tracking == "watermark" || code.as_ref().is_some_and(|code| code.starts_with(answer)))
            }
            (Some((status, error, _)), Expected::Failed(says)) => {
                status == "FAILED" && error.as_ref().is_some_and(|error| error.contains(says))
            }
            (Some((status, ..)), Expected::Held) => status == "HELD",
        };
        if fits { Ok(()) } else { Err(format!("row {id} is {state:?}, expected {expected:?}")) }
    }

    #[track_caller]
    fn settles(&self, what: &str, rows: Vec<(i64, Expected)>) -> impl Future<Output = ()> {
        wait_until(what, PATIENCE, async move || {
            for (id, expected) in &rows {
                self.is_as(*id, *expected).await?;
            }
            Ok(())
        })
    }

    /// Every event that is to be published is in Kafka once and in order, and the relay is ready.
    async fn close(mut self) {
        let sent = sent_ids(&self.topic.records().await);
        order::check(&self.committed, &sent).expect_kept().expect_no_repeats();
        self.relay.wait_for_readiness(200, "").await;
        let (_, metrics) = http::get(self.relay.admin(), "/metrics").await.expect("an answer");
        assert!(!metrics.contains("SECRET"), "metrics:\n{metrics}");
        self.relay.terminate().await;
        let log = self.relay.log_text();
        assert_eq!(log.lines().find(|line| line.contains("SECRET")), None, "nothing of a row is in the log");
        assert!(!log.contains("below the scan bound"), "the sweep found nothing:\n{log}");
        drop(self.database);
    }
}

const MARKS: Way = Way { delivery: "at-least-once", tracking: "rows", after_publish: "mark" };

/// Promise: bad-rows.
#[tokio::test]
async fn any_number_of_bad_rows_among_any_number_of_good_ones() {
    // Those that wait for a timeout do so beside the others.
    let (slow, quick): (Vec<Kind>, Vec<Kind>) = KINDS.into_iter().partition(|kind| *kind == Kind::Slow);
    let (first, second) = quick.split_at(quick.len() / 2);
    side_by_side([slow.as_slice(), first, second], async |kinds| {
        let mut shop = Shop::open(MARKS).await;
        for kind in kinds {
            for (bad, good) in [(1, 0), (1, 60), (2, 1), (9, 60)] {
                // Each takes a timeout, of a statement or of a lock.
                if *kind == Kind::Slow && bad * good > 60 {
                    continue;
                }
                let rows = shop.insert(&[*kind], bad, good).await;
                shop.settles(&format!("{bad} bad rows ({kind:?}) among {good} good ones"), rows).await;
            }
        }
        let rows = shop.insert(&[], 0, 60).await;
        shop.settles("no bad row", rows).await;
        shop.close().await;
    })
    .await;
}

async fn all_kinds_at_once(way: Way) {
    let mut shop = Shop::open(way).await;
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| *kind != Kind::Slow).collect();
    for (bad, good) in [(1, 100), (5, 300)] {
        let rows = shop.insert(&kinds, bad, good).await;
        shop.settles(&format!("{bad} bad rows of each kind among {good} good ones ({way:?})"), rows).await;
    }
    shop.close().await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_where_rows_are_marked() {
    all_kinds_at_once(MARKS).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_where_rows_are_deleted() {
    all_kinds_at_once(Way { after_publish: "delete", ..MARKS }).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_under_a_watermark() {
    all_kinds_at_once(Way { tracking: "watermark", ..MARKS }).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_in_transactions() {
    all_kinds_at_once(Way { delivery: "exactly-once", ..MARKS }).await;
}

#[tokio::test]
async fn all_kinds_at_once_in_transactions_under_a_watermark() {
    all_kinds_at_once(Way { delivery: "exactly-once", tracking: "watermark", ..MARKS }).await;
}

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
        let due = "update outbox_held_keys set release_at = now() where partition_key = 'a'";
        assert_eq!(shop.client.execute(due, &[]).await.expect("its time has come"), 1);
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
