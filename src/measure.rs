//! What is waiting, how much, and for what: measured in PostgreSQL and Kafka, for `lag`, `top` and running instances.
//! All of them show the same facts.
//!
//! Only reads, now and then, and never on the path of an event. What cannot be measured is a [`Wait`](crate::signals)
//! with its reason, never a zero.

pub(crate) mod group;
pub(crate) mod outbox;
pub(crate) mod watch;
