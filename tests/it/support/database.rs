//! A database per test, copied from a template that `outbox-relay migrate up` made.

use std::time::Duration;

use outbox_relay::supervisor::detach;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::{cli::outbox_relay, parts::parts, unique, wait_until};

/// A database on the shared server (or a private one) that no other test touches. It stays when the test ends: the
/// servers of a test run are thrown away as a whole.
#[derive(Debug, Clone)]
pub struct TestDatabase {
    pub url: String,
}

impl TestDatabase {
    /// A database without any table of ours.
    pub async fn empty(name: &str) -> Self {
        create(name, None).await
    }

    /// A database with the newest schema.
    pub async fn migrated(name: &str) -> Self {
        // Copying a template takes 50 ms; migrating each database would take ten times as long.
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE
            .get_or_init(|| async {
                let database = create("template", None).await;
                database.migrate().await;
                database.name().to_owned()
            })
            .await;
        create(name, Some(template)).await
    }

    /// The database of a private server, which has that one only, with the newest schema.
    pub async fn migrated_at(url: &str) -> Self {
        let database = Self { url: url.to_owned() };
        database.migrate().await;
        database
    }

    /// A copy of this database. Whoever is connected to it is waited for: sessions end a moment after their clients.
    pub async fn copy(&self, name: &str) -> Self {
        let admin = Self { url: parts().database_url.clone() }.connect().await;
        let others = "select count(*) from pg_stat_activity where datname = $1";
        wait_until("nobody is connected to what is copied", Duration::from_secs(60), async || {
            let found = admin.query_one(others, &[&self.name()]).await.map_err(|error| error.to_string())?;
            if found.get::<_, i64>(0) == 0 { Ok(()) } else { Err(format!("{} sessions", found.get::<_, i64>(0))) }
        })
        .await;
        create(name, Some(self.name())).await
    }

    /// Gives its place back before the server is thrown away. Whoever is connected is cut off.
    pub async fn dropped(self) {
        let admin = Self { url: parts().database_url.clone() }.connect().await;
        let statement = format!("drop database if exists {} with (force)", self.name());
        admin.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    pub async fn migrate(&self) {
        outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &self.url).run().await.expect_code(0);
    }

    /// A connection as an application would have it: nothing in its name tells that it is ours.
    pub async fn connect(&self) -> Client {
        self.try_connect().await.unwrap_or_else(|error| panic!("no connection to {}: {error:?}", self.url))
    }

    /// As [`TestDatabase::connect`], for servers that a test has stopped.
    pub async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config: tokio_postgres::Config = self.url.parse()?;
        let (client, connection) =
            config.application_name("shop").connect_timeout(Duration::from_secs(30)).connect(NoTls).await?;
        detach("test connection", async move { drop(connection.await) });
        Ok(client)
    }

    /// Waits until the server accepts connections again.
    pub async fn reconnect(&self) -> Client {
        wait_until("PostgreSQL accepts connections", Duration::from_secs(60), async || {
            self.try_connect().await.map_err(|error| error.to_string())
        })
        .await
    }

    /// The port of its server.
    pub fn port(&self) -> u16 {
        let (server, _) = self.url.rsplit_once('/').expect("a URL with a database");
        server.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a URL with a port")
    }

    /// The URL of the same database behind a proxy at `port`.
    pub fn through(&self, port: u16) -> String {
        let own = format!(":{}/", self.port());
        assert!(self.url.contains(&own), "{}", self.url);
        self.url.replace(&own, &format!(":{port}/"))
    }

    pub fn name(&self) -> &str {
        self.url.rsplit_once('/').expect("a URL with a database").1
    }
}

async fn create(name: &str, template: Option<&str>) -> TestDatabase {
    let (server, _) = parts().database_url.rsplit_once('/').expect("a URL with a database");
    let name = format!("it_{}", unique(name).replace('-', "_"));
    let admin = TestDatabase { url: parts().database_url.clone() }.connect().await;
    let template = template.unwrap_or("template1");
    // A session that has just ended may still be in the template for a moment.
    wait_until(&format!("create database {name} from {template}"), Duration::from_secs(60), async || {
        let statement = format!("create database {name} template {template}");
        admin.batch_execute(&statement).await.map_err(|error| format!("{error:?}"))
    })
    .await;
    TestDatabase { url: format!("{server}/{name}") }
}
