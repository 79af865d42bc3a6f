//! Secrets: from files, and never in anything that is shown.

use proptest::prelude::*;

use super::*;

const CANARY: &str = "cAnArY";

/// Everything that can be made of these sources.
fn everything_shown(sources: &Sources) -> String {
    let mut shown = String::new();
    for needs in [Needs::NOTHING, Needs::BOTH] {
        match Config::load(sources, needs) {
            Ok(loaded) => {
                shown.push_str(&format!("{loaded:?}\n{:?}\n", effective(&loaded)));
                shown.push_str(&serde_json::to_string(&effective(&loaded)).unwrap());
            }
            Err(error) => {
                shown.push_str(&format!("{error}\n{error:?}\n{}{}", error.render(false), error.render(true)));
                shown.push_str(&serde_json::to_string(&error.rows()).unwrap());
                shown.push_str(&crate::error::Error::from(error).report());
            }
        }
    }
    shown
}

fn assert_hidden(sources: &Sources, what: &str) {
    let shown = everything_shown(sources);
    assert!(!shown.contains(CANARY), "{what}\n{shown}");
}

const FILE: &str = r#"# relay of the shop
[database]
url = "postgres://app:cAnArY@db/shop"
tls = "verify-full"

[kafka]
bootstrap_servers = "kafka:9092"
security_protocol = "sasl_ssl"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "relay"
sasl_password = "cAnArY"
cert_file = "cert.pem"
key_file = "key.pem"
key_password = 'cAnArY'

[kafka.properties]
linger.ms = 5

[run]
deployment = "shop"
"#;

#[test]
fn secrets_are_not_shown_when_all_is_well() {
    let text = FILE.replace("linger.ms = 5", "\"ssl.keystore.password\" = \"cAnArY\"");
    let loaded = load(&text).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(loaded.config.database.url.expose(), "postgres://app:cAnArY@db/shop");
    assert_eq!(loaded.config.kafka.properties["ssl.keystore.password"], CANARY);
    assert_hidden(&Sources::none().with_text("relay.toml", text), "the file");
}

#[test]
fn secrets_are_not_shown_in_problems() {
    for text in [
        "[database]\nurl = \"mysql://cAnArY\"",
        "[database]\nurl = [\n  \"cAnArY\",\n]",
        "[database]\nurl = { a = \"cAnArY\" }",
        "[database]\npassword = \"cAnArY\"",
        "[database]\nur = \"cAnArY\"",
        "[database]\npw = \"\"\"\ncAnArY\n\"\"\"",
        "[databse]\nurl = \"cAnArY\"",
        "[relay]\nurl = \"cAnArY\"",
        "url = \"cAnArY\"",
        "database = { url = \"cAnArY\" , x = 1 }",
        "[kafka]\nsasl_password = \"cAnArY\"",
        "[kafka]\nsasl_pasword = \"cAnArY\"",
        "[kafka]\nsasl_password = \"cAnArY",
        "[kafka]\nsasl_password = cAnArY",
        "[kafka]\nsasl_password = cAnArY and more",
        "[kafka]\nsasl_password cAnArY",
        "[kafka]\nsasl_password: cAnArY",
        "[kafka]\nsasl_password =\n\"cAnArY\"",
        "[kafka]\nsasl_passwd = 'cAnArY",
        "[kafka]\nkey_password = \"\"\"cAnArY",
        "[kafka]\nkey_password = '''\ncAnArY\n",
        "[database]\ntls = \"no\" # before: password = cAnArY",
        "[database]\ntls = \"no\" # before: postgres://app:cAnArY@db",
        "[kafka]\nbootstrap_servers = \"kafka://u:cAnArY@h:1\"",
        "[kafka.properties]\nsasl.password = \"cAnArY\"",
        "[kafka.properties]\nsasl.password = [\"cAnArY\"]",
        "[kafka.properties]\nssl.key.pem = \"cAnArY\"\nacks = 0",
    ] {
        assert!(load(text).is_err(), "{text} has a problem");
        assert_hidden(&Sources::none().with_text("relay.toml", text), text);
    }
    for (name, value) in [
        ("DATABASE_URL", "mysql://cAnArY"),
        ("OUTBOX_RELAY_DATABASE__URL", "cAnArY"),
        ("OUTBOX_RELAY_DATABASE__PASSWORD", "cAnArY"),
        ("OUTBOX_RELAY_KAFKA__SASL_PASSWORD", "cAnArY"),
        ("OUTBOX_RELAY_KAFKA__PROPERTIES__SASL_PASSWORD", "cAnArY"),
    ] {
        assert_hidden(&Sources::none().with_variables([(name, value)]), name);
    }
    for flag in ["database.url=cAnArY", "cAnArY", "database.urll=cAnArY", "kafka.sasl_password=cAnArY"] {
        assert_hidden(&Sources::none().with_set(flag), flag);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Slips of the hand anywhere but in the secret itself.
    #[test]
    fn secrets_are_not_shown_however_the_file_is_broken(slips in prop::collection::vec((any::<prop::sample::Index>(), 0usize..9), 1..4)) {
        let mut text = FILE.to_owned();
        for (at, slip) in slips {
            let at = at.index(text.len());
            let in_canary = text.match_indices(CANARY).any(|(start, _)| (start..start + CANARY.len()).contains(&at));
            if !in_canary {
                match slip {
                    0..3 => { text.remove(at); }
                    other => text.insert_str(at, ["\"", "'", "=", "[", "\n", "x"][other - 3]),
                }
            }
        }
        let shown = everything_shown(&Sources::none().with_text("relay.toml", text.clone()));
        prop_assert!(!shown.contains(CANARY), "{}\n----\n{}", text, shown);
    }
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("url", "postgres://app:cAnArY@db/shop\n");
    write("password", "cAnArY \r\n");
    write(
        "relay.toml",
        "[database]\nurl_file = \"url\"\n[kafka]\nsasl_password_file = \"password\"\nsasl_username = \"u\"\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"PLAIN\"\n",
    );
    let sources = Sources::none().with_file(folder.path().join("relay.toml"));
    let loaded = Config::load(&sources, Needs::DATABASE).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(loaded.config.database.url.expose(), "postgres://app:cAnArY@db/shop");
    assert_eq!(loaded.config.kafka.sasl_password.expose(), "cAnArY ", "only the line end is not part of it");
    assert!(loaded.provenance.of("database.url").to_string().ends_with("relay.toml:2"));
    assert_hidden(&sources, "secret files");

    write("other", "postgres://other/shop");
    let other = folder.path().join("other");
    let by_variable = sources.clone().with_variables([("OUTBOX_RELAY_DATABASE__URL_FILE", &other)]);
    let by_flag = sources.with_set(&format!("database.url_file={}", other.display()));
    for sources in [by_variable, by_flag] {
        let loaded = Config::load(&sources, Needs::DATABASE).unwrap_or_else(|error| panic!("{}", error.render(false)));
        assert_eq!(loaded.config.database.url.expose(), "postgres://other/shop");
    }
}

#[test]
fn a_secret_given_twice_in_one_source_is_a_problem() {
    let problem = only_problem(
        &Sources::none().with_text("relay.toml", "[database]\nurl = \"postgres://a/b\"\nurl_file = \"f\"\n"),
    );
    assert_eq!((problem.key.as_deref(), problem.origin.position()), (Some("database.url_file"), Some((3, 12))));
    let variables = [("OUTBOX_RELAY_DATABASE__URL", "postgres://a/b"), ("OUTBOX_RELAY_DATABASE__URL_FILE", "f")];
    assert_eq!(only_problem(&Sources::none().with_variables(variables)).key.as_deref(), Some("database.url_file"));
    // In two sources the stronger one wins, whatever its form.
    let sources = Sources::none().with_text("relay.toml", "[database]\nurl = \"postgres://a/b\"\n");
    assert!(only_problem(&sources.with_set("database.url_file=/does/not/exist")).why.contains("/does/not/exist"));
}

#[test]
fn a_secret_file_must_be_readable_short_and_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let problem =
        || only_problem(&Sources::none().with_set(&format!("kafka.key_password_file={}", path.display()))).why;
    assert!(problem().contains("No such file"), "{}", problem());
    std::fs::write(&path, "\n").unwrap();
    assert!(problem().contains("it is empty"), "{}", problem());
    std::fs::write(&path, "x".repeat(70_000)).unwrap();
    assert!(problem().contains("larger than"), "{}", problem());
    std::fs::write(&path, b"\xff").unwrap();
    assert!(problem().contains("not UTF-8"), "{}", problem());
}
