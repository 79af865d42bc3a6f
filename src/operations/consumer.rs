//! The consumer: where groups read, and what they could not fold.

pub(crate) mod parked;
pub(crate) mod positions;
mod release;

use super::Author;
use crate::projection::decisions;

fn decider(author: &Author) -> decisions::Author {
    decisions::Author { actor: author.actor.clone(), reason: author.reason.clone() }
}
