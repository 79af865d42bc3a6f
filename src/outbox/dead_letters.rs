//! Dead letters: how they are written, and how they are sent back to their topic.

pub(crate) mod redrive;
pub(crate) mod write;
