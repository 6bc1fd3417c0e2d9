//! Bugs that are planted on purpose, around the ports and never in the product: what the simulation must find.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plant {
    /// A step's result is dropped because someone edited the order meanwhile.
    ResultDroppedAfterEdit,
    /// The engine takes its own commit, whose answer was lost, for another's.
    OwnCommitTakenForStale,
    /// A step runs before the commit that it rests on is durable.
    StepBeforeDurable,
    /// A restarted process issues the tokens again that it issued before.
    TokensRepeat,
    /// Two orders of one lane may be worked at once.
    TwoHeads,
    /// The last of a lane leaves, and the next is not promoted.
    NoHead,
    /// A call carries the key of an earlier visit to its step.
    OldVisitKey,
    /// Only work that was announced is found: no sweep.
    WakeOnlyInQueue,
    /// A submission is acknowledged, and its commit is lost.
    AcceptedNotDurable,
    /// The same key leads to two orders.
    KeyUnchecked,
    /// A claim is given to a second worker before its lease is over.
    LeaseIgnored,
    /// What a step did is forgotten, so that an undo leaves it behind.
    EffectForgotten,
    /// A worker's claim is given to the next before its lease is over.
    WorkerLeaseIgnored,
    /// An answer counts though its token does not any more.
    StaleAnswerCounts,
    /// An item of a status's queue is not put in.
    ItemMissing,
    /// Items of one lane are handed out side by side.
    ItemsUnordered,
    /// An item that is done is handed out again.
    ItemRepeats,
    /// A step is called again without its question.
    QuestionNotAsked,
    /// A callback that is waited for is turned away.
    CallbackTurnedAway,
    /// A step goes on without the yes that it waits for.
    ApprovalSkipped,
    /// What a hold gives back is given back a second time.
    HoldReleasedTwice,
    /// A posting that is repeated is applied again.
    PostingRepeats,
    /// The commit that takes stock takes it for others to see, and leaves it on hand.
    StockNotTaken,
    /// A payment that was given up can be taken all the same.
    VoidForgotten,
    /// A subscription's cursor passes events before they are sent.
    CursorBeforeDelivery,
    /// What could not be sent is forgotten at a restart.
    ExceptionDropped,
    /// Two events come up in the feed the wrong way round.
    FeedSwaps,
    /// An event never comes up in the feed's page.
    FeedSkips,
    /// That a subscription is paused is not kept.
    PauseForgotten,
    /// That a subscription wants the events of a lane one after another is forgotten.
    LaneForgotten,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::ResultDroppedAfterEdit,
        Self::OwnCommitTakenForStale,
        Self::StepBeforeDurable,
        Self::TokensRepeat,
        Self::TwoHeads,
        Self::NoHead,
        Self::OldVisitKey,
        Self::WakeOnlyInQueue,
        Self::AcceptedNotDurable,
        Self::KeyUnchecked,
        Self::LeaseIgnored,
        Self::EffectForgotten,
        Self::WorkerLeaseIgnored,
        Self::StaleAnswerCounts,
        Self::ItemMissing,
        Self::ItemsUnordered,
        Self::ItemRepeats,
        Self::QuestionNotAsked,
        Self::CallbackTurnedAway,
        Self::ApprovalSkipped,
        Self::HoldReleasedTwice,
        Self::PostingRepeats,
        Self::StockNotTaken,
        Self::VoidForgotten,
        Self::CursorBeforeDelivery,
        Self::ExceptionDropped,
        Self::FeedSwaps,
        Self::FeedSkips,
        Self::PauseForgotten,
        Self::LaneForgotten,
    ];
}
