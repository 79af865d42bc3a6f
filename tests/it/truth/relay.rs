//! What events of the outbox wait for.

use super::stage::{PATIENCE, Ready, Says, Stage};
use crate::support::outbox::insert_many;
use crate::support::{http, unique, wait_until};

const RELAY: Says<'_> = Says { part: "relay", situation: "", ready: Ready::Yes, lag: 0, words: "", since: true };

#[tokio::test]
async fn a_topic_that_is_missing_holds_its_keys() {
    let stage = Stage::new("truth-no-topic").await;
    let process = stage.settings("relay,admin").set("relay.unknown_topic_grace", "10m").start_ready().await;
    let (missing, client) = (unique("truth-nowhere"), stage.database.connect().await);
    insert_many(&client, &missing, 3, 3).await;
    stage.expect(&process, &Says { situation: "topic-unavailable", words: &missing, ..RELAY }).await;
}

/// Readiness has its own words for it, as it always had.
#[tokio::test]
async fn a_paused_topic() {
    let stage = Stage::new("truth-paused").await;
    let process = stage.settings("relay,admin").start_ready().await;
    stage.command(&["pause", "--topic", &stage.topic.name]).run().await.expect_code(0);
    stage.expect_of_commands(&Says { situation: "paused", words: &stage.topic.name, ..RELAY }).await;
    wait_until("metrics and readiness name it", PATIENCE, async || {
        let (_, text) = http::get(process.admin(), "/metrics").await?;
        let (_, body) = http::get(process.admin(), "/readyz?verbose").await?;
        let counted = text.contains("outbox_relay_waits{part=\"relay\",situation=\"paused\"} 1");
        let noted = body.contains(&format!("[i]topic {} has been paused since 20", stage.topic.name));
        if counted && noted { Ok(()) } else { Err(format!("{body}\n{text}")) }
    })
    .await;
}

/// Nobody runs: then shards that belong to nobody are no news. Bounds above the last id hide what waits.
#[tokio::test]
async fn shards_that_nobody_works_on_or_counts() {
    let stage = Stage::new("truth-shards").await;
    let client = stage.database.connect().await;
    let outside = Says { since: false, ..RELAY };
    stage.expect_of_commands(&Says { situation: "no-relay", ..outside }).await;
    let lag = stage.lag().await.json();
    assert!(lag["waits"][0]["since"].is_null(), "nobody has ever run: {lag}");
    let alive =
        "insert into outbox_instances (instance, name, version, protocol) values (gen_random_uuid(), 'other', '9', 2)";
    client.batch_execute(alive).await.expect("an instance");
    client.batch_execute("update outbox_instances set heartbeat_at = now() + interval '1 hour'").await.expect("alive");
    stage.expect_of_commands(&Says { situation: "no-owner", words: "0", ..outside }).await;
    client.batch_execute("update outbox_installation set resharding_to = 5").await.expect("resharding");
    stage.expect_of_commands(&Says { situation: "resharding", ..outside }).await;
    client.batch_execute("update outbox_shards set low_id = 1000000 where shard = 0").await.expect("bound");
    let unknown = Says { situation: "bound-too-high", lag: 6, words: "events of shard 0 are not counted", ..outside };
    stage.expect_of_commands(&unknown).await;
}

/// A role that may not see the rows counts none; it says so instead.
#[tokio::test]
async fn row_security_is_an_error_and_no_zero() {
    let stage = Stage::new("truth-rls").await;
    let client = stage.database.connect().await;
    insert_many(&client, &stage.topic.name, 3, 3).await;
    let role = unique("rls").replace('-', "_");
    let make = format!(
        "create role {role} login password 'x'; grant all on all tables in schema public to {role}; \
         grant all on all sequences in schema public to {role}; alter table outbox_events enable row level security"
    );
    client.batch_execute(&make).await.expect("a role");
    let (server, name) = stage.database.url.rsplit_once('/').expect("a URL");
    let (_, address) = server.rsplit_once('@').expect("a user");
    let url = format!("postgres://{role}:x@{address}/{name}");
    for args in [&["lag", "-o", "json"][..], &["top", "--once", "-o", "json"]] {
        let refused = stage.command(args).env("DATABASE_URL", &url).run().await;
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert!(refused.stderr.contains("row-level security of outbox_events"), "{}", refused.stderr);
    }
}
