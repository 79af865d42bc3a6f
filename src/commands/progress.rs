//! What a use case says of itself while it works, on standard error.

use std::sync::{Mutex, PoisonError};

use crate::operations::progress::{Progress, Step};
use crate::output;

/// A bar on a terminal, else a line now and then. The bar goes away when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Shown {
    bar: Mutex<Option<(&'static str, output::Progress)>>,
}

impl Progress for Shown {
    fn report(&self, step: Step) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_none_or(|(what, _)| *what != step.what) {
            // The bar of the part before goes away first.
            drop(bar.take());
            *bar = Some((step.what, output::Progress::new(step.what, step.done, step.total)));
        }
        if let Some((_, bar)) = &mut *bar {
            bar.at(step.done);
        }
    }

    fn remark(&self, text: &str) {
        if let Some((_, bar)) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.clear();
        }
        output::note(text);
    }
}
