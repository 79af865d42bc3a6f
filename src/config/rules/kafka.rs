//! Rules of `[kafka]`: brokers, and security settings that belong together.

use super::{Rules, properties};
use crate::config::{KafkaConfig, SecurityProtocol};

/// Mechanisms that go by user name and password.
const WITH_PASSWORD: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// The mechanism whose settings stand in `[kafka.properties]`, where it is built in.
const KERBEROS: &str = "GSSAPI";

/// Mechanisms that need a token, which nothing in this build can get.
const WITH_TOKEN: [&str; 2] = ["OAUTHBEARER", "AWS_MSK_IAM"];

impl KafkaConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        if let Err(why) = brokers(&self.bootstrap_servers) {
            rules.refuse(&["kafka.bootstrap_servers"], why, "write `host:port,host:port`");
        }
        self.check_sasl(rules);
        self.check_tls(rules);
        for (name, value) in &self.properties {
            if let Some(refused) = properties::refused(name, value) {
                rules.refuse(&[&format!("kafka.properties.{name}")], refused.why, refused.help);
            } else if let Some((why, help)) = properties::idle(name, self) {
                rules.refuse(&[&format!("kafka.properties.{name}"), "kafka.security_protocol"], why, help);
            }
        }
    }

    fn check_sasl(&self, rules: &mut Rules<'_, '_>) {
        let protocol = "kafka.security_protocol";
        let given = [
            ("kafka.sasl_mechanism", self.sasl_mechanism.is_some()),
            ("kafka.sasl_username", self.sasl_username.is_some()),
            ("kafka.sasl_password", !self.sasl_password.is_empty()),
        ];
        if !matches!(self.security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl) {
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                let why = format!("`{key}` has no effect with `{protocol}` = `{}`", self.security_protocol.as_str());
                rules.refuse(
                    &[key, protocol],
                    why,
                    format!("set `{protocol}` to `sasl_ssl`, or remove the SASL settings"),
                );
            }
            return;
        }
        let Some(mechanism) = self.sasl_mechanism.as_deref() else {
            let why = format!("`{protocol}` = `{}` needs `kafka.sasl_mechanism`", self.security_protocol.as_str());
            rules.refuse(
                &[protocol, "kafka.sasl_mechanism"],
                why,
                "set `kafka.sasl_mechanism` to `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`",
            );
            return;
        };
        if WITH_PASSWORD.contains(&mechanism) {
            for (key, _) in given.iter().filter(|(_, given)| !given) {
                let why = format!("`kafka.sasl_mechanism` = `{mechanism}` needs `{key}`");
                let help = if *key == "kafka.sasl_password" {
                    "set it, or `kafka.sasl_password_file` to a file that holds it"
                } else {
                    "set it"
                };
                rules.refuse(&["kafka.sasl_mechanism", key], why, help);
            }
        } else if WITH_TOKEN.contains(&mechanism) {
            let why = format!("`{mechanism}` cannot work in this build, which has no way to get a token");
            rules.refuse(
                &["kafka.sasl_mechanism"],
                why,
                "use `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`, or a client certificate; a later release brings it",
            );
        } else if mechanism == KERBEROS && !cfg!(feature = "gssapi") {
            let why = "`GSSAPI` is not in this build";
            rules.refuse(
                &["kafka.sasl_mechanism"],
                why,
                "build outbox-relay with `--features gssapi`, or use `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`",
            );
        } else if mechanism != KERBEROS {
            let why = "expected `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `GSSAPI`";
            rules.refuse(&["kafka.sasl_mechanism"], why, "write it in capitals, as Kafka does");
        }
    }

    fn check_tls(&self, rules: &mut Rules<'_, '_>) {
        rules.pair(self.cert_file.is_some(), self.key_file.is_some(), "kafka");
        if !self.key_password.is_empty() && self.key_file.is_none() {
            rules.refuse(
                &["kafka.key_password", "kafka.key_file"],
                "`kafka.key_password` needs `kafka.key_file`",
                "it is the passphrase of that file",
            );
        }
        if matches!(self.security_protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl) {
            return;
        }
        let protocol = "kafka.security_protocol";
        let given = [
            ("kafka.ca_file", self.ca_file.is_some()),
            ("kafka.cert_file", self.cert_file.is_some()),
            ("kafka.key_file", self.key_file.is_some()),
        ];
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            let why = format!(
                "`{key}` has no effect with `{protocol}` = `{}`, which does not encrypt",
                self.security_protocol.as_str()
            );
            rules.refuse(&[key, protocol], why, format!("set `{protocol}` to `ssl` or `sasl_ssl`, or remove the file"));
        }
    }
}

/// `host:port,host:port`; the port may be left out, which means 9092. Empty is for [`Rules::require`].
fn brokers(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    for broker in text.split(',').map(str::trim) {
        let host_end = if broker.starts_with('[') {
            broker.find(']').map(|end| end + 1)
        } else {
            Some(broker.find(':').unwrap_or(broker.len()))
        };
        let (host, port) = broker.split_at(host_end.ok_or("an IPv6 address has no closing `]`")?);
        if broker.contains("://") {
            return Err("expected hosts without a scheme such as `kafka://`".to_owned());
        }
        if host.is_empty() {
            return Err("a host is empty".to_owned());
        }
        if broker.contains(char::is_whitespace) {
            return Err("a host cannot have a space; hosts are separated by commas".to_owned());
        }
        match port.strip_prefix(':') {
            None if port.is_empty() => {}
            Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => {}
            None | Some(_) => return Err("a port must be a number from 1 to 65535".to_owned()),
        }
    }
    Ok(())
}
