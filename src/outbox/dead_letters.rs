//! Dead letters: how they are written, and how they are sent back to their topic.

pub mod redrive;
pub mod write;
