//! The command `cleanup`: counts, asks, deletes, can be stopped and gone on with, and leaves a record.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::cli::{Finished, clean_environment};
use crate::support::{BINARY, TestDatabase, outbox_relay, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

async fn run(database: &TestDatabase, args: &[&str]) -> Finished {
    outbox_relay(&[&["cleanup", "-o", "json"], args].concat()).env("DATABASE_URL", &database.url).run().await
}

/// `n` rows of a state, ten days old in every respect.
async fn put(client: &Client, state: &str, n: i64) {
    client
        .execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, status, created_at, published_at, failed_at, last_error) \
             select 'k' || n % 50, 'E', 't', '{}', $1::text, now() - interval '10 days', \
               case when $1 = 'PUBLISHED' then now() - interval '10 days' end, \
               case when $1 in ('FAILED', 'DISCARDED') then now() - interval '10 days' end, \
               case when $1 = 'FAILED' then 'refused' end \
             from generate_series(1, $2::bigint) n",
            &[&state, &n],
        )
        .await
        .expect("rows");
}

async fn count(client: &Client) -> i64 {
    client.query_one("select count(*) from outbox_events", &[]).await.expect("a count").get(0)
}

/// Action and details of every audit row, the oldest first.
async fn audit(client: &Client) -> Vec<(String, Value, Option<String>)> {
    let rows = client.query("select action, details, reason from outbox_audit order by id", &[]).await.expect("audit");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn it_deletes_what_was_asked_for_and_says_so() {
    let database = TestDatabase::migrated("cleanup-command").await;
    let client = database.connect().await;
    for (state, n) in [("PUBLISHED", 250), ("DISCARDED", 30), ("FAILED", 20), ("PENDING", 10), ("HELD", 10)] {
        put(&client, state, n).await;
    }
    client
        .batch_execute(
            "insert into outbox_held_keys (first_id, shard, partition_key, reason) \
             select min(id), min(shard), min(aggregate_id), 'failed' from outbox_current where status = 'FAILED'; \
             insert into event_handled (consumer_group, event_id, topic, partition, \"offset\", handled_at) \
             select 'g', gen_random_uuid(), 't', 0, n, now() - n * interval '1 day' from generate_series(1, 20) n",
        )
        .await
        .unwrap();

    let dry =
        run(&database, &["--older-than", "7d", "--status", "published,failed,discarded,handled", "--dry-run"]).await;
    let counted = json!([
        { "status": "published", "found": 250, "kept": 0, "deleted": 0 },
        { "status": "discarded", "found": 30, "kept": 0, "deleted": 0 },
        { "status": "failed", "found": 19, "kept": 1, "deleted": 0 },
        { "status": "handled", "found": 14, "kept": 0, "deleted": 0 },
    ]);
    let dry = dry.expect_code(0);
    assert_eq!(dry.json(), counted);
    assert!(dry.stderr.contains("1 failed row(s) of that age stay"), "{}", dry.stderr);
    assert_eq!((count(&client).await, audit(&client).await.len()), (320, 0), "a dry run changes nothing");

    let young = run(&database, &["--older-than", "11d", "--yes"]).await.expect_code(0);
    assert!(young.stderr.contains("nothing to delete"), "{}", young.stderr);

    let default = run(&database, &["--older-than", "7d", "--yes"]).await.expect_code(0);
    assert_eq!(default.json(), json!([{ "status": "published", "found": 250, "kept": 0, "deleted": 250 }]));
    let rest = ["--older-than", "6d", "--status", "FAILED,discarded,handled", "--yes", "--reason", "ticket 17"];
    let rest = run(&database, &rest).await.expect_code(0);
    assert_eq!(rest.json()[1], json!({ "status": "failed", "found": 19, "kept": 1, "deleted": 19 }));
    assert!(rest.stderr.contains("count them twice"), "{}", rest.stderr);
    assert_eq!(count(&client).await, 21, "PENDING, HELD and the row that holds its key");
    let audit = audit(&client).await;
    let actions: Vec<&str> = audit.iter().map(|(action, _, _)| action.as_str()).collect();
    assert_eq!(actions, ["cleanup", "cleanup ended", "cleanup", "cleanup ended"]);
    assert_eq!(audit[0].1["status"], json!(["published"]));
    assert_eq!(audit[0].1["run"], audit[1].1["run"]);
    assert_eq!(audit[1].1["deleted"]["published"], 250);
    assert_eq!((audit[3].1["outcome"].as_str(), audit[3].2.as_deref()), (Some("done"), Some("ticket 17")));
}

#[tokio::test]
async fn a_limit_is_kept_and_the_next_run_goes_on() {
    let database = TestDatabase::migrated("cleanup-limit").await;
    let client = database.connect().await;
    put(&client, "PUBLISHED", 2_500).await;
    let first = run(&database, &["--older-than", "7d", "--yes", "--limit", "1100"]).await.expect_code(0);
    assert_eq!(first.json()[0]["deleted"], 1_100);
    assert_eq!(count(&client).await, 1_400);
    run(&database, &["--older-than", "0s", "--yes"]).await.expect_code(0);
    assert_eq!(count(&client).await, 0);
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_counted() {
    let nowhere = TestDatabase { url: "postgres://nobody@127.0.0.1:1/none".to_owned() };
    for (args, says) in [
        (&["--yes"][..], "--older-than"),
        (&["--older-than", "soon"], "not a duration"),
        (&["--older-than=-7d"], "must not be negative"),
        (&["--older-than", "7"], "not a duration"),
        (&["--older-than", "40000d"], "at most"),
        (&["--older-than", "7d", "--status", "pending"], "possible values"),
        (&["--older-than", "7d", "--status", "held"], "possible values"),
        (&["--older-than", "7d", "--limit", "0"], "--limit"),
        (&["--older-than", "7d", "--limit", "-1"], "unexpected argument"),
    ] {
        let refused = run(&nowhere, args).await.expect_code(2);
        assert!(refused.stderr.contains(says), "{args:?}: {}", refused.stderr);
    }
    run(&nowhere, &["--older-than", "7d", "--yes"]).await.expect_code(4);

    let database = TestDatabase::migrated("cleanup-refused").await;
    let client = database.connect().await;
    put(&client, "PUBLISHED", 5).await;
    let unasked = run(&database, &["--older-than", "7d"]).await.expect_code(2);
    assert!(unasked.stderr.contains("5 rows of") && unasked.stderr.contains("--yes"), "{}", unasked.stderr);

    let role = database.name().to_owned();
    client
        .batch_execute(&format!(
            "create role {role} login; grant select on all tables in schema public to {role}; \
             grant select on all sequences in schema public to {role}; grant insert on outbox_audit to {role}"
        ))
        .await
        .unwrap();
    let unprivileged = TestDatabase { url: database.url.replacen("postgres@", &format!("{role}@"), 1) };
    let denied = run(&unprivileged, &["--older-than", "7d", "--yes"]).await.expect_code(1);
    assert!(
        denied.stderr.contains("permission denied") && denied.stderr.contains("docs/roles.sql"),
        "{}",
        denied.stderr
    );
    run(&unprivileged, &["--older-than", "7d", "--dry-run"]).await.expect_code(0);
    assert_eq!(count(&client).await, 5);
}

/// The batch that deletes this row waits there until the gate is opened.
async fn gate_at(client: &Client, id: i64) {
    let gate = format!(
        "create or replace function gate() returns trigger language plpgsql as $$ begin \
           if old.id = {id} then perform pg_advisory_xact_lock(7419); end if; return old; end $$; \
         create or replace trigger gate before delete on outbox_events for each row execute function gate(); \
         select pg_advisory_lock(7419)"
    );
    client.batch_execute(&gate).await.unwrap();
}

/// Starts it, and sends the signal while a batch waits at the gate. Opens it once the process has heard the signal;
/// nobody hears SIGKILL.
async fn interrupted(database: &TestDatabase, client: &Client, signal: &str) -> (Option<i32>, String) {
    let said = tempfile::NamedTempFile::new().expect("a file");
    let mut command = std::process::Command::new(BINARY);
    // `-v`: it tells of the signal.
    command.args(["cleanup", "--older-than", "7d", "--yes", "-v", "--set", "cleanup.batch_rows=10"]);
    clean_environment(&mut command);
    command.env("DATABASE_URL", &database.url).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(said.reopen().expect("the file"));
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("the binary starts");
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7419 and not granted \
                   and database = (select oid from pg_database where datname = current_database())";
    let at_the_gate = async || client.query_one(waiting, &[]).await.expect("the locks").get::<_, i64>(0);
    wait_until("a batch is at the gate", LIMIT, async || match at_the_gate().await {
        1 => Ok(()),
        sessions => Err(format!("{sessions} sessions wait there")),
    })
    .await;
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().expect("kill starts").success());
    let text = || std::fs::read_to_string(said.path()).expect("UTF-8");
    if signal != "-KILL" {
        wait_until("it has heard the signal", LIMIT, async || {
            if text().contains("stopping after the current work") { Ok(()) } else { Err(text()) }
        })
        .await;
    }
    client.batch_execute("select pg_advisory_unlock(7419)").await.expect("the gate opens");
    let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("it ends").expect("its status");
    // What a killed process has left to PostgreSQL ends too.
    let others = "select count(*) from pg_stat_activity where application_name like 'outbox-relay%' and datname = current_database()";
    wait_until("its sessions have ended", LIMIT, async || {
        match client.query_one(others, &[]).await.expect("the sessions").get::<_, i64>(0) {
            0 => Ok(()),
            sessions => Err(format!("{sessions} sessions")),
        }
    })
    .await;
    (status.code(), text())
}

/// The row of this place in the order of ids.
async fn row_at(client: &Client, place: i64) -> i64 {
    let row = "select id from outbox_events order by id offset $1 limit 1";
    client.query_one(row, &[&place]).await.expect("a row").get(0)
}

#[tokio::test]
async fn ctrl_c_ends_it_after_the_batch_in_hand_and_it_can_be_gone_on_with() {
    let database = TestDatabase::migrated("cleanup-ctrl-c").await;
    let client = database.connect().await;
    put(&client, "PUBLISHED", 200).await;
    gate_at(&client, row_at(&client, 45).await).await;
    let (code, stderr) = interrupted(&database, &client, "-INT").await;
    let left = count(&client).await;
    assert_eq!(code, Some(5), "{stderr}");
    assert_eq!(left, 150, "the batch in hand is the last one");
    assert!(
        stderr.contains(&format!("{} rows were deleted", 200 - left)) && stderr.contains("run it again"),
        "{stderr}"
    );
    let ended = audit(&client).await.pop().expect("a record").1;
    assert_eq!(
        (ended["outcome"].as_str(), ended["deleted"]["published"].as_i64()),
        (Some("interrupted"), Some(200 - left))
    );

    gate_at(&client, row_at(&client, 45).await).await;
    let (code, _) = interrupted(&database, &client, "-KILL").await;
    let after_kill = count(&client).await;
    assert_eq!(code, None);
    assert!(0 < after_kill && after_kill < left && after_kill % 10 == 0, "whole batches are gone: {after_kill} left");
    client.batch_execute("drop trigger gate on outbox_events").await.unwrap();
    let last = run(&database, &["--older-than", "7d", "--yes"]).await.expect_code(0);
    assert_eq!((last.json()[0]["deleted"].as_i64(), count(&client).await), (Some(after_kill), 0));
}
