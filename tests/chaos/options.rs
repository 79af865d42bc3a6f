//! The command line: ours, and what `cargo test` passes to every test target.

use std::time::Duration;

use crate::plan::Mode;

pub const USAGE: &str = "\
usage: cargo test --locked --test chaos -- [options]     or: make chaos [SEED=…] [MINUTES=…] [MODE=…] [KILLS=…] [RATE=…] [BROKERS=3] [TRACKING=…] [HOSTILE=1]

  --seed N       one seed is one plan of faults (default: 1 for the smoke run)
  --minutes X    how long faults go on, per mode (default: the smoke run, a quarter of a minute)
  --mode M       at-least-once, exactly-once or both (default: both)
  --kills N      SIGKILLs of relays in that time, per mode (default: one in four seconds)
  --rate N       events per second that the writers aim at (default: 1500)
  --brokers N    1, or a cluster of 3 (default: 1)
  --tracking T   rows, watermark, or mixed: each relay another one (default: mixed)
  --set K=V      a setting of the relays and consumers, repeatable
  --plan         print the plan and do nothing
  --remake       a consumed topic is deleted and created again as well
  --hostile      rows of strangers among the load, and judged keys that they hold for a while
  --keep-on      with several runs: go on after one that broke a promise";

/// The smoke run: with the start of the servers and the checks about a minute, all modes together.
const SMOKE: Duration = Duration::from_secs(15);

/// How relays keep published events apart from those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    Rows,
    Watermark,
    /// Relays in turn, as while it is being changed.
    Mixed,
}

impl Tracking {
    /// `relay.tracking` of a relay.
    pub fn of(self, relay: usize) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Watermark => "watermark",
            Self::Mixed => ["watermark", "rows"][relay % 2],
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [("rows", Self::Rows), ("watermark", Self::Watermark), ("mixed", Self::Mixed)]
            .into_iter()
            .find_map(|(name, tracking)| (name == text).then_some(tracking))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub seed: u64,
    pub length: Duration,
    pub modes: Vec<Mode>,
    pub kills: Option<u32>,
    pub rate: u32,
    pub brokers: usize,
    pub tracking: Tracking,
    /// Passed to every process under test.
    pub settings: Vec<String>,
    pub only_plan: bool,
    pub keep_on: bool,
    /// Rows of strangers are among the load.
    pub hostile: bool,
    /// A consumed topic is deleted and created again as well.
    pub remake: bool,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Run(Options),
    /// `cargo test NAME` of another test, `--list` and the like.
    Nothing,
    /// A mistake, in words.
    Usage(String),
}

pub fn parse(arguments: impl Iterator<Item = String>, known_modes: &[Mode]) -> Asked {
    let mut options = Options {
        seed: 1,
        length: SMOKE,
        modes: known_modes.to_vec(),
        kills: None,
        rate: 1_500,
        brokers: 1,
        tracking: Tracking::Mixed,
        settings: Vec::new(),
        only_plan: false,
        keep_on: false,
        hostile: false,
        remake: false,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        let understood = match argument.as_str() {
            "--seed" => value().parse().map(|seed| options.seed = seed).is_ok(),
            "--minutes" => {
                let minutes: Option<f64> = value().parse().ok().filter(|minutes| (0.05..=10_000.0).contains(minutes));
                minutes.map(|minutes| options.length = Duration::from_secs_f64(minutes * 60.0)).is_some()
            }
            "--mode" => match value().as_str() {
                "both" => true,
                name => {
                    options.modes.retain(|mode| mode.as_str() == name);
                    !options.modes.is_empty()
                }
            },
            "--kills" => value().parse().map(|kills| options.kills = Some(kills)).is_ok(),
            "--rate" => value().parse().map(|rate| options.rate = rate).is_ok() && options.rate > 0,
            "--brokers" => {
                value().parse().map(|brokers| options.brokers = brokers).is_ok() && [1, 3].contains(&options.brokers)
            }
            "--tracking" => Tracking::parse(&value()).map(|tracking| options.tracking = tracking).is_some(),
            "--set" => {
                options.settings.push(value());
                options.settings.last().is_some_and(|setting| setting.contains('='))
            }
            "--plan" => {
                options.only_plan = true;
                true
            }
            "--keep-on" => {
                options.keep_on = true;
                true
            }
            "--hostile" => {
                options.hostile = true;
                true
            }
            "--remake" => {
                options.remake = true;
                true
            }
            "--list" => return Asked::Nothing,
            // Of libtest, for the other targets of the same `cargo test`.
            "--nocapture" | "--no-capture" | "--quiet" | "-q" | "--show-output" | "--exact" | "--include-ignored" => {
                true
            }
            "--test-threads" | "--skip" | "--format" | "--color" => {
                value();
                true
            }
            other if other.starts_with("--test-threads=") || other.starts_with("--color=") => true,
            other if other.starts_with('-') => false,
            // The filter of `cargo test NAME`.
            name if !"chaos".contains(name) => return Asked::Nothing,
            _ => true,
        };
        if !understood {
            return Asked::Usage(format!("not understood: {argument} …\n{USAGE}"));
        }
    }
    Asked::Run(options)
}

pub fn self_check() {
    let asked = |line: &str| parse(line.split_whitespace().map(str::to_owned), &[Mode::AtLeastOnce, Mode::ExactlyOnce]);
    let Asked::Run(options) =
        asked("--seed 7 --minutes 0.5 --mode exactly-once --kills 9 --brokers 3 --hostile --nocapture")
    else {
        panic!("a good command line")
    };
    assert_eq!((options.seed, options.length, options.kills), (7, Duration::from_secs(30), Some(9)));
    assert_eq!((options.modes.as_slice(), options.brokers), ([Mode::ExactlyOnce].as_slice(), 3));
    assert!(options.hostile && matches!(asked(""), Asked::Run(options) if !options.hostile));
    assert!(matches!(asked(""), Asked::Run(options) if options.modes.len() == 2));
    assert_eq!(asked("a_test_of_another_target"), Asked::Nothing);
    for wrong in ["--sed 7", "--seed x", "--minutes 0", "--mode twice", "--rate 0", "--brokers 2", "--tracking x"] {
        assert!(matches!(asked(wrong), Asked::Usage(_)), "{wrong}");
    }
}
