//! The whole terminal, for a live view: taken over and restored, also if the process panics.
//!
//! Invariant: the screen is restored when it is dropped, and therefore on every way out. Before a panic is reported it
//! is restored too, or the report would disappear with the view.

use std::io;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};

use crate::error::{Code, Error, Result};

/// The terminal while it belongs to a view.
pub struct Screen {
    terminal: DefaultTerminal,
}

/// What somebody pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Quit,
    Freeze,
    Next,
    Previous,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Nothing that means anything.
    Other,
}

impl Screen {
    /// Takes the terminal: no echo, no line editing, a screen of its own.
    pub fn open() -> Result<Self> {
        // Half done is undone.
        let terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore())).map_err(|error| {
            failed("cannot take the terminal for the live view", error).hint("a snapshot per line needs none: -o json")
        })?;
        Ok(Self { terminal })
    }

    /// Draws what is different from before, in the present size of the terminal.
    pub fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(view).map(drop).map_err(|error| failed("cannot draw on the terminal", error))
    }

    /// The next key that was pressed since the last call; does not wait.
    pub fn pressed(&mut self) -> Result<Option<Key>> {
        let read = || -> io::Result<Option<Event>> {
            if event::poll(Duration::ZERO)? { event::read().map(Some) } else { Ok(None) }
        };
        let event = read().map_err(|error| failed("cannot read from the terminal", error))?;
        Ok(event.map(|event| event.as_key_event().map_or(Key::Other, key)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to be told.
        drop(ratatui::try_restore());
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(Code::Unexpected, what).caused_by(error)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has many keys that mean nothing here")]
fn key(event: KeyEvent) -> Key {
    if event.kind == KeyEventKind::Release {
        return Key::Other;
    }
    // Ctrl-C comes as a key while the terminal is ours.
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return if event.code == KeyCode::Char('c') { Key::Quit } else { Key::Other };
    }
    match event.code {
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('p') => Key::Freeze,
        KeyCode::Tab | KeyCode::Right => Key::Next,
        KeyCode::BackTab | KeyCode::Left => Key::Previous,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Run by the test below, as a process of its own on a terminal.
    #[test]
    #[ignore = "panics, by intention"]
    fn a_view_that_panics() {
        if crate::output::is_terminal() {
            let mut screen = Screen::open().expect("a terminal");
            screen.draw(|_| panic!("the view is broken")).expect("it does not return");
        }
    }

    #[test]
    fn a_panic_is_reported_on_the_terminal_as_it_was_before() {
        // Without the name of the crate.
        let module = module_path!().split_once("::").expect("a module").1;
        let this = std::env::current_exe().expect("a path");
        let test = format!("exec '{}' --ignored --exact --nocapture {module}::a_view_that_panics", this.display());
        let mut on_a_terminal = Command::new("script");
        on_a_terminal.args(["--quiet", "--flush", "--command", &test, "/dev/null"]).env("TERM", "xterm");
        let output = on_a_terminal.stdin(Stdio::null()).output().expect("script starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let at = |what| text.find(what).unwrap_or_else(|| panic!("no {what:?} in {text:?}"));
        let (taken, given_back, told) = (at("\x1b[?1049h"), at("\x1b[?1049l"), at("the view is broken"));
        assert!(taken < given_back && given_back < told, "{text:?}");
    }

    #[test]
    fn quit_has_three_keys_and_c_alone_is_none() {
        let press = |code, modifiers| key(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Key::Quit);
        assert_eq!(press(KeyCode::Esc, KeyModifiers::NONE), Key::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Key::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), Key::Other);
        assert_eq!(press(KeyCode::Char('p'), KeyModifiers::CONTROL), Key::Other);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE) };
        assert_eq!(key(released), Key::Other);
    }
}
