//! Each rule between values, broken alone.

use super::*;

/// A file that breaks one rule, the key that is blamed, and a part of the reason.
const BROKEN: &[(&str, &str, &str)] = &[
    ("[database]\nurl = \"db/shop\"", "database.url", "begins with `postgres://`"),
    ("[database]\nurl = \"postgres://\"", "database.url", "nothing follows the scheme"),
    ("[database]\ncert_file = \"c\"", "database.cert_file", "needs `database.key_file`"),
    ("[database]\nkey_file = \"k\"", "database.key_file", "needs `database.cert_file`"),
    ("[database]\nca_file = \"c\"\ntls = \"require\"", "database.ca_file", "checks no certificate"),
    ("[database]\nconnect_timeout = \"0s\"", "database.connect_timeout", "longer than 0s"),
    ("[database]\nstatement_timeout = \"0s\"", "database.statement_timeout", "longer than 0s"),
    ("[database]\nstatement_timeout = \"25d\"", "database.statement_timeout", "at most 24d"),
    ("[outbox]\nshards = 32768", "outbox.shards", "at most 32767"),
    ("[outbox]\npartition_rows = 999", "outbox.partition_rows", "at least 1000"),
    ("[outbox]\nschema = \"pg_outbox\"", "outbox.schema", "belongs to PostgreSQL"),
    ("[outbox]\nschema = \"information_schema\"", "outbox.schema", "belongs to PostgreSQL"),
    ("[outbox]\nschema = \"$user\"", "outbox.schema", "name of the role"),
    ("[outbox]\nschema = '\"Outbox\"'", "outbox.schema", "double quotes"),
    ("[outbox]\nschema = \"a\\u0000b\"", "outbox.schema", "control character"),
    (
        "[outbox]\nschema = \"ä123456789012345678901234567890123456789012345678901234567890123\"",
        "outbox.schema",
        "63 bytes",
    ),
    ("[outbox]\nshards = 0", "outbox.shards", "from 1 to"),
    ("[relay]\ntracking = \"watermark\"\nafter_publish = \"delete\"", "relay.tracking", "cannot be combined"),
    ("[relay]\nbatch_rows = 100001", "relay.batch_rows", "at most 100000"),
    ("[relay]\nmax_record_bytes = 999", "relay.max_record_bytes", "from 1kB to 1GB"),
    ("[relay]\nmax_record_bytes = \"5MiB\"", "relay.max_record_bytes", "must not be less than"),
    ("[relay]\nbatch_bytes = \"512KiB\"", "relay.batch_bytes", "(512KiB) must not be less than"),
    ("[relay]\npoll_min = \"0s\"", "relay.poll_min", "longer than 0s"),
    ("[relay]\npoll_max = \"1ms\"", "relay.poll_max", "(5ms) must not be longer than"),
    ("[relay]\nlease = \"2999ms\"", "relay.lease", "at least 3s"),
    ("[relay]\npublish_timeout = \"999ms\"", "relay.publish_timeout", "at least 1s"),
    ("[relay]\ndelivery = \"at-most-once\"", "relay.delivery", "expected `at-least-once`"),
    ("[retry]\nmultiplier = 0.5", "retry.multiplier", "at least 1"),
    ("[retry]\nmultiplier = inf", "retry.multiplier", "expected a number"),
    ("[retry]\nmultiplier = \"2\"", "retry.multiplier", "expected a number"),
    ("[retry]\njitter = 1.5", "retry.jitter", "from 0 to 1"),
    ("[retry]\nmax_attempts = 0", "retry.max_attempts", "from 1 to"),
    ("[retry]\ninitial_backoff = \"0s\"", "retry.initial_backoff", "longer than 0s"),
    ("[retry]\ninitial_backoff = \"31s\"", "retry.initial_backoff", "must not be longer than"),
    ("[retry]\non_exhausted = \"drop\"", "retry.on_exhausted", "expected `hold`"),
    ("[[retry.rule]]\nmax_attempts = 5", "retry.rule[0]", "which events"),
    ("[[retry.rule]]\nerror_class = \"too-big\"", "retry.rule[0].error_class", "no error class `too-big`"),
    ("[[retry.rule]]\ntopic = \"a\"\nmax_backoff = \"1ms\"", "retry.rule[0].max_backoff", "must not be longer than"),
    ("[reprocess]\ninterval = \"0s\"", "reprocess.interval", "at least 1s"),
    ("[dead_letter]\ntopic = \"{topic}\"", "dead_letter.topic", "the topic itself"),
    ("[dead_letter]\ntopic = \"dead letters\"", "dead_letter.topic", "space"),
    ("[routing]\nallowed_topics = [\"a\", \"b c*\"]", "routing.allowed_topics[1]", "space"),
    ("[[routing.rule]]\ntopic = \"t\"", "routing.rule[0]", "which rows"),
    ("[[routing.rule]]\nevent_type = \"x\"", "routing.rule[0].topic", "no topic"),
    ("[[routing.rule]]\nevent_type = \"(\"\ntopic = \"t\"", "routing.rule[0].event_type", "unclosed group"),
    (
        "[[routing.rule]]\nevent_type = \"a)(b\"\ntopic = \"t\"",
        "routing.rule[0].event_type",
        "not a regular expression",
    ),
    ("[[routing.rule]]\nevent_type = \"x\"\ntopic = \"a b\"", "routing.rule[0].topic", "space"),
    ("[[routing.rule]]\nevent_type = \"x\"\ntopic = \"a-{event}\"", "routing.rule[0].topic", "`{event}` is not known"),
    ("[[routing.rule]]\nevent_type = \"(x)\"\ntopic = \"$1_a\"", "routing.rule[0].topic", "no group `1_a`"),
    ("[[routing.rule]]\nevent_type = \"x\"\ntopic = \"${1}\"", "routing.rule[0].topic", "no group `1`"),
    ("[[routing.rule]]\nevent_type = \"x\"\ntopic = \"$\"", "routing.rule[0].topic", "not followed by a group"),
    (
        "[routing]\nallowed_topics = [\"a-*\"]\n[[routing.rule]]\nevent_type = \"x\"\ntopic = \"b\"",
        "routing.rule[0].topic",
        "would fail",
    ),
    ("[headers]\nsource = \"my shop\"", "headers.source", "spaces"),
    ("[kafka]\nbootstrap_servers = \"kafka://a:1\"", "kafka.bootstrap_servers", "without a scheme"),
    ("[kafka]\nbootstrap_servers = \"a:1,,b:1\"", "kafka.bootstrap_servers", "a host is empty"),
    ("[kafka]\nbootstrap_servers = \"a:1 b:1\"", "kafka.bootstrap_servers", "space"),
    ("[kafka]\nbootstrap_servers = \"a:99999\"", "kafka.bootstrap_servers", "a port must be"),
    ("[kafka]\nbootstrap_servers = \"[::1:9092\"", "kafka.bootstrap_servers", "closing"),
    ("[kafka]\nsecurity_protocol = \"sasl_ssl\"", "kafka.security_protocol", "needs `kafka.sasl_mechanism`"),
    ("[kafka]\nsasl_username = \"u\"", "kafka.sasl_username", "no effect"),
    ("[kafka]\nsasl_password = \"p\"", "kafka.sasl_password", "no effect"),
    (
        "[kafka]\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"",
        "kafka.sasl_mechanism",
        "needs `kafka.sasl_password`",
    ),
    (
        "[kafka]\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"plain\"",
        "kafka.sasl_mechanism",
        "expected `PLAIN`",
    ),
    ("[kafka]\nca_file = \"c\"", "kafka.ca_file", "does not encrypt"),
    ("[kafka]\nsecurity_protocol = \"ssl\"\ncert_file = \"c\"", "kafka.cert_file", "needs `kafka.key_file`"),
    ("[kafka]\nsecurity_protocol = \"ssl\"\nkey_password = \"c\"", "kafka.key_password", "needs `kafka.key_file`"),
    ("[kafka.properties]\nenable.idempotence = false", "kafka.properties.enable.idempotence", "duplicate and reorder"),
    (
        "[kafka.properties]\n\"enable.idempotence\" = \"false\"",
        "kafka.properties.enable.idempotence",
        "duplicate and reorder",
    ),
    ("[kafka.properties]\nx = [1]", "kafka.properties.x", "expected text"),
    ("[kafka.properties]\na.b = 1\n\"a.b\" = 2", "kafka.properties.a.b", "given twice"),
    ("[kafka]\nproperties = 5", "kafka.properties", "expected a table"),
    ("[consumer]\ngroup = \"my group\"", "consumer.group", "letters"),
    ("[consumer]\ntopics = []", "consumer.topics", "no topic to read"),
    ("[consumer]\ntopics = [\"^orders.*\"]", "consumer.topics[0]", "cannot have `^`"),
    ("[[projection]]\nsql = \"a.sql\"", "projection[0].name", "letters"),
    ("[[projection]]\nname = \"a\"", "projection[0].sql", "SQL file"),
    (
        "[[projection]]\nname = \"a\"\nsql = \"s\"\n[[projection]]\nname = \"a\"\nsql = \"s\"",
        "projection[1].name",
        "called `a` too",
    ),
    ("[[projection]]\nname = \"a\"\nsql = \"s\"\ntopics = [\"other\"]", "projection[0].topics[0]", "never see it"),
    ("[[projection]]\nname = \"a\"\nsql = \"s\"\ntopics = [\"..\"]", "projection[0].topics[0]", "called `.` or `..`"),
    ("[cleanup]\ninterval = \"999ms\"", "cleanup.interval", "at least 1s"),
    ("[cleanup]\nbatch_rows = 100001", "cleanup.batch_rows", "at most 100000"),
    ("[cleanup]\nmax_replica_lag = 0", "cleanup.max_replica_lag", "more than 0"),
    ("[cleanup]\npublished_older_than = \"0s\"", "cleanup.published_older_than", "longer than 0s"),
    ("[cleanup]\nfailed_older_than = \"\"", "cleanup.failed_older_than", "or `never`"),
    ("[cleanup]\nfailed_older_than = 30", "cleanup.failed_older_than", "without a unit"),
    ("[cleanup]\nhandled_older_than = \"6d\"", "cleanup.handled_older_than", "(6d) must not be shorter than"),
    ("[cleanup]\npublished_older_than = \"31d\"", "cleanup.published_older_than", "(30d) must not be shorter than"),
    ("[run]\ndeployment = \"\"", "run.deployment", "letters"),
    ("[run]\ndeployment = \"a/b\"", "run.deployment", "letters"),
    ("[run]\ninstance = \"a b\"", "run.instance", "letters"),
];

#[test]
fn every_broken_rule_is_one_problem_at_its_key() {
    for (text, key, why) in BROKEN {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        assert_eq!(problems[0].key.as_deref(), Some(*key), "{text}");
        assert!(problems[0].why.contains(why), "{text}: {}", problems[0].why);
        assert!(problems[0].origin.position().is_some(), "{text}: no place");
    }
}

#[test]
fn what_is_right_is_accepted() {
    for text in [
        "",
        "[database]\nurl = \"postgresql://app@db/shop\"\ntls = \"verify-ca\"\nca_file = \"c\"\ncert_file = \"c\"\nkey_file = \"k\"",
        "[kafka]\nbootstrap_servers = \"a, b:9092 ,[::1]:9092\"",
        "[kafka]\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"SCRAM-SHA-512\"\nsasl_username = \"u\"\nsasl_password = \"p\"",
        "[kafka]\nsecurity_protocol = \"ssl\"\nca_file = \"c\"\ncert_file = \"c\"\nkey_file = \"k\"\nkey_password = \"p\"",
        "[kafka.properties]\nlinger.ms = 5\n\"batch.size\" = \"1000\"\nsocket.keepalive.enable = true\nacks = \"all\"\nacks.x = 1",
        "[[routing.rule]]\naggregate_type = '(?<a>.*)-(b)'\nevent_type = \"x\"\ntopic = \"${a}.$2.{event_type}\"",
        "[routing]\nallowed_topics = [\"*-events\"]\n[[routing.rule]]\nevent_type = \"x\"\ntopic = \"order-events\"",
        "[consumer]\nenabled = false\ntopics = []",
        "[cleanup]\npublished_older_than = \"never\"\nhandled_older_than = \"1s\"\nfailed_older_than = \"1h30m\"",
        "[relay]\nbatch_bytes = 1000000\nmax_record_bytes = \"1MB\"\nlease = \"3s\"\npoll_min = \"250ms\"",
    ] {
        if text.contains("acks.x") {
            // A key cannot be text and table at once: TOML itself refuses it.
            assert_eq!(problems(text)[0].title, "the settings file is not valid TOML");
            continue;
        }
        if let Err(error) = load(text) {
            panic!("{text}\n{}", error.render(false));
        }
    }
}

#[test]
fn librdkafka_settings_that_break_a_promise_are_refused_with_the_reason() {
    for refused in crate::config::rules::REFUSED {
        for name in refused.names {
            let problem = &problems(&format!("[kafka.properties]\n\"{name}\" = \"surely-not\""))[0];
            assert_eq!(problem.why, refused.why, "{name}");
            for value in refused.harmless {
                load(&format!("[kafka.properties]\n\"{name}\" = \"{value}\""))
                    .unwrap_or_else(|error| panic!("{}", error.render(false)));
            }
        }
    }
}

#[test]
fn librdkafka_settings_without_effect_are_refused_by_name() {
    let sasl = "[kafka]\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"\nsasl_password = \"p\"\n";
    for (text, name, why) in [
        ("[kafka.properties]\n\"ssl.cipher.suites\" = \"x\"", "ssl.cipher.suites", "does not encrypt"),
        ("[kafka.properties]\n\"sasl.kerberos.principal\" = \"x\"", "sasl.kerberos.principal", "`plaintext`"),
        (
            &format!("{sasl}[kafka.properties]\n\"sasl.kerberos.principal\" = \"x\""),
            "sasl.kerberos.principal",
            "GSSAPI",
        ),
        (
            &format!("{sasl}ca_file = \"c\"\n[kafka.properties]\n\"ssl.ca.pem\" = \"x\""),
            "ssl.ca.pem",
            "`kafka.ca_file`",
        ),
    ] {
        let problem = &problems(text)[0];
        assert_eq!(problem.key.as_deref(), Some(format!("kafka.properties.{name}").as_str()), "{text}");
        assert!(problem.why.contains(why), "{text}: {}", problem.why);
    }
    for mechanism in ["OAUTHBEARER", "AWS_MSK_IAM", "GSSAPI"].iter().take(if cfg!(feature = "gssapi") { 2 } else { 3 })
    {
        let text = format!("[kafka]\nsecurity_protocol = \"sasl_ssl\"\nsasl_mechanism = \"{mechanism}\"");
        assert!(problems(&text)[0].why.contains("build"), "{mechanism}: {}", problems(&text)[0].why);
    }
}

#[test]
fn a_rule_between_two_values_points_at_the_one_that_was_set() {
    let sources = Sources::none().with_variables([("OUTBOX_RELAY_RELAY__POLL_MAX", "1ms")]);
    let problem = only_problem(&sources);
    assert_eq!(problem.origin, Origin::Variable("OUTBOX_RELAY_RELAY__POLL_MAX".to_owned()));
    let both = Sources::none().with_text("relay.toml", "[relay]\npoll_max = \"10ms\"\npoll_min = \"1s\"\n");
    let report = Config::load(&both, Needs::NOTHING).unwrap_err().render(false);
    assert!(
        report.contains("2 | poll_max = \"10ms\"\n  |            ------ `relay.poll_max`\n3 | poll_min"),
        "{report}"
    );
}

#[test]
fn what_a_command_needs_must_be_set() {
    let missing = |needs| match Config::load(&Sources::none(), needs) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems().iter().map(|problem| problem.key.clone().unwrap_or_default()).collect(),
    };
    assert_eq!(missing(Needs::NOTHING), [""; 0]);
    assert_eq!(missing(Needs::DATABASE), ["database.url"]);
    assert_eq!(missing(Needs::KAFKA), ["kafka.bootstrap_servers"]);
    assert_eq!(missing(Needs::BOTH), ["database.url", "kafka.bootstrap_servers"]);
    let empty = Sources::none().with_text("relay.toml", "[kafka]\nbootstrap_servers = \" \"\n");
    let error = Config::load(&empty, Needs::KAFKA).unwrap_err();
    assert_eq!(error.problems()[0].origin.position(), Some((2, 21)));
}
