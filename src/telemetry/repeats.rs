//! Collects repeated warnings and errors: the first is logged at once, the others become one line with their count.
//!
//! During an outage everything that retries repeats itself, and the one line that matters would be lost among the
//! copies. Two events are the same if they come from the same place in the code and agree in everything but numbers and
//! the shard. Invariants: memory is bounded, whatever is logged; no lock is held for longer than a lookup.

use std::collections::{BTreeSet, HashMap, hash_map::DefaultHasher};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Between two lines about the same thing.
const WINDOW: Duration = Duration::from_secs(10);

/// Between two looks for windows that have ended.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Different things that are remembered. Beyond it they are told apart by their place in the code alone.
const ENTRIES_MAX: usize = 512;

/// Shards that a line names.
const SHARDS_MAX: usize = 32;

/// Of the lines made here, which are not gathered again.
const TARGET: &str = "outbox_relay::repeats";

#[derive(Debug, Clone, Default)]
pub(super) struct Repeats {
    entries: Arc<Mutex<HashMap<u64, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    level: Level,
    /// When the last line about it was logged.
    logged: Instant,
    /// Since then.
    times: u64,
    message: String,
    /// The fields of the last one, without the shard.
    fields: String,
    shards: BTreeSet<String>,
}

/// A line that stands for several.
#[derive(Debug)]
struct Summary {
    level: Level,
    times: u64,
    seconds: u64,
    message: String,
    fields: String,
    shards: String,
}

impl Repeats {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the event is to be logged now.
    fn is_new(&self, place: u64, level: Level, parts: Parts, now: Instant) -> bool {
        let mut entries = self.lock();
        let mut key = parts.key(place);
        if !entries.contains_key(&key) && entries.len() >= ENTRIES_MAX {
            key = place;
        }
        let Some(entry) = entries.get_mut(&key) else {
            let Parts { message, .. } = parts;
            let (fields, shards) = (String::new(), BTreeSet::new());
            entries.insert(key, Entry { level, logged: now, times: 0, message, fields, shards });
            return true;
        };
        entry.times += 1;
        entry.fields = parts.fields;
        if let Some(shard) = parts.shard.filter(|_| entry.shards.len() < SHARDS_MAX) {
            entry.shards.insert(shard);
        }
        false
    }

    /// Logs what has gathered in windows that have ended; in all of them at the end of the process.
    pub(super) fn tell(&self, all: bool) {
        for summary in self.ended(Instant::now(), all) {
            summary.log();
        }
    }

    fn ended(&self, now: Instant, all: bool) -> Vec<Summary> {
        let mut summaries = Vec::new();
        self.lock().retain(|_, entry| {
            let since = now.saturating_duration_since(entry.logged);
            if since < WINDOW && !all {
                return true;
            }
            if entry.times == 0 {
                return false;
            }
            let shards: Vec<String> = std::mem::take(&mut entry.shards).into_iter().collect();
            summaries.push(Summary {
                level: entry.level,
                times: std::mem::take(&mut entry.times),
                seconds: since.as_secs().max(1),
                message: entry.message.clone(),
                fields: std::mem::take(&mut entry.fields),
                shards: shards.join(","),
            });
            entry.logged = now;
            true
        });
        summaries
    }
}

impl Summary {
    fn log(self) {
        let Self { level, times, seconds, message, fields, shards } = self;
        let shards = (!shards.is_empty()).then_some(shards);
        let last = (!fields.is_empty()).then_some(fields);
        // The level of an event is part of its place in the code.
        if level == Level::ERROR {
            tracing::error!(target: TARGET, times, seconds, shards, last, "{message} (repeated)");
        } else {
            tracing::warn!(target: TARGET, times, seconds, shards, last, "{message} (repeated)");
        }
    }
}

/// Not a filter of one layer: with those, tracing-subscriber 0.3 loses count of an event that a filter takes back late.
impl<S: Subscriber> Layer<S> for Repeats {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_fit(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_fit(metadata)
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let mut parts = Parts::default();
        event.record(&mut parts);
        let mut place = DefaultHasher::new();
        metadata.callsite().hash(&mut place);
        self.is_new(place.finish(), *metadata.level(), parts, Instant::now())
    }
}

/// Whatever the filter of the settings says: below a warning the PostgreSQL client logs the parameters of statements,
/// which are keys and payloads, and what triggers of the application remark.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("tokio_postgres") || *metadata.level() <= Level::WARN
}

/// An event in pieces.
#[derive(Debug, Default)]
struct Parts {
    message: String,
    fields: String,
    shard: Option<String>,
}

impl Parts {
    fn key(&self, place: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        // Waits, ports, counts and times differ from line to line.
        for text in [&self.message, &self.fields] {
            text.chars().filter(|c| !c.is_ascii_digit()).for_each(|c| c.hash(&mut hasher));
            0_u8.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        match field.name() {
            "message" => self.message = value.to_string(),
            "shard" => self.shard = Some(value.to_string()),
            // A duration has its unit in letters: 800ms, 1.2s.
            "wait" => {}
            name => {
                let gap = if self.fields.is_empty() { "" } else { " " };
                self.fields.push_str(&format!("{gap}{name}={value}"));
            }
        }
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(error: &str, shard: u16) -> Parts {
        Parts { message: "cannot".to_owned(), fields: format!("error={error}"), shard: Some(shard.to_string()) }
    }

    #[test]
    fn the_first_is_logged_at_once_and_the_others_as_one() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        assert!(repeats.is_new(1, Level::WARN, parts("no answer in 5 s", 0), start));
        for shard in 0..60 {
            assert!(!repeats.is_new(1, Level::WARN, parts("no answer in 35 s", shard % 8), start));
        }
        assert!(repeats.is_new(1, Level::WARN, parts("refused", 0), start), "another error");
        assert!(repeats.is_new(2, Level::WARN, parts("no answer in 5 s", 0), start), "another place");
        assert!(repeats.ended(start + Duration::from_secs(9), false).is_empty());
        let told = repeats.ended(start + WINDOW, false);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].times, told[0].seconds, told[0].shards.as_str()), (60, 10, "0,1,2,3,4,5,6,7"));
        // As long as it goes on there is one line a window.
        assert!(!repeats.is_new(1, Level::WARN, parts("no answer in 5 s", 0), start + WINDOW));
        assert_eq!(repeats.ended(start + 2 * WINDOW, false).len(), 1);
        // A quiet window, and the next one is news again.
        assert!(repeats.ended(start + 3 * WINDOW, false).is_empty());
        assert!(repeats.is_new(1, Level::WARN, parts("no answer in 5 s", 0), start + 3 * WINDOW));
    }

    #[test]
    fn memory_is_bounded() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        for number in 0..100_000_u32 {
            let name: String = number.to_string().chars().map(|digit| char::from(digit as u8 + 49)).collect();
            repeats.is_new(1, Level::WARN, parts(&name, 0), start);
        }
        assert!(repeats.lock().len() <= ENTRIES_MAX + 1);
        assert_eq!(repeats.ended(start, true).iter().map(|told| told.times).sum::<u64>(), 100_000 - 513);
    }
}
