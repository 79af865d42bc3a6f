//! The judge: what Kafka holds against what was committed. Pure, and separate from everything that it checks.
//!
//! I1 nothing is lost, I2 nothing is made up or changed, I3 a key of the locked profile appears first in the order of
//! its ids, I4 repeats: none when delivery is exactly once, else whole reruns of the batches that were in flight when a
//! shard changed its owner. Two checks look at order: the one here by ids alone, and [`order::check`] of the
//! integration tests, which also tells a rerun from a late repeat and sees holes in it.

use std::collections::HashMap;

use crate::history::{Committed, Row, Sent, Status};
use crate::it::support::order;
use crate::writers::LOCKED;

/// Sentences per kind; the rest is counted.
const SHOWN: usize = 8;

/// What faults explain.
#[derive(Debug, Clone, Default)]
pub struct Allowance {
    pub exactly_once: bool,
    /// How often each id was in flight when its shard changed its owner: as often it may be sent again.
    pub in_flight: HashMap<i64, u32>,
    /// Repeats that no change of owner explains: the client was replaced after a broker or the network had failed.
    pub unexplained: u64,
    /// Late repeats, from the buffers of a paused or cut-off client.
    pub late: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub events: u64,
    pub lost: u64,
    pub made_up: u64,
    pub out_of_order: u64,
    pub repeats: u64,
    /// Of the repeats, those of batches that were not inherited.
    pub unexplained: u64,
    pub late: u64,
    pub violations: Vec<String>,
}

pub struct Checker<'a> {
    committed: &'a Committed,
    /// Keys whose order is checked by id begin with this.
    ordered: &'static str,
    /// How often each id was seen.
    seen: HashMap<i64, u32>,
    /// By number of key: the highest id that was seen, and the partition.
    last: Vec<Option<(i64, u32)>>,
    /// By ordered key: ids in the order of the topic.
    sent: HashMap<String, Vec<i64>>,
    verdict: Verdict,
}

impl<'a> Checker<'a> {
    /// `strict`: the order of every key is promised, not only where writers take turns.
    pub fn new(committed: &'a Committed, strict: bool) -> Self {
        let ordered = if strict { "" } else { LOCKED };
        let verdict = Verdict { events: committed.rows.len() as u64, ..Verdict::default() };
        Self {
            committed,
            ordered,
            seen: HashMap::new(),
            last: vec![None; committed.keys.len()],
            sent: HashMap::new(),
            verdict,
        }
    }

    /// Takes the next record of a partition.
    pub fn see(&mut self, sent: &Sent) {
        let Some(id) = sent.id else {
            return self.made_up(format!("a record of partition {} without outbox-id", sent.partition));
        };
        let Some(row) = self.committed.rows.get(&id) else {
            return self.made_up(format!("id {id} was sent and never committed"));
        };
        if row.digest != sent.digest {
            self.made_up(format!(
                "id {id} was sent with another topic, key, event id, type or payload than its row has"
            ));
        }
        let name = &self.committed.keys[row.key as usize];
        let ordered = name.starts_with(self.ordered);
        let times = self.seen.entry(id).or_default();
        *times += 1;
        let first = *times == 1;
        let (last, partition) = self.last[row.key as usize].unwrap_or((i64::MIN, sent.partition));
        self.last[row.key as usize] = Some((last.max(id), partition));
        if partition != sent.partition {
            self.out_of_order(format!("key {name} is in partitions {partition} and {}", sent.partition));
        }
        if first && ordered && id < last {
            self.out_of_order(format!("key {name}: id {id} appeared first after {last}"));
        }
        if !first {
            self.verdict.repeats += 1;
        }
        if ordered {
            self.sent.entry(name.clone()).or_default().push(id);
        }
    }

    pub fn finish(mut self, allowance: &Allowance) -> Verdict {
        self.check_rows();
        self.check_reruns();
        self.check_repeats(allowance);
        self.verdict
    }

    fn check_rows(&mut self) {
        let (mut lost, mut waiting, mut other) = (Vec::new(), 0_u64, 0_u64);
        for (id, row) in &self.committed.rows {
            if !self.seen.contains_key(id) {
                lost.push(*id);
            }
            match row.status {
                Status::Published => {}
                Status::Pending => waiting += 1,
                Status::Other => other += 1,
            }
        }
        lost.sort_unstable();
        self.verdict.lost = lost.len() as u64;
        for id in lost.iter().take(SHOWN) {
            let Row { key, shard, status, .. } = &self.committed.rows[id];
            let name = &self.committed.keys[*key as usize];
            self.violation(format!("I1: id {id} ({name}, shard {shard}, {status:?}) is not in Kafka"));
        }
        if waiting > 0 {
            self.violation(format!("I5: {waiting} rows are still PENDING"));
        }
        if other > 0 {
            self.violation(format!("I1: {other} rows are FAILED, HELD or DISCARDED, and nothing is wrong with them"));
        }
        if self.committed.attempts > 0 {
            self.violation(format!("an outage counted as an attempt: retry_count is {}", self.committed.attempts));
        }
    }

    fn check_reruns(&mut self) {
        let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
        for (id, row) in &self.committed.rows {
            let name = &self.committed.keys[row.key as usize];
            if name.starts_with(self.ordered) {
                committed.entry(name.clone()).or_default().push(*id);
            }
        }
        committed.values_mut().for_each(|ids| ids.sort_unstable());
        let report = order::check(&committed, &self.sent);
        self.verdict.late = report.late as u64;
        for sentence in report.violations.iter().take(SHOWN) {
            self.violation(format!("I1-I4: {sentence}"));
        }
    }

    fn check_repeats(&mut self, allowance: &Allowance) {
        if allowance.exactly_once {
            if self.verdict.repeats > 0 {
                let repeated = self.seen.iter().filter(|(_, times)| **times > 1);
                let repeated: Vec<String> = repeated.take(SHOWN).map(|(id, _)| id.to_string()).collect();
                let text = format!("I4: {} repeats, as of ids {}", self.verdict.repeats, repeated.join(", "));
                self.violation(text);
            }
            return;
        }
        let more_than_inherited = |(id, times): (&i64, &u32)| {
            let allowed = allowance.in_flight.get(id).copied().unwrap_or(0);
            u64::from((times - 1).saturating_sub(allowed))
        };
        let (unexplained, late) = (self.seen.iter().map(more_than_inherited).sum(), self.verdict.late);
        self.verdict.unexplained = unexplained;
        if unexplained > allowance.unexplained {
            self.violation(format!(
                "I4: {unexplained} repeats of what nobody inherited, and faults explain {}",
                allowance.unexplained
            ));
        }
        if late > allowance.late {
            self.violation(format!("I4: {late} late repeats, and faults explain {}", allowance.late));
        }
    }

    fn made_up(&mut self, text: String) {
        self.verdict.made_up += 1;
        if self.verdict.made_up <= SHOWN as u64 {
            self.violation(format!("I2: {text}"));
        }
    }

    fn out_of_order(&mut self, text: String) {
        self.verdict.out_of_order += 1;
        if self.verdict.out_of_order <= SHOWN as u64 {
            self.violation(format!("I3: {text}"));
        }
    }

    fn violation(&mut self, text: String) {
        self.verdict.violations.push(text);
    }
}

/// Id (negative for none), partition, digest.
type Record = (i64, u32, i64);

/// Small histories with one thing wrong each: a check that cannot fail is none.
pub fn self_check() {
    let right = [1, 2, 3, 4].map(|id| (id, 0, id));
    let kept = judge(&right, &Allowance::default());
    assert_eq!((kept.violations.len(), kept.events), (0, 4), "{kept:?}");
    let tolerant = Allowance { in_flight: HashMap::from([(1, 1), (2, 1)]), ..Allowance::default() };
    let rerun = [1, 2, 1, 2, 3, 4].map(|id| (id, 0, id));
    assert_eq!(judge(&rerun, &tolerant).violations, [""; 0]);
    let late = [1, 2, 3, 1, 4].map(|id| (id, 0, id));
    assert_eq!(judge(&late, &Allowance { late: 1, ..tolerant.clone() }).violations, [""; 0]);

    let wrong: [(&str, &[Record], Allowance); 10] = [
        ("I1: id 4", &[(1, 0, 1), (2, 0, 2), (3, 0, 3)], tolerant.clone()),
        ("I2: id 9", &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4), (9, 0, 9)], tolerant.clone()),
        ("another topic", &[(1, 0, 1), (2, 0, 7), (3, 0, 3), (4, 0, 4)], tolerant.clone()),
        ("id 2 appeared first after 3", &[(1, 0, 1), (3, 0, 3), (2, 0, 2), (4, 0, 4)], tolerant.clone()),
        ("is in partitions 0 and 1", &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 4)], tolerant.clone()),
        (
            "I4: 2 repeats of what nobody inherited",
            &[(1, 0, 1), (2, 0, 2), (1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)],
            Allowance::default(),
        ),
        ("with a hole", &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (1, 0, 1), (3, 0, 3), (4, 0, 4)], tolerant.clone()),
        ("I4: 1 late repeats", &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (1, 0, 1), (4, 0, 4)], tolerant.clone()),
        (
            "I4: 1 repeats, as of ids 1",
            &[(1, 0, 1), (1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)],
            Allowance { exactly_once: true, ..tolerant.clone() },
        ),
        ("without outbox-id", &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4), (-1, 0, 0)], tolerant),
    ];
    for (expected, sent, allowance) in wrong {
        let found = judge(sent, &allowance).violations;
        assert!(found.iter().any(|text| text.contains(expected)), "{sent:?} does not give {expected:?} but {found:?}");
    }
    let mut waiting = four_rows();
    waiting.rows.get_mut(&4).expect("there are four").status = Status::Pending;
    assert!(
        Checker::new(&waiting, false)
            .finish(&Allowance::default())
            .violations
            .iter()
            .any(|text| text.starts_with("I5"))
    );
}

/// Ids 1 to 4 of one key, whose digests are their ids.
fn four_rows() -> Committed {
    let row = |id: i64| Row { key: 0, shard: 0, digest: id.cast_unsigned(), status: Status::Published };
    let rows = (1..=4).map(|id| (id, row(id))).collect();
    Committed { rows, keys: vec![format!("{LOCKED}0")], attempts: 0 }
}

fn judge(sent: &[Record], allowance: &Allowance) -> Verdict {
    let committed = four_rows();
    let mut checker = Checker::new(&committed, false);
    for &(id, partition, digest) in sent {
        checker.see(&Sent { partition, id: (id >= 0).then_some(id), digest: digest.cast_unsigned() });
    }
    checker.finish(allowance)
}
