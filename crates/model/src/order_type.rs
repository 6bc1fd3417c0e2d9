//! An order type as the engine runs it: statuses, transitions, steps. The file that it is read from, its schema and
//! its wire form belong to `comanda-order-type`.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;

use crate::expression::Expression;
use crate::id::TypeHash;
use crate::ledger::HoldMove;
use crate::template::{Template, TemplateTree};

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

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// Runs only if this holds; otherwise it is skipped.
    pub when: Option<Expression>,
    /// The bound of one attempt.
    pub timeout: Duration,
    /// The bound of all attempts of one round together, the waits between them included.
    pub timeout_total: Option<Duration>,
    /// How often it is tried.
    pub retry: Retry,
    /// What happens when it is exhausted.
    pub exhausted: Exhausted,
    /// The archive that the whole order is written to each time it becomes a dead letter here.
    pub archive: Option<Arc<str>>,
    /// Whether the customer is told when it is exhausted.
    pub notifies_customer: bool,
    /// Asked under the same key before anything is tried again, when an attempt's outcome is unknown.
    pub unknown: Option<Box<HttpCall>>,
    /// What takes it back.
    pub undo: Option<Box<Step>>,
    /// The most attempts of it that go out in one HTTP call.
    pub batch: u32,
    /// Where what it answered is shown among the data: JSON pointer to a member. What the data says itself goes before it.
    pub shows: Option<String>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing; it succeeds at once.
    Noop,
    /// It fails: to try out what happens then.
    Fail {
        /// The reason that it gives.
        reason: String,
        /// Whether it refuses for good instead of failing.
        refuse: bool,
    },
    /// It waits.
    Wait(WaitFor),
    /// It waits for a person to say yes or no.
    Approval {
        /// For how long; `None` without end.
        within: Option<Duration>,
    },
    /// It calls an HTTP service.
    Http(Box<HttpCall>),
    /// A worker from outside does it: it claims the work from the queue of this name and answers.
    Queue(Arc<str>),
    /// It is one of those that Comanda brings along.
    BuiltIn(Box<BuiltIn>),
    /// Code that the program was compiled with does it.
    Rust(Box<RustStep>),
}

impl Action {
    /// Whether it has no effect outside the order, so that it needs no claim: the version guards it.
    pub fn is_internal(&self) -> bool {
        match self {
            Self::Noop | Self::Fail { .. } | Self::Wait(_) | Self::Approval { .. } => true,
            Self::Http(_) | Self::Queue(_) | Self::Rust(_) => false,
            Self::BuiltIn(built_in) => built_in.is_internal(),
        }
    }

    /// The name of its kind in files, messages and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Fail { .. } => "fail",
            Self::Wait(_) => "wait",
            Self::Approval { .. } => "approval",
            Self::Http(_) => "http",
            Self::Queue(_) => "queue",
            Self::BuiltIn(built_in) => built_in.kind.name(),
            Self::Rust(_) => "rust",
        }
    }
}

/// A step in Rust: which, and what it is told.
#[derive(Clone, Debug)]
pub struct RustStep {
    /// The name that the program has registered it under: `myteam.thing`.
    pub name: Arc<str>,
    /// What it is told: templates over the order.
    pub with: TemplateTree,
    /// How long a callback may take where the step waits for one; `None`: it does not wait.
    pub callback: Option<Duration>,
}

/// A built-in step: what it does, and what it is told.
#[derive(Clone, Debug)]
pub struct BuiltIn {
    /// What it does.
    pub kind: BuiltInKind,
    /// What it is told: templates over the order.
    pub with: TemplateTree,
    /// How long `inventory.reserve` holds what it takes; `None` for ever.
    pub hold: Option<Duration>,
}

/// What a built-in step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltInKind {
    /// Sets stock aside for the order.
    InventoryReserve,
    /// Gives back what the order holds; as an undo, what the step did.
    InventoryRelease,
    /// Takes what the order holds out of the stock.
    InventoryShip,
    /// Authorises a payment.
    PaymentsAuthorize,
    /// Captures an authorised payment.
    PaymentsCapture,
    /// Gives an authorisation up; a payment that was captured is refunded.
    PaymentsVoid,
    /// Pays a captured payment back.
    PaymentsRefund,
    /// Looks a customer up.
    CustomersCheck,
    /// Has a carrier make a shipment, with its label and tracking number.
    ShipmentsCreate,
    /// Cancels a shipment.
    ShipmentsCancel,
}

impl BuiltInKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::InventoryReserve,
        Self::InventoryRelease,
        Self::InventoryShip,
        Self::PaymentsAuthorize,
        Self::PaymentsCapture,
        Self::PaymentsVoid,
        Self::PaymentsRefund,
        Self::CustomersCheck,
        Self::ShipmentsCreate,
        Self::ShipmentsCancel,
    ];

    /// Whether it moves stock.
    pub const fn is_of_stock(self) -> bool {
        matches!(
            self,
            Self::InventoryReserve | Self::InventoryRelease | Self::InventoryShip
        )
    }

    /// The name in files, messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InventoryReserve => "inventory.reserve",
            Self::InventoryRelease => "inventory.release",
            Self::InventoryShip => "inventory.ship",
            Self::PaymentsAuthorize => "payments.authorize",
            Self::PaymentsCapture => "payments.capture",
            Self::PaymentsVoid => "payments.void",
            Self::PaymentsRefund => "payments.refund",
            Self::CustomersCheck => "customers.check",
            Self::ShipmentsCreate => "shipments.create",
            Self::ShipmentsCancel => "shipments.cancel",
        }
    }

    /// What it may be told.
    pub const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::InventoryReserve => &["lines", "backorder"],
            Self::InventoryRelease | Self::InventoryShip => &[],
            Self::PaymentsAuthorize => &["amount", "currency", "source"],
            Self::PaymentsCapture | Self::PaymentsVoid | Self::PaymentsRefund => &["payment"],
            Self::CustomersCheck => &["customer"],
            Self::ShipmentsCreate => &["to", "lines", "service"],
            Self::ShipmentsCancel => &["shipment"],
        }
    }

    /// A result as the step leaves one, to try a type out with.
    pub const fn sample_result(self) -> Option<&'static str> {
        match self {
            Self::InventoryReserve => Some(r#"{"total":"29.80","currency":"EUR","backordered":false}"#),
            Self::PaymentsAuthorize => Some(r#"{"payment":"pay-1","state":"authorized"}"#),
            Self::CustomersCheck => Some(r#"{"id":"u-1","name":"Ada"}"#),
            Self::ShipmentsCreate => Some(r#"{"shipment":"shipment-1","carrier":"Carrier","trackingNumber":"T-1"}"#),
            Self::InventoryRelease
            | Self::InventoryShip
            | Self::PaymentsCapture
            | Self::PaymentsVoid
            | Self::PaymentsRefund
            | Self::ShipmentsCancel => None,
        }
    }

    /// What it must be told.
    pub const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::InventoryReserve => &["lines"],
            Self::PaymentsAuthorize => &["amount", "currency"],
            Self::CustomersCheck => &["customer"],
            // As an undo they know which payment; as a step of their own they take the order's.
            Self::InventoryRelease
            | Self::InventoryShip
            | Self::PaymentsCapture
            | Self::PaymentsVoid
            | Self::PaymentsRefund
            | Self::ShipmentsCreate
            | Self::ShipmentsCancel => &[],
        }
    }
}

impl BuiltIn {
    /// Whether it needs nothing but the order itself.
    pub fn is_internal(&self) -> bool {
        matches!(self.kind, BuiltInKind::InventoryRelease | BuiltInKind::InventoryShip)
    }

    /// Whether it moves what the order holds, so that a hold that has lapsed need not be taken again before it.
    pub fn moves_holds(&self) -> bool {
        self.is_internal()
    }

    /// What it does to the order's holds, where that needs no look at the stock. `undoes` is the visit that it takes back.
    pub fn hold_move(&self, undoes: Option<u32>) -> Option<HoldMove> {
        match self.kind {
            BuiltInKind::InventoryRelease => Some(HoldMove::Release { visit: undoes }),
            BuiltInKind::InventoryShip => Some(HoldMove::Ship),
            _ => None,
        }
    }
}

/// How long a `wait` step waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// This long.
    Span(Duration),
    /// Until the RFC 3339 time at this JSON pointer in the data.
    Until(String),
}

/// An HTTP call, as the file describes it.
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// The method, in capitals.
    pub method: String,
    /// The URL.
    pub url: Template,
    /// The headers.
    pub headers: Vec<(String, Template)>,
    /// The JSON body.
    pub body: Option<TemplateTree>,
    /// The secret that the call is signed with (Standard Webhooks).
    pub sign: Option<Template>,
    /// How the call gets its bearer token.
    pub auth: Option<Box<ClientCredentials>>,
    /// How long a callback may take after the answer 202; `None`: a 202 is an answer like any other 2xx.
    pub callback: Option<Duration>,
}

/// An OAuth 2.0 client credentials grant (RFC 6749, section 4.4). Its templates read `env` and `secret` only.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// Where tokens are had.
    pub token_url: Template,
    /// The client's id.
    pub client_id: Template,
    /// The client's secret.
    pub client_secret: Template,
    /// The scope to ask for, as one text.
    pub scope: Option<Template>,
}

/// How often a step is tried, and how long it waits in between: `first`, then `factor` times as long each time,
/// at most `max`, each multiplied by a random number between 0.5 and 1 so that many orders do not return at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// The most attempts, the first one included.
    pub attempts: u32,
    /// The wait after the first failure.
    pub first: Duration,
    /// By how much each wait grows.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
        }
    }
}

impl Retry {
    /// How long to wait after the `failures`-th failure in a row (from 1); `jitter` is in 0..1.
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(exponent);
        let bounded = grown.min(self.max.as_secs_f64());
        Duration::from_secs_f64(bounded * (0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

/// What happens when a step is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The order becomes a dead letter where it stands; nothing is undone.
    DeadLetter,
    /// As if it had been refused: completed steps are undone.
    Undo,
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
