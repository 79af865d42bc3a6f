//! The PostgreSQL and the Kafka that all tests share.
//!
//! `scripts/with-parts.sh cargo test` is the normal way: it sets the two variables below and stops the servers at the
//! end. A plain `cargo test` works too: the first test that needs a server starts the same script, with a pipe from
//! this process as its input. The pipe closes when this process ends, however it ends, and the script then stops the
//! servers.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::script;

/// Addresses of the shared servers.
pub struct Parts {
    /// A superuser's URL, ending with the name of a database.
    pub database_url: String,
    /// `host:port`.
    pub kafka: String,
    /// Holds the pipe that keeps the servers alive. Statics are not dropped: the kernel closes the pipe.
    _keeper: Option<Child>,
}

/// The shared servers, started on first use.
pub fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| from_environment().unwrap_or_else(start))
}

fn from_environment() -> Option<Parts> {
    let variable = |name| std::env::var_os(name).map(|value| value.into_string().expect("addresses are UTF-8"));
    Some(Parts {
        database_url: variable("OUTBOX_TEST_DATABASE_URL")?,
        kafka: variable("OUTBOX_TEST_KAFKA")?,
        _keeper: None,
    })
}

fn start() -> Parts {
    assert!(
        std::env::var_os("NEXTEST").is_none(),
        "nextest runs each test in a process of its own: start it as scripts/with-parts.sh cargo nextest run"
    );
    let hold = r#"printf '%s\n%s\n' "$OUTBOX_TEST_DATABASE_URL" "$OUTBOX_TEST_KAFKA"; exec cat >/dev/null"#;
    let mut keeper = Command::new(script("with-parts.sh"))
        .args(["bash", "-c", hold])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0) // a Ctrl-C ends us, and by that the script
        .spawn()
        .expect("scripts/with-parts.sh starts");
    let mut lines = BufReader::new(keeper.stdout.take().expect("piped")).lines();
    let mut line = || match lines.next() {
        Some(Ok(line)) => line,
        _ => panic!("scripts/with-parts.sh did not bring up the servers, see its messages above"),
    };
    let (database_url, kafka) = (line(), line());
    Parts { database_url, kafka, _keeper: Some(keeper) }
}
