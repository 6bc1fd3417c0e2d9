//! What a seed means: how the engine is set up, what is asked of it and when, and what goes wrong.

use std::fmt;

use crate::dice::Dice;
use crate::plant::Plant;
use crate::types::{NAMES, PICKING, SHOP};

/// A kind of thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A commit is not applied, and that is said.
    CommitFails,
    /// A commit is turned away.
    CommitBusy,
    /// A commit is applied, and its answer is lost.
    AnswerLost,
    /// A commit is not applied, and nobody says so.
    CommitLost,
    /// A commit takes long, or its answer does.
    CommitSlow,
    /// A commit arrives twice, at once or later.
    CommitTwice,
    /// The process dies before a commit is applied.
    CrashBefore,
    /// The process dies after a commit was applied, before its answer.
    CrashAfter,
    /// Reads, claims and releases fail; claims are granted and nobody hears of it.
    ReadFails,
    /// What should wake the worker is not said.
    WakeLost,
    /// The process stands still, longer than its leases.
    Stall,
    /// The clock jumps, forward or back.
    ClockJumps,
    /// A target fails before its effect.
    StepFails,
    /// A target fails after its effect, or its effect comes after the answer.
    StepLosesAnswer,
    /// A target does not answer in time.
    StepHangs,
    /// A target says no.
    StepRefuses,
    /// A target answers with more than is kept.
    StepOversized,
    /// An undo fails, or is refused.
    UndoFails,
    /// A worker from outside takes work and is never heard of again.
    WorkerDies,
    /// A worker from outside answers when its lease has ended.
    WorkerLate,
    /// A worker from outside answers twice.
    WorkerRepeats,
    /// A callback never comes.
    CallbackLost,
    /// A callback comes when its time is over.
    CallbackLate,
    /// A callback comes twice.
    CallbackTwice,
    /// Somebody sends a callback under a token that was never given.
    CallbackMadeUp,
    /// A receiver of events does not take one.
    ReceiverFails,
    /// A receiver takes an event, and its answer is lost.
    ReceiverLosesAnswer,
    /// A receiver takes its time.
    ReceiverSlow,
    /// A receiver says that it wants nothing more.
    ReceiverGone,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::CommitFails,
        Self::CommitBusy,
        Self::AnswerLost,
        Self::CommitLost,
        Self::CommitSlow,
        Self::CommitTwice,
        Self::CrashBefore,
        Self::CrashAfter,
        Self::ReadFails,
        Self::WakeLost,
        Self::Stall,
        Self::ClockJumps,
        Self::StepFails,
        Self::StepLosesAnswer,
        Self::StepHangs,
        Self::StepRefuses,
        Self::StepOversized,
        Self::UndoFails,
        Self::WorkerDies,
        Self::WorkerLate,
        Self::WorkerRepeats,
        Self::CallbackLost,
        Self::CallbackLate,
        Self::CallbackTwice,
        Self::CallbackMadeUp,
        Self::ReceiverFails,
        Self::ReceiverLosesAnswer,
        Self::ReceiverSlow,
        Self::ReceiverGone,
    ];
}

/// One run, whole. The same plan always runs in the same way.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that all chance of the run is drawn from.
    pub seed: u64,
    /// Processes that share the store: 1 (as embedded: claims die with the process) or 2 (claims end with their lease).
    pub nodes: usize,
    /// Programs outside that claim work from queues.
    pub workers: usize,
    /// How often due work is looked for, in milliseconds.
    pub sweep_millis: u64,
    /// How long a claim lasts, in milliseconds.
    pub lease_millis: u64,
    /// Steps at the same time.
    pub concurrency: usize,
    /// Orders in memory at the same time.
    pub outstanding_max: usize,
    /// What each reading adds to the clock.
    pub tick_micros: i64,
    /// What can go wrong, and in how many of a thousand cases.
    pub faults: Vec<(Fault, u64)>,
    /// What is asked, by time.
    pub actions: Vec<Action>,
    /// The bug that is planted, if one is.
    pub plant: Option<Plant>,
}

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub struct Action {
    /// Names it in traces, and in what is drawn for it.
    pub number: u64,
    /// When, in milliseconds from the beginning.
    pub at_millis: u64,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum What {
    /// Order number `n` is submitted.
    Submit {
        /// Its number.
        n: u64,
        /// Its type's place in [`NAMES`].
        kind: usize,
        /// Its group key.
        group: u64,
        /// Whether it is due only later.
        due_in_millis: Option<u64>,
        /// Whether it carries an idempotency key; then it is sent until it is acknowledged.
        keyed: bool,
        /// Whether the same is sent again by somebody else meanwhile.
        doubled: bool,
        /// Whether another order is sent under the same key.
        contested: bool,
    },
    /// Order `n` is edited.
    Edit {
        /// The order.
        n: u64,
    },
    /// Order `n` is cancelled.
    Cancel {
        /// The order.
        n: u64,
    },
    /// Order `n` is moved by hand, to a status that it could go to.
    Transition {
        /// The order.
        n: u64,
    },
    /// A person answers an order that waits for one.
    Approval {
        /// The order.
        n: u64,
        /// Whether it is a yes.
        yes: bool,
    },
    /// Dead letters are put back to work.
    Redrive {
        /// From the start, instead of from the failed step.
        start: bool,
        /// On the current version of their type.
        current: bool,
        /// With an edit.
        edit: bool,
    },
    /// Stock comes in.
    Receive {
        /// Of this SKU.
        sku: usize,
        /// So much.
        quantity: u32,
    },
    /// So much stock is found by counting.
    Count {
        /// Of this SKU.
        sku: usize,
        /// So much.
        quantity: u32,
    },
    /// A customer is blocked.
    Block {
        /// Which.
        who: usize,
    },
    /// A subscription is paused.
    Pause {
        /// Which.
        which: usize,
    },
    /// A subscription that is paused goes on.
    Resume {
        /// Which.
        which: usize,
    },
    /// Dead letters are given up.
    Discard,
    /// A process gets the other version of the types.
    ChangeTypes,
    /// A process dies.
    Crash,
    /// A process stops as it should and another takes its place.
    Restart,
    /// A process stands still.
    Stall {
        /// For so long.
        millis: u64,
    },
    /// The clock jumps.
    Jump {
        /// By so much.
        millis: i64,
    },
}

impl Plan {
    /// What a seed means.
    pub fn of(seed: u64) -> Self {
        let dice = Dice(seed);
        let mut rolls = dice.of("plan");
        let orders = 1 + rolls.below(16);
        let span_millis = 1000 + rolls.below(60) * 1000;
        let intensity = rolls.one(&[5, 20, 60, 150]);
        let mut faults = Vec::new();
        for fault in Fault::ALL {
            if rolls.permille(450) {
                faults.push((fault, rate(fault, intensity)));
            }
        }
        let kinds: Vec<usize> = (0..NAMES.len()).filter(|_| rolls.permille(500)).collect();
        let groups = 1 + rolls.below(3);
        let mut actions = Vec::new();
        let mut act = |at_millis: u64, what: What| {
            actions.push(Action {
                number: actions.len() as u64,
                at_millis,
                what,
            });
        };
        for n in 0..orders {
            let at = rolls.below(span_millis / 2);
            act(
                at,
                What::Submit {
                    n,
                    kind: if kinds.is_empty() { 0 } else { rolls.one(&kinds) },
                    group: rolls.below(groups),
                    due_in_millis: rolls.permille(120).then(|| 1 + rolls.below(20_000)),
                    keyed: rolls.permille(700),
                    doubled: rolls.permille(200),
                    contested: rolls.permille(80),
                },
            );
            // Orders are touched where it hurts: while a step is running.
            for _ in 0..rolls.below(4) {
                let at = at + rolls.one(&[0, 1, 5, 50, 500, 3000, 10_000, 30_000]) + rolls.below(40);
                let what = match rolls.below(9) {
                    0..=2 => What::Edit { n },
                    6..=8 => What::Approval {
                        n,
                        yes: rolls.permille(700),
                    },
                    3 => What::Cancel { n },
                    _ => What::Transition { n },
                };
                act(at, what);
            }
        }
        for _ in 0..rolls.below(5) {
            let at = rolls.below(span_millis);
            let (start, current, edit) = (rolls.permille(300), rolls.permille(300), rolls.permille(400));
            act(at, What::Redrive { start, current, edit });
        }
        if kinds.contains(&SHOP) {
            for sku in 0..3 {
                let quantity = rolls.one(&[2, 5, 10, 40]);
                act(rolls.below(200), What::Receive { sku, quantity });
                if rolls.permille(500) {
                    let quantity = rolls.one(&[1, 5, 20]);
                    act(rolls.below(span_millis), What::Receive { sku, quantity });
                }
                if rolls.permille(200) {
                    let quantity = rolls.one(&[0, 5, 20]);
                    act(rolls.below(span_millis), What::Count { sku, quantity });
                }
            }
            if rolls.permille(250) {
                let who = rolls.one(&[0, 1, 2]);
                act(rolls.below(span_millis), What::Block { who });
            }
        }
        for which in 0..3 {
            if rolls.permille(250) {
                let at = rolls.below(span_millis);
                act(at, What::Pause { which });
                act(at + rolls.one(&[0, 500, 10_000]), What::Resume { which });
            }
        }
        for (what, of_a_thousand) in [
            (What::Discard, 250),
            (What::ChangeTypes, 400),
            (What::Crash, 500),
            (What::Crash, 250),
            (What::Restart, 300),
        ] {
            if rolls.permille(of_a_thousand) {
                act(rolls.below(span_millis), what);
            }
        }
        let has = |wanted| faults.iter().any(|(fault, _)| *fault == wanted);
        if has(Fault::Stall) {
            for _ in 0..1 + rolls.below(2) {
                let millis = 1000 + rolls.below(60_000);
                act(rolls.below(span_millis), What::Stall { millis });
            }
        }
        if has(Fault::ClockJumps) {
            for _ in 0..1 + rolls.below(3) {
                let millis = rolls.one(&[-4000, -300, 700, 5000, 45_000, 200_000]);
                act(rolls.below(span_millis), What::Jump { millis });
            }
        }
        actions.sort_by_key(|action| action.at_millis);
        Self {
            seed,
            nodes: if rolls.permille(350) { 2 } else { 1 },
            // Where nothing waits in a queue, nobody needs to look.
            workers: if kinds.contains(&PICKING) {
                rolls.one(&[1, 2, 3])
            } else {
                0
            },
            sweep_millis: rolls.one(&[1000, 5000, 15_000]),
            lease_millis: rolls.one(&[5000, 20_000, 60_000]),
            concurrency: rolls.one(&[1, 2, 8]),
            outstanding_max: rolls.one(&[1, 2, 5, 64]),
            tick_micros: rolls.one(&[0, 1]),
            faults,
            actions,
            plant: None,
        }
    }

    /// The same with a bug in it.
    pub fn planted(self, plant: Plant) -> Self {
        Self {
            plant: Some(plant),
            ..self
        }
    }

    /// In how many of a thousand cases this goes wrong.
    pub fn rate(&self, fault: Fault) -> u64 {
        let found = self.faults.iter().find(|(kind, _)| *kind == fault);
        found.map_or(0, |(_, rate)| *rate)
    }
}

fn rate(fault: Fault, intensity: u64) -> u64 {
    match fault {
        // Each of these ends a life, so few are enough.
        Fault::CrashBefore | Fault::CrashAfter => intensity / 5 + 2,
        // A target may well fail more often than not.
        Fault::StepFails | Fault::StepLosesAnswer | Fault::UndoFails => intensity * 3,
        Fault::StepRefuses | Fault::StepHangs => intensity * 2,
        Fault::WorkerDies | Fault::WorkerLate | Fault::WorkerRepeats => intensity * 3,
        Fault::CallbackLost | Fault::CallbackLate | Fault::CallbackTwice | Fault::CallbackMadeUp => intensity * 4,
        Fault::ReceiverFails | Fault::ReceiverLosesAnswer | Fault::ReceiverSlow => intensity * 3,
        Fault::WakeLost => 400,
        _ => intensity,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} node(s), {} worker(s), sweep {} ms, lease {} ms, concurrency {}, outstanding {}, tick {} µs",
            self.seed,
            self.nodes,
            self.workers,
            self.sweep_millis,
            self.lease_millis,
            self.concurrency,
            self.outstanding_max,
            self.tick_micros
        )?;
        for (fault, rate) in &self.faults {
            writeln!(f, "  fault {fault:?} in {rate} of 1000")?;
        }
        for action in &self.actions {
            writeln!(f, "  {:>6} ms  {:?}", action.at_millis, action.what)?;
        }
        Ok(())
    }
}
