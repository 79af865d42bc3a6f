//! What command lines are run on: topics with odd dead letters, and databases that are copied for each line that
//! writes.

use std::path::Path;

use outbox_relay::broker::is_topic_name;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::sync::OnceCell;

use super::lines::Line;
use crate::hostile::rows::{Targets, good, oddities};
use crate::odd_letters::ODD;
use crate::support::kafka::client_config;
use crate::support::{TestDatabase, Topic, parts::parts, unique};

/// Stands in the password of `database.url` and of SASL, in each payload, key and header value.
pub const PASSWORD: &str = "pa55w0rd-in-the-settings";
pub const PAYLOAD: &str = "s3cret-in-a-payload";
pub const KEY: &str = "s3cret-in-a-key";

const REPLAY: &str = "0198f2c4-0000-7000-8000-0000000000aa";
/// A cleanup whose process is gone.
const JOB: &str = "0198f2c4-0000-7000-8000-0000000000bb";
const PAUSED: &str = "paused-topic";
/// Topics with a dead letter each of rows 1 to 13, some of which failed.
const ROWS: i64 = 13;

/// The id of the event in this row.
fn event_id(row: i64) -> String {
    format!("0198f2c4-0000-7000-8000-{row:012}")
}

/// Topics that all lines share.
#[derive(Debug, Clone)]
pub struct Topics {
    pub topic: Topic,
    letters: Topic,
    purged: Topic,
}

impl Topics {
    pub async fn shared() -> &'static Self {
        static TOPICS: OnceCell<Topics> = OnceCell::const_new();
        TOPICS.get_or_init(Self::create).await
    }

    /// Topics of one test, where it matters what others have purged.
    pub async fn own() -> &'static Self {
        Box::leak(Box::new(Self::create().await))
    }

    async fn create() -> Self {
        let (topic, purged) = tokio::join!(Topic::create("command", 2), Topic::create("command-purged", 1));
        let letters_of = |topic: &Topic| Topic { name: format!("{}-dlq", topic.name), ..topic.clone() };
        let (letters, purged_letters) = tokio::join!(letters_of(&topic).created(1), letters_of(&purged).created(1));
        let producer: BaseProducer = client_config(&topic.bootstrap).create().expect("producer");
        let send = |to: &Topic, headers: OwnedHeaders| {
            let record = BaseRecord::to(&to.name).key(KEY).payload(PAYLOAD).headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("queued");
        };
        let text = |headers: OwnedHeaders, key: &str, value: &str| headers.insert(Header { key, value: Some(value) });
        for row in 1..=ROWS {
            let headers = text(OwnedHeaders::new(), "original_topic", &topic.name);
            let headers = text(headers, "exception_class", "Poison");
            let headers = text(headers, "x-note", PAYLOAD);
            let headers = text(headers, "failed_at", "2026-05-01T12:00:00.000Z");
            let headers = text(headers, "outbox-id", &row.to_string());
            send(&letters, text(headers, "outbox-event-id", &event_id(row)));
        }
        for (name, value) in ODD {
            let headers = if *name == "original_topic" {
                OwnedHeaders::new()
            } else {
                text(OwnedHeaders::new(), "original_topic", &topic.name)
            };
            send(&letters, headers.insert(Header { key: name, value: Some(*value) }));
        }
        for _ in 0..5 {
            send(&purged_letters, text(OwnedHeaders::new(), "original_topic", &purged.name));
        }
        producer.flush(std::time::Duration::from_secs(60)).expect("acknowledged");
        Self { topic, letters, purged }
    }
}

/// How a command line finds its servers.
#[derive(Debug, Clone)]
pub struct Stage {
    pub topics: &'static Topics,
    pub database: TestDatabase,
    pub environment: Vec<(String, String)>,
}

impl Stage {
    /// On this database, with the shared Kafka.
    pub fn new(topics: &'static Topics, database: TestDatabase) -> Self {
        let url = database.url.replacen("postgres@", &format!("postgres:{PASSWORD}@"), 1);
        let setting = |name: &str, value: &str| (format!("OUTBOX_RELAY_{name}"), value.to_owned());
        let environment = vec![
            ("DATABASE_URL".to_owned(), url),
            ("KAFKA_BOOTSTRAP_SERVERS".to_owned(), parts().kafka.clone()),
            setting("DATABASE__CONNECT_TIMEOUT", "20s"),
            setting("CONSUMER__TOPICS", &topics.topic.name),
            setting("CONSUMER__GROUP", &group(topics)),
            setting("RUN__DEPLOYMENT", &topics.topic.name),
            setting("ADMIN__LISTEN", "127.0.0.1:0"),
            setting("RELAY__LEASE", "30s"),
        ];
        Self { topics, database, environment }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same on a copy of its database, which is the line's alone.
    pub async fn copy_for(&self, line: &Line) -> Self {
        let database = self.database.copy("line").await;
        if !line.before.is_empty() {
            database.connect().await.batch_execute(line.before).await.expect("what comes before");
        }
        let environment = self.environment.clone().into_iter().map(|(name, value)| {
            let value =
                if name == "DATABASE_URL" { value.replace(self.database.name(), database.name()) } else { value };
            (name, value)
        });
        Self { topics: self.topics, environment: environment.collect(), database: database.clone() }
    }

    /// The words of a line. `folder` is the caller's.
    pub fn words(&self, line: &Line, folder: &Path) -> Vec<String> {
        let Topics { topic, letters, purged } = self.topics;
        let fill = |word: &str| {
            [
                ("{topic}", topic.name.as_str()),
                ("{letters}", &letters.name),
                ("{letter}", &format!("{}/0/{}", letters.name, 5)),
                ("{purged}", &purged.name),
                ("{paused}", PAUSED),
                ("{group}", &group(self.topics)),
                ("{key}", KEY),
                ("{published}", "1"),
                ("{discarded}", "5"),
                ("{failed}", "6"),
                ("{event_id}", &event_id(9)),
                ("{parked}", &event_id(101)),
                ("{replay}", REPLAY),
                ("{job}", JOB),
                ("{nobody}", "127.0.0.1:9"),
                ("{folder}", &folder.to_string_lossy()),
            ]
            .iter()
            .fold(word.to_owned(), |word, (name, value)| word.replace(name, value))
        };
        line.text.split_whitespace().map(fill).collect()
    }
}

fn group(topics: &Topics) -> String {
    assert!(is_topic_name(&topics.topic.name));
    format!("{}-group", topics.topic.name)
}

/// A database with something of everything that a command can act on. No connection to it is open.
pub async fn shop(topics: &Topics) -> TestDatabase {
    let database = TestDatabase::migrated("commands").await;
    let client = database.connect().await;
    let (topic, group, old) = (&topics.topic.name, group(topics), "now() - interval '40 days'");
    let statements = format!(
        r#"
        insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, topic, payload, headers, correlation_id, status,
            published_at, last_error, failed_at, created_at)
        select ('0198f2c4-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'A',
          case when n = 13 then null when n in (6, 7, 8) then '{KEY}' else '{KEY}-' || n end, 'E', '{topic}',
          '{{"note": "{PAYLOAD}"}}', '{{"x-note": "{PAYLOAD}"}}', 'c', s,
          case when s = 'PUBLISHED' then {old} end, case when s = 'FAILED' then 'too-large: x' end,
          case when s in ('FAILED', 'DISCARDED') then {old} end, now() - interval '1 hour'
        from unnest('{{PUBLISHED,PUBLISHED,PUBLISHED,PUBLISHED,DISCARDED,FAILED,HELD,HELD,FAILED,PUBLISHED,PENDING,PENDING,FAILED}}'::text[])
          with ordinality as t(s, n);
        update outbox_events set dead_letter_of = 9, topic = topic || '-dlq' where id = 10;
        insert into outbox_held_keys (first_id, shard, partition_key, reason)
          select id, shard, outbox_key_of(partition_key, aggregate_id), 'failed' from outbox_events where id in (6, 11);
        insert into outbox_outcomes (id, event_id, status, sqlstate, at, last_error, key_md5)
          select id, event_id, 'FAILED', 'P0001', {old}, 'too-large: x', md5(aggregate_id) from outbox_events where id = 11;
        insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset, stopped_reason, stopped_detail, stopped_at)
          values ('{group}', '{topic}', 0, 1, 0, 'records-lost', 'gone', now()), ('{group}', '{topic}', 1, 1, 0, null, null, null),
            ('old', 'old-topic', 0, 1, 7, null, null, null);
        insert into event_handled (consumer_group, event_id, topic, partition, "offset", handled_at)
          select g, gen_random_uuid(), '{topic}', 0, n, {old} from generate_series(1, 10) n, unnest(array['{group}', 'old']) g;
        insert into consumer_parked (consumer_group, event_id, event_type, topic, partition, "offset", key, value, headers, error, projection)
          select '{group}', ('0198f2c4-0000-7000-8000-' || lpad((100 + n)::text, 12, '0'))::uuid, 'LikeAddedEvent', '{topic}', 0, n,
            '{KEY}', '{PAYLOAD}', '[["x-note", "{PAYLOAD}"]]', 'words: 22P02', 'p' from generate_series(1, 4) n;
        insert into outbox_pauses (topic, actor) values ('{PAUSED}', 'me');
        insert into outbox_replays (id, filter, upto_id, matched, actor, runner) values ('{REPLAY}', '{{}}', 13, 3, 'me', gen_random_uuid());
        insert into outbox_jobs (id, kind, arguments, actor, runner, run_by, started_at, updated_at, lease_until)
          values ('{REPLAY}', 'replay', '{{}}', 'me', gen_random_uuid(), 'me process 7', {old}, {old}, {old}),
            ('{JOB}', 'cleanup', '{{"older_than_seconds": 0, "status": ["published"], "limit": null}}', 'me', gen_random_uuid(), 'me process 8',
              {old}, {old}, {old});
        "#
    );
    client.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{error:?}"));
    database
}

/// The same with every odd value of every column, in each state, and odd values in the tables of ours. `heavy`: also
/// those that take long.
pub async fn odd_shop(topics: &Topics, heavy: bool) -> TestDatabase {
    let database = shop(topics).await;
    let client = database.connect().await;
    let targets = Targets::named(&unique("odd"), topics.topic.name.clone(), PAYLOAD.to_owned());
    for (place, oddity) in oddities().iter().enumerate().filter(|(_, oddity)| heavy || !oddity.is_heavy()) {
        let key = format!("{KEY}-odd-{place}");
        good(&targets, &key).insert(&client).await;
        // The table itself refuses some.
        drop(client.execute(&oddity.row(&targets, &key).statement(), &[]).await);
    }
    client.batch_execute(include_str!("odd.sql")).await.unwrap_or_else(|error| panic!("{error:?}"));
    database
}
