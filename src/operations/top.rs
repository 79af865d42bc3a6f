//! The outbox as it works: a [`Snapshot`] again and again, with rates over the last few seconds.
//!
//! `watch` reads, `rates` compares. Changes nothing in the database, and no key and no payload is read.

mod rates;
mod snapshot;
mod watch;

#[cfg(test)]
pub(crate) use snapshot::tests;
pub use snapshot::{Look, Snapshot};
pub use watch::Watch;
