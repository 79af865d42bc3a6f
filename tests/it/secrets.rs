//! What PostgreSQL quotes in its errors reaches no log, no metric and no column: rows, values, and the words of
//! triggers.

use std::time::Duration;

use crate::support::outbox::counts;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "hunter2";

/// What the application has put on the table, by the SQLSTATE of the error that it makes of the relay's UPDATE.
const TRAPS: [(&str, &str); 5] = [
    ("23514", "alter table outbox_events add constraint not_here check (status = 'PENDING') not valid"),
    (
        "P0001",
        "create function trap() returns trigger language plpgsql as $$ begin \
           raise exception 'refused: %', new.payload using detail = new.payload::text, hint = new.aggregate_id; end $$; \
         create trigger trap before update on outbox_events for each row execute function trap()",
    ),
    (
        // A code of a class whose messages are names, chosen by somebody who puts data into them.
        "42704",
        "create function trap() returns trigger language plpgsql as $$ begin \
           raise exception 'refused: %', new.payload using errcode = '42704', constraint = new.aggregate_id, \
           column = new.payload::text, table = new.headers::text; end $$; \
         create trigger trap before update on outbox_events for each row execute function trap()",
    ),
    (
        "22P02",
        "create function trap() returns trigger language plpgsql as $$ begin \
           perform (new.payload->>'password')::int; return new; end $$; \
         create trigger trap before update on outbox_events for each row execute function trap()",
    ),
    (
        "42703",
        "create function trap() returns trigger language plpgsql as $$ begin \
           execute 'select ' || (new.payload->>'password'); return new; end $$; \
         create trigger trap before update on outbox_events for each row execute function trap()",
    ),
];

#[tokio::test]
async fn errors_of_postgresql_are_told_without_data() {
    for (code, trap) in TRAPS {
        let (database, topic) = tokio::join!(TestDatabase::migrated("secrets"), Topic::create("secrets", 1));
        let client = database.connect().await;
        let payload = format!("{{\"password\": \"{SECRET}\"}}");
        NewRow::new(&topic.name, &format!("key-{SECRET}"), &payload).text("headers", &payload).insert(&client).await;
        client.batch_execute(trap).await.expect("the trap");
        let relay = RelaySettings::new(&database, &parts().kafka)
            .set("relay.tracking", "rows")
            .set("telemetry.log_filter", "trace,tokio_postgres=trace")
            .start();
        wait_until(&format!("{code} is told"), LIMIT, async || {
            let rows = client.query("select coalesce(last_error, '') from outbox_events", &[]).await.expect("rows");
            let told = rows.iter().any(|row| row.get::<_, String>(0).contains(code));
            if told || relay.log_text().contains(code) { Ok(()) } else { Err(format!("{:?}", counts(&client).await)) }
        })
        .await;
        let log = relay.log_text();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(SECRET)).collect();
        assert!(lines.is_empty(), "{code}: {lines:#?}");
        let rows = client.query("select last_error from outbox_events where last_error like '%hunter2%'", &[]).await;
        assert!(rows.expect("rows").is_empty(), "{code}: in last_error");
    }
}

/// Commands print the errors of their statements.
#[tokio::test]
async fn commands_print_errors_of_postgresql_without_data() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("secrets-cli"), Topic::create("secrets-cli", 1));
    let client = database.connect().await;
    let payload = format!("{{\"password\": \"{SECRET}\"}}");
    let id = NewRow::new(&topic.name, &format!("key-{SECRET}"), &payload).insert(&client).await;
    client
        .batch_execute(
            "update outbox_events set status = 'FAILED', retry_count = 1, last_error = 'x'; \
             create function trap() returns trigger language plpgsql as $$ begin \
               raise exception 'refused: %', new.payload using detail = new.payload::text; end $$; \
             create trigger trap before update on outbox_events for each row execute function trap()",
        )
        .await
        .expect("the trap");
    let id = id.to_string();
    let commands = [
        (&["events", "retry", &id, "--yes"][..], "P0001"),
        // It is given up all the same, by its outcome.
        (&["events", "discard", &id, "--yes", "--reason", "x"], "outbox_outcomes"),
    ];
    for (args, told) in commands {
        let done = outbox_relay(args).env("DATABASE_URL", &database.url).run().await;
        let printed = format!("{}{}", done.stdout, done.stderr);
        assert!(!printed.contains(SECRET), "{args:?}: {printed}");
        assert!(printed.contains(told), "{args:?}: it ran into the trap: {printed}");
    }
}
