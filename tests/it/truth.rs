//! Four signals say the same: `/readyz?verbose`, the metrics, `lag` and `top`. Each situation is made with real parts,
//! and all four have to name it, with its place and its begin, and to forget it afterwards. The log has one line for
//! the begin and one for the end.
//!
//! The table is in `docs/operations/alerts.md`, "Situations".

mod clock;
mod consumer;
mod folds;
mod gauges;
mod groups;
mod relay;
mod servers;
mod stage;
