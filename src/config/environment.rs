//! From environment variables and flags to settings: which variable means which key, and which means nothing.

use std::collections::BTreeMap;

use super::problem::{Origin, Problem};
use super::source::{Flag, Sources};
use super::spec::{Leaf, LeafKind, SectionSpec};
use super::suggest;

const PREFIX: &str = "OUTBOX_RELAY_";

/// Names that many tools share. The `OUTBOX_RELAY_` form wins over them.
const SHARED: [(&str, &str); 2] =
    [("DATABASE_URL", "database.url"), ("KAFKA_BOOTSTRAP_SERVERS", "kafka.bootstrap_servers")];

/// A value that a variable or a flag gives.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// Full key: `relay.batch_rows`, `database.url_file`, `kafka.properties.linger.ms`.
    pub(super) key: String,
    pub(super) text: String,
    pub(super) origin: Origin,
    pub(super) layer: Layer,
}

/// Which source, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    File,
    SharedVariable,
    Variable,
    Flag,
}

/// Every value of the environment and the flags, the weakest first. Empty variables count as not set, because compose
/// files and unit files cannot leave one out.
pub(super) fn gather(sources: &Sources, root: &SectionSpec, problems: &mut Vec<Problem>) -> Vec<Given> {
    let leaves = root.leaves();
    let names: BTreeMap<String, &Leaf> = leaves.iter().map(|leaf| (variable_name(&leaf.path), leaf)).collect();
    let mut given = Vec::new();
    for (name, key) in SHARED {
        if let Some(text) = variable(sources, name, problems) {
            given.push(Given {
                key: key.to_owned(),
                text,
                origin: Origin::Variable(name.to_owned()),
                layer: Layer::SharedVariable,
            });
        }
    }
    for name in sources.variables.keys() {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if rest == "CONFIG" || is_service_link(rest) {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        let Some(key) = key_of_variable(rest, &names) else {
            problems.push(unknown_variable(name, rest, root, origin));
            continue;
        };
        match key {
            Ok(key) => {
                if let Some(text) = variable(sources, name, problems) {
                    given.push(Given { key, text, origin, layer: Layer::Variable });
                }
            }
            Err(path) => problems.push(only_in_file(&path, origin)),
        }
    }
    for flag in &sources.flags {
        given.extend(flag_value(flag, root, &leaves, problems));
    }
    given
}

/// `relay.batch_rows` is `RELAY__BATCH_ROWS`, without the prefix.
fn variable_name(path: &str) -> String {
    path.replace('.', "__").to_ascii_uppercase()
}

/// The variable that sets `path`.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", variable_name(path))
}

/// The key that `OUTBOX_RELAY_<rest>` sets; the inner error is the path of a list of tables.
fn key_of_variable(rest: &str, names: &BTreeMap<String, &Leaf>) -> Option<Result<String, String>> {
    if let Some(leaf) = names.get(rest) {
        return match leaf.kind {
            LeafKind::Tables => Some(Err(leaf.path.clone())),
            LeafKind::Map => None,
            LeafKind::Plain | LeafKind::Secret | LeafKind::SecretFile => Some(Ok(leaf.path.clone())),
        };
    }
    // No setting of librdkafka that takes text has `_` in its name, so `_` can stand for the dots.
    names.iter().find_map(|(name, leaf)| {
        let inner = rest.strip_prefix(name.as_str())?.strip_prefix("__").filter(|inner| !inner.is_empty())?;
        match leaf.kind {
            LeafKind::Map => Some(Ok(format!("{}.{}", leaf.path, inner.to_ascii_lowercase().replace('_', ".")))),
            LeafKind::Tables => Some(Err(leaf.path.clone())),
            LeafKind::Plain | LeafKind::Secret | LeafKind::SecretFile => None,
        }
    })
}

/// Kubernetes gives every pod variables such as `OUTBOX_RELAY_SERVICE_HOST` and `OUTBOX_RELAY_PORT_8080_TCP` if a
/// service is called `outbox-relay` or begins so. They are not ours. None has `__`, and no setting looks like them.
fn is_service_link(rest: &str) -> bool {
    let rest = format!("_{rest}");
    !rest[1..].contains("__")
        && (rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") || rest.ends_with("_PORT") || {
            let mut parts = rest.split("_PORT_");
            let after = parts.nth(1).unwrap_or_default();
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            digits > 0 && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| after[digits..].starts_with(protocol))
        })
}

fn variable(sources: &Sources, name: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let value = sources.variables.get(name).filter(|value| !value.is_empty())?;
    let text = value.to_str().map(str::to_owned);
    if text.is_none() {
        problems.push(Problem::new(
            format!("bad value in {name}"),
            "it is not UTF-8",
            Origin::Variable(name.to_owned()),
        ));
    }
    text
}

fn unknown_variable(name: &str, rest: &str, root: &SectionSpec, origin: Origin) -> Problem {
    let path = rest.to_ascii_lowercase().replace("__", ".");
    // One `_` instead of two between section and key is the usual slip.
    let near = root
        .leaves()
        .into_iter()
        .map(|leaf| leaf.path)
        .find(|known| known.replace(['.', '_'], "") == path.replace(['.', '_'], ""))
        .or_else(|| suggest::for_path(root, &path));
    let help = match near {
        Some(near) => format!("did you mean `{}`?", variable_of(&near)),
        None => format!("variables are called {PREFIX}<SECTION>__<KEY>; outbox-relay config show lists every key"),
    };
    Problem::new(format!("unknown environment variable `{name}`"), "no setting has this name", origin).help(help)
}

fn only_in_file(path: &str, origin: Origin) -> Problem {
    let title = format!("`{origin}` cannot set `{path}`");
    Problem {
        key: Some(path.to_owned()),
        ..Problem::new(title, "a list of tables can only be written in the settings file", origin)
    }
    .help(format!("write it there, as `[[{path}]]`"))
}

fn flag_value(flag: &Flag, root: &SectionSpec, leaves: &[Leaf], problems: &mut Vec<Problem>) -> Option<Given> {
    let origin = Origin::Flag(flag.name.clone());
    let Some((key, text)) = &flag.setting else {
        problems.push(
            Problem::new("bad value for --set", "expected `section.key=value`", origin)
                .help("for example `--set relay.batch_rows=500`"),
        );
        return None;
    };
    let leaf = leaves.iter().find(|leaf| match leaf.kind {
        LeafKind::Map => key.strip_prefix(&leaf.path).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')),
        LeafKind::Plain | LeafKind::Secret | LeafKind::SecretFile | LeafKind::Tables => leaf.path == *key,
    });
    match leaf.map(|leaf| leaf.kind) {
        None => {
            let problem = Problem::new(format!("unknown setting in `{origin}`"), "no setting has this name", origin);
            let help = match leaves.iter().any(|leaf| leaf.kind == LeafKind::Map && leaf.path == *key) {
                true => Some(format!("it needs one more name: `--set {key}.NAME=VALUE`")),
                false => suggest::for_path(root, key).map(|near| format!("did you mean `{near}`?")),
            };
            problems.push(problem.help("outbox-relay config show lists every key").maybe_help(help));
            None
        }
        Some(LeafKind::Tables) => {
            problems.push(only_in_file(key, origin));
            None
        }
        Some(LeafKind::Secret) => {
            let help = format!("use the environment, `{}`, or a file, `--set {key}_file=PATH`", variable_of(key));
            problems.push(Problem::of(key, "every process on the host can read a command line", origin).help(help));
            None
        }
        Some(LeafKind::Plain | LeafKind::SecretFile | LeafKind::Map) => {
            Some(Given { key: key.clone(), text: text.clone(), origin, layer: Layer::Flag })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn service_links_of_kubernetes_are_told_from_settings() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_ADMIN",
            "PORT",
            "PORT_8080_TCP",
            "PORT_8080_TCP_ADDR",
            "ADMIN_SERVICE_HOST",
            "ADMIN_PORT_80_TCP_PROTO",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["ADMIN_LISTEN", "RELAY__PORT", "DATABASE_URL", "REPORT", "PORT_X", "RELAY__SERVICE_HOST"] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}
