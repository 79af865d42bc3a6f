//! Splits both forms of a connection string into names and values.
//!
//! A password that should have been percent-encoded or quoted breaks into pieces that look like hosts, databases and
//! parameter names. Invariant: if that may have happened, the string is rejected and nothing in it is quoted.

use percent_encoding::percent_decode_str;

use super::Refused;
use super::parameters;

/// A name and its value.
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    /// Whether the name may be shown if nobody knows it: it cannot be a piece of a password.
    pub(super) showable: bool,
}

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

const ENCODE: &str =
    "in the user name and the password write `%` as %25, `@` as %40, `/` as %2F, `?` as %3F, `:` as %3A and `#` as %23";

pub(super) fn pairs(text: &str) -> Result<Vec<Pair>, Refused> {
    let form = "write it as postgres://user:password@host:5432/database";
    match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some("") => Err(Refused::new("nothing follows the scheme", form)),
        Some(rest) => uri(rest),
        None if has_scheme(text) || !text.contains('=') => Err(Refused::new(
            "expected a URL that begins with `postgres://` or `postgresql://`, or `name=value` pairs",
            form,
        )),
        None => words(text),
    }
}

fn has_scheme(text: &str) -> bool {
    let letters = |scheme: &str| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    text.split_once("://").is_some_and(|(scheme, _)| letters(scheme))
}

/// The parts of a URI behind its scheme.
struct Parts<'a> {
    credentials: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

fn uri(rest: &str) -> Result<Vec<Pair>, Refused> {
    let parts = split(rest)?;
    let mut pairs = Vec::new();
    if let Some(credentials) = parts.credentials {
        let (user, password) = credentials.split_once(':').map_or((credentials, None), |(user, pw)| (user, Some(pw)));
        add(&mut pairs, "user", user);
        add(&mut pairs, "password", password.unwrap_or_default());
    }
    if !parts.hosts.is_empty() {
        let (hosts, ports) = hosts(parts.hosts)?;
        pairs.push(Pair { name: "host".to_owned(), value: hosts.into_bytes(), showable: true });
        if let Some(ports) = ports {
            pairs.push(Pair { name: "port".to_owned(), value: ports.into_bytes(), showable: true });
        }
    }
    add(&mut pairs, "dbname", parts.path);
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Refused::new(
                "a parameter after the `?` has no `=`",
                "write them as ?name=value&name=value, and percent-encode anything that belongs to a password",
            ));
        };
        let (name, value) = (decoded(name), decoded(value));
        let name = String::from_utf8(name).map_err(|_| Refused::new("the name of a parameter is not UTF-8", ENCODE))?;
        // The `ssl=true` of other drivers, which libpq understands in this form, too.
        let (name, value) = match (name.as_str(), value.as_slice()) {
            ("ssl", b"true") => ("sslmode".to_owned(), b"require".to_vec()),
            _ => (name, value),
        };
        pairs.push(Pair { name, value, showable: true });
    }
    Ok(pairs)
}

/// As if it had been given as a parameter, if it is there at all.
fn add(pairs: &mut Vec<Pair>, name: &str, encoded: &str) {
    if !encoded.is_empty() {
        pairs.push(Pair { name: name.to_owned(), value: decoded(encoded), showable: true });
    }
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

fn split(rest: &str) -> Result<Parts<'_>, Refused> {
    let ambiguous = || Refused::new("it has an ambiguous `@`, `/` or `?` that may be part of a password", ENCODE);
    let edge = rest.find(['/', '?']).unwrap_or(rest.len());
    let (credentials, tail) = match rest.rfind('@') {
        None => (None, rest),
        // Nothing but credentials can hold the others.
        Some(at) if at < edge => (Some(&rest[..at]), &rest[at + 1..]),
        Some(_) if rest.matches('@').count() > 1 => return Err(ambiguous()),
        Some(at) => {
            let authority = &rest[..edge];
            // What stands before the slash is no host: it is a password with a slash in it.
            if !authority.contains(':') || hosts(authority).is_ok() {
                return Err(ambiguous());
            }
            (Some(&rest[..at]), &rest[at + 1..])
        }
    };
    let (before, query) = tail.split_once('?').unwrap_or((tail, ""));
    let (hosts, path) = before.split_once('/').unwrap_or((before, ""));
    Ok(Parts { credentials, hosts, path, query })
}

/// `host:port,host:port` as a list of hosts and one of ports, if there are any.
fn hosts(text: &str) -> Result<(String, Option<String>), Refused> {
    let bad = || Refused::new("a host is not written as `host`, `host:port` or `[address]:port`", ENCODE);
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for chunk in text.split(',') {
        let (host, port) = match chunk.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(bad)?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")).ok_or_else(bad)?)
            }
            None => chunk.split_once(':').unwrap_or((chunk, "")),
        };
        let host = String::from_utf8(decoded(host)).map_err(|_| bad())?;
        if !parameters::is_host(&host) || !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(bad());
        }
        hosts.push(host);
        ports.push(port);
    }
    let given = ports.iter().any(|port| !port.is_empty());
    Ok((hosts.join(","), given.then(|| ports.join(","))))
}

/// `name=value name='quoted value'`, with `\` before a quote or a backslash.
fn words(text: &str) -> Result<Vec<Pair>, Refused> {
    let quote = "put a value with spaces, quotes or backslashes into single quotes, with \\ before each ' and \\ in it";
    let mut pairs: Vec<Pair> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, value) = rest
            .split_once('=')
            .filter(|(name, _)| !name.trim_end().contains(|c: char| c.is_whitespace() || c == '\''))
            .ok_or_else(|| Refused::new("expected `name=value` pairs", quote))?;
        let (value, behind) = word(value.trim_start()).ok_or_else(|| Refused::new("a quote is not closed", quote))?;
        if !behind.is_empty() && !behind.starts_with(char::is_whitespace) {
            return Err(Refused::new("something follows a closing quote without a space", quote));
        }
        // Behind a password that was not quoted stand its other words.
        let showable = !pairs.iter().any(|pair| pair.name == "password" || pair.name == "sslpassword");
        pairs.push(Pair { name: name.trim_end().to_owned(), value: value.into_bytes(), showable });
        rest = behind.trim_start();
    }
    Ok(pairs)
}

/// A value and what follows it. `None`: its quote is not closed.
fn word(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if c.is_whitespace() && !quoted => return Some((value, &text[at..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}
