//! A shop that makes up its business: which shopper does what next, and the events that tell of it.
//!
//! Pure: no clock, no database, all chance from one seed. `load` turns its work into transactions. Invariants: a like
//! is removed only after it was added, an order is paid and cancelled at most once, and a transaction that rolls back
//! leaves no trace here either ([`Shop::undo`]). Several shops share the products and nothing else, so that writers
//! never wait for each other's orders and likes.

use std::collections::HashSet;

use serde::Serialize;

pub const CATALOG_EVENTS: &str = "catalog-events";
pub const ORDER_EVENTS: &str = "order-events";

/// Products in the shop. The first ones are popular: the logarithm of the rank is uniform.
const PRODUCTS: i64 = 200;
const FIRST_PRODUCT: i64 = 4700;
const FIRST_ORDER: i64 = 90_000;
const USERS: i64 = 5_000;
/// Likes and orders that can still change. Older ones stay as they are, so that memory stays bounded.
const OPEN_LIMIT: usize = 2_000;

/// One event, ready for its outbox row.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub aggregate_type: &'static str,
    /// The product or the order, which is the key too.
    pub aggregate_id: i64,
    pub event_type: &'static str,
    /// Unique per aggregate and event type.
    pub event_version: i32,
    pub topic: &'static str,
    /// JSON text.
    pub payload: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like {
    pub id: i64,
    pub user: i64,
    pub product: i64,
}

/// A line of an order, as the events carry it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub product_id: i64,
    pub quantity: i64,
    /// Total of the line.
    pub amount: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub id: i64,
    pub user: i64,
    pub lines: Vec<Line>,
    paid: bool,
}

impl Order {
    pub fn lines_json(&self) -> String {
        json(&self.lines)
    }
}

/// What one business transaction does, beside the events it enqueues.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Viewed { user: i64, product: i64 },
    Liked(Like),
    Unliked(Like),
    Ordered(Order),
    Paid(Order),
    Cancelled(Order),
}

/// Business changes and their events, in the same order: they commit together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    pub changes: Vec<Change>,
    pub events: Vec<NewEvent>,
}

#[derive(Debug)]
pub struct Shop {
    chance: fastrand::Rng,
    /// This shop's number and how many there are: ids and versions of different shops never meet.
    number: i64,
    shops: i64,
    sequence: i64,
    likes: Vec<Like>,
    orders: Vec<Order>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProductPayload {
    product_id: i64,
    user_id: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderPayload<'a> {
    order_id: i64,
    user_id: i64,
    items: &'a [Line],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentPayload {
    order_id: i64,
    payment_id: String,
    amount: i64,
}

impl Shop {
    /// Shop `number` (from 0) of `shops`.
    pub fn new(seed: u64, number: u16, shops: u16) -> Self {
        Self {
            chance: fastrand::Rng::with_seed(seed.wrapping_add(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15))),
            number: i64::from(number),
            shops: i64::from(shops),
            sequence: 0,
            likes: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// The next transaction, with `events` events. No like and no order appears twice in it.
    pub fn work(&mut self, events: usize) -> Work {
        let mut work = Work::default();
        let mut touched = HashSet::new();
        while work.events.len() < events {
            // Shares of the event types, in percent: a guess at a shop where people look more than they buy.
            let change = match self.chance.u8(0..100) {
                0..55 => None,
                55..70 => Some(self.like(&mut touched)),
                70..75 => self.unlike(&mut touched),
                75..87 => Some(self.place_order(&mut touched)),
                87..96 => self.pay(&mut touched),
                _ => self.cancel(&mut touched),
            };
            let change = change.unwrap_or_else(|| Change::Viewed { user: self.user(), product: self.product() });
            work.events.push(self.event_of(&change));
            work.changes.push(change);
        }
        work
    }

    /// The transaction of `work`, the last one taken, was rolled back: nothing of it happened.
    pub fn undo(&mut self, work: &Work) {
        for change in work.changes.iter().rev() {
            match change {
                Change::Viewed { .. } => {}
                Change::Liked(like) => self.likes.retain(|known| known.id != like.id),
                Change::Unliked(like) => self.likes.push(*like),
                Change::Ordered(order) => self.orders.retain(|known| known.id != order.id),
                Change::Paid(order) => {
                    for known in self.orders.iter_mut().filter(|known| known.id == order.id) {
                        known.paid = false;
                    }
                }
                Change::Cancelled(order) => self.orders.push(order.clone()),
            }
        }
    }

    /// A number that no other shop gives, larger with each call.
    fn next_number(&mut self) -> i64 {
        self.sequence += 1;
        self.sequence * self.shops + self.number
    }

    fn user(&mut self) -> i64 {
        1 + self.chance.i64(0..USERS)
    }

    fn product(&mut self) -> i64 {
        let rank = (PRODUCTS as f64 + 1.0).powf(self.chance.f64()) as i64;
        FIRST_PRODUCT + rank.min(PRODUCTS)
    }

    fn like(&mut self, touched: &mut HashSet<i64>) -> Change {
        let like = Like { id: self.next_number(), user: self.user(), product: self.product() };
        forget_one(&mut self.likes, &mut self.chance);
        self.likes.push(like);
        touched.insert(like.id);
        Change::Liked(like)
    }

    fn unlike(&mut self, touched: &mut HashSet<i64>) -> Option<Change> {
        let place = pick(&mut self.chance, &self.likes)?;
        if !touched.insert(self.likes[place].id) {
            return None;
        }
        Some(Change::Unliked(self.likes.swap_remove(place)))
    }

    fn place_order(&mut self, touched: &mut HashSet<i64>) -> Change {
        let lines = (0..self.chance.u8(1..=3))
            .map(|_| {
                let (product_id, quantity) = (self.product(), self.chance.i64(1..=4));
                Line { product_id, quantity, amount: quantity * price(product_id) }
            })
            .collect();
        let order = Order { id: FIRST_ORDER + self.next_number(), user: self.user(), lines, paid: false };
        forget_one(&mut self.orders, &mut self.chance);
        self.orders.push(order.clone());
        touched.insert(order.id);
        Change::Ordered(order)
    }

    fn pay(&mut self, touched: &mut HashSet<i64>) -> Option<Change> {
        let place = pick(&mut self.chance, &self.orders)?;
        let order = &mut self.orders[place];
        if order.paid || !touched.insert(order.id) {
            return None;
        }
        let unpaid = order.clone();
        order.paid = true;
        Some(Change::Paid(unpaid))
    }

    fn cancel(&mut self, touched: &mut HashSet<i64>) -> Option<Change> {
        let place = pick(&mut self.chance, &self.orders)?;
        if !touched.insert(self.orders[place].id) {
            return None;
        }
        Some(Change::Cancelled(self.orders.swap_remove(place)))
    }

    fn event_of(&mut self, change: &Change) -> NewEvent {
        match change {
            Change::Viewed { user, product } => self.product_event("ProductViewEvent", *user, *product),
            Change::Liked(like) => self.product_event("LikeAddedEvent", like.user, like.product),
            Change::Unliked(like) => self.product_event("LikeRemovedEvent", like.user, like.product),
            Change::Ordered(order) => order_event(order, "OrderCreatedEvent", 1, &OrderPayload::of(order)),
            Change::Paid(order) => {
                let amount = order.lines.iter().map(|line| line.amount).sum();
                let payload = PaymentPayload { order_id: order.id, payment_id: format!("pm-{}", order.id), amount };
                order_event(order, "PaymentCompletedEvent", 2, &payload)
            }
            Change::Cancelled(order) => order_event(order, "OrderCancelledEvent", 3, &OrderPayload::of(order)),
        }
    }

    fn product_event(&mut self, event_type: &'static str, user_id: i64, product_id: i64) -> NewEvent {
        NewEvent {
            aggregate_type: "Product",
            aggregate_id: product_id,
            event_type,
            event_version: i32::try_from(self.next_number()).unwrap_or(i32::MAX),
            topic: CATALOG_EVENTS,
            payload: json(&ProductPayload { product_id, user_id }),
        }
    }
}

impl<'a> OrderPayload<'a> {
    fn of(order: &'a Order) -> Self {
        Self { order_id: order.id, user_id: order.user, items: &order.lines }
    }
}

fn order_event(order: &Order, event_type: &'static str, event_version: i32, payload: &impl Serialize) -> NewEvent {
    NewEvent {
        aggregate_type: "Order",
        aggregate_id: order.id,
        event_type,
        event_version,
        topic: ORDER_EVENTS,
        payload: json(payload),
    }
}

fn json(payload: &impl Serialize) -> String {
    serde_json::to_string(payload).expect("plain structs of numbers and text always serialize")
}

/// Between 990 and 49,990, the same for every order of the product.
fn price(product: i64) -> i64 {
    990 + (product * 7919 % 50) * 1_000
}

fn pick<T>(chance: &mut fastrand::Rng, open: &[T]) -> Option<usize> {
    (!open.is_empty()).then(|| chance.usize(0..open.len()))
}

/// Makes room: one thing that could still change stays as it is forever.
fn forget_one<T>(open: &mut Vec<T>, chance: &mut fastrand::Rng) {
    if open.len() >= OPEN_LIMIT {
        let place = chance.usize(0..open.len());
        open.swap_remove(place);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn events_of(seed: u64, transactions: usize) -> Vec<NewEvent> {
        let mut shop = Shop::new(seed, 0, 1);
        (0..transactions).flat_map(|_| shop.work(3).events).collect()
    }

    /// The rules of the catalogue for the commerce events.
    fn assert_valid(event: &NewEvent) {
        let payload: Value = serde_json::from_str(&event.payload).unwrap();
        let integer =
            |name: &str| payload[name].as_i64().unwrap_or_else(|| panic!("{name} of {event:?} is no integer"));
        match event.event_type {
            "LikeAddedEvent" | "LikeRemovedEvent" | "ProductViewEvent" => {
                assert_eq!((event.topic, event.aggregate_type), ("catalog-events", "Product"));
                assert_eq!(integer("productId"), event.aggregate_id);
                assert!(integer("userId") > 0);
            }
            "OrderCreatedEvent" | "OrderCancelledEvent" => {
                assert_eq!((event.topic, event.aggregate_type), ("order-events", "Order"));
                assert_eq!(integer("orderId"), event.aggregate_id);
                let items = payload["items"].as_array().unwrap();
                assert!(!items.is_empty());
                for item in items {
                    assert!(item["productId"].is_i64(), "{item}");
                    assert!(item["quantity"].as_i64().unwrap() >= 1, "{item}");
                    assert!(item["amount"].as_i64().unwrap() >= 0, "{item}");
                }
            }
            "PaymentCompletedEvent" => {
                assert_eq!((event.topic, event.aggregate_type), ("order-events", "Order"));
                assert_eq!(integer("orderId"), event.aggregate_id);
                assert!(!payload["paymentId"].as_str().unwrap().is_empty());
                assert!(integer("amount") >= 0);
            }
            other => panic!("{other} is not in the catalogue"),
        }
    }

    #[test]
    fn every_event_follows_the_catalogue_and_all_six_types_occur() {
        let events = events_of(1, 2_000);
        events.iter().for_each(assert_valid);
        let types: HashSet<_> = events.iter().map(|event| event.event_type).collect();
        assert_eq!(types.len(), 6, "{types:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_business_and_another_seed_another() {
        assert_eq!(events_of(7, 200), events_of(7, 200));
        assert_ne!(events_of(7, 200), events_of(8, 200));
    }

    #[test]
    fn shops_share_no_order_no_like_and_no_version() {
        let mut seen = HashSet::new();
        for number in 0..3 {
            let mut shop = Shop::new(1, number, 3);
            for event in (0..500).flat_map(|_| shop.work(2).events) {
                let version = (event.aggregate_type, event.aggregate_id, event.event_type, event.event_version);
                assert!(seen.insert(version), "{version:?} twice");
            }
        }
    }

    /// Replays the changes as the database would see them, with every fifth transaction rolled back.
    #[test]
    fn nothing_is_withdrawn_that_does_not_stand_even_after_rollbacks() {
        let mut shop = Shop::new(3, 1, 4);
        let (mut likes, mut orders) = (HashSet::new(), HashMap::new());
        for n in 0..5_000 {
            let work = shop.work(1 + n % 7);
            let mut entities = HashSet::new();
            if n % 5 == 0 {
                shop.undo(&work);
                continue;
            }
            for change in &work.changes {
                let (fine, entity) = match change {
                    Change::Viewed { .. } => continue,
                    Change::Liked(like) => (likes.insert(like.id), ("like", like.id)),
                    Change::Unliked(like) => (likes.remove(&like.id), ("like", like.id)),
                    Change::Ordered(order) => (orders.insert(order.id, false).is_none(), ("order", order.id)),
                    Change::Paid(order) => (orders.insert(order.id, true) == Some(false), ("order", order.id)),
                    Change::Cancelled(order) => (orders.remove(&order.id).is_some(), ("order", order.id)),
                };
                assert!(fine, "transaction {n}: {change:?} does not fit what is committed");
                assert!(entities.insert(entity), "transaction {n} touches {entity:?} twice");
            }
        }
    }

    #[test]
    fn memory_stays_bounded_however_long_it_runs() {
        let mut shop = Shop::new(5, 0, 1);
        for _ in 0..60_000 {
            drop(shop.work(1));
        }
        assert!(shop.likes.len() <= OPEN_LIMIT && shop.orders.len() <= OPEN_LIMIT);
        assert!(shop.likes.len() > OPEN_LIMIT / 2, "the run was too short to tell");
    }
}
