//! Detects a client that has lost its brokers for good, as opposed to one whose brokers are away.
//!
//! Since 2.10, librdkafka forgets every broker that a metadata response does not list. A cluster whose brokers are all
//! fenced for a moment (a single broker paused for longer than its session, or all restarted at once) lists none, and
//! then the client knows no broker to ask, ever again (librdkafka#5301). Only a new client helps. Because a new client
//! costs whatever the old one had in flight, a second client is first asked whether there are brokers at all, on its
//! own thread: the watching thread has a lease to look after.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext;

use super::admin::QuietContext;
use super::call::Question;
use super::client_config;
use crate::clock::monotonic;

/// Time without any broker before another client asks, and between two questions. A client that can finds its brokers
/// again within a second or two (`reconnect.backoff.max.ms`).
const PATIENCE: Duration = Duration::from_secs(5);
/// What the other client is asked.
const BROKERS: Question = Question::new("brokers", Duration::from_secs(2));
/// Settings that would make the other client more than a visitor.
const NOT_FOR_A_VISITOR: [&str; 5] =
    ["transactional.id", "transaction.timeout.ms", "enable.idempotence", "enable.gapless.guarantee", "group.id"];
/// What is asked for; it need not exist.
const TOPIC: &str = "outbox-relay.any-brokers";

/// Watches one client.
pub struct LostBrokers {
    settings: ClientConfig,
    patience: Duration,
    /// Since when the client has no broker.
    down_since: Option<Duration>,
    asked: Duration,
    /// Where the other client's answer comes; `None` when it was not asked.
    answer: Option<Mutex<Receiver<bool>>>,
    /// The last answer of the other client: there are brokers.
    there: bool,
}

impl LostBrokers {
    /// `settings` of the client.
    pub fn new(settings: ClientConfig) -> Self {
        Self { settings, patience: PATIENCE, down_since: None, asked: Duration::ZERO, answer: None, there: false }
    }

    /// To be called again and again; `down`: the client has no broker now. True when another client got two answers in
    /// the meantime, five seconds apart, and this one still has none. Never blocks.
    pub fn look(&mut self, down: bool) -> bool {
        if !down {
            (self.down_since, self.answer, self.there) = (None, None, false);
            return false;
        }
        let now = monotonic();
        let since = *self.down_since.get_or_insert(now);
        let Some(answer) = &self.answer else {
            if now.saturating_sub(since.max(self.asked)) >= self.patience {
                self.answer = Some(ask(self.settings.clone()));
            }
            return false;
        };
        let there = match answer.lock().unwrap_or_else(PoisonError::into_inner).try_recv() {
            Ok(there) => there,
            Err(TryRecvError::Empty) => return false,
            // No thread could be started: no answer either.
            Err(TryRecvError::Disconnected) => false,
        };
        (self.asked, self.answer) = (monotonic(), None);
        let lost = self.there && there;
        self.there = there;
        lost
    }
}

/// Asks whether there are brokers. The answer comes within a few seconds.
fn ask(settings: ClientConfig) -> Mutex<Receiver<bool>> {
    let (sender, answer) = channel();
    let visit = move || sender.send(any_brokers(settings)).unwrap_or_default();
    drop(std::thread::Builder::new().name("kafka-visitor".to_owned()).spawn(visit));
    // A receiver alone could not be shared with the thread of the consumer.
    Mutex::new(answer)
}

fn any_brokers(settings: ClientConfig) -> bool {
    // A password that was changed in its file loses the brokers for good as well, and a new client finds them.
    let mut settings = client_config::fresh(&settings);
    for name in NOT_FOR_A_VISITOR {
        settings.remove(name);
    }
    BROKERS.any_brokers(move || AdminClient::from_config_and_context(&settings, QuietContext), TOPIC)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn watch(bootstrap: &str) -> LostBrokers {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", bootstrap).set("transactional.id", "of the client that is watched");
        LostBrokers { patience: Duration::from_millis(20), ..LostBrokers::new(settings) }
    }

    /// Looks as often as it takes until it has asked `answers` times.
    fn looks(watch: &mut LostBrokers, answers: usize) -> Vec<bool> {
        let mut found = Vec::new();
        while found.len() < answers {
            let asked = watch.asked;
            let lost = watch.look(true);
            if watch.asked != asked {
                found.push(lost);
            }
            std::thread::yield_now();
        }
        found
    }

    #[test]
    fn a_client_without_brokers_is_lost_once_another_one_got_two_answers() {
        let cluster = MockCluster::new(1).expect("a cluster in this process");
        let mut watch = watch(&cluster.bootstrap_servers());
        assert_eq!(looks(&mut watch, 2), [false, true]);
    }

    #[test]
    fn a_client_that_finds_its_brokers_again_is_not_lost() {
        let cluster = MockCluster::new(1).expect("a cluster in this process");
        let mut watch = watch(&cluster.bootstrap_servers());
        assert_eq!(looks(&mut watch, 1), [false]);
        assert!(!watch.look(false));
        assert_eq!(looks(&mut watch, 1), [false], "the first answer of a new outage");
    }

    #[test]
    fn an_outage_loses_nobody() {
        // A port that nobody listens on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address");
        let mut watch = watch(&free.to_string());
        assert_eq!(looks(&mut watch, 3), [false; 3]);
    }
}
