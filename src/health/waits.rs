//! What workers of the process wait for, and for how long they may.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock;

/// Handle of a group of workers; clones share it.
#[derive(Debug, Clone)]
pub struct Waits {
    pub(super) group: Arc<WaitsGroup>,
}

#[derive(Debug)]
pub(super) struct WaitsGroup {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Waits {
    /// The lane of `shard`, or someone on behalf of all lanes, waits until the handle is dropped. `what` follows the
    /// shard in the text.
    pub fn begin(&self, shard: Option<i16>, what: &'static str, limit: Duration) -> Wait {
        let mut entries = self.group.shared.lock();
        let id = entries.new_id();
        if let Some(group) = entries.waits.get_mut(&self.group.id) {
            group.state.insert(id, Waiting { what, shard, since: clock::monotonic(), limit });
        }
        Wait { id, group: Arc::clone(&self.group) }
    }
}

impl Drop for WaitsGroup {
    fn drop(&mut self) {
        self.shared.lock().waits.remove(&self.id);
    }
}

/// A wait that lasts as long as this value.
#[derive(Debug)]
pub struct Wait {
    id: u64,
    group: Arc<WaitsGroup>,
}

impl Wait {
    /// Changes the text; the wait still counts from its start.
    pub fn now(&self, what: &'static str) {
        if let Some(group) = self.group.shared.lock().waits.get_mut(&self.group.id)
            && let Some(waiting) = group.state.get_mut(&self.id)
        {
            waiting.what = what;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(group) = self.group.shared.lock().waits.get_mut(&self.group.id) {
            group.state.remove(&self.id);
        }
    }
}

/// Something that is waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    what: &'static str,
    shard: Option<i16>,
    since: Duration,
    limit: Duration,
}

/// The waits that have lasted too long, the longest first; three are named.
pub(super) fn too_long<'a>(waits: impl Iterator<Item = &'a Waiting>, now: Duration) -> Result<(), String> {
    let age = |wait: &Waiting| now.saturating_sub(wait.since);
    let mut late: Vec<_> = waits.filter(|wait| age(wait) > wait.limit).collect();
    if late.is_empty() {
        return Ok(());
    }
    late.sort_by_key(|wait| wait.since);
    let named = late.iter().take(3);
    let text = |wait: &&Waiting| {
        let who = wait.shard.map_or_else(String::new, |shard| format!("shard {shard} "));
        format!("{who}{} for {:.0} s", wait.what, age(wait).as_secs_f64())
    };
    let mut texts: Vec<_> = named.map(text).collect();
    if late.len() > texts.len() {
        texts.push(format!("and {} more", late.len() - texts.len()));
    }
    Err(texts.join(", "))
}
