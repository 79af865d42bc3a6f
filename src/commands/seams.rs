//! Functions of other modules that are still being written. Goes away with the merge.
#![allow(clippy::unused_async)]

use super::Context;
use crate::cli::DemoArgs;
use crate::error::{Code, Error};

pub(super) async fn demo(_context: &Context, _args: DemoArgs) -> super::Result<()> {
    Err(Error::new(Code::Unexpected, "demo is not merged yet").into())
}
