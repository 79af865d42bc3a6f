//! Jobs: long-running commands are listed, cancelled and resumed from any process, and nothing is done twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::cli::{Call, Finished, Started};
use crate::support::{TestDatabase, outbox_relay, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn call(database: &TestDatabase, args: &[&str]) -> Call {
    let args = [args, &["-o", "json"]].concat();
    outbox_relay(&args).env("DATABASE_URL", &database.url).env("KAFKA_BOOTSTRAP_SERVERS", "")
}

async fn jobs(database: &TestDatabase) -> Vec<Value> {
    let listed = call(database, &["jobs", "ls"]).run().await.expect_code(0).json();
    listed.as_array().expect("a list").clone()
}

async fn show(database: &TestDatabase, id: &str) -> Value {
    call(database, &["jobs", "show", id]).run().await.expect_code(0).json()
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// Rows that were published ten days ago, over ten keys, with ids from 1 on.
async fn fill_published(client: &Client, count: i64) {
    client
        .execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, status, created_at, published_at) \
             select 'customer-' || n % 10, 'E', 't', '{}', 'PUBLISHED', now() - interval '10 days', now() - interval '10 days' \
             from generate_series(1, $1::bigint) as n",
            &[&count],
        )
        .await
        .expect("rows");
}

const COPIES: &str = "select count(*) from outbox_events where replay_of is not null";

/// Starts a slow replay, and waits until it has made some copies.
async fn start_replay(database: &TestDatabase, client: &Client, args: &[&str]) -> (Started, String) {
    let running = call(database, &[&["replay", "--rate", "200", "--yes"], args].concat()).start();
    wait_until("it copies", PATIENCE, async || {
        let made = number(client, COPIES).await;
        if made >= 40 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    let id = client.query_one("select id::text from outbox_jobs where kind = 'replay'", &[]).await.unwrap().get(0);
    (running, id)
}

async fn expect_each_copied_once(client: &Client, originals: i64) {
    let rows = client.query("select replay_of from outbox_events where replay_of is not null order by id", &[]).await;
    let found: Vec<i64> = rows.expect("copies").iter().map(|row| row.get(0)).collect();
    assert_eq!(found, (1..=originals).collect::<Vec<_>>(), "replay_of in the order of the copies");
}

/// Waits until the job is shown like this.
async fn wait_for_state(database: &TestDatabase, id: &str, state: &str) -> Value {
    wait_until(&format!("the job is {state}"), PATIENCE, async || {
        let job = show(database, id).await;
        if job["state"] == state { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

fn part(job: &Value) -> (i64, i64) {
    (job["parts"][0]["done"].as_i64().expect("done"), job["parts"][0]["total"].as_i64().expect("total"))
}

/// Promise: replay.
#[tokio::test]
async fn a_replay_that_is_killed_is_shown_as_stalled_and_resumed_by_another_process() {
    let database = TestDatabase::migrated("jobs-kill").await;
    let client = database.connect().await;
    fill_published(&client, 2_000).await;
    let args = ["--key", "customer-1", "--topic", "t", "--from", "2020-01-01", "--reason", "shop lost it"];
    let one_in_ten = [&args[..2], &args[2..]].concat();
    let (running, id) = start_replay(&database, &client, &one_in_ten).await;
    let job = show(&database, &id).await;
    assert_eq!((&job["state"], &job["kind"], &job["resumable"]), (&json!("running"), &json!("replay"), &json!(false)));
    assert_eq!((&job["reason"], &job["epoch"]), (&json!("shop lost it"), &json!(1)));
    assert!(job["not_resumable_because"].as_str().is_some_and(|why| why.contains("at work")), "{job}");
    let whole = jobs(&database).await;
    assert!(!json!(whole).to_string().contains("customer-1"), "a key is no business of the list: {whole:?}");

    // While it runs, nobody takes it by mistake.
    let busy = call(&database, &["jobs", "resume", &id]).run().await.expect_code(6);
    assert!(busy.stderr.contains("at work on it"), "{}", busy.stderr);
    running.signal("KILL");
    running.finish().await;
    let made = number(&client, COPIES).await;
    assert!((40..200).contains(&made), "{made} copies when it was killed");

    let stalled = wait_for_state(&database, &id, "stalled").await;
    assert_eq!((part(&stalled), &stalled["resumable"]), ((made, 200), &json!(true)), "{stalled}");
    assert_eq!(stalled["stalled_since"], stalled["updated_at"]);
    assert_eq!(jobs(&database).await.len(), 1);
    let filtered = call(&database, &["jobs", "ls", "--state", "running,done"]).run().await.expect_code(0);
    assert_eq!(filtered.json(), json!([]));

    let done = call(&database, &["jobs", "resume", &id, "--rate", "1000000"]).run().await.expect_code(0).json();
    assert_eq!((&done["copied"], &done["job"]), (&json!(200), &json!(id)));
    let rows = client.query("select replay_of from outbox_events where replay_of is not null order by id", &[]).await;
    let found: Vec<i64> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, (0..200).map(|n| n * 10 + 1).collect::<Vec<_>>());
    let ended = show(&database, &id).await;
    assert_eq!((&ended["state"], &ended["epoch"]), (&json!("done"), &json!(2)), "{ended}");
    assert_eq!(ended["result"], json!({ "matched": 200, "copied": 200 }));
    // It is done: to resume it changes nothing.
    let again = call(&database, &["jobs", "resume", &id]).run().await.expect_code(0);
    assert!(again.stderr.contains("nothing to resume"), "{}", again.stderr);
    let audit = client.query("select action from outbox_audit order by id", &[]).await.unwrap();
    let audit: Vec<String> = audit.iter().map(|row| row.get(0)).collect();
    assert_eq!(audit, ["replay", "replay resumed", "replay finished"]);
}

/// Promise: replay.
#[tokio::test]
async fn a_job_is_cancelled_from_another_process_and_resumed_where_it_stopped() {
    let database = TestDatabase::migrated("jobs-cancel").await;
    let client = database.connect().await;
    fill_published(&client, 2_000).await;
    let (running, id) = start_replay(&database, &client, &["--topic", "t"]).await;
    let dry = call(&database, &["jobs", "cancel", &id, "--dry-run"]).run().await.expect_code(0).json();
    assert_eq!(dry["state"], "running");
    let asked = call(&database, &["jobs", "cancel", &id, "--reason", "wrong topic"]).run().await.expect_code(0);
    assert!(asked.stderr.contains("stops after the portion"), "{}", asked.stderr);
    let stopped = running.finish().await.expect_code(5);
    let made = number(&client, COPIES).await;
    for says in [
        "was cancelled by",
        &format!("job {id} stopped after {made} of 2000 copies"),
        &format!("resume with: outbox-relay jobs resume {id}"),
        &format!("outbox-relay replay --resume {id}"),
    ] {
        assert!(stopped.stderr.contains(says), "{says}: {}", stopped.stderr);
    }
    let job = show(&database, &id).await;
    assert_eq!(
        (&job["state"], part(&job), &job["resumable"]),
        (&json!("cancelled"), (made, 2_000), &json!(true)),
        "{job}"
    );
    assert!(job["cancelled_by"].is_string() && job["ended_at"].is_string(), "{job}");
    let twice = call(&database, &["jobs", "cancel", &id]).run().await.expect_code(0);
    assert!(twice.stderr.contains("had ended already"), "{}", twice.stderr);

    // Ctrl-C stops it as well.
    let resumed = call(&database, &["jobs", "resume", &id, "--rate", "200"]).start();
    wait_until("it copies again", PATIENCE, async || {
        let now = number(&client, COPIES).await;
        if now >= made + 40 { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    resumed.signal("INT");
    let stopped = resumed.finish().await.expect_code(5);
    assert!(stopped.stderr.contains(&format!("jobs resume {id}")), "{}", stopped.stderr);
    assert_eq!(show(&database, &id).await["state"], "cancelled");
    call(&database, &["jobs", "resume", &id, "--rate", "1000000"]).run().await.expect_code(0);
    expect_each_copied_once(&client, 2_000).await;
    assert_eq!(show(&database, &id).await["state"], "done");
    let cancelled =
        number(&client, "select count(*) from outbox_audit where action = 'job cancelled' and reason = 'wrong topic'")
            .await;
    assert_eq!(cancelled, 1);
}

/// A process that did not respond for a while finds its job taken.
///
/// Promise: replay.
#[tokio::test]
async fn a_frozen_process_whose_job_was_resumed_elsewhere_changes_nothing_more() {
    let database = TestDatabase::migrated("jobs-frozen").await;
    let client = database.connect().await;
    fill_published(&client, 1_000).await;
    let (frozen, id) = start_replay(&database, &client, &["--topic", "t"]).await;
    frozen.signal("STOP");
    wait_for_state(&database, &id, "stalled").await;
    let successor = call(&database, &["jobs", "resume", &id, "--rate", "100"]).start();
    wait_until("the successor has it", PATIENCE, async || {
        let epoch = number(&client, "select epoch from outbox_jobs").await;
        if epoch == 2 { Ok(()) } else { Err(format!("epoch {epoch}")) }
    })
    .await;
    frozen.signal("CONT");
    let fenced = frozen.finish().await.expect_code(5);
    assert!(fenced.stderr.contains("another process"), "{}", fenced.stderr);
    successor.finish().await.expect_code(0);
    expect_each_copied_once(&client, 1_000).await;
    let job = show(&database, &id).await;
    assert_eq!((&job["state"], &job["error"]), (&json!("done"), &Value::Null), "{job}");
}

/// Cancelled while frozen: no process is there to hear it, so the job ends at once, and the process is fenced.
#[tokio::test]
async fn a_stalled_job_is_cancelled_at_once_and_its_process_finds_out() {
    let database = TestDatabase::migrated("jobs-frozen-cancel").await;
    let client = database.connect().await;
    fill_published(&client, 1_000).await;
    let (frozen, id) = start_replay(&database, &client, &["--topic", "t"]).await;
    frozen.signal("STOP");
    wait_for_state(&database, &id, "stalled").await;
    let cancelled = call(&database, &["jobs", "cancel", &id]).run().await.expect_code(0);
    assert_eq!(cancelled.json()["state"], "cancelled");
    let made = number(&client, COPIES).await;
    frozen.signal("CONT");
    let fenced = frozen.finish().await.expect_code(5);
    assert!(fenced.stderr.contains("it was cancelled"), "{}", fenced.stderr);
    assert_eq!(number(&client, COPIES).await, made, "a portion that was begun before was rolled back");
    assert_eq!(show(&database, &id).await["state"], "cancelled");
}

/// Both have been planned before either begins.
#[tokio::test]
async fn of_two_that_start_the_same_replay_at_once_one_is_refused() {
    let database = TestDatabase::migrated("jobs-same").await;
    let mut client = database.connect().await;
    let watch = database.connect().await;
    fill_published(&client, 500).await;
    // Both wait where a replay begins.
    let holding = client.transaction().await.unwrap();
    holding.batch_execute("lock table outbox_replays in share mode").await.unwrap();
    let start = || call(&database, &["replay", "--topic", "t", "--yes"]).start();
    let (one, other) = (start(), start());
    wait_until("both are about to begin", PATIENCE, async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
            and application_name like 'outbox-relay%'";
        let waiting = number(&watch, waiting).await;
        if waiting == 2 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    holding.rollback().await.unwrap();
    let (one, other) = tokio::join!(one.finish(), other.finish());
    let mut codes = [one.code, other.code];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(6)], "{one:?}\n{other:?}");
    let refused = if one.code == Some(6) { one } else { other };
    assert!(refused.stderr.contains("unfinished") && refused.stderr.contains("--again"), "{}", refused.stderr);
    expect_each_copied_once(&watch, 500).await;
    assert_eq!(jobs(&database).await.len(), 1);
}

/// A batch that deletes this row waits until the lock is free.
async fn gate_at(client: &Client, id: i64) {
    let gate = format!(
        "create or replace function gate() returns trigger language plpgsql as $$ begin \
           if old.id = {id} then perform pg_advisory_xact_lock(7420); end if; return old; end $$; \
         create or replace trigger gate before delete on outbox_events for each row execute function gate(); \
         select pg_advisory_lock(7420)"
    );
    client.batch_execute(&gate).await.unwrap();
}

async fn wait_at_the_gate(client: &Client) {
    wait_until("a batch is at the gate", PATIENCE, async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7420 and not granted \
            and database = (select oid from pg_database where datname = current_database())";
        match number(client, waiting).await {
            1 => Ok(()),
            sessions => Err(format!("{sessions} sessions wait there")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_cleanup_with_a_limit_keeps_it_over_a_kill() {
    let database = TestDatabase::migrated("jobs-cleanup").await;
    let client = database.connect().await;
    fill_published(&client, 300).await;
    gate_at(&client, 75).await;
    let args = ["cleanup", "--older-than", "7d", "--limit", "200", "--yes", "--set", "cleanup.batch_rows=10"];
    let running = call(&database, &args).start();
    wait_at_the_gate(&client).await;
    let id: String = client.query_one("select id::text from outbox_jobs", &[]).await.unwrap().get(0);
    let job = show(&database, &id).await;
    assert_eq!((part(&job), &job["kind"]), ((70, 200), &json!("cleanup")), "{job}");
    running.signal("KILL");
    running.finish().await;
    client.batch_execute("select pg_advisory_unlock(7420); drop trigger gate on outbox_events").await.unwrap();
    wait_for_state(&database, &id, "stalled").await;
    let resumed = call(&database, &["jobs", "resume", &id]).run().await.expect_code(0);
    let left = number(&client, "select count(*) from outbox_events").await;
    assert_eq!((left, resumed.json()[0]["deleted"].as_i64().map(|n| n >= 120)), (100, Some(true)), "{resumed:?}");
    let job = show(&database, &id).await;
    assert_eq!(
        (&job["state"], part(&job), &job["result"]["published"]),
        (&json!("done"), (200, 200), &json!(200)),
        "{job}"
    );
}

/// The batch in hand is rolled back, so a limit is kept even if two processes believe that they have the job.
#[tokio::test]
async fn a_cleanup_that_is_taken_over_deletes_nothing_more() {
    let database = TestDatabase::migrated("jobs-cleanup-taken").await;
    let client = database.connect().await;
    fill_published(&client, 100).await;
    gate_at(&client, 45).await;
    let args = ["cleanup", "--older-than", "7d", "--limit", "60", "--yes", "--set", "cleanup.batch_rows=10"];
    let first = call(&database, &args).start();
    wait_at_the_gate(&client).await;
    let id: String = client.query_one("select id::text from outbox_jobs", &[]).await.unwrap().get(0);
    first.signal("STOP");
    let second = call(&database, &["jobs", "resume", &id, "--take-over"]).run().await.expect_code(0);
    // It passed over the rows that the first has locked.
    assert_eq!(second.json()[0]["deleted"], 20);
    client.batch_execute("select pg_advisory_unlock(7420)").await.unwrap();
    first.signal("CONT");
    let first = first.finish().await.expect_code(5);
    assert!(first.stderr.contains("another process"), "{}", first.stderr);
    assert_eq!(number(&client, "select count(*) from outbox_events").await, 40, "60 in all");
    assert_eq!(show(&database, &id).await["state"], "done");
}

#[tokio::test]
async fn a_change_of_shards_is_listed_and_continues_the_job_that_was_interrupted() {
    let database = TestDatabase::migrated("jobs-shards").await;
    let mut client = database.connect().await;
    let set = |extra: &[&str]| call(&database, &[&["shards", "set", "5", "--yes"], extra].concat());
    let done = set(&[]).run().await.expect_code(0).json();
    let job = show(&database, done["job"].as_str().expect("a job")).await;
    assert_eq!((&job["kind"], &job["state"], &job["result"]["shards"]), (&json!("reshard"), &json!("done"), &json!(5)));

    // A writer that stays open makes it give up; the job says so, and can be resumed.
    let open = client.transaction().await.unwrap();
    open.execute("insert into outbox_events (event_type, topic, payload) values ('E', 't', '{}')", &[]).await.unwrap();
    let failed = call(&database, &["shards", "set", "6", "--yes", "--timeout", "1s"]).run().await.expect_code(6);
    assert!(failed.stderr.contains("nothing was changed"), "{}", failed.stderr);
    let newest = jobs(&database).await[0].clone();
    assert_eq!((&newest["state"], &newest["error_code"]), (&json!("failed"), &json!("OR-D001")), "{newest}");
    assert_eq!(newest["arguments"], json!({ "shards": 6, "timeout_seconds": 1.0 }));
    open.commit().await.unwrap();
    let id = newest["id"].as_str().expect("an id").to_owned();
    call(&database, &["jobs", "resume", &id]).run().await.expect_code(0);
    let job = show(&database, &id).await;
    assert_eq!((&job["state"], &job["epoch"], &job["error"]), (&json!("done"), &json!(2), &Value::Null), "{job}");
    let shards = call(&database, &["shards", "ls"]).run().await.expect_code(0).json();
    assert_eq!(shards.as_array().map(Vec::len), Some(6));
}

#[tokio::test]
async fn a_job_is_followed_to_its_end() {
    let database = TestDatabase::migrated("jobs-follow").await;
    let client = database.connect().await;
    fill_published(&client, 800).await;
    let (running, id) = start_replay(&database, &client, &["--topic", "t"]).await;
    let following = outbox_relay(&["jobs", "show", &id, "--follow", "-o", "ndjson"]).env("DATABASE_URL", &database.url);
    let (running, followed): (Finished, Finished) = tokio::join!(running.finish(), following.run());
    running.expect_code(0);
    let followed = followed.expect_code(0);
    let lines: Vec<Value> = followed.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() > 1, "{}", followed.stdout);
    assert!(lines.windows(2).all(|pair| part(&pair[0]).0 <= part(&pair[1]).0), "{}", followed.stdout);
    assert_eq!((&lines[0]["state"], &lines[lines.len() - 1]["state"]), (&json!("running"), &json!("done")));
}

/// The copies matter more than the record of them.
#[tokio::test]
async fn a_role_that_may_not_record_jobs_still_works_and_is_told_once() {
    let database = TestDatabase::migrated("jobs-role").await;
    let client = database.connect().await;
    fill_published(&client, 20).await;
    let role = database.name().to_owned();
    client
        .batch_execute(&format!(
            "create role {role} login; grant select on all tables in schema public to {role}; \
             grant select on all sequences in schema public to {role}; \
             grant insert, update on outbox_events, outbox_replays to {role}; grant insert on outbox_audit to {role}"
        ))
        .await
        .unwrap();
    let poor = TestDatabase { url: database.url.replacen("postgres@", &format!("{role}@"), 1) };
    let done = call(&poor, &["replay", "--topic", "t", "--yes"]).run().await.expect_code(0);
    assert_eq!((&done.json()["copied"], &done.json()["job"]), (&json!(20), &Value::Null));
    assert_eq!(done.stderr.matches("not recorded as a job").count(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("docs/roles.sql"), "{}", done.stderr);
    assert_eq!(jobs(&poor).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_is_not_there_and_what_makes_no_sense_is_told() {
    let database = TestDatabase::migrated("jobs-bad").await;
    let client = database.connect().await;
    let nobody = "0198f2c4-0000-7000-8000-000000000001";
    let foreign = "0198f2c4-0000-7000-8000-000000000002";
    client
        .batch_execute(&format!(
            "insert into outbox_jobs (id, kind, arguments, actor, runner, run_by, lease_until) values \
             ('{foreign}', 'rebuild', '{{}}', 'me', gen_random_uuid(), 'me process 7', '-infinity')"
        ))
        .await
        .unwrap();
    for (args, code, says) in [
        (&["show", nobody][..], 6, "OR-U002"),
        (&["cancel", nobody], 6, "jobs ls"),
        (&["resume", nobody], 6, "OR-U002"),
        (&["resume", foreign], 6, "another version"),
        (&["show", "17"], 2, "JOB"),
        (&["ls", "--state", "lost"], 2, "stalled"),
        (&["ls", "--kind", "lost"], 2, "redrive"),
    ] {
        let refused = call(&database, &[&["jobs"], args].concat()).run().await.expect_code(code);
        assert!(refused.stderr.contains(says), "{args:?}: {}", refused.stderr);
    }
    let job = show(&database, foreign).await;
    assert_eq!((&job["state"], &job["resumable"]), (&json!("stalled"), &json!(false)), "{job}");
}
