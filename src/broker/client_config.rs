//! From typed settings to librdkafka settings: those that the guarantees depend on, and those that users may add.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::config::{KafkaConfig, secret_file};
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

/// Secrets that were read from files, so that [`fresh`] knows where to look for a new one.
static FILES: Mutex<Vec<SecretFile>> = Mutex::new(Vec::new());

struct SecretFile {
    property: &'static str,
    /// What the file has held, the newest last.
    texts: Vec<Secret>,
    file: PathBuf,
}

/// Settings that producers, consumers and admin calls share: brokers, security, `[kafka.properties]`.
/// `client_id` shows in the broker's logs and quotas.
pub fn common(settings: &KafkaConfig, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap_servers)
        .set("client.id", client_id)
        .set("security.protocol", settings.security_protocol.as_str())
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("socket.timeout.ms", "10000")
        // An outage ends for us within a second of its end.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        // A new partition or a leader that moved is seen in ten seconds even where no error tells. A lane sends through
        // two clients (its own, and the one for small batches of all lanes), which then soon agree about where a key
        // goes.
        .set("topic.metadata.refresh.interval.ms", "10000");
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            config.set(name, value);
        }
    };
    set("sasl.mechanism", settings.sasl_mechanism.as_deref());
    set("sasl.username", settings.sasl_username.as_deref());
    set(
        "sasl.password",
        Some(watched("sasl.password", &settings.sasl_password).expose()).filter(|text| !text.is_empty()),
    );
    set("ssl.ca.location", settings.ca_file.as_deref().and_then(|path| path.to_str()));
    set("ssl.certificate.location", settings.cert_file.as_deref().and_then(|path| path.to_str()));
    set("ssl.key.location", settings.key_file.as_deref().and_then(|path| path.to_str()));
    set(
        "ssl.key.password",
        Some(watched("ssl.key.password", &settings.key_password).expose()).filter(|text| !text.is_empty()),
    );
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
    config
}

/// The producer of one lane. These settings come after the user's, because the promises rest on them:
/// - `message.timeout.ms = 0`: with a timeout, messages in the middle of a partition can expire while later ones are
///   acknowledged, which is a hole in the order. Time limits are the publisher's, which then sends all again in order.
/// - one request in flight and `enable.gapless.guarantee`: when a broker refuses a batch, nothing later of that
///   partition was sent, and nothing will be before the publisher has looked at it. Lanes run side by side, so the wait
///   for one answer costs little.
/// - `murmur2_random`: keys land in the partitions where Java producers put them.
pub fn producer(settings: &KafkaConfig, client_id: &str, record_bytes_max: u64) -> ClientConfig {
    let mut config = tuned(settings, client_id, record_bytes_max);
    config
        .set("message.timeout.ms", "0")
        .set("max.in.flight.requests.per.connection", "1")
        .set("enable.gapless.guarantee", "true");
    config
}

/// The producer of one lane in exactly-once delivery; the lane adds its `transactional.id`. A transaction is committed
/// whole or not at all, so five requests may be in flight, and records that cannot be sent in time end the transaction.
///
/// Three times the longest lease is not needed: the coordinator aborts what a dead relay left open when its successor
/// comes, and `transaction.timeout.ms` only bounds how long `read_committed` consumers wait when no successor comes.
pub fn transactional(settings: &KafkaConfig, client_id: &str, record_bytes_max: u64) -> ClientConfig {
    let mut config = tuned(settings, client_id, record_bytes_max);
    config
        .set("transaction.timeout.ms", "30000")
        .set("message.timeout.ms", "25000")
        .set("max.in.flight.requests.per.connection", "5");
    // The marker follows the commit before it at once, which the coordinator may still be finishing: the client then
    // waits this long before it asks again, and the default of 100 ms would be paid by every batch.
    if !settings.properties.contains_key("retry.backoff.ms") {
        config.set("retry.backoff.ms", "5");
    }
    config
}

/// What both kinds of producers share. Settings of the first group may be changed by users, those of the last may not.
fn tuned(settings: &KafkaConfig, client_id: &str, record_bytes_max: u64) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536");
    for (name, value) in common(settings, client_id).config_map().clone() {
        config.set(name, value);
    }
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        // The limit of librdkafka counts a little differently from ours; ours decides.
        .set("message.max.bytes", (record_bytes_max + 1024).max(1_000_000).to_string());
    config
}

/// The settings with the secrets that their files hold now. For whoever makes a client: librdkafka reads the files of
/// certificates itself when a client is made, but passwords are handed to it.
pub fn fresh(settings: &ClientConfig) -> ClientConfig {
    let mut settings = settings.clone();
    for known in files().iter_mut() {
        let is_of_file =
            settings.get(known.property).is_some_and(|text| known.texts.iter().any(|old| old.expose() == text));
        if is_of_file {
            settings.set(known.property, known.read_again().expose());
        }
    }
    settings
}

fn files() -> MutexGuard<'static, Vec<SecretFile>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The secret as its file holds it now; a file that cannot be read changes nothing.
fn watched(property: &'static str, secret: &Secret) -> Secret {
    let Some(file) = secret.file() else { return secret.clone() };
    let mut files = files();
    let at = files.iter().position(|known| known.property == property && known.file == file).unwrap_or_else(|| {
        files.push(SecretFile { property, texts: vec![secret.clone()], file: file.to_owned() });
        files.len() - 1
    });
    files[at].read_again()
}

impl SecretFile {
    fn read_again(&mut self) -> Secret {
        let newest = self.texts.last().cloned().unwrap_or_default();
        match secret_file::read(&self.file) {
            Ok(found) if found != newest => {
                tracing::info!(setting = self.property, "a Kafka secret file changed; new Kafka clients will use it");
                // A client may have been told any of the last few.
                if self.texts.len() == 8 {
                    self.texts.remove(0);
                }
                self.texts.push(found.clone());
                found
            }
            Ok(_) => newest,
            Err(why) => {
                tracing::warn!(
                    error = why,
                    "a Kafka secret file cannot be read; new Kafka clients use its previous content"
                );
                newest
            }
        }
    }
}

/// Whether librdkafka takes the settings of a producer, each and together, so that a mistake ends the start and not the
/// work. Errors: [`Code::KafkaConfig`], without any value.
pub fn try_out(settings: &ClientConfig) -> Result<()> {
    use rdkafka::admin::AdminClient;
    use rdkafka::config::FromClientConfigAndContext;
    // To librdkafka it is a producer like any other.
    AdminClient::from_config_and_context(settings, super::admin::QuietContext).map(drop).map_err(refused)
}

/// As the error of a command. librdkafka quotes values, which may be secrets.
pub fn refused(error: KafkaError) -> Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others quote no value")]
    let why = match &error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("it has no setting `{name}`")
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("the value of `{name}` cannot be used"),
        other => other.to_string(),
    };
    Error::new(Code::KafkaConfig, format!("the Kafka client rejects its settings: {why}"))
        .hint("see [kafka] and [kafka.properties]; property names and values are those of librdkafka")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_client_gets_the_password_that_the_file_holds_now() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("it can be written");
        write("first\n");
        let sasl_password = secret_file::read(file.path()).expect("a secret");
        let settings = KafkaConfig { sasl_password, ..KafkaConfig::default() };
        let made = common(&settings, "a");
        assert_eq!(made.get("sasl.password"), Some("first"));
        write("second\n");
        assert_eq!(fresh(&made).get("sasl.password"), Some("second"), "a client that is made anew");
        assert_eq!(common(&settings, "b").get("sasl.password"), Some("second"), "another one");
        write("third\n");
        assert_eq!(fresh(&fresh(&made)).get("sasl.password"), Some("third"));
        write("");
        assert_eq!(fresh(&made).get("sasl.password"), Some("third"), "a file that cannot be used changes nothing");
        let other = KafkaConfig { sasl_password: Secret::new("of a variable"), ..KafkaConfig::default() };
        assert_eq!(fresh(&common(&other, "c")).get("sasl.password"), Some("of a variable"));
    }

    #[test]
    fn what_librdkafka_refuses_is_told_without_its_value() {
        for (name, value) in [("linger.ms", "hunter2"), ("no.such.setting", "hunter2"), ("ssl.key.pem", "hunter2")] {
            let mut settings = common(&KafkaConfig::default(), "a");
            settings.set(name, value).set("security.protocol", "ssl");
            let report = try_out(&settings).expect_err(name).report();
            assert!(report.contains(name) || name == "ssl.key.pem", "{report}");
            assert!(!report.contains("hunter2"), "{report}");
        }
    }
}
