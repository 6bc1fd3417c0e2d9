//! What can happen to an attempt, and to a commit.

/// What is done to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens, and that is said. A worker answers that it could not.
    Fails,
    /// The answer is no.
    Refuses,
    /// The effect happens, and its answer is lost. A worker's answer comes when another has the work.
    LosesAnswer,
    /// Nothing happens, and nobody knows. A worker claims, and is never heard of again.
    LosesCall,
    /// The call arrives twice. A worker answers twice.
    Twice,
    /// The engine dies before the call arrives.
    DiesBefore,
    /// The engine dies after the effect, before it is written down.
    DiesAfter,
    /// Someone cancels while the attempt is under way.
    Cancelled,
}

pub(crate) const FORWARD: [Fault; 8] = [
    Fault::Fails,
    Fault::Refuses,
    Fault::LosesAnswer,
    Fault::LosesCall,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
    Fault::Cancelled,
];
pub(crate) const BACKWARD: [Fault; 6] = [
    Fault::Fails,
    Fault::LosesAnswer,
    Fault::LosesCall,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
];

/// Which attempts a fault strikes, each once.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) step: &'static str,
    /// The attempt; `None` is every one.
    pub(crate) attempt: Option<u32>,
    pub(crate) undo: bool,
    pub(crate) fault: Fault,
}

/// What is done to one commit, counted from the acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The process dies before it is applied.
    DiesBefore,
    /// The process dies after it was applied.
    DiesAfter,
    /// It is applied, and its answer is lost.
    LosesAnswer,
    /// The store fails.
    Fails,
    /// The store has no room.
    Busy,
}

pub(crate) const STRIKES: [Strike; 5] = [
    Strike::DiesBefore,
    Strike::DiesAfter,
    Strike::LosesAnswer,
    Strike::Fails,
    Strike::Busy,
];
