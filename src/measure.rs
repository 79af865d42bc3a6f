//! What waits, how much of it, and what for: measured in PostgreSQL and Kafka, for `lag`, `top` and the instances that
//! run. Each of them shows the same facts.
//!
//! Reads only, now and then, and nothing on the path of an event. What cannot be measured is a [`Wait`](crate::signals)
//! with its reason, and never a zero.

pub mod group;
pub mod outbox;
pub mod watch;
