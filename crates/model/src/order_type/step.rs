//! Steps: what each does, how often it is tried, and what takes it back.

use std::sync::Arc;
use std::time::Duration;

use crate::expression::Expression;
use crate::ledger::HoldMove;
use crate::template::{Template, TemplateTree};

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
