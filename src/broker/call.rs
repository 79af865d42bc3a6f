//! Blocking librdkafka calls, each with our own limit: librdkafka does not always keep its timeouts, and closing a
//! client has none.
//!
//! Nothing else in `broker` makes such a call: the tidy test looks for the method names. Questions from tasks and
//! commands are in `question`, calls made by a lane's thread in `watch`.

mod question;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::error::{Code, Error, Result};
pub(super) use question::Question;
pub(super) use watch::CallWatch;

/// Maximum wait for one answer that has a timeout of five seconds already.
const ANSWER: Duration = Duration::from_secs(10);
/// Calls that have not returned, before no other is begun: each has a thread.
const STUCK_MAX: usize = 16;
/// Maximum wait for a client to be closed.
const CLOSE: Duration = Duration::from_secs(2);

/// Calls that are given up and have not returned.
static STUCK: AtomicUsize = AtomicUsize::new(0);

/// What became of one call.
const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Runs a call on a thread where it may block. A call that does not return in time is left to itself.
pub(super) async fn blocking_within<T: Send + 'static>(
    name: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if STUCK.load(Ordering::Relaxed) >= STUCK_MAX {
        return Err(silent(format!("{STUCK_MAX} earlier calls of the Kafka client have not returned")));
    }
    let call = Arc::new(AtomicU8::new(RUNNING));
    let running = Arc::clone(&call);
    let work = move || {
        let outcome = work();
        if running.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
            STUCK.fetch_sub(1, Ordering::Relaxed);
        }
        outcome
    };
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(ended) => {
            // What it says may quote data; the report of the panic says where it was.
            ended.unwrap_or_else(|_| Err(Error::new(Code::Unexpected, "a call to Kafka panicked")))
        }
        Err(_) => {
            STUCK.fetch_add(1, Ordering::Relaxed);
            if call.swap(GIVEN_UP, Ordering::AcqRel) == ENDED {
                STUCK.fetch_sub(1, Ordering::Relaxed);
            }
            Err(late(name, limit))
        }
    }
}

/// Waits for a question that the client answers by itself.
pub(super) async fn answered<T>(name: &'static str, question: impl Future<Output = T>) -> Result<T> {
    answered_within(name, ANSWER, question).await
}

async fn answered_within<T>(name: &'static str, limit: Duration, question: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, question).await.map_err(|_| late(name, limit))
}

/// Closes a client on another thread, and waits for that a little. Blocks.
pub(super) fn close<T: Send + 'static>(client: T) {
    let (closed, wait) = channel();
    let closing = move || {
        drop(client);
        closed.send(()).unwrap_or_default();
    };
    // Without a thread the client is closed here.
    drop(std::thread::Builder::new().name("kafka-closing".to_owned()).spawn(closing));
    wait.recv_timeout(CLOSE).unwrap_or_default();
}

/// The same, and does not wait.
pub(super) fn close_later<T: Send + 'static>(client: T) {
    drop(std::thread::Builder::new().name("kafka-closing".to_owned()).spawn(move || drop(client)));
}

fn late(name: &str, limit: Duration) -> Error {
    silent(format!("Kafka did not answer within {} s ({name})", limit.as_secs_f64()))
}

fn silent(reason: String) -> Error {
    Error::new(Code::KafkaUnreachable, reason)
        .hint("check kafka.bootstrap_servers and the security settings; for details run: outbox-relay check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_does_not_return_is_given_up() {
        let (release, held) = channel::<()>();
        let error = blocking_within("metadata", Duration::from_millis(20), move || {
            held.recv().unwrap_or_default();
            Ok(())
        })
        .await
        .expect_err("it does not return");
        assert_eq!(error.code(), Code::KafkaUnreachable);
        assert_eq!(STUCK.load(Ordering::Relaxed), 1);
        drop(release);
        while STUCK.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(blocking_within("metadata", ANSWER, || Ok(7)).await.expect("an answer"), 7);
    }

    #[tokio::test]
    async fn a_question_that_is_not_answered_is_given_up() {
        let ended = answered_within("create_topics", Duration::from_millis(20), std::future::pending::<()>()).await;
        assert_eq!(ended.expect_err("nobody answers").code(), Code::KafkaUnreachable);
    }

    #[test]
    fn a_client_that_cannot_be_closed_is_left_to_a_thread() {
        struct Slow(std::sync::mpsc::Receiver<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                self.0.recv().unwrap_or_default();
            }
        }
        let (release, held) = channel();
        close(Slow(held));
        release.send(()).expect("it was still being closed");
    }
}
