//! Standard error, written by its own thread: log lines, remarks and reports.
//!
//! Invariants: a caller neither waits nor fails, whatever happens to the other end (closed, full, a pipe that nobody
//! reads); memory is bounded. What cannot be written is dropped and counted, and the count is reported once writing
//! works again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may wait to be written. A guess: some ten thousand lines, which is minutes of an outage.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Between two tries where the other end is set to refuse rather than to make us wait.
const AGAIN: Duration = Duration::from_millis(20);

static QUEUE: LazyLock<Queue> = LazyLock::new(Queue::start);

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line has been taken out and is not written yet.
    writing: bool,
    /// Lines that were dropped since this was last told.
    lost: u64,
    /// No thread could be started: lines are written by whoever has them.
    direct: bool,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn start() -> Self {
        let started = std::thread::Builder::new().name("stderr".to_owned()).spawn(work);
        let queue = Self::default();
        queue.lock().direct = started.is_err();
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }
}

/// Hands `bytes`, whole lines mostly, to the writer. They are written in the order of the calls.
pub fn write(bytes: Vec<u8>) {
    let queue = &*QUEUE;
    let mut state = queue.lock();
    if state.direct {
        drop(state);
        drop(io::stderr().write_all(&bytes));
        return;
    }
    if state.bytes + bytes.len() > BYTES_MAX {
        state.lost += 1;
        return;
    }
    state.bytes += bytes.len();
    state.waiting.push_back(bytes);
    drop(state);
    queue.changed.notify_all();
}

/// Waits until all that was handed over is written, but not longer than `limit`. Whether it is.
pub fn flush(limit: Duration) -> bool {
    let queue = &*QUEUE;
    let end = Instant::now() + limit;
    let mut state = queue.lock();
    while !state.waiting.is_empty() || state.writing {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        state = queue.wait(state, left);
    }
    true
}

fn work() {
    let queue = &*QUEUE;
    loop {
        let mut state = queue.lock();
        state.writing = false;
        queue.changed.notify_all();
        let bytes = loop {
            match state.waiting.pop_front() {
                Some(bytes) => break bytes,
                None => state = queue.wait(state, Duration::from_secs(3_600)),
            }
        };
        state.bytes -= bytes.len();
        state.writing = true;
        drop(state);
        let written = write_all(&bytes);
        let mut state = queue.lock();
        if written.is_err() {
            state.lost += 1;
        } else if state.lost > 0 {
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            // Comes back here as a line like any other.
            tracing::warn!(lines = lost, "log lines were dropped because standard error could not be written to");
        }
    }
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match io::stderr().write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A writer for libraries that want one. What is written to it is handed over when it is dropped.
#[derive(Debug, Default)]
pub struct Line(Vec<u8>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            write(std::mem::take(&mut self.0));
        }
    }
}
