//! A clock of PostgreSQL that is not ours.

use super::stage::{Ready, Says, Stage};

/// Only this database has the other clock. Behind, so that no lease ends early.
const SET_BACK: &str = "alter function pg_catalog.clock_timestamp() rename to honest_clock_timestamp; \
    create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile \
    as $$ select pg_catalog.honest_clock_timestamp() - interval '10 seconds' $$";
const SET_RIGHT: &str = "drop function pg_catalog.clock_timestamp(); \
    alter function pg_catalog.honest_clock_timestamp() rename to clock_timestamp";

#[tokio::test]
async fn a_clock_of_postgresql_that_is_behind() {
    let stage = Stage::new("truth-clock").await;
    let process = stage.settings("relay,admin").start_ready().await;
    let client = stage.database.connect().await;
    client.batch_execute(SET_BACK).await.expect("set back");
    let skewed = Says {
        part: "relay",
        situation: "clock-skew",
        ready: Ready::Yes,
        lag: 0,
        words: "behind this host's clock",
        since: false,
    };
    stage.expect(&process, &skewed).await;
    client.batch_execute(SET_RIGHT).await.expect("set right");
    stage.expect_over(&process, &skewed).await;
}
