//! `consumer`: where groups read, and what they could not fold.

mod parked;
mod positions;

use super::{Context, Result};
use crate::cli::ConsumerCommand;

pub(super) async fn run(context: &Context, command: &ConsumerCommand) -> Result<()> {
    match command {
        ConsumerCommand::Positions(command) => positions::run(context, command).await,
        ConsumerCommand::Parked(command) => parked::run(context, command).await,
    }
}
