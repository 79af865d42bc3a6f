//! Replays that end in the middle: killed, stopped, taken over by another process, cut off from PostgreSQL.

use std::time::Duration;

use super::{copies, expect_each_copied_once, fill_published, replay};
use crate::support::cli::Finished;
use crate::support::{TestDatabase, wait_until};

fn resume_id(finished: &Finished) -> String {
    let (_, id) = finished.stderr.split_once("replay --resume ").unwrap_or_else(|| panic!("no command: {finished:?}"));
    id.split_whitespace().next().expect("an id").to_owned()
}

/// Promise: replay.
#[tokio::test]
async fn a_replay_that_is_killed_goes_on_where_it_was() {
    let database = TestDatabase::migrated("replay-kill").await;
    let client = database.connect().await;
    fill_published(&client, 4_000).await;
    let command = ["--topic", "old-topic", "--to-topic", "new-topic", "--yes"];
    let call = |extra: &[&str]| replay(&database, &[&command[..], extra].concat()).env("KAFKA_BOOTSTRAP_SERVERS", "");
    let running = call(&["--rate", "200"]).start();
    wait_until("some copies are made", Duration::from_secs(30), async || {
        let made = copies(&client).await;
        if made >= 100 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    running.signal("KILL");
    running.finish().await;
    let made = copies(&client).await;
    assert!((100..4_000).contains(&made), "{made} copies when it was killed");

    let again = call(&[]).run().await.expect_code(6);
    assert!(again.stderr.contains("unfinished"), "{}", again.stderr);
    let id = resume_id(&again);
    assert_eq!(copies(&client).await, made, "it copied nothing");
    // What was inserted or published since does not belong to it.
    fill_published(&client, 10).await;
    let dry = replay(&database, &["--resume", &id, "--dry-run"]).run().await.expect_code(0);
    assert_eq!((dry.json()["copied"].as_i64(), copies(&client).await), (Some(made), made));
    let done = replay(&database, &["--resume", &id, "--rate", "1000000"]).run().await.expect_code(0).json();
    assert_eq!((&done["matched"], &done["copied"], &done["finished"]), (&4_000.into(), &4_000.into(), &true.into()));
    expect_each_copied_once(&client, 4_000).await;
    let elsewhere: i64 = client
        .query_one("select count(*) from outbox_events where replay_of is not null and topic <> 'new-topic'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(elsewhere, 0, "the topic of the copies is that of the first command");
    // It is finished: to go on changes nothing, and the same command is a new replay.
    let once_more = replay(&database, &["--resume", &id]).run().await.expect_code(0);
    assert!(once_more.stderr.contains("finished"), "{}", once_more.stderr);
    expect_each_copied_once(&client, 4_000).await;
    replay(&database, &["--id", "1", "--yes"]).run().await.expect_code(0);
}

/// Promise: replay.
#[tokio::test]
async fn two_processes_that_resume_one_replay_copy_each_event_once() {
    let database = TestDatabase::migrated("replay-two").await;
    let client = database.connect().await;
    fill_published(&client, 3_000).await;
    let first = replay(&database, &["--key", "k1", "--from", "2020-01-01", "--rate", "10", "--yes"]).start();
    let made = |least: i64| {
        let client = &client;
        wait_until("it copies", Duration::from_secs(30), async move || {
            let made = copies(client).await;
            if made >= least { Ok(()) } else { Err(format!("{made}")) }
        })
    };
    made(1).await;
    let id: String = client.query_one("select id::text from outbox_replays", &[]).await.unwrap().get(0);
    // While the first one works: it is told, and ends; of two that come together one goes on.
    let second = replay(&database, &["--resume", &id, "--rate", "10"]).start();
    let first = first.finish().await.expect_code(5);
    assert!(first.stderr.contains("another process"), "{}", first.stderr);
    let third = replay(&database, &["--resume", &id, "--rate", "100000"]).start();
    let (second, third) = tokio::join!(second.finish(), third.finish());
    let mut codes = [second.code, third.code];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(5)], "{second:?}\n{third:?}");
    let rows =
        client.query("select replay_of from outbox_events where replay_of is not null order by id", &[]).await.unwrap();
    let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, (0..300).map(|n| n * 10 + 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn ctrl_c_ends_with_5_and_the_command_to_go_on() {
    let database = TestDatabase::migrated("replay-ctrl-c").await;
    let client = database.connect().await;
    fill_published(&client, 2_000).await;
    let running = replay(&database, &["--topic", "old-topic", "--rate", "100", "--yes"]).start();
    wait_until("it copies", Duration::from_secs(30), async || {
        let made = copies(&client).await;
        if made >= 40 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    running.signal("INT");
    let stopped = running.finish().await.expect_code(5);
    assert!(stopped.stderr.contains("OR-U003") && stopped.stdout.is_empty(), "{stopped:?}");
    let made = copies(&client).await;
    assert!(made < 2_000, "{made}");
    let noted: i64 = client.query_one("select copied from outbox_replays", &[]).await.unwrap().get(0);
    assert_eq!(noted, made, "the progress is that of the copies");
    replay(&database, &["--resume", &resume_id(&stopped), "--rate", "100000"]).run().await.expect_code(0);
    expect_each_copied_once(&client, 2_000).await;
}

/// As when PostgreSQL restarts: the statement in hand ends with its session.
#[tokio::test]
async fn a_replay_that_loses_its_session_in_the_middle_goes_on_by_itself() {
    let database = TestDatabase::migrated("replay-session").await;
    let mut client = database.connect().await;
    let watch = database.connect().await;
    fill_published(&client, 1_000).await;
    let running = replay(&database, &["--topic", "old-topic", "--rate", "100", "--yes"]).start();
    wait_until("it copies", Duration::from_secs(30), async || {
        let made = copies(&watch).await;
        if made >= 20 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    let holding = client.transaction().await.unwrap();
    holding.query("select id from outbox_replays for update", &[]).await.unwrap();
    wait_until("its session waits, and is ended", Duration::from_secs(30), async || {
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
            where datname = current_database() and application_name = 'outbox-relay admin' and wait_event_type = 'Lock'";
        let ended: i64 = watch.query_one(ended, &[]).await.unwrap().get(0);
        if ended == 1 { Ok(()) } else { Err(format!("{ended}")) }
    })
    .await;
    holding.rollback().await.unwrap();
    let done = running.finish().await.expect_code(0);
    assert!(done.stderr.contains("retrying"), "{}", done.stderr);
    assert_eq!(done.json()["copied"], 1_000);
    expect_each_copied_once(&client, 1_000).await;
}
