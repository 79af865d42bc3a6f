//! The place of a record in its topic.

/// Where a record is in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}
