//! What can be switched off, to see that the simulation finds what goes wrong then.

use outbox_relay::relay::protocol::{Safeguard, Safeguards};

/// What the statements of a step, of a change of the number of shards and of the barrier do, which the simulation
/// models. The safeguards of the protocol itself are the product's: [`Safeguard`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precaution {
    /// A transaction of a lane changes nothing unless (owner, epoch) are still in the row of the shard.
    EpochFence,
    /// Rows are settled by the ids of the batch. Without: everything between its lowest and its highest id.
    SettleByList,
    /// `low_id` and the watermark wait for the writers that were open. Without: they follow the highest id drawn.
    Barrier,
    /// Rows of a batch that are given up below the watermark are listed, so that they are claimed again.
    Requeue,
    /// What waits below the watermark is claimed before what waits above it.
    AgainFirst,
    /// A part of a common step whose fence fails is left out of it.
    FencedLeftOut,
    /// A part of a common step whose shard says something else than what it went on from is left out of it.
    MovedLeftOut,
    /// When the answer to a common commit is lost, its outcome is unknown for every part. Without: only for the first.
    LostForAll,
    /// Only shards without a batch in flight are taken.
    TakenIdle,
    /// The number of shards changes while no transaction that has inserted events is open.
    WritersAwaited,
    /// What is published ahead of the watermark is marked before anything moves.
    AheadMarked,
    /// What waits is moved to the shard of its key.
    WaitingMoved,
    /// What is moved to a shard whose watermark has passed it is listed there.
    PassedListed,
    /// The claim begins at what was moved.
    LowIdLowered,
    /// A shard that comes back goes on from the number of its last batch.
    NumbersKept,
    /// A shard that comes back goes on from its watermark.
    DoneKept,
    /// A shard that is taken away leaves its own watermark behind. Without: every id that was drawn.
    OwnWatermark,
    /// A command that gives up gives the shards back only before the number has changed.
    AbandonedBefore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Off {
    Protocol(Safeguard),
    Statements(Precaution),
}

/// All of it, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    pub without: Option<Off>,
}

impl Rules {
    pub fn has(self, precaution: Precaution) -> bool {
        self.without != Some(Off::Statements(precaution))
    }

    /// For the protocol.
    pub fn safeguards(self) -> Safeguards {
        match self.without {
            Some(Off::Protocol(safeguard)) => Safeguards::without(safeguard),
            Some(Off::Statements(_)) | None => Safeguards::ALL,
        }
    }
}

/// What happens to one request and to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Luck {
    Fine,
    /// It took effect, and the answer is lost.
    LostAfter,
    /// It is lost on its way.
    LostBefore,
    /// It is still on its way when the relay gives up waiting.
    Late,
    /// The client sent it twice and got one answer; the other copy is still on its way.
    Twice,
    /// A common step is undone for all its lanes.
    Undone,
}
