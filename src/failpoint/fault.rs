//! Past mistakes that a test can switch back on, one at a time, to see whether the hostile suite finds them.
//!
//! `scripts/hostile-faults.sh` reads the names from this file. A switch is one condition at the line that prevents the
//! mistake. Without the feature `failpoints` it is `false` at compile time, and nothing of it remains.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A statement that a single row makes fail is repeated as it was.
    StatementNotCut,
    /// A violated check counts as an error of the server.
    CheckBlamedOnServer,
    /// What became of a row that refuses to be changed is not stored.
    OutcomeNotStored,
    /// A careful step that claims nothing new moves the watermark.
    WatermarkGuesses,
    /// The key of an event that failed or waits is not held.
    KeyNotHeld,
    /// A dead letter that the table refuses takes the others of its statement with it.
    LettersNotCut,
    /// The size of a row has no limit when it is loaded.
    LargeRowLoaded,
    /// A claim is not bounded by the bytes that arrive.
    BytesNotCounted,
    /// A lane waits at an event whose topic does not exist yet.
    MissingTopicWaitedFor,
    /// A record whose neighbour was refused waits for Kafka to recover.
    NeighboursWait,
    /// Records that were refused together are sent together again.
    SuspectsStayTogether,
    /// What is refused in a transaction is not looked for: one is found with each transaction that is aborted.
    RefusedNotSearched,
    /// Later records of a key pass one that Kafka refused.
    RefusedPassed,
    /// What is known of partitions in trouble is ignored.
    PartitionsIgnored,
    /// Sessions keep the isolation level that the database sets.
    IsolationNotSet,
    /// Sessions keep all that the database sets.
    SessionNotSet,
    /// Row-level security that applies to the relay is not noticed, and hides rows.
    RowSecurityNotSeen,
    /// Sessions keep the `search_path` that the database sets.
    SearchPathNotSet,
    /// Messages of PostgreSQL are printed, whoever wrote them.
    MessagesPrinted,
    /// An event holds its key while earlier events of the key are in flight.
    HeldInFlight,
    /// A careful step begins to read as the one before it, which ran out of time.
    SlowRowForgotten,
}

impl Fault {
    pub const ALL: &[Self] = &[
        Self::StatementNotCut,
        Self::CheckBlamedOnServer,
        Self::OutcomeNotStored,
        Self::WatermarkGuesses,
        Self::KeyNotHeld,
        Self::LettersNotCut,
        Self::LargeRowLoaded,
        Self::BytesNotCounted,
        Self::MissingTopicWaitedFor,
        Self::NeighboursWait,
        Self::SuspectsStayTogether,
        Self::RefusedNotSearched,
        Self::RefusedPassed,
        Self::PartitionsIgnored,
        Self::IsolationNotSet,
        Self::SessionNotSet,
        Self::RowSecurityNotSeen,
        Self::SearchPathNotSet,
        Self::MessagesPrinted,
        Self::HeldInFlight,
        Self::SlowRowForgotten,
    ];

    /// As `FAILPOINTS` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StatementNotCut => "fault.statement-not-cut",
            Self::CheckBlamedOnServer => "fault.check-blamed-on-server",
            Self::OutcomeNotStored => "fault.outcome-not-stored",
            Self::WatermarkGuesses => "fault.watermark-guesses",
            Self::KeyNotHeld => "fault.key-not-held",
            Self::LettersNotCut => "fault.letters-not-cut",
            Self::LargeRowLoaded => "fault.large-row-loaded",
            Self::BytesNotCounted => "fault.bytes-not-counted",
            Self::MissingTopicWaitedFor => "fault.missing-topic-waited-for",
            Self::NeighboursWait => "fault.neighbours-wait",
            Self::SuspectsStayTogether => "fault.suspects-stay-together",
            Self::RefusedNotSearched => "fault.refused-not-searched",
            Self::RefusedPassed => "fault.refused-passed",
            Self::PartitionsIgnored => "fault.partitions-ignored",
            Self::IsolationNotSet => "fault.isolation-not-set",
            Self::SessionNotSet => "fault.session-not-set",
            Self::RowSecurityNotSeen => "fault.row-security-not-seen",
            Self::SearchPathNotSet => "fault.search-path-not-set",
            Self::MessagesPrinted => "fault.messages-printed",
            Self::HeldInFlight => "fault.held-in-flight",
            Self::SlowRowForgotten => "fault.slow-row-forgotten",
        }
    }
}

/// Whether a test has switched this mistake on.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn fault(_: Fault) -> bool {
    false
}

/// Whether a test has switched this mistake on: `FAILPOINTS=fault.key-not-held=return`.
#[cfg(feature = "failpoints")]
pub fn fault(fault: Fault) -> bool {
    fail::eval(fault.name(), |_| ()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_names_of_their_own() {
        let names: std::collections::HashSet<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("fault.")));
    }
}
