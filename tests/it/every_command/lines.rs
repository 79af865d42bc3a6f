//! Command lines: every command that there is, with every flag of it. What a command line needs, changes and prints.
//!
//! Words in braces are filled in by the stage. A command or a flag without a line fails a test.

use std::collections::BTreeSet;

use clap::CommandFactory;
use clap::parser::ValueSource;
use outbox_relay::cli::Cli;

/// What a command line does to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing, and prints no payload.
    Looks,
    /// Changes nothing, and is there to print payloads.
    Shows,
    Writes,
    /// Runs until somebody ends it.
    Serves,
}

/// What has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// PostgreSQL, and the tables of the outbox.
    Outbox,
    /// PostgreSQL, with or without tables.
    Server,
    /// The outbox and Kafka.
    Both,
}

#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub text: &'static str,
    pub kind: Kind,
    pub needs: Needs,
    /// Prints a text of its own, whatever the format.
    pub plain: bool,
    /// SQL that gives it something to do.
    pub before: &'static str,
}

impl Line {
    /// The words, without those that the stage fills in.
    pub fn starts_with(&self, words: &str) -> bool {
        self.text.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }

    const fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }
}

const fn line(kind: Kind, needs: Needs, text: &'static str) -> Line {
    Line { text, kind, needs, plain: false, before: "" }
}

const fn looks(needs: Needs, text: &'static str) -> Line {
    line(Kind::Looks, needs, text)
}

const fn writes(needs: Needs, text: &'static str) -> Line {
    line(Kind::Writes, needs, text)
}

const EVENT_FILTERS: &str = "events retry --status failed,held --class too-large --event-id {event_id} --key {key} --topic {topic} \
    --event-type E --aggregate-type A --aggregate-id {key} --correlation-id c --since 7d --until 1s --yes";

pub const LINES: &[Line] = &[
    line(Kind::Serves, Needs::Both, "run --only relay,consumer,admin"),
    line(Kind::Serves, Needs::Nothing, "demo --for 1s --rate 20 --instances 2 --seed 7").plain(),
    looks(Needs::Nothing, "init --dry-run").plain(),
    writes(Needs::Nothing, "init --path {folder}/relay.toml --force").plain(),
    looks(Needs::Server, "migrate up --dry-run"),
    looks(Needs::Server, "migrate up --partitioned --dry-run"),
    writes(Needs::Server, "migrate up"),
    writes(Needs::Server, "migrate up --partitioned"),
    looks(Needs::Server, "migrate status"),
    looks(Needs::Nothing, "migrate sql").plain(),
    looks(Needs::Nothing, "migrate sql --after 7").plain(),
    looks(Needs::Both, "check"),
    looks(Needs::Nothing, "health --timeout 2s --url http://{nobody}"),
    looks(Needs::Nothing, "health --ready --url http://{nobody}/base/"),
    looks(Needs::Outbox, "events ls --limit 10000"),
    looks(Needs::Outbox, "events ls --id {failed} --after 999999999"),
    looks(
        Needs::Outbox,
        "events ls --status pending,published,failed,held,discarded --oldest-first --since 1970-01-01 --until 2100-01-01",
    ),
    looks(
        Needs::Outbox,
        "events ls --event-id {event_id} --key {key} --topic {topic} --event-type E --aggregate-type A --aggregate-id {key} \
         --correlation-id c",
    ),
    line(Kind::Shows, Needs::Outbox, "events show {failed} {event_id}"),
    looks(Needs::Outbox, "events trace {failed}"),
    looks(Needs::Outbox, "events trace --correlation-id c"),
    looks(Needs::Outbox, "events retry --all --dry-run"),
    writes(Needs::Outbox, "events retry --all --yes --reason again"),
    writes(Needs::Outbox, "events retry {failed} {event_id} --yes"),
    writes(Needs::Outbox, EVENT_FILTERS),
    looks(Needs::Outbox, "events discard --status failed,held --dry-run"),
    writes(Needs::Outbox, "events discard --all --yes --reason test"),
    writes(Needs::Outbox, "events discard {failed} --yes"),
    writes(
        Needs::Outbox,
        "events discard --status held --class too-large --event-id {event_id} --key {key} --topic {topic} --event-type E \
         --aggregate-type A --aggregate-id {key} --correlation-id c --since 7d --until 1s --yes",
    ),
    looks(Needs::Both, "lag"),
    looks(Needs::Both, "lag --group {group} --fail-over 1 --fail-over-age 1s"),
    looks(Needs::Outbox, "top --once"),
    looks(Needs::Outbox, "top --count 2 --interval 100ms"),
    line(Kind::Serves, Needs::Outbox, "top --interval 200ms"),
    looks(Needs::Outbox, "pause --dry-run"),
    writes(Needs::Outbox, "pause"),
    writes(Needs::Outbox, "pause --topic {topic} --reason upgrade"),
    looks(Needs::Outbox, "resume --topic {topic} --dry-run"),
    writes(Needs::Outbox, "resume --topic {paused} --reason done"),
    looks(Needs::Outbox, "cleanup --older-than 0s --status published,failed,discarded,handled --dry-run"),
    writes(Needs::Outbox, "cleanup --older-than 0s --status published,failed,discarded,handled --yes --reason old"),
    writes(Needs::Outbox, "cleanup --older-than 0s --limit 5 --yes"),
    looks(Needs::Outbox, "shards ls"),
    looks(Needs::Outbox, "shards set 16 --dry-run"),
    writes(Needs::Outbox, "shards set 16 --timeout 10s --yes --reason more"),
    looks(Needs::Outbox, "replay --to 2100-01-01 --dry-run"),
    writes(Needs::Outbox, "replay --to 2100-01-01 --from 1970-01-01 --new-ids --yes --reason again"),
    writes(Needs::Both, "replay --to-topic {topic} --key {key} --again --rate 1000 --ignore-retention --yes"),
    writes(
        Needs::Outbox,
        "replay --aggregate-type A --aggregate-id {key} --topic {topic} --event-type E --from 7d --to 2100-01-01 --yes",
    ),
    writes(Needs::Outbox, "replay --id {published},{discarded} --yes"),
    looks(Needs::Outbox, "replay --resume {replay} --dry-run"),
    writes(Needs::Outbox, "replay --resume {replay}"),
    looks(Needs::Both, "dlq ls --limit 1000"),
    looks(Needs::Both, "dlq ls --dlq {letters} --topic {topic} --class Poison --since 1970-01-01 --until 2100-01-01"),
    line(Kind::Shows, Needs::Both, "dlq show {letter}"),
    looks(Needs::Both, "dlq redrive --dlq {letters} --dry-run"),
    writes(Needs::Both, "dlq redrive --dlq {letters} --rate 1000 --yes --reason mended"),
    writes(Needs::Both, "dlq redrive {letter} --yes"),
    writes(Needs::Both, "dlq redrive --topic {topic} --class Poison --since 1970-01-01 --until 0s --yes"),
    looks(Needs::Both, "dlq purge --older-than 0s --topic {purged} --dry-run"),
    writes(Needs::Both, "dlq purge --older-than 0s --topic {purged} --force --yes --reason gone"),
    writes(Needs::Both, "dlq purge {purged}-dlq/0/1 --yes"),
    looks(Needs::Outbox, "jobs ls"),
    looks(
        Needs::Outbox,
        "jobs ls --state running,cancelling,stalled,cancelled,done,failed --kind replay,cleanup,redrive,reshard --limit 1000",
    ),
    looks(Needs::Outbox, "jobs show {job}"),
    looks(Needs::Outbox, "jobs show {job} --follow"),
    looks(Needs::Outbox, "jobs cancel {job} --dry-run"),
    writes(Needs::Outbox, "jobs cancel {job} --reason wrong"),
    looks(Needs::Outbox, "jobs resume {job} --dry-run"),
    writes(Needs::Outbox, "jobs resume {replay} --take-over --rate 1000 --reason gone"),
    writes(Needs::Outbox, "jobs resume {job} --take-over"),
    looks(Needs::Outbox, "consumer positions ls"),
    looks(Needs::Outbox, "consumer positions ls --group {group} --topic {topic}"),
    looks(Needs::Both, "consumer positions set --topic {topic} --partition 0 --offset earliest --dry-run"),
    writes(
        Needs::Both,
        "consumer positions set --topic {topic} --partition 0 --offset latest --group {group} --yes --reason ok",
    ),
    writes(Needs::Outbox, "consumer positions set --from-group old --yes"),
    looks(Needs::Both, "consumer positions accept --topic {topic} --dry-run"),
    writes(Needs::Both, "consumer positions accept --topic {topic} --partition 0 --group {group} --yes --reason ok"),
    looks(Needs::Outbox, "consumer parked ls --limit 1000 --discarded"),
    looks(
        Needs::Outbox,
        "consumer parked ls --id {parked} --projection p --type T --topic {topic} --key {key} --error words --group {group}",
    ),
    line(Kind::Shows, Needs::Outbox, "consumer parked show {parked}"),
    looks(Needs::Outbox, "consumer parked release --all --dry-run"),
    writes(
        Needs::Outbox,
        "consumer parked release --type LikeAddedEvent --error words --topic {topic} --projection p --key {key} --group {group} --yes \
         --reason mended --timeout 1s",
    ),
    writes(Needs::Outbox, "consumer parked release --id {parked} --no-wait"),
    looks(Needs::Outbox, "consumer parked discard --all --dry-run"),
    writes(Needs::Outbox, "consumer parked discard --all --yes"),
    writes(Needs::Outbox, "consumer parked discard --id {parked} --yes --reason test"),
    writes(
        Needs::Outbox,
        "consumer parked discard --type LikeAddedEvent --error words --topic {topic} --projection p --key {key} --group {group} --yes",
    ),
    looks(Needs::Both, "recover"),
    looks(Needs::Both, "recover --shard 0 --scan --topic {topic} --since 1d"),
    writes(Needs::Both, "recover --scan --apply --reason restored"),
    writes(Needs::Both, "recover --from-kafka --apply --topic {topic} --since 1d"),
    looks(Needs::Outbox, "adopt --moved --dry-run").after(AWAY),
    writes(Needs::Outbox, "adopt --moved --yes").after(AWAY),
    writes(Needs::Outbox, "adopt --copy --yes --reason staging").after(AWAY),
    looks(Needs::Nothing, "config show"),
    looks(Needs::Nothing, "config schema").plain(),
    looks(Needs::Nothing, "config validate").plain(),
    looks(Needs::Nothing, "config reference").plain(),
    looks(Needs::Nothing, "completions bash").plain(),
    looks(Needs::Nothing, "man").plain(),
    writes(Needs::Nothing, "man --dir {folder}").plain(),
];

/// A relay has run somewhere else.
const AWAY: &str = "update outbox_installation set home_system = '1', home_database = 1";

/// Flags that no line has, and why.
const LEFT_OUT: &[(&str, &str, &str)] =
    &[("demo", "keep", "leaves a folder behind"), ("demo", "kafka", "has a test of its own")];

/// The commands that do something, by their words.
fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{words} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() { leaves(sub, &name, found) } else { found.push((name, sub.clone())) }
    }
}

/// The arguments that a line gives, as the command line is parsed.
fn given(line: &Line) -> BTreeSet<String> {
    let filled = line.text.replace("{failed}", "1").replace("{published}", "1").replace("{discarded}", "2");
    let filled =
        filled.replace("{letter}", "t/0/1").replace("{nobody}", "h:1").replace("{purged}-dlq/0/1", "p-dlq/0/1");
    let uuid = "0198f2c4-0000-7000-8000-000000000001";
    let filled =
        ["{event_id}", "{replay}", "{parked}", "{job}"].iter().fold(filled, |text, word| text.replace(word, uuid));
    let words = std::iter::once("outbox-relay").chain(filled.split_whitespace());
    let matches = Cli::command().try_get_matches_from(words);
    let matches = matches.unwrap_or_else(|error| panic!("{}: {error}", line.text));
    let mut found = &matches;
    while let Some((_, sub)) = found.subcommand() {
        found = sub;
    }
    let by_hand = |id: &&clap::Id| found.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    found.ids().filter(by_hand).map(ToString::to_string).collect()
}

#[test]
fn every_command_and_every_flag_has_a_line() {
    let mut command = Cli::command();
    command.build();
    let global: BTreeSet<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let mut commands = Vec::new();
    leaves(&command, "", &mut commands);
    let mut missing = Vec::new();
    for (name, command) in commands {
        let lines: Vec<&Line> = LINES.iter().filter(|line| line.starts_with(&name)).collect();
        if lines.is_empty() {
            missing.push(name.clone());
        }
        let given: BTreeSet<String> = lines.iter().flat_map(|line| given(line)).collect();
        for arg in command.get_arguments().map(|arg| arg.get_id().to_string()) {
            let left_out = LEFT_OUT.iter().any(|(of, flag, _)| *of == name && *flag == arg);
            if !given.contains(&arg) && !global.contains(&arg) && !left_out && arg != "version" && arg != "help" {
                missing.push(format!("{name}: {arg}"));
            }
        }
    }
    assert!(missing.is_empty(), "add lines to tests/it/every_command/lines.rs: {missing:#?}");
}
