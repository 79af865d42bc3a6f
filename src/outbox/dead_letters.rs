//! Dead letters: how they come to be written, and the way back to their topic.

pub mod redrive;
pub mod write;
