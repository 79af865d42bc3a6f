//! `consumer`: where groups read, and what they could not fold.

mod parked;
mod positions;
mod release;

use super::{Context, Result, author};
use crate::cli::ConsumerCommand;
use crate::projection::decisions::Author;

pub(super) async fn run(context: &Context, command: &ConsumerCommand) -> Result<()> {
    match command {
        ConsumerCommand::Positions(command) => positions::run(context, command).await,
        ConsumerCommand::Parked(command) => parked::run(context, command).await,
    }
}

fn decider(reason: Option<String>) -> Author {
    let who = author(reason);
    Author { actor: who.actor, reason: who.reason }
}
