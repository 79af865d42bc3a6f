//! The faults that a plan is made of, in words.

use std::fmt;
use std::time::Duration;

use crate::weather::{Direction, Request, Weather};

/// A process of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Relay(usize),
    Consumer(usize),
}

/// A connection that runs through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Between one process and PostgreSQL.
    Postgres(Who),
    /// Between all processes and the broker.
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Who),
    /// SIGSTOP, and SIGCONT later.
    Freeze(Who, Duration),
    /// SIGTERM.
    Stop(Who),
    /// PostgreSQL crashes and is started again.
    CrashPostgres,
    /// The same while nothing happens but the commits of the consumers, which do not wait for the disk; then single
    /// records arrive.
    CrashIdlePostgres,
    /// The topic of other producers is deleted and created again.
    RemakeTopic,
    /// The sessions of our processes are stopped by SIGSTOP.
    FreezeSessions(Duration),
    /// The broker gets SIGKILL and is started again.
    KillBroker,
    FreezeBroker(Duration),
    /// Bad weather on a link.
    Bad(Link, Direction, Weather, Duration),
    /// Every connection of the link is reset.
    Reset(Link),
    /// The request arrives, the answers to the next ones are lost.
    LoseAnswers(Link, Request),
    /// The next request arrives late.
    DelayRequest(Link, Request, Duration),
    /// The next EndTxn arrives in the next transaction of its producer, or after this time.
    EndTxnIntoNext(Duration),
}

impl Fault {
    /// It is about brokers, or links to them.
    pub fn is_of_kafka(self) -> bool {
        match self {
            Self::KillBroker | Self::FreezeBroker(_) | Self::EndTxnIntoNext(_) => true,
            Self::Bad(link, ..) | Self::Reset(link) | Self::LoseAnswers(link, _) | Self::DelayRequest(link, ..) => {
                link == Link::Kafka
            }
            Self::Kill(_)
            | Self::Freeze(..)
            | Self::Stop(_)
            | Self::CrashPostgres
            | Self::CrashIdlePostgres
            | Self::RemakeTopic
            | Self::FreezeSessions(_) => false,
        }
    }

    /// How long it takes, where the plan decides that.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Freeze(_, lasts)
            | Self::FreezeSessions(lasts)
            | Self::FreezeBroker(lasts)
            | Self::Bad(_, _, _, lasts)
            | Self::DelayRequest(_, _, lasts) => lasts,
            // It waits for a timeout of the client and its next transaction; the lane need not wait for that.
            Self::EndTxnIntoNext(_) => Duration::ZERO,
            Self::Kill(_)
            | Self::Stop(_)
            | Self::CrashPostgres
            | Self::CrashIdlePostgres
            | Self::RemakeTopic
            | Self::KillBroker
            | Self::Reset(_)
            | Self::LoseAnswers(..) => Duration::ZERO,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(n) => write!(f, "relay {n}"),
            Self::Consumer(n) => write!(f, "consumer {n}"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(who) => write!(f, "{who} to PostgreSQL"),
            Self::Kafka => f.write_str("all to Kafka"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(who) => write!(f, "{who}: SIGKILL"),
            Self::Freeze(who, lasts) => write!(f, "{who}: SIGSTOP for {lasts:?}"),
            Self::Stop(who) => write!(f, "{who}: SIGTERM"),
            Self::CrashPostgres => f.write_str("PostgreSQL: crash and restart"),
            Self::CrashIdlePostgres => f.write_str("PostgreSQL: crash while all is idle, then single records"),
            Self::RemakeTopic => f.write_str("the topic of other producers: deleted and created again"),
            Self::FreezeSessions(lasts) => write!(f, "PostgreSQL: our sessions frozen for {lasts:?}"),
            Self::KillBroker => f.write_str("broker: SIGKILL and restart"),
            Self::FreezeBroker(lasts) => write!(f, "broker: SIGSTOP for {lasts:?}"),
            Self::Bad(link, direction, weather, lasts) => write!(f, "{link}: {direction:?} {weather:?} for {lasts:?}"),
            Self::Reset(link) => write!(f, "{link}: reset"),
            Self::LoseAnswers(link, request) => write!(f, "{link}: answers to {request:?} lost"),
            Self::EndTxnIntoNext(limit) => {
                write!(f, "{}: an EndTxn held until the next transaction, {limit:?} at most", Link::Kafka)
            }
            Self::DelayRequest(link, request, by) => write!(f, "{link}: a {request:?} delayed by {by:?}"),
        }
    }
}
