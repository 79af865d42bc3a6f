//! Which source wins, and what each may give.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn ready(sources: &Sources) -> Loaded {
    Config::load(sources, Needs::NOTHING).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = Sources::none().with_text("relay.toml", "[relay]\nbatch_rows = 1\nlease = \"20s\"\nenabled = false\n");
    let variables =
        file.clone().with_variables([("OUTBOX_RELAY_RELAY__BATCH_ROWS", "2"), ("OUTBOX_RELAY_RELAY__LEASE", "21s")]);
    let flags = variables.clone().with_set("relay.batch_rows=3").with_set("relay.batch_rows=4");
    let seen = |sources: &Sources| {
        let loaded = ready(sources);
        let source = |key: &str| loaded.provenance.of(key).to_string();
        let relay = &loaded.config.relay;
        (
            relay.batch_rows.get(),
            source("relay.batch_rows"),
            relay.lease.as_secs(),
            source("relay.lease"),
            source("relay.enabled"),
        )
    };
    let file_line = |line| format!("relay.toml:{line}");
    assert_eq!(seen(&Sources::none()), (1_000, "default".into(), 15, "default".into(), "default".into()));
    assert_eq!(seen(&file), (1, file_line(2), 20, file_line(3), file_line(4)));
    let (rows, lease) = ("OUTBOX_RELAY_RELAY__BATCH_ROWS".to_owned(), "OUTBOX_RELAY_RELAY__LEASE".to_owned());
    assert_eq!(seen(&variables), (2, rows, 21, lease.clone(), file_line(4)));
    assert_eq!(seen(&flags), (4, "--set relay.batch_rows".into(), 21, lease, file_line(4)));
}

#[test]
fn shared_variables_count_less_than_our_own() {
    let shared = Sources::none()
        .with_text("relay.toml", "[database]\nurl = \"postgres://file/x\"\n")
        .with_variables([("DATABASE_URL", "postgres://shared/x"), ("KAFKA_BOOTSTRAP_SERVERS", "shared:9092")]);
    let loaded = ready(&shared);
    assert_eq!(loaded.config.database.url.expose(), "postgres://shared/x");
    assert_eq!(loaded.config.kafka.bootstrap_servers, "shared:9092");
    assert_eq!(loaded.provenance.of("database.url").to_string(), "DATABASE_URL");
    let own = shared.with_variables([
        ("OUTBOX_RELAY_DATABASE__URL", "postgres://own/x"),
        ("OUTBOX_RELAY_KAFKA__BOOTSTRAP_SERVERS", "own:1"),
    ]);
    let loaded = ready(&own);
    assert_eq!(loaded.config.database.url.expose(), "postgres://own/x");
    assert_eq!(loaded.config.kafka.bootstrap_servers, "own:1");
}

#[test]
fn empty_variables_count_as_not_set_and_foreign_ones_are_left_alone() {
    let sources = Sources::none().with_variables([
        ("OUTBOX_RELAY_RELAY__BATCH_ROWS", ""),
        ("DATABASE_URL", ""),
        ("OUTBOX_RELAY_CONFIG", "/elsewhere.toml"),
        ("OUTBOX_RELAY_SERVICE_HOST", "10.0.0.1"),
        ("OUTBOX_RELAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PATH", "/bin"),
        ("RELAY__BATCH_ROWS", "x"),
    ]);
    assert_eq!(ready(&sources).config, Config::default());
}

#[test]
fn unknown_variables_and_flags_are_problems_with_a_suggestion() {
    for (name, help) in [
        ("OUTBOX_RELAY_RELAY__BATCH_ROW", "did you mean `OUTBOX_RELAY_RELAY__BATCH_ROWS`?"),
        ("OUTBOX_RELAY_RELAY_BATCH_ROWS", "did you mean `OUTBOX_RELAY_RELAY__BATCH_ROWS`?"),
        ("OUTBOX_RELAY_KAFKA__BATCH_ROWS", "did you mean `OUTBOX_RELAY_RELAY__BATCH_ROWS`?"),
        ("OUTBOX_RELAY_DATABASE_URL", "did you mean `OUTBOX_RELAY_DATABASE__URL`?"),
        ("OUTBOX_RELAY_DATABASE__URL_FILES", "did you mean `OUTBOX_RELAY_DATABASE__URL_FILE`?"),
        ("OUTBOX_RELAY_Relay__Lease", "did you mean `OUTBOX_RELAY_RELAY__LEASE`?"),
        ("OUTBOX_RELAY_ROUTING__RULE", "write it there, as `[[routing.rule]]`"),
        ("OUTBOX_RELAY_PROJECTION__0__NAME", "write it there, as `[[projection]]`"),
        (
            "OUTBOX_RELAY_XYZ",
            "variables are called OUTBOX_RELAY_<SECTION>__<KEY>; outbox-relay config show lists every key",
        ),
    ] {
        let problem = only_problem(&Sources::none().with_variables([(name, "canary")]));
        assert_eq!(problem.help.as_deref(), Some(help), "{name}");
        assert_eq!(problem.origin, Origin::Variable(name.to_owned()));
    }
    for (flag, help) in [
        ("relay.batch_row=1", "did you mean `relay.batch_rows`?"),
        ("batch_rows=1", "did you mean `relay.batch_rows`?"),
        ("relay.batch_rows", "for example `--set relay.batch_rows=500`"),
        ("projection=1", "write it there, as `[[projection]]`"),
        ("kafka.properties=1", "it needs one more name: `--set kafka.properties.NAME=VALUE`"),
    ] {
        let problem = only_problem(&Sources::none().with_set(flag));
        assert!(problem.help.as_deref().unwrap().starts_with(help), "{flag}: {problem:?}");
    }
}

#[test]
fn a_bad_value_names_its_source_and_what_it_overrides() {
    let file = Sources::none().with_text("relay.toml", "[relay]\nbatch_rows = 5\n");
    let error =
        Config::load(&file.with_variables([("OUTBOX_RELAY_RELAY__BATCH_ROWS", "lots")]), Needs::NOTHING).unwrap_err();
    assert_eq!(
        error.render(false),
        "error[OR-C001]: bad value for `relay.batch_rows` in OUTBOX_RELAY_RELAY__BATCH_ROWS: \
         expected a whole number from 1 to 4294967295, found `lots`\n |\n = note: it overrides relay.toml:2:14\n\n\
         there is a problem with the settings; nothing was started\n"
    );
    let file = Sources::none().with_text("relay.toml", "[relay]\nlease = \"20s\"\n");
    let error = Config::load(&file.with_set("relay.lease=1s"), Needs::NOTHING).unwrap_err();
    assert!(error.render(false).contains("must be at least 3s\n |\n = note: it overrides relay.toml:2:9\n"), "a rule");
    let problem = only_problem(&Sources::none().with_flag("--log-format", "telemetry.log_format", "jsn"));
    assert_eq!(problem.origin.to_string(), "--log-format");
    assert_eq!(problem.help.as_deref(), Some("did you mean `json`?"));
}

#[test]
fn a_mistake_in_the_file_shows_even_where_a_variable_overrides_it() {
    let file = Sources::none().with_text("relay.toml", "[relay]\nbatch_rows = \"x\"\n");
    let problem = only_problem(&file.with_variables([("OUTBOX_RELAY_RELAY__BATCH_ROWS", "5")]));
    assert_eq!(problem.origin.position(), Some((2, 14)));
}

#[test]
fn properties_add_up_name_by_name() {
    let sources = Sources::none()
        .with_text("relay.toml", "[kafka.properties]\nlinger.ms = 1\n\"batch.size\" = 2\nclient.rack = \"a\"\n")
        .with_variables([("OUTBOX_RELAY_KAFKA__PROPERTIES__BATCH_SIZE", "3")])
        .with_set("kafka.properties.client.rack=b=c");
    let loaded = ready(&sources);
    let properties: Vec<_> =
        loaded.config.kafka.properties.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(properties, [("batch.size", "3"), ("client.rack", "b=c"), ("linger.ms", "1")]);
    assert_eq!(
        loaded.provenance.of("kafka.properties.batch.size").to_string(),
        "OUTBOX_RELAY_KAFKA__PROPERTIES__BATCH_SIZE"
    );
    assert_eq!(loaded.provenance.of("kafka.properties.linger.ms").to_string(), "relay.toml:2");
}

#[test]
fn lists_in_the_environment_replace_the_list_of_the_file() {
    let sources = Sources::none()
        .with_text("relay.toml", "[consumer]\ntopics = [\"a\", \"b\", \"c\"]\n")
        .with_variables([("OUTBOX_RELAY_CONSUMER__TOPICS", "x, y y")]);
    let problem = only_problem(&sources);
    assert_eq!(problem.key.as_deref(), Some("consumer.topics[1]"));
    assert_eq!(problem.origin.to_string(), "OUTBOX_RELAY_CONSUMER__TOPICS");
    let loaded = ready(&Sources::none().with_set("consumer.topics=a, b,").with_set("headers.source="));
    assert_eq!(loaded.config.consumer.topics, ["a", "b"]);
}

#[test]
fn an_empty_text_takes_an_optional_value_away() {
    let sources =
        Sources::none().with_text("relay.toml", "[headers]\nsource = \"/shop\"\n").with_set("headers.source=");
    assert_eq!(ready(&sources).config.headers.source, None);
}

#[test]
fn relative_paths_start_at_the_file_that_has_them() {
    let sources = Sources::none().with_text(
        "/etc/outbox-relay/relay.toml",
        "[database]\nca_file = \"ca.pem\"\n[[projection]]\nname = \"a\"\nsql = \"sql/a.sql\"\n[[projection]]\nname = \"b\"\nsql = \"/b.sql\"\n",
    );
    let loaded = ready(&sources);
    assert_eq!(loaded.config.database.ca_file.unwrap(), PathBuf::from("/etc/outbox-relay/ca.pem"));
    assert_eq!(loaded.config.projection[0].sql, PathBuf::from("/etc/outbox-relay/sql/a.sql"));
    assert_eq!(loaded.config.projection[1].sql, PathBuf::from("/b.sql"));
    assert_eq!(loaded.provenance.of("projection[1].sql").to_string(), "/etc/outbox-relay/relay.toml:8");
    let by_flag = ready(&sources.with_set("database.ca_file=other.pem"));
    assert_eq!(by_flag.config.database.ca_file.unwrap(), PathBuf::from("other.pem"));
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let missing = only_problem(&Sources::none().with_file(folder.path().join("none.toml")));
    assert!(missing.title.contains("none.toml") && missing.why.contains("No such file"), "{missing:?}");
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, b"# ok\n# \xff\n").unwrap();
    assert_eq!(only_problem(&Sources::none().with_file(&path)).why, "line 2 is not UTF-8");
    std::fs::write(&path, "\u{feff}[relay]\nbatch_rows = 7\n").unwrap();
    let loaded = ready(&Sources::none().with_file(&path));
    assert_eq!((loaded.config.relay.batch_rows.get(), loaded.file), (7, Some(path)));
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_a_problem() {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::ffi::OsString::from_vec(b"postgres://\xff".to_vec());
    let problem = only_problem(&Sources::none().with_variables([("DATABASE_URL", value)]));
    assert_eq!((problem.title.as_str(), problem.why.as_str()), ("bad value in DATABASE_URL", "it is not UTF-8"));
}

#[test]
fn effective_values_name_every_setting_and_its_source() {
    let sources = Sources::none()
        .with_text("relay.toml", "[[projection]]\nname = \"a\"\nsql = \"a.sql\"\n[kafka.properties]\nlinger.ms = 5\n")
        .with_variables([("DATABASE_URL", "postgres://app:canary@db/shop")])
        .with_flag("--log-format", "telemetry.log_format", "json");
    let rows = effective(&ready(&sources));
    let row = |key: &str| rows.iter().find(|row| row.key == key).map(|row| (row.text(), row.source.clone()));
    assert_eq!(row("database.url"), Some(("***".into(), "DATABASE_URL".into())));
    assert_eq!(row("database.ca_file"), Some(("unset".into(), "default".into())));
    assert_eq!(row("relay.batch_bytes"), Some(("2MiB".into(), "default".into())));
    assert_eq!(row("kafka.properties.linger.ms"), Some(("5".into(), "relay.toml:5".into())));
    assert_eq!(row("projection[0].name"), Some(("a".into(), "relay.toml:2".into())));
    assert_eq!(row("projection[0].topics"), Some(("[]".into(), "relay.toml:1".into())));
    assert_eq!(row("telemetry.log_format"), Some(("json".into(), "--log-format".into())));
    assert_eq!(row("routing.rule"), Some(("[]".into(), "default".into())));
}

proptest! {
    #[test]
    fn a_value_means_the_same_in_every_source(rows in 1u32..=100_000, seconds in 3u64..1_000, kib in 1_000u64..2_048, topics in prop::collection::vec("[a-z.]{3,9}", 1..4)) {
        let list = topics.join(",");
        let quoted = topics.iter().map(|topic| format!("{topic:?}")).collect::<Vec<_>>().join(",");
        let file = Sources::none().with_text("relay.toml", format!(
            "[relay]\nbatch_rows = {rows}\nlease = \"{seconds}s\"\nmax_record_bytes = \"{kib}KiB\"\n[consumer]\ntopics = [{quoted}]\n"
        ));
        let settings = [("relay.batch_rows", rows.to_string()), ("relay.lease", format!("{seconds}s")), ("relay.max_record_bytes", format!("{kib}KiB")), ("consumer.topics", list)];
        let variables = Sources::none().with_variables(settings.iter().map(|(key, text)| (format!("OUTBOX_RELAY_{}", key.replace('.', "__").to_uppercase()), text)));
        let flags = settings.iter().fold(Sources::none(), |sources, (key, text)| sources.with_set(&format!("{key}={text}")));
        let config = ready(&file).config;
        prop_assert_eq!(config.relay.lease, Duration::from_secs(seconds));
        prop_assert_eq!(&config, &ready(&variables).config);
        prop_assert_eq!(&config, &ready(&flags).config);
    }
}
