//! What a proxy knows of the protocols: where a request begins, which one it is, and which answer belongs to it.
//!
//! Traps are set by faults and spring on the next request of their kind. Kafka frames carry their length, and a number
//! by which the answer is found. Of PostgreSQL only COMMIT is known; its answer is all that comes next.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::weather::Request;

/// How the bytes of a link are cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One frame is one piece.
    Kafka,
    /// Whatever a read gives.
    Postgres,
}

/// What a proxy does with a piece, beside the weather.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Late(Duration),
    /// Late, but not later than the next transaction of this transactional id.
    UntilNext(String, Duration),
    /// This piece never arrives, the connection stays.
    Lost,
    /// It never arrives, and the connection is reset.
    Cut,
}

/// The traps of one proxy.
#[derive(Debug)]
pub struct Traps {
    set: Mutex<Vec<Trap>>,
    /// The transactional id whose transaction began last, and how many have begun before.
    begun: watch::Sender<(u64, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    pub request: Request,
    pub how: How,
}

/// What happens to the request, or to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    AnswerLost,
    /// It arrives late by so much.
    Late(Duration),
    /// It arrives when its producer has begun its next transaction, or after so much. Kafka before KIP-890 takes an
    /// EndTxn that comes so late for the end of that transaction; only a new epoch is proof against it.
    IntoNext(Duration),
}

/// What one connection has to remember between a request and its answer.
#[derive(Debug, Default)]
pub struct Memory {
    /// Correlation ids of Kafka requests whose answers are lost.
    lost_answers: Mutex<HashSet<i32>>,
    /// The next answer of PostgreSQL is cut.
    cut_next: Mutex<bool>,
}

impl Default for Traps {
    fn default() -> Self {
        Self { set: Mutex::default(), begun: watch::Sender::new((0, String::new())) }
    }
}

impl Traps {
    /// Returns when the next transaction of this id begins.
    pub async fn next_transaction(&self, id: &str) {
        let mut begun = self.begun.subscribe();
        // The sender is ours, so the wait ends by the condition alone.
        drop(begun.wait_for(|(_, other)| other == id).await);
    }

    pub fn set(&self, trap: Trap) {
        self.lock().push(trap);
    }

    /// Takes a trap away that nothing has sprung. True when it was still there.
    pub fn remove(&self, trap: Trap) -> bool {
        let mut set = self.lock();
        let place = set.iter().position(|other| *other == trap);
        place.map(|place| set.remove(place)).is_some()
    }

    pub fn request(&self, protocol: Protocol, piece: &[u8], memory: &Memory) -> Fate {
        let Some(request) = request_of(protocol, piece) else { return Fate::Pass };
        if request == Request::ADD_PARTITIONS_TO_TXN
            && let Some(id) = transactional_id(piece)
        {
            self.begun.send_modify(|(times, last)| (*times, *last) = (*times + 1, id));
        }
        let sprung = {
            let mut set = self.lock();
            let place = set.iter().position(|trap| trap.request == request);
            place.map(|place| set.remove(place))
        };
        match sprung.map(|trap| trap.how) {
            None => Fate::Pass,
            Some(How::Late(delay)) => Fate::Late(delay),
            Some(How::IntoNext(limit)) => match transactional_id(piece) {
                Some(id) => {
                    // What began before does not count.
                    self.begun.send_modify(|(_, last)| last.clear());
                    Fate::UntilNext(id, limit)
                }
                None => Fate::Late(limit),
            },
            Some(How::AnswerLost) => {
                match protocol {
                    Protocol::Kafka => drop(lock(&memory.lost_answers).insert(number(piece, 8))),
                    Protocol::Postgres => *lock(&memory.cut_next) = true,
                }
                Fate::Pass
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Trap>> {
        lock(&self.set)
    }
}

impl Memory {
    pub fn answer(&self, protocol: Protocol, piece: &[u8]) -> Fate {
        match protocol {
            Protocol::Kafka if piece.len() >= 8 && lock(&self.lost_answers).remove(&number(piece, 4)) => Fate::Lost,
            Protocol::Postgres if *lock(&self.cut_next) => Fate::Cut,
            Protocol::Kafka | Protocol::Postgres => Fate::Pass,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// COMMIT as the drivers send it: the simple query message, its length, the text.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

fn request_of(protocol: Protocol, piece: &[u8]) -> Option<Request> {
    match protocol {
        // Length, api key, api version, correlation id.
        Protocol::Kafka if piece.len() >= 12 => Some(Request::Kafka(i16::from_be_bytes([piece[4], piece[5]]))),
        Protocol::Postgres if piece.windows(COMMIT.len()).any(|part| part == COMMIT) => Some(Request::Commit),
        Protocol::Kafka | Protocol::Postgres => None,
    }
}

/// Of EndTxn and AddPartitionsToTxn as librdkafka sends them: the first text after the client's name.
fn transactional_id(piece: &[u8]) -> Option<String> {
    let text_at = |place: usize| {
        let length = usize::from(u16::from_be_bytes(piece.get(place..place + 2)?.try_into().ok()?));
        Some((piece.get(place + 2..place + 2 + length)?, place + 2 + length))
    };
    let (_, after_client) = text_at(12)?;
    let (id, _) = text_at(after_client)?;
    String::from_utf8(id.to_vec()).ok()
}

fn number(piece: &[u8], place: usize) -> i32 {
    i32::from_be_bytes(piece[place..place + 4].try_into().expect("four bytes"))
}

/// The next piece; `None` at the end of the stream. A frame that the end cuts short is lost, as it is for its receiver.
pub async fn next_piece(reader: &mut (impl AsyncRead + Unpin), protocol: Protocol) -> io::Result<Option<Vec<u8>>> {
    match protocol {
        Protocol::Kafka => {
            let mut length = [0; 4];
            if let Err(error) = reader.read_exact(&mut length).await {
                return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
            }
            let body = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
            let mut piece = vec![0; 4 + body];
            piece[..4].copy_from_slice(&length);
            reader.read_exact(&mut piece[4..]).await?;
            Ok(Some(piece))
        }
        Protocol::Postgres => {
            let mut piece = vec![0; 64 * 1024];
            let read = reader.read(&mut piece).await?;
            piece.truncate(read);
            Ok((read > 0).then_some(piece))
        }
    }
}

fn frame(api_key: i16, correlation: i32) -> Vec<u8> {
    let mut frame = 8_i32.to_be_bytes().to_vec();
    frame.extend(api_key.to_be_bytes());
    frame.extend(3_i16.to_be_bytes());
    frame.extend(correlation.to_be_bytes());
    frame
}

/// Requests are told apart, traps spring once, and an answer is found by its number.
pub fn self_check() {
    let (traps, memory) = (Traps::default(), Memory::default());
    traps.set(Trap { request: Request::END_TXN, how: How::AnswerLost });
    let second = Duration::from_secs(1);
    traps.set(Trap { request: Request::END_TXN, how: How::Late(second) });
    assert_eq!(traps.request(Protocol::Kafka, &frame(0, 7), &memory), Fate::Pass);
    assert_eq!(traps.request(Protocol::Kafka, &frame(26, 8), &memory), Fate::Pass);
    assert_eq!(traps.request(Protocol::Kafka, &frame(26, 9), &memory), Fate::Late(second));
    assert_eq!(traps.request(Protocol::Kafka, &frame(26, 10), &memory), Fate::Pass);
    let answer = |correlation: i32| [4_i32.to_be_bytes(), correlation.to_be_bytes()].concat();
    assert_eq!(memory.answer(Protocol::Kafka, &answer(7)), Fate::Pass);
    assert_eq!(memory.answer(Protocol::Kafka, &answer(8)), Fate::Lost);
    assert_eq!(memory.answer(Protocol::Kafka, &answer(8)), Fate::Pass);
    let mut end = frame(26, 11);
    end.extend([0, 2, b'm', b'e', 0, 3, b't', b'x', b'1', 9]);
    traps.set(Trap { request: Request::END_TXN, how: How::IntoNext(second) });
    assert_eq!(traps.request(Protocol::Kafka, &end, &memory), Fate::UntilNext("tx1".to_owned(), second));
    let trap = Trap { request: Request::Commit, how: How::AnswerLost };
    traps.set(trap);
    assert_eq!(traps.request(Protocol::Postgres, b"Q\0\0\0\x0aBEGIN\0", &memory), Fate::Pass);
    assert_eq!(memory.answer(Protocol::Postgres, b"C"), Fate::Pass);
    assert_eq!(traps.request(Protocol::Postgres, b"xxQ\0\0\0\x0bCOMMIT\0", &memory), Fate::Pass);
    assert_eq!(memory.answer(Protocol::Postgres, b"C"), Fate::Cut);
    assert!(!traps.remove(trap), "it has sprung");
}
