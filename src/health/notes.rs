//! Lines that an operator should see and that change neither readiness nor liveness.

use std::sync::Arc;

use super::Shared;

/// Handle of some lines of information.
#[derive(Debug)]
pub struct Notes {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Notes {
    /// Replaces the lines. Anyone can read `/readyz`: no keys, no payloads, no text that an operator typed.
    pub fn set(&self, lines: Vec<String>) {
        if let Some(notes) = self.shared.lock().notes.get_mut(&self.id) {
            notes.state = lines;
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.shared.lock().notes.remove(&self.id);
    }
}
