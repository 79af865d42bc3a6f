//! Rows that make a statement of the step fail: each costs itself and its key, and nobody else.
//!
//! Every case is one transaction of bad rows among good ones of other keys, so that they meet in the same batches.

mod keys;
mod kinds;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::kafka::sent_ids;
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{Relay, TestDatabase, Topic, http, order, unique, wait_until};

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
