//! The records: good ones of every shape that a stranger may give them, and bad ones of every kind, each with what has
//! to become of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::foreign_bytes::Foreign;

/// The header by which a record is found again in `consumer_parked`.
pub const NUMBER: &[u8] = b"number";
/// A product that a constraint of the round refuses.
pub const REFUSED: i64 = 666;
/// A product whose row makes a statement run without end, until that is mended.
pub const ENDLESS: i64 = 667;
/// The first of the products whose events carry no time that is known here.
pub const UNTIMED: i64 = 5_000;

/// What an event moves, by product: likes, views, sales, hundredths of the amount.
pub type Moves = BTreeMap<i64, [i128; 4]>;

/// What has to become of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Folded(Moves),
    Parked,
    /// Nobody handles its type.
    Skipped,
    /// Its id is known.
    Repeat,
}

#[derive(Debug, Clone)]
pub struct Made {
    pub number: u64,
    /// In words, for failures.
    pub kind: &'static str,
    pub record: Foreign,
    pub fate: Fate,
    pub id: Option<Uuid>,
    pub time: Option<Timestamp>,
}

/// Draws records from a seed.
pub struct Maker {
    pub random: fastrand::Rng,
    next: u64,
    /// In every text that no log may show.
    secret: String,
    /// Events of each partition that can be repeated.
    known: BTreeMap<i32, Vec<Uuid>>,
}

type Change = fn(&mut Maker, &mut Made);

impl Maker {
    pub fn new(seed: u64, secret: &str) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), next: 0, secret: secret.to_owned(), known: BTreeMap::new() }
    }

    /// An ordinary event of one of these products.
    pub fn good(&mut self, partition: i32, products: std::ops::Range<i64>) -> Made {
        let product = self.random.i64(products);
        let (event_type, value, moves): (_, _, [i128; 4]) = match self.random.u8(..6) {
            0 | 1 => ("LikeAddedEvent", json!({"productId": product}), [1, 0, 0, 0]),
            2 => ("LikeRemovedEvent", json!({"productId": product}), [-1, 0, 0, 0]),
            3 => ("ProductViewEvent", json!({"productId": product}), [0, 1, 0, 0]),
            4 => {
                let line = json!({"productId": product, "quantity": 3, "amount": 10.25});
                ("OrderCreatedEvent", json!({"items": [line]}), [0, 0, 3, 1_025])
            }
            _ => {
                let line = json!({"productId": product, "quantity": 2, "amount": 0.5});
                ("OrderCancelledEvent", json!({"items": [line]}), [0, 0, -2, -50])
            }
        };
        self.made(partition, event_type, &value.to_string(), Fate::Folded(Moves::from([(product, moves)])))
    }

    fn made(&mut self, partition: i32, event_type: &str, value: &str, fate: Fate) -> Made {
        self.next += 1;
        let id = Uuid::from_u64_pair(self.random.u64(..), self.random.u64(..));
        let time = Timestamp::from_second(1_700_000_000 + self.random.i64(0..100_000_000)).expect("a time");
        let key = format!("{}-key-{}", self.secret, self.random.u8(..));
        let record = Foreign {
            partition,
            key: Some(key.into_bytes()),
            value: Some(value.as_bytes().to_vec()),
            ..Foreign::default()
        };
        let record = record
            .header(b"outbox-event-id", id.to_string().as_bytes())
            .header(b"ce_type", event_type.as_bytes())
            .header(b"ce_time", time.to_string().as_bytes())
            .header(NUMBER, self.next.to_string().as_bytes());
        Made { number: self.next, kind: "good", record, fate, id: Some(id), time: Some(time) }
    }

    /// A like of this product, which somebody's rule is about.
    pub fn like_of(&mut self, partition: i32, product: i64) -> Made {
        let value = format!(r#"{{"productId": {product}}}"#);
        self.made(partition, "LikeAddedEvent", &value, Fate::Folded(Moves::from([(product, [1, 0, 0, 0])])))
    }

    /// A record of a stranger. `large`: it may be a megabyte.
    pub fn odd(&mut self, partition: i32, large: bool) -> Made {
        let mut made = self.good(partition, 1..30);
        if self.random.u8(..3) == 0 {
            let bad = self.random.choice(BAD).expect("some");
            made = self.bad(partition, bad);
        } else {
            let (kind, change) = self.random.choice(CHANGES).expect("some");
            made.kind = kind;
            change(self, &mut made);
        }
        if large && self.random.u8(..100) == 0 {
            let padding = format!(r#"{{"note": "{}", "#, self.random.alphanumeric().to_string().repeat(1_000_000));
            if let Some(value) = made.record.value.as_mut().filter(|value| value.first() == Some(&b'{')) {
                value.splice(..1, padding.bytes());
            }
        }
        if let (Fate::Folded(_) | Fate::Parked, Some(id)) = (&made.fate, made.id) {
            self.known.entry(partition).or_default().push(id);
        }
        made
    }

    /// An event of a type that is folded, with a value that does not fit.
    fn bad(&mut self, partition: i32, (kind, event_type, value): &(&'static str, &str, &str)) -> Made {
        let value = value.replace("SECRET", &self.secret);
        let mut made = self.made(partition, event_type, &value, Fate::Parked);
        made.kind = kind;
        made
    }

    fn header(made: &mut Made, name: &[u8], value: Option<&[u8]>) {
        made.record.headers.push((name.to_vec(), value.map(<[u8]>::to_vec)));
    }

    fn without(made: &mut Made, name: &[u8]) {
        made.record.headers.retain(|(own, _)| own != name);
    }

    /// Its time is not known here, so it is moved to a product whose time is not compared.
    fn without_time(made: &mut Made) {
        made.time = None;
        if let (Fate::Folded(moves), Some(value)) = (&mut made.fate, &mut made.record.value) {
            let old = *moves.keys().next().expect("one product");
            let moved = moves.remove(&old).expect("there");
            moves.insert(UNTIMED + old, moved);
            let text = String::from_utf8_lossy(value)
                .replace(&format!(r#""productId":{old}"#), &format!(r#""productId":{}"#, UNTIMED + old));
            *value = text.into_bytes();
        }
    }

    /// The like of one product, whatever it was before.
    fn like(made: &mut Made, value: String, product: i64) {
        Self::without(made, b"ce_type");
        Self::header(made, b"ce_type", Some(b"LikeAddedEvent"));
        made.record.value = Some(value.into_bytes());
        made.fate = Fate::Folded(Moves::from([(product, [1, 0, 0, 0])]));
    }
}

/// Good events in odd clothes, and events without a meaning.
const CHANGES: &[(&str, Change)] = &[
    ("header names that are not UTF-8", |_, made| {
        Maker::header(made, b"\xff\xfe", Some(b"x"));
        Maker::header(made, b"caf\xe9\0", Some(b"\xff"));
    }),
    ("an empty header name", |_, made| Maker::header(made, b"", Some(b""))),
    ("header values of any bytes", |maker, made| {
        let bytes: Vec<u8> = (0..50).map(|_| maker.random.u8(..)).collect();
        let secret = maker.secret.clone();
        Maker::header(made, b"trace", Some(&bytes));
        Maker::header(made, b"token", Some(secret.as_bytes()));
    }),
    ("a header that is null", |_, made| Maker::header(made, b"ce_subject", None)),
    ("a subject with NUL", |_, made| Maker::header(made, b"ce_subject", Some(b"a\0b"))),
    ("a correlation of no text", |_, made| Maker::header(made, b"correlation-id", Some(b"\xff\0\xfe"))),
    ("ce_type twice", |_, made| {
        made.record.headers.insert(0, (b"ce_type".to_vec(), Some(b"Other".to_vec())));
    }),
    ("ce_id twice", |_, made| {
        Maker::header(made, b"ce_id", Some(b"0192f0a0-0000-7000-8000-000000000001"));
        Maker::header(made, b"ce_id", Some(b"not an id"));
    }),
    ("hundreds of headers", |_, made| {
        for n in 0..400 {
            Maker::header(made, format!("h{n}").as_bytes(), Some(b"v"));
        }
    }),
    ("a huge header", |_, made| Maker::header(made, &[b'n'; 20_000], Some(&[b'v'; 100_000]))),
    ("an absurd version", |_, made| Maker::header(made, b"ce_eventversion", Some(b"99999999999999999999"))),
    ("no key", |_, made| made.record.key = None),
    ("an empty key", |_, made| made.record.key = Some(Vec::new())),
    ("a binary key", |_, made| made.record.key = Some(vec![0, 255, 0, 1])),
    ("a large key", |_, made| made.record.key = Some(vec![b'k'; 100_000])),
    ("a timestamp of 0", |_, made| made.record.timestamp = Some(0)),
    ("a timestamp of -1", |_, made| made.record.timestamp = Some(-1)),
    ("a timestamp far ahead", |_, made| made.record.timestamp = Some(i64::MAX)),
    ("a timestamp before 1970", |_, made| made.record.timestamp = Some(-86_400_000)),
    ("a time out of range", |_, made| {
        Maker::without(made, b"ce_time");
        Maker::header(made, b"ce_time", Some(b"-9999-01-01T00:00:00Z"));
        Maker::without_time(made);
    }),
    ("a time that is none", |_, made| {
        Maker::without(made, b"ce_time");
        Maker::header(made, b"ce_time", Some(b"\xffyesterday"));
        made.record.timestamp = Some(i64::MAX);
        Maker::without_time(made);
    }),
    ("no id", |_, made| {
        Maker::without(made, b"outbox-event-id");
        made.id = None;
    }),
    ("an id that is no UUID", |_, made| {
        Maker::without(made, b"outbox-event-id");
        Maker::header(made, b"outbox-event-id", Some(b"4711"));
        Maker::header(made, b"id", Some(b"4711"));
        made.id = None;
    }),
    ("an id that is known", |maker, made| {
        // Of this batch or of one long ago.
        let known = maker.known.get(&made.record.partition).and_then(|known| maker.random.choice(known));
        let Some(known) = known else { return };
        Maker::without(made, b"outbox-event-id");
        Maker::header(made, b"outbox-event-id", Some(known.to_string().as_bytes()));
        (made.id, made.fate) = (None, Fate::Repeat);
    }),
    ("the id header twice", |_, made| {
        let other = Uuid::from_u64_pair(1, made.number);
        made.record.headers.insert(0, (b"outbox-event-id".to_vec(), Some(other.to_string().into_bytes())));
    }),
    ("no type", |_, made| {
        Maker::without(made, b"ce_type");
        made.fate = Fate::Skipped;
    }),
    ("an empty type", |_, made| {
        Maker::without(made, b"ce_type");
        Maker::header(made, b"ce_type", Some(b""));
        made.fate = Fate::Skipped;
    }),
    ("a type of no text", |_, made| {
        Maker::without(made, b"ce_type");
        Maker::header(made, b"ce_type", Some(b"Like\xffAdded\0"));
        made.fate = Fate::Skipped;
    }),
    ("an unknown type and no JSON", |_, made| {
        Maker::without(made, b"ce_type");
        Maker::header(made, b"ce_type", Some(b"StockChangedEvent"));
        (made.record.value, made.fate) = (Some(b"\xff\xff".to_vec()), Fate::Skipped);
    }),
    ("a tombstone of an unknown type", |_, made| {
        Maker::without(made, b"ce_type");
        (made.record.value, made.fate) = (None, Fate::Skipped);
    }),
    ("a name twice in the value", |_, made| Maker::like(made, r#"{"productId": "x", "productId": 3}"#.to_owned(), 3)),
    ("a deep value", |_, made| {
        Maker::like(made, format!(r#"{{"productId": 4, "note": {}{}}}"#, "[".repeat(500), "]".repeat(500)), 4);
    }),
    ("a number of 1,000 digits", |_, made| {
        Maker::like(made, format!(r#"{{"productId": 5, "note": {}}}"#, "9".repeat(1_000)), 5);
    }),
    ("an integer as a fraction", |_, made| Maker::like(made, r#"{"productId": 6.000}"#.to_owned(), 6)),
    ("the largest product", |_, made| {
        Maker::like(made, format!(r#"{{"productId": {}}}"#, i64::MAX), i64::MAX);
    }),
    ("blanks around the value", |_, made| Maker::like(made, " \n{\"productId\": 7}\t".to_owned(), 7)),
    ("the largest line", |_, made| {
        Maker::without(made, b"ce_type");
        Maker::header(made, b"ce_type", Some(b"OrderCreatedEvent"));
        let line = r#"{"items": [{"productId": 8, "quantity": 1000000000, "amount": 1000000000000000}]}"#;
        made.record.value = Some(line.as_bytes().to_vec());
        made.fate = Fate::Folded(Moves::from([(8, [0, 0, 1_000_000_000, 100_000_000_000_000_000])]));
    }),
    ("a product that is refused", |_, made| {
        Maker::like(made, format!(r#"{{"productId": {REFUSED}}}"#), REFUSED);
    }),
    ("a value that is null", |_, made| {
        Maker::like(made, String::new(), 1);
        (made.record.value, made.fate) = (None, Fate::Parked);
    }),
    ("a value that is not UTF-8", |maker, made| {
        Maker::like(made, String::new(), 1);
        let value = [b"\xff\xfe\0".to_vec(), maker.secret.clone().into_bytes()].concat();
        (made.record.value, made.fate) = (Some(value), Fate::Parked);
    }),
    ("a value that is far too deep", |_, made| {
        Maker::like(made, format!(r#"{{"productId": 1, "note": {}{}}}"#, "[".repeat(50_000), "]".repeat(50_000)), 1);
        made.fate = Fate::Parked;
    }),
];

/// Kind, event type and value of what has to be parked.
const BAD: &[(&str, &str, &str)] = &[
    ("an empty value", "LikeAddedEvent", ""),
    ("no JSON", "LikeAddedEvent", "SECRET is no JSON"),
    ("JSON that ends early", "OrderCreatedEvent", r#"{"items": ["SECRET""#),
    ("JSON null", "ProductViewEvent", "null"),
    ("a list", "LikeRemovedEvent", "[1, \"SECRET\"]"),
    ("\\u0000", "LikeAddedEvent", r#"{"productId": 1, "note": "SECRET\u0000"}"#),
    ("a lone surrogate", "LikeAddedEvent", r#"{"productId": 1, "note": "SECRET\ud800"}"#),
    ("a number that overflows", "LikeAddedEvent", r#"{"productId": 1, "note": 1e999999}"#),
    ("an infinite number", "LikeAddedEvent", r#"{"productId": Infinity}"#),
    ("a product beyond bigint", "LikeAddedEvent", r#"{"productId": 9223372036854775808}"#),
    ("a product that is a fraction", "ProductViewEvent", r#"{"productId": 1.5}"#),
    ("a product that is text", "LikeAddedEvent", r#"{"productId": "SECRET"}"#),
    ("no product", "LikeAddedEvent", "{}"),
    ("no lines", "OrderCreatedEvent", r#"{"items": []}"#),
    ("lines that are no list", "OrderCancelledEvent", r#"{"items": {"productId": 1}}"#),
    ("one line of null", "OrderCreatedEvent", r#"{"items": [null, {"productId": 1, "quantity": 1, "amount": 1}]}"#),
    (
        "quantity at the end of bigint",
        "OrderCreatedEvent",
        r#"{"items": [{"productId": 1, "quantity": 9223372036854775807, "amount": 1}]}"#,
    ),
    (
        "a negative quantity",
        "OrderCreatedEvent",
        r#"{"items": [{"productId": 1, "quantity": -9223372036854775808, "amount": 1}]}"#,
    ),
    ("a fraction of a quantity", "OrderCreatedEvent", r#"{"items": [{"productId": 1, "quantity": 0.5, "amount": 1}]}"#),
    (
        "an amount without end",
        "OrderCreatedEvent",
        r#"{"items": [{"productId": 1, "quantity": 1, "amount": 1e131071}]}"#,
    ),
    ("a negative amount", "OrderCancelledEvent", r#"{"items": [{"productId": 1, "quantity": 1, "amount": -1}]}"#),
    (
        "a good line and a bad one",
        "OrderCreatedEvent",
        r#"{"items": [{"productId": 1, "quantity": 1, "amount": 1}, {"productId": 2, "quantity": "SECRET", "amount": 1}]}"#,
    ),
];

/// The tables as they have to be, from what was produced.
#[derive(Debug, Default)]
pub struct Expected {
    pub moves: Moves,
    pub last: BTreeMap<i64, Timestamp>,
    pub parked: BTreeMap<u64, Made>,
    /// Rows of `event_handled`.
    pub handled: i64,
}

impl Expected {
    pub fn of<'a>(made: impl Iterator<Item = &'a Made>) -> Self {
        let mut expected = Self::default();
        for made in made {
            expected.add(made);
        }
        expected
    }

    fn add(&mut self, made: &Made) {
        match &made.fate {
            Fate::Skipped | Fate::Repeat => return,
            Fate::Parked => drop(self.parked.insert(made.number, made.clone())),
            Fate::Folded(moves) => {
                for (product, moved) in moves {
                    let sums = self.moves.entry(*product).or_default();
                    for (sum, by) in sums.iter_mut().zip(moved) {
                        *sum += by;
                    }
                    if let Some(time) = made.time {
                        let last = self.last.entry(*product).or_insert(time);
                        *last = (*last).max(time);
                    }
                }
            }
        }
        self.handled += 1;
    }
}

/// While the rules of somebody else are there: [`REFUSED`] breaks a constraint, and [`ENDLESS`] a limit.
pub fn refused(made: &[Made]) -> Vec<Made> {
    let mut made = made.to_vec();
    for one in &mut made {
        if matches!(&one.fate, Fate::Folded(moves) if moves.contains_key(&REFUSED) || moves.contains_key(&ENDLESS)) {
            one.fate = Fate::Parked;
        }
    }
    made
}

/// What `consumer_parked.headers` says of the number of a record.
pub fn number_of(headers: &[(Vec<u8>, Option<Vec<u8>>)]) -> Option<u64> {
    let (_, value) = headers.iter().find(|(name, _)| name == NUMBER)?;
    std::str::from_utf8(value.as_deref()?).ok()?.parse().ok()
}

#[test]
fn the_same_seed_draws_the_same_records_of_every_kind() {
    let draw = || {
        let mut maker = Maker::new(7, "secret");
        (0..5_000).map(|_| maker.odd(0, false)).map(|made| (made.number, made.kind, made.fate)).collect::<Vec<_>>()
    };
    let (first, second) = (draw(), draw());
    assert_eq!(first, second);
    let kinds: std::collections::BTreeSet<&str> = first.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!(kinds.len(), CHANGES.len() + BAD.len(), "{kinds:?}");
}
