//! What the report looks like.

use super::*;

const TEN_MISTAKES: &str = r#"shards = 4

[database]
url = "mysql://app:canary@db/shop"
tls = "verify_ful"

[relay]
batch_rows = "2000"
lease = 15
poll_min = "1s"

[kafka]
batch_bytes = "1MiB"

[kafka.properties]
acks = 1

[consumer]
topics = ["order-events", "order events"]

[telemetri]
log_format = "json"
"#;

const TEN_ANSWERS: &str = r#"error[OR-C001]: unknown key `shards`
 --> relay.toml:1:1
  |
1 | shards = 4
  | ^^^^^^ it is outside of every section
  |
  = help: `shards` belongs to [outbox]

error[OR-C001]: bad value for `database.url`
 --> relay.toml:4:7
  |
4 | url = ***
  |       ^^^ expected a URL that begins with `postgres://` or `postgresql://`, or `name=value` pairs
  |
  = help: write it as postgres://user:password@host:5432/database

error[OR-C001]: bad value for `database.tls`
 --> relay.toml:5:7
  |
5 | tls = "verify_ful"
  |       ^^^^^^^^^^^^ expected `auto`, `disable`, `prefer`, `require`, `verify-ca` or `verify-full`
  |
  = help: did you mean `verify-full`?

error[OR-C001]: bad value for `relay.batch_rows`
 --> relay.toml:8:14
  |
8 | batch_rows = "2000"
  |              ^^^^^^ expected a whole number from 1 to 4294967295, found text
  |
  = help: write it without quotes

error[OR-C001]: bad value for `relay.lease`
 --> relay.toml:9:9
  |
9 | lease = 15
  |         ^^ expected a duration, found a number without a unit
  |
  = help: write "15s" for seconds or "15ms" for milliseconds

error[OR-C001]: bad value for `relay.poll_min`
  --> relay.toml:10:12
   |
10 | poll_min = "1s"
   |            ^^^^ `relay.poll_min` (1s) must not be longer than `relay.poll_max` (250ms)
   |
   = help: while the outbox is idle, the delay grows from the one to the other

error[OR-C001]: unknown key `batch_bytes` in [kafka]
  --> relay.toml:13:1
   |
13 | batch_bytes = "1MiB"
   | ^^^^^^^^^^^ [kafka] has no key of this name
   |
   = help: `batch_bytes` belongs to [relay]

error[OR-C001]: bad value for `kafka.properties.acks`
  --> relay.toml:16:8
   |
16 | acks = 1
   |        ^ a record that was counted as published could be lost with its broker
   |
   = help: remove it: outbox-relay sets it

error[OR-C001]: bad value for `consumer.topics[1]`
  --> relay.toml:19:27
   |
19 | topics = ["order-events", "order events"]
   |                           ^^^^^^^^^^^^^^ a topic cannot have a space
   |
   = help: Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`

error[OR-C001]: unknown section `telemetri`
  --> relay.toml:21:2
   |
21 | [telemetri]
   |  ^^^^^^^^^ no section has this name
   |
   = help: did you mean `telemetry`?

there are 10 problems with the settings; nothing was started
"#;

#[test]
fn ten_mistakes_give_ten_answers_with_their_places() {
    let report = load(TEN_MISTAKES).unwrap_err().render(false);
    assert_eq!(report, TEN_ANSWERS, "got:\n{report}");
}

#[test]
fn rows_have_the_same_as_the_report() {
    let rows = load(TEN_MISTAKES).unwrap_err().rows();
    let places: Vec<_> = rows.iter().map(|row| (row.line.unwrap(), row.column.unwrap())).collect();
    assert_eq!(places, [(1, 1), (4, 7), (5, 7), (8, 14), (9, 9), (10, 12), (13, 1), (16, 8), (19, 27), (21, 2)]);
    assert_eq!(rows[3].key.as_deref(), Some("relay.batch_rows"));
    assert_eq!(rows[3].source.as_deref(), Some("relay.toml:8"));
    assert_eq!(rows[3].help.as_deref(), Some("write it without quotes"));
}

#[test]
fn the_error_ends_the_process_with_3_and_says_everything() {
    let error = crate::error::Error::from(load(TEN_MISTAKES).unwrap_err());
    assert_eq!(error.code().exit(), crate::error::Exit::ConfigInvalid);
    assert!(error.report().contains("relay.toml:21:2"), "{}", error.report());
}

#[test]
fn colours_come_only_when_asked_for() {
    let error = load(TEN_MISTAKES).unwrap_err();
    assert!(!error.render(false).contains('\u{1b}'));
    assert!(error.render(true).contains('\u{1b}'));
}

#[test]
fn syntax_errors_are_reported_with_the_problems_of_the_rest() {
    let problems =
        problems("[relay]\nlease = \"1s\"\npoll_min = 5 ms\n\n[kafka\nbatch_rows = 1\n\n[admin]\nenabled = maybe\n");
    let places: Vec<_> = problems.iter().map(|problem| problem.origin.position().unwrap()).collect();
    let lines: Vec<_> = places.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 5, 9], "{problems:#?}");
}

#[test]
fn a_setting_that_may_be_in_the_broken_part_is_not_called_missing() {
    let sources = Sources::none().with_text("relay.toml", "[database]\nurl = postgres://u@h/d\n");
    let error = Config::load(&sources, Needs::BOTH).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{}", error.render(false));
}

#[test]
fn columns_count_characters_and_lines_may_end_with_crlf() {
    let place = |text: &str| problems(text)[0].origin.position().unwrap();
    assert_eq!(place("[run]\r\ndeployment = \"\"\r\n"), (2, 14));
    assert_eq!(place("headers = { source = \"/größe\", profil = 1 }\n"), (1, 32));
    assert_eq!(place("# ü\nheaders = { source = \"/日本\", profile = \"x\" }"), (2, 39));
    // Rendering cuts texts at these places; it must not fall between the bytes of a character.
    assert!(
        load("headers = { source = \"/日本\", prüfile = \"ü\" }").unwrap_err().render(false).contains("relay.toml:1:")
    );
}

#[test]
fn a_broken_value_is_not_judged_by_other_rules() {
    assert_eq!(problems("[relay]\npoll_min = \"x\"\npoll_max = \"1ms\"\n").len(), 1);
    assert_eq!(problems("[relay]\nbatch_bytes = -1\nmax_record_bytes = \"9MiB\"\n").len(), 1);
}

#[test]
fn keys_are_sent_to_where_they_belong() {
    for (text, help) in [
        ("[kafka]\nbatch_rows = 1", "`batch_rows` belongs to [relay] or [cleanup]"),
        ("[relay]\nbatch-rows = 1", "did you mean `batch_rows`?"),
        ("[relay]\nbootstrap_servers = 1", "`bootstrap_servers` belongs to [kafka]"),
        ("[relay]\ntopics = []", "`topics` belongs to [consumer] or [[projection]]"),
        ("[kafka]\nprojection = []", "`projection` is a section at the top: [[projection]]"),
        ("[run]\nlog_formatt = 1", "did you mean `log_format` of [telemetry]?"),
        ("[run]\nxyz = 1", "keys of [run] are: deployment, instance, shutdown_timeout"),
        ("[databse]\nurl = 1", "did you mean `database`?"),
        ("[routing]\nrules = []", "did you mean `rule`?"),
        ("[[relay]]\nlease = 1", "write the heading with single brackets: [relay]"),
        ("[projection]\nname = 1", "write the heading with double brackets: [[projection]]"),
        ("[routing]\nrule = \"x\"", "write the heading with double brackets: [[routing.rule]]"),
        ("relay = 1", "write a heading, [relay], and the settings below it"),
        ("[database]\nurl_fil = 1", "did you mean `url_file`?"),
        ("[admin]\nlisten = \":80\"", "for all interfaces write `0.0.0.0:80`, for this host only `127.0.0.1:80`"),
        ("[relay]\nenabled = \"false\"", "write it without quotes"),
        ("[relay]\nlease = \"30\"", "write `30s` for seconds or `30ms` for milliseconds"),
        ("[consumer]\ntopics = \"a\"", "write it in brackets: [\"…\"]"),
    ] {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        assert_eq!(problems[0].help.as_deref(), Some(help), "{text}");
    }
}
