//! What the relay does so that its promise holds, one name for each. Switched off one at a time, to see that the
//! simulation finds what goes wrong then.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Safeguard {
    /// After a takeover Kafka is asked for the marker. Without: a batch in flight counts as never sent.
    ReadBack,
    /// A transaction of a lane changes nothing unless (owner, epoch) still stand in the row of the shard.
    EpochFence,
    /// Rows are settled by the ids of the batch. Without: everything between its lowest and its highest id.
    SettleByList,
    /// After a transaction with anything odd about it comes a new producer. Without: the client asks again and goes on.
    Recycle,
    /// `low_id` waits for the writers that were open. Without: it follows the highest id drawn.
    Barrier,
    /// Former producers are fenced before the marker is read. Without: after.
    InitBeforeMarker,
    /// A transaction of a lane also checks that the number in the row, and whether it is in flight, are what the lane
    /// went on from.
    NumberChecked,
    /// The manifest is read again after the marker. Without: the one that came with the lease, or from memory.
    ManifestAfterMarker,
    /// The marker also says which batch it stands for, and a batch with its number and other ids is not settled.
    /// Without: the number alone.
    BatchNamed,
    /// At-least-once delivery takes the mark off the manifest that it sends again.
    MarkTakenOff,
    /// A batch that is sent again for the first time in a transaction keeps its manifest without the mark.
    ResendUnmarked,
    /// A transactional id that cannot be fenced now is left for another one only where nobody can commit anything new
    /// under it. Without: always.
    LeaveDecided,
    /// The transactional id that a shard goes on with is in its row before it is used. Without: after.
    LeaveNoted,
}

/// All safeguards, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    pub without: Option<Safeguard>,
}

impl Rules {
    pub fn has(self, safeguard: Safeguard) -> bool {
        self.without != Some(safeguard)
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
}
