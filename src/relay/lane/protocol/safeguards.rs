//! What the protocol does so that its promises hold, one name for each.
//!
//! The product always runs with all of them. `tests/simulation.rs` switches them off one at a time and checks that the
//! search then finds a broken promise.

/// A precaution of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Safeguard {
    /// Every step names the last batch the lane knows of, and PostgreSQL rejects it if the row says something else.
    StepComparesBatch,
    /// After an unknown commit, the settlement in hand is kept only if PostgreSQL still has that very batch in flight.
    /// Without: if one of its ids is in the manifest.
    RecoveryComparesBatch,
    /// A batch of a former owner, or of a step with an unknown outcome, is sent again exactly as the manifest lists it.
    /// Without: its rows are claimed like any others.
    ManifestResent,
    /// At-least-once delivery clears the mark of an earlier exactly-once owner on every manifest it writes.
    MarkCleared,
    /// A batch that at-least-once delivery left behind stays unmarked while it is sent in a transaction.
    ResendUnmarked,
    /// A resend that finds no rows left writes no marker for its number, so the shard is opened again.
    EmptyResendReopens,
    /// The marker decides about a batch in flight. Without: the batch counts as never committed.
    MarkerDecides,
    /// Former producers are fenced before the marker is read. Without: the marker may still move.
    FenceBeforeMarker,
    /// The manifest is read again after the fence. Without: as it was before.
    ManifestAfterFence,
    /// A marker settles only the batch that its note names. Without: any batch with its number.
    MarkerNamesBatch,
    /// A batch that was not committed gives its number to the next one.
    ForgottenNumberReused,
    /// An idle shard without a current marker writes one before its first batch.
    BaselineWritten,
    /// After a transaction with anything unusual about it, the lane opens again with a new producer.
    UnusualReopens,
    /// A `transactional.id` that cannot be fenced is left only if nothing undecided can still be committed under it.
    LeaveOnlyDecided,
    /// The next `transactional.id` is in the row of the shard before it is used.
    NextIdNotedFirst,
}

impl Safeguard {
    pub const ALL: [Self; 15] = [
        Self::StepComparesBatch,
        Self::RecoveryComparesBatch,
        Self::ManifestResent,
        Self::MarkCleared,
        Self::ResendUnmarked,
        Self::EmptyResendReopens,
        Self::MarkerDecides,
        Self::FenceBeforeMarker,
        Self::ManifestAfterFence,
        Self::MarkerNamesBatch,
        Self::ForgottenNumberReused,
        Self::BaselineWritten,
        Self::UnusualReopens,
        Self::LeaveOnlyDecided,
        Self::NextIdNotedFirst,
    ];
}

/// The safeguards in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Safeguards {
    without: Option<Safeguard>,
}

impl Safeguards {
    /// What the product runs with.
    pub const ALL: Self = Self { without: None };

    /// For a simulation that has to find out what goes wrong.
    #[must_use]
    pub const fn without(safeguard: Safeguard) -> Self {
        Self { without: Some(safeguard) }
    }

    pub(super) fn has(self, safeguard: Safeguard) -> bool {
        self.without != Some(safeguard)
    }
}
