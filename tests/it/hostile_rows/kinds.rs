//! Each kind of bad row by itself, and all kinds at once in every way to settle.

use super::{KINDS, Kind, MARKS, Shop, Way};
use crate::support::side_by_side;

/// Promise: bad-rows.
#[tokio::test]
async fn any_number_of_bad_rows_among_any_number_of_good_ones() {
    // Those that wait for a timeout do so beside the others.
    let (slow, quick): (Vec<Kind>, Vec<Kind>) = KINDS.into_iter().partition(|kind| *kind == Kind::Slow);
    let (first, second) = quick.split_at(quick.len() / 2);
    side_by_side([slow.as_slice(), first, second], async |kinds| {
        let mut shop = Shop::open(MARKS).await;
        for kind in kinds {
            for (bad, good) in [(1, 0), (1, 60), (2, 1), (9, 60)] {
                // Each takes a timeout, of a statement or of a lock.
                if *kind == Kind::Slow && bad * good > 60 {
                    continue;
                }
                let rows = shop.insert(&[*kind], bad, good).await;
                shop.settles(&format!("{bad} bad rows ({kind:?}) among {good} good ones"), rows).await;
            }
        }
        let rows = shop.insert(&[], 0, 60).await;
        shop.settles("no bad row", rows).await;
        shop.close().await;
    })
    .await;
}

async fn all_kinds_at_once(way: Way) {
    let mut shop = Shop::open(way).await;
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| *kind != Kind::Slow).collect();
    for (bad, good) in [(1, 100), (5, 300)] {
        let rows = shop.insert(&kinds, bad, good).await;
        shop.settles(&format!("{bad} bad rows of each kind among {good} good ones ({way:?})"), rows).await;
    }
    shop.close().await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_where_rows_are_marked() {
    all_kinds_at_once(MARKS).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_where_rows_are_deleted() {
    all_kinds_at_once(Way { after_publish: "delete", ..MARKS }).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_under_a_watermark() {
    all_kinds_at_once(Way { tracking: "watermark", ..MARKS }).await;
}

/// Promise: bad-rows.
#[tokio::test]
async fn all_kinds_at_once_in_transactions() {
    all_kinds_at_once(Way { delivery: "exactly-once", ..MARKS }).await;
}

#[tokio::test]
async fn all_kinds_at_once_in_transactions_under_a_watermark() {
    all_kinds_at_once(Way { delivery: "exactly-once", tracking: "watermark", ..MARKS }).await;
}
