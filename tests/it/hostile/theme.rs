//! What a round is mainly about. Mistakes show only where several things come together; what is drawn at random alone
//! brings them together too seldom.
//!
//! A theme fixes what it needs of a plan. Everything else stays as it was drawn.

use fastrand::Rng;

use super::round::{Flood, Plan, Settling};
use super::settings::DEFAULTS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Triggers and checks of the application refuse what the relay writes.
    Rules,
    /// Kafka refuses records that the relay cannot judge beforehand.
    Refusals,
    /// The database has defaults that change what statements mean, and row-level security.
    Defaults,
    /// Rows that are small in the table and large when they are read.
    Sizes,
    /// The relay stops and crashes with a backlog, and progress is kept as a watermark.
    Watermark,
    /// Topics that do not exist, take no records, or are deleted.
    Topics,
    /// Nothing in particular.
    Anything,
}

/// Each theme comes up once in as many rounds, in an order that changes. Refusals mean something else in a transaction,
/// so that they come up in both deliveries.
const CYCLE: [(Theme, Option<&str>); 8] = [
    (Theme::Rules, Some("at-least-once")),
    (Theme::Refusals, Some("at-least-once")),
    (Theme::Refusals, Some("exactly-once")),
    (Theme::Defaults, None),
    (Theme::Sizes, None),
    (Theme::Watermark, None),
    (Theme::Topics, None),
    (Theme::Anything, None),
];

impl Theme {
    /// The theme of a seed, and the delivery that suits it.
    pub fn of(seed: u64) -> (Self, &'static str) {
        let length = CYCLE.len() as u64;
        let mut cycle = CYCLE;
        Rng::with_seed(seed / length).shuffle(&mut cycle);
        let (theme, delivery) = cycle[usize::try_from(seed % length).expect("a place in the cycle")];
        (theme, delivery.unwrap_or(["at-least-once", "exactly-once"][usize::from(seed.is_multiple_of(2))]))
    }

    pub fn apply(self, plan: Plan, random: &mut Rng) -> Plan {
        let plain = Plan {
            theme: self,
            settling: Settling::Mark,
            defaults: Vec::new(),
            rules: false,
            role: false,
            deletes: false,
            grace: "1s",
            floods: Vec::new(),
            ..plan.clone()
        };
        match self {
            Self::Rules => Plan { rules: true, on_exhausted: "dead-letter", loud: true, retries: true, ..plain },
            Self::Refusals => Plan {
                on_exhausted: "hold",
                floods: vec![Flood::of("topic", "TARDY", 300)],
                kills: 0,
                stops: 0,
                ..plain
            },
            Self::Defaults => {
                let mut defaults: Vec<usize> = (0..DEFAULTS.len()).collect();
                random.shuffle(&mut defaults);
                Plan { defaults, role: true, ..plain }
            }
            Self::Sizes => Plan {
                floods: vec![
                    Flood::of("payload", LARGE, 500),
                    Flood::of("payload", HUGE, 2),
                    Flood::of("payload", SLOW, 2),
                ],
                settling: plan.settling,
                ..plain
            },
            Self::Watermark => Plan {
                settling: Settling::Watermark,
                on_exhausted: ["hold", "dead-letter"][random.usize(..2)],
                rules: true,
                batch_rows: Some(20),
                backlog: 1_000,
                kills: 1,
                stops: 1,
                ..plain
            },
            Self::Topics => Plan {
                deletes: true,
                grace: "10m",
                floods: vec![Flood::of("topic", "MISSING EACH", 200), Flood::of("topic", "STARVED", 100)],
                ..plain
            },
            Self::Anything => plan,
        }
    }
}

/// Prints 786 kB, so that it is published.
const LARGE: &str = "(select jsonb_agg(1e131071::numeric) from generate_series(1, 6))";
/// Takes 3 MB in the table.
const HUGE: &str = "jsonb_build_object('pad', repeat('x', 250000000))";
/// Takes 32 kB in the table, and seconds to print.
const SLOW: &str = "(select jsonb_agg(1e131071::numeric) from generate_series(1, 2000))";

#[test]
fn each_theme_comes_up_within_a_cycle() {
    for cycle in 0..20 {
        let seeds = cycle * CYCLE.len() as u64..(cycle + 1) * CYCLE.len() as u64;
        let themes: Vec<Theme> = seeds.map(|seed| Theme::of(seed).0).collect();
        assert!(CYCLE.iter().all(|(theme, _)| themes.contains(theme)), "{themes:?}");
    }
}
