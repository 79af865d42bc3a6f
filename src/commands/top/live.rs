//! The loop of the live view: looks, keys, and what is on the screen meanwhile.
//!
//! Invariant: keys and signals are answered while a look is under way, however long PostgreSQL takes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::grid::Tab;
use super::view::View;
use crate::clock;
use crate::commands::Result;
use crate::commands::signals::Signals;
use crate::operations::top::{Look, Snapshot, Watch};
use crate::output::{self, Key, Screen};

/// Between two looks for keys.
const KEYS_EVERY: Duration = Duration::from_millis(40);
/// Without a reason. A draw that changes nothing still writes some bytes.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// A look that takes longer is mentioned.
const SLOW: Duration = Duration::from_secs(3);
const PAGE: usize = 10;

/// Runs until a key or a signal ends it. Errors: the first look fails, the schema is not there, or the terminal is
/// gone.
pub(super) async fn run(mut watch: Watch, interval: Duration) -> Result<()> {
    let stop = CancellationToken::new();
    let work = async {
        // Before the screen is taken: an error is printed like that of any command.
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = watch.look() => first?,
        };
        show(&mut watch, interval, first, &stop).await
    };
    // At a second signal the work is dropped, and the screen given back with it.
    Signals::listen().run(work, &stop).await.unwrap_or(Ok(()))
}

async fn show(watch: &mut Watch, interval: Duration, first: Look, stop: &CancellationToken) -> Result<()> {
    let Look::Ok(snapshot) = &first else { return Ok(()) };
    let mut model = Model::new((**snapshot).clone(), first);
    let mut screen = Screen::open()?;
    loop {
        let asked = clock::monotonic() + interval;
        let mut look = Box::pin(async {
            tokio::time::sleep(interval).await;
            watch.look().await
        });
        let mut drawn = None;
        loop {
            let now = clock::monotonic();
            if drawn.is_none_or(|drawn| now.saturating_sub(drawn) >= DRAW_EVERY) {
                let taken = now.saturating_sub(asked);
                model.waiting = (taken >= SLOW).then_some(taken.as_secs());
                let mut first = model.scroll;
                screen.draw(|frame| first = model.view().draw(frame))?;
                model.scroll = first;
                drawn = Some(now);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                looked = &mut look => {
                    model.take(looked?);
                    break;
                }
                () = tokio::time::sleep(KEYS_EVERY) => {}
            }
            while let Some(key) = screen.pressed()? {
                if model.press(key) {
                    return Ok(());
                }
                drawn = None;
            }
        }
    }
}

/// What is on the screen.
struct Model {
    shown: Snapshot,
    last: Look,
    waiting: Option<u64>,
    tab: Tab,
    scroll: usize,
    frozen: bool,
    colour: bool,
}

impl Model {
    fn new(shown: Snapshot, last: Look) -> Self {
        Self { shown, last, waiting: None, tab: Tab::Shards, scroll: 0, frozen: false, colour: output::has_colour() }
    }

    fn take(&mut self, look: Look) {
        if let (Look::Ok(snapshot), false) = (&look, self.frozen) {
            self.shown = (**snapshot).clone();
        }
        self.last = look;
    }

    /// Whether it ends.
    fn press(&mut self, key: Key) -> bool {
        match key {
            Key::Quit => return true,
            Key::Freeze => {
                self.frozen = !self.frozen;
                if let (Look::Ok(snapshot), false) = (&self.last, self.frozen) {
                    self.shown = (**snapshot).clone();
                }
            }
            Key::Next => self.turn(1),
            Key::Previous => self.turn(Tab::ALL.len() - 1),
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll += 1,
            Key::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            Key::PageDown => self.scroll += PAGE,
            Key::Home => self.scroll = 0,
            // Drawing finds out where that is.
            Key::End => self.scroll = usize::MAX / 2,
            Key::Other => {}
        }
        false
    }

    fn turn(&mut self, by: usize) {
        (self.tab, self.scroll) = (self.tab.step(by), 0);
    }

    fn view(&self) -> View<'_> {
        View {
            snapshot: &self.shown,
            last: &self.last,
            waiting: self.waiting,
            tab: self.tab,
            scroll: self.scroll,
            frozen: self.frozen,
            colour: self.colour,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::top::tests::snapshot;

    fn look(shards: i16) -> Look {
        Look::Ok(Box::new(snapshot(shards)))
    }

    fn away() -> Look {
        Look::Unreachable { at: String::new(), since: String::new(), error: String::new() }
    }

    #[test]
    fn a_frozen_screen_stays_and_goes_on_with_what_is_newest() {
        let mut model = Model::new(snapshot(1), look(1));
        assert!(!model.press(Key::Freeze));
        model.take(look(2));
        assert_eq!(model.shown.shards.len(), 1);
        model.press(Key::Freeze);
        assert_eq!(model.shown.shards.len(), 2);
        model.take(look(3));
        assert_eq!(model.shown.shards.len(), 3);
    }

    #[test]
    fn what_was_known_stays_during_an_outage_and_a_freeze_hides_no_outage() {
        let mut model = Model::new(snapshot(2), look(2));
        model.press(Key::Freeze);
        model.take(away());
        assert_eq!((model.shown.shards.len(), &model.last), (2, &away()));
        model.press(Key::Freeze);
        assert_eq!(model.shown.shards.len(), 2);
    }

    #[test]
    fn a_table_begins_at_its_first_row() {
        let mut model = Model::new(snapshot(1), look(1));
        model.press(Key::PageDown);
        model.press(Key::Up);
        assert_eq!(model.scroll, PAGE - 1);
        model.press(Key::Previous);
        assert_eq!((model.tab, model.scroll), (Tab::Instances, 0));
        assert!(model.press(Key::Quit));
    }
}
