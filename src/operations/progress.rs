//! How far a long use case is.

/// Hears how far the work is. Called often: whoever shows it decides how often.
pub trait Progress: Send + Sync {
    fn report(&self, step: Step);

    /// Something to know before the report is there.
    fn remark(&self, text: &str);
}

/// One part of the work and how far it is. The first report of a part has what was done before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Follows the figures: `1200 of 5000 copied`.
    pub what: &'static str,
    pub done: u64,
    /// 0 when nobody knows.
    pub total: u64,
}

impl Step {
    pub fn new(what: &'static str, done: u64, total: u64) -> Self {
        Self { what, done, total }
    }
}
