//! The whole of loading, as an operator meets it.

use super::*;

fn report(text: &str) -> String {
    Config::load(&Sources::none().with_text("relay.toml", text), Needs::NOTHING).expect_err("it has problems").render(false)
}

#[test]
fn look() {
    println!("{}", report(r#"
shards = 4
[relais]
x = 1
[database]
url = "mysql://u:canary@h/x"
pasword = "canary"
poll_size = "5"
tls = "verfy-full"
cert_file = "a"
[relay]
batch_rows = "2000"
batch_row = 5
batch_bytes = "4 parsecs"
poll_min = "5s"
lease = 15
publish_timeout = "100ms"
enabled = "true"
[kafka]
batch_rows = 5
bootstrap_servers = "a:b"
sasl_username = "x"
[kafka.properties]
acks = 1
enable.ssl.certificate.verification = false
"linger.ms" = 5
[[routing.rule]]
event_type = "(.*"
topic = "x y"
[[routing.rule]]
topic = "$1_x"
aggregate_type = "(a)"
[consumer]
topics = ["a", 5, "b"]
group = ""
[[projection]]
name = "p"
topics = ["zzz"]
[[projection]]
name = "p"
sql = "x.sql"
[admin]
listen = "localhost:80"
[run]
"#));
    println!("{}", report("[relay\nbatch_rows = 5\n[kafka]\nx = \n[database]\nurl = \"postgres://u:canary@h\n[admin]\nenabled = yes\nenabled = true\n"));
    let sources = Sources::none()
        .with_text("relay.toml", "[relay]\nbatch_rows = 5\npoll_min=\"1s\"\n")
        .with_variables([("OUTBOX_RELAY_RELAY__BATCH_ROWS", "lots"), ("OUTBOX_RELAY_RELAY_BATCH_ROWS", "lots"), ("OUTBOX_RELAY_KAFKA__BATCH_ROWS", "1"), ("DATABASE_URL", "canary"), ("OUTBOX_RELAY_RELAY__POLL_MAX", "10ms"), ("OUTBOX_RELAY_PROJECTION__NAME", "x")])
        .with_set("relay.leas=5s")
        .with_set("database.url=canary")
        .with_set("canary")
        .with_flag("--log-format", "telemetry.log_format", "jsn");
    println!("{}", Config::load(&sources, Needs::BOTH).unwrap_err().render(true));
    let sources = Sources::none()
        .with_text("relay.toml", "[relay]\nbatch_rows = 5\npoll_min=\"100ms\"\n[kafka.properties]\nlinger.ms = 3\n")
        .with_variables([("DATABASE_URL", "postgres://canary")]);
    for row in effective(&Config::load(&sources, Needs::DATABASE).unwrap()) {
        println!("{:40} {:30} {}", row.key, row.text(), row.source);
    }
    println!("{:?}", Config::load(&sources, Needs::DATABASE).unwrap().config);
}

#[test]
fn write() {
    std::fs::create_dir_all("docs").unwrap();
    std::fs::write("docs/configuration.md", reference_markdown()).unwrap();
    std::fs::write("relay.toml", commented_toml()).unwrap();
    std::fs::write("/tmp/relay.schema.json", schema().to_string()).unwrap();
}
