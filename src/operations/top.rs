//! The outbox as it works: a [`Snapshot`] again and again, with rates over the last few seconds.
//!
//! `snapshot` reads, `rates` compares. Changes nothing in the database, and no key and no payload is read.

mod rates;
mod snapshot;

pub use rates::Rates;
#[cfg(test)]
pub(crate) use snapshot::tests;
pub use snapshot::{ConsumerLine, HeldLine, InstanceLine, Look, Snapshot, Watch};
