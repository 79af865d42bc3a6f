//! What the scenarios stand on: servers, a database and topics per test, the binary as a process, readers, waits and
//! the order checker.
//!
//! Invariant: a test owns its database, its topics and its processes, so that all tests run side by side on one
//! PostgreSQL and one Kafka. A test that breaks a server starts a private one.

pub mod acl;
pub mod cli;
pub mod database;
pub mod http;
pub mod kafka;
pub mod member;
pub mod murmur2;
pub mod nobody;
pub mod order;
pub mod outbox;
pub mod parts;
pub mod private;
pub mod relay;
pub mod repeats;
pub mod statements;
pub mod wait;

pub use cli::outbox_relay;
pub use database::TestDatabase;
pub use kafka::{Record, Topic};
pub use nobody::Nobody;
pub use outbox::NewRow;
pub use private::{PrivateKafka, PrivatePostgres, StopMode};
pub use relay::{Relay, Signal};
pub use wait::{holds_for, side_by_side, wait_until};

use std::path::{Path, PathBuf};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");

/// The binary that relays and commands are started from: `OUTBOX_TEST_BINARY`, for example a release build, or the one
/// under test.
pub fn binary() -> PathBuf {
    std::env::var_os("OUTBOX_TEST_BINARY").map_or_else(|| BINARY.into(), PathBuf::from)
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of the repository.
pub fn script(name: &str) -> PathBuf {
    repository().join("scripts").join(name)
}

/// Short text that no other test of this or an earlier run has used: `<name>-<run>-<n>` with only letters, digits and
/// `-`, fit for topics, groups and (with `-` replaced) databases.
pub fn unique(name: &str) -> String {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static RUN: LazyLock<String> = LazyLock::new(|| format!("{:08x}", fastrand::u32(..)));
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", *RUN, NEXT.fetch_add(1, Ordering::Relaxed))
}
