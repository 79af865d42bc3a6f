#![allow(clippy::disallowed_methods)]
use outbox_relay::{app::App, config::Config, db::Database, migrations, secret::Secret, telemetry};
use tokio_util::sync::CancellationToken;
#[tokio::main]
async fn main() {
    let mut c = Config::default();
    c.database.url = Secret::new(std::env::var("DATABASE_URL").unwrap_or_default());
    c.kafka.bootstrap_servers = std::env::var("KAFKA").unwrap_or_default();
    if let Ok(r) = std::env::var("ROWS") { c.relay.batch_rows = r.parse().expect("n"); }
    telemetry::init(&c.telemetry).expect("t");
    if std::env::args().nth(1).as_deref() == Some("migrate") {
        let db = Database::new(&c.database).expect("db");
        tracing::info!("{:?}", migrations::up(&db, c.outbox.shards).await.map_err(|e| e.report()));
        return;
    }
    let stop = CancellationToken::new();
    let s2 = stop.clone();
    tokio::spawn(async move { let mut t = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("s"); t.recv().await; s2.cancel(); });
    let r = App::build(c).expect("app").run(stop).await;
    tracing::info!("{:?}", r.map_err(|e| e.report()));
}
