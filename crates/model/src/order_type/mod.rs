//! An order type as the engine runs it: statuses, transitions, steps. The file that it is read from, its schema and
//! its wire form belong to `comanda-order-type`.

mod step;

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;

use crate::expression::Expression;
use crate::id::TypeHash;

pub use step::{Action, BuiltIn, BuiltInKind, ClientCredentials, Exhausted, HttpCall, Retry, RustStep, Step, WaitFor};

/// One version of an order type.
#[derive(Clone, Debug)]
pub struct OrderType {
    /// Its name, in kebab-case.
    pub name: Arc<str>,
    /// The hash of its source.
    pub hash: TypeHash,
    /// The language of its messages: `en`, `es`, `pt`.
    pub language: Arc<str>,
    /// Where an order begins.
    pub initial: Initial,
    /// JSON pointer to the client's own id, unique per type.
    pub key: Option<String>,
    /// JSON pointer to whom the order is for.
    pub customer: Option<String>,
    /// How orders queue behind one another.
    pub fifo: Option<Fifo>,
    /// Where a refused step leads, unless the status says otherwise.
    pub refused: Option<Arc<str>>,
    /// Where a cancel leads; `refused` where this is not set.
    pub cancel: Option<Arc<str>>,
    /// The statuses, in the order of the file.
    pub statuses: IndexMap<Arc<str>, Status>,
    /// The steps, in the order of the file.
    pub steps: IndexMap<Arc<str>, Step>,
    /// Money rules that the data must satisfy.
    pub rules: Vec<SumRule>,
    /// What stays of the data when an order is erased: JSON pointers in which `*` stands for every item of an array.
    pub erase_keep: Vec<String>,
    /// Where the data says how the customer is told.
    pub notify: Option<Notify>,
}

/// Where an order's data says how its customer is told of what `notify` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// JSON pointer to the e-mail address.
    pub email: String,
    /// JSON pointer to the language (`es`, `pt-BR`); the type's language where it is not set or says nothing.
    pub language: Option<String>,
}

/// Where an order begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Always here.
    Status(Arc<str>),
    /// Where the submission says, at this JSON pointer.
    From {
        /// JSON pointer into the submitted data.
        pointer: String,
        /// Whether letter case matters not.
        ignore_case: bool,
        /// Where to begin if the submission does not say.
        default: Option<Arc<str>>,
    },
}

/// First in, first out: which orders share a lane, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fifo {
    /// JSON pointer to the group key; `None` puts all orders of the type into one lane (`"*"` in the file).
    pub key: Option<String>,
    /// How long an order keeps its place.
    pub scope: FifoScope,
    /// What a dead letter does to the orders behind it.
    pub dead_letter: DeadLetterInLane,
}

/// How long an order keeps its place in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoScope {
    /// From acceptance until it is final or enters a status that releases it.
    Life,
    /// A lane of its own for each status; an order stands in it while that status's steps are at work.
    Status,
}

/// What a dead letter does to the orders behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterInLane {
    /// They wait until it is redriven or discarded.
    Park,
    /// They pass it.
    Leave,
}

/// Where an order can stand.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Other spellings that the outside may use.
    pub aliases: Vec<Arc<str>>,
    /// The steps that run here, in order.
    pub steps: Vec<Arc<str>>,
    /// Where the order goes when they are done; the first branch whose condition holds. Empty: it waits.
    pub next: Vec<Branch>,
    /// Where the outside may send the order from here.
    pub to: Vec<Arc<str>>,
    /// Where a refused step leads.
    pub refused: Option<Arc<str>>,
    /// Whether there is no way out.
    pub is_final: bool,
    /// Whether entering takes back completed steps, in reverse.
    pub undo: bool,
    /// Whether entering gives up the place in the lane.
    pub releases_lane: bool,
    /// How long an order may stand here.
    pub deadline: Option<Deadline>,
    /// What the data must have before the order may enter.
    pub require: Vec<Require>,
    /// The steps of the status before that must be behind the order before it may enter this one.
    pub require_steps: Vec<RequireStep>,
    /// The queue that entering puts an item into, for programs outside. It does not hold the order.
    pub queue: Option<StatusQueue>,
    /// Whether the customer is told when an order enters.
    pub notifies_customer: bool,
}

/// A status's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusQueue {
    /// Its name.
    pub name: Arc<str>,
    /// How often an item is handed out before it goes to the queue's dead letters.
    pub attempts: u32,
}

/// One way on.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The condition; `None` always holds.
    pub when: Option<Expression>,
    /// The status.
    pub to: Arc<str>,
}

/// How long an order may stand in a status, and where it goes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Counted from the entry.
    pub after: Duration,
    /// The status.
    pub to: Arc<str>,
}

/// A field that must be there before a status may be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Require {
    /// JSON pointer to the field; it must be neither absent, null nor an empty string.
    pub field: String,
    /// What to tell the client; a plain sentence is made where this is not set.
    pub message: Option<String>,
}

/// A step that an order must have behind it before a status may be entered from the one that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireStep {
    /// The step.
    pub step: Arc<str>,
    /// What to tell the client; a plain sentence is made where this is not set.
    pub message: Option<String>,
}

/// A sum of products that must equal a field, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumRule {
    /// JSON pointer to the array of lines.
    pub of: String,
    /// The members of a line that are multiplied.
    pub product: Vec<String>,
    /// JSON pointer to the total.
    pub equals: String,
}

impl OrderType {
    /// The queues in which steps of this type, or their undos, wait for workers from outside.
    pub fn step_queues(&self) -> impl Iterator<Item = &Arc<str>> {
        fn of(step: &Step) -> Option<&Arc<str>> {
            match &step.action {
                Action::Queue(name) => Some(name),
                _ => None,
            }
        }
        self.steps
            .values()
            .flat_map(|step| of(step).into_iter().chain(step.undo.as_deref().and_then(of)))
    }

    /// The steps in Rust, undos among them, by the names that the program must know.
    pub fn rust_steps(&self) -> impl Iterator<Item = &Arc<str>> {
        fn of(step: &Step) -> Option<&Arc<str>> {
            match &step.action {
                Action::Rust(rust) => Some(&rust.name),
                _ => None,
            }
        }
        self.steps
            .values()
            .flat_map(|step| of(step).into_iter().chain(step.undo.as_deref().and_then(of)))
    }

    /// The archives that steps of this type write failed orders to.
    pub fn archives(&self) -> impl Iterator<Item = &Arc<str>> {
        self.steps.values().filter_map(|step| step.archive.as_ref())
    }

    /// The queues that statuses of this type put items into.
    pub fn status_queues(&self) -> impl Iterator<Item = &Arc<str>> {
        let queues = self.statuses.values().filter_map(|status| status.queue.as_ref());
        queues.map(|queue| &queue.name)
    }

    /// Whether the customer is told of this: that an order has entered `status`, or that its step `exhausted` has failed
    /// for good.
    pub fn notifies_customer(&self, status: Option<&str>, exhausted: Option<&str>) -> bool {
        self.notify.is_some()
            && (status
                .and_then(|name| self.status(name))
                .is_some_and(|status| status.notifies_customer)
                || exhausted
                    .and_then(|name| self.steps.get(name))
                    .is_some_and(|step| step.notifies_customer))
    }

    /// The status of this name.
    pub fn status(&self, name: &str) -> Option<&Status> {
        self.statuses.get(name)
    }

    /// The declared name of a status that the outside spelled in its own way: an alias, or, where the type says so,
    /// in other letter case.
    pub fn resolve_status(&self, spelled: &str) -> Option<&Arc<str>> {
        if let Some((name, _)) = self.statuses.get_key_value(spelled) {
            return Some(name);
        }
        let ignore_case = matches!(self.initial, Initial::From { ignore_case: true, .. });
        let wanted = spelled.trim().to_lowercase();
        let matches = |candidate: &str| candidate == spelled || (ignore_case && candidate.to_lowercase() == wanted);
        self.statuses
            .iter()
            .find(|(name, status)| matches(name) || status.aliases.iter().any(|alias| matches(alias)))
            .map(|(name, _)| name)
    }

    /// Where a refusal in this status leads.
    pub fn refused_from(&self, status: &str) -> Option<&Arc<str>> {
        self.status(status)
            .and_then(|status| status.refused.as_ref())
            .or(self.refused.as_ref())
    }

    /// Where a cancel in this status leads: only where the status lets the outside go there.
    pub fn cancel_from(&self, status: &str) -> Option<&Arc<str>> {
        let target = self.cancel.as_ref().or_else(|| self.refused_from(status))?;
        self.status(status)?.to.contains(target).then_some(target)
    }

    /// The group key of this data, or `None` for an order that is alone in its lane.
    pub fn group_key(&self, data: &Value) -> Option<String> {
        let fifo = self.fifo.as_ref()?;
        match &fifo.key {
            None => Some("*".to_owned()),
            Some(pointer) => data.pointer(pointer).and_then(crate::json::scalar_text),
        }
    }
}
