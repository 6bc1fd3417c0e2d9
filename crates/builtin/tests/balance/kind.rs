//! The order types that are struck.

use comanda_order_type::{Bundle, Definition, Known, read, shipped};

use crate::fault::{Fault, Plan};

/// A whole order: steps that are built in, one of a worker, one that is called back; and what takes each back.
pub(crate) const TYPE: &str = r#"
name = "whole"
initial = "received"
cancel = "canceled"
refused = "canceled"
customer = "/userId"
[schema]
type = "object"
properties.userId = { type = "string" }
properties.products = { type = "array" }
[statuses.received]
steps = ["customer", "reserve", "authorize", "pick"]
next = "processing"
to = ["canceled"]
[statuses.processing]
steps = ["book", "ship", "capture", "label"]
next = "delivered"
to = ["canceled"]
[statuses.delivered]
final = true
[statuses.canceled]
final = true
undo = true
[steps.customer]
use = "customers.check"
with = { customer = "{{ data.userId }}" }
retry = { attempts = 2, first = "1s" }
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.products }}", hold = "15m" }
retry = { attempts = 2, first = "1s" }
undo = { use = "inventory.release" }
[steps.authorize]
use = "payments.authorize"
with = { amount = "{{ steps.reserve.total }}", currency = "{{ steps.reserve.currency }}" }
retry = { attempts = 2, first = "1s" }
undo = { use = "payments.void", retry = { attempts = 3, first = "1s" } }
[steps.pick]
queue = "picking"
retry = { attempts = 2, first = "1s" }
undo = { queue = "picking", retry = { attempts = 3, first = "1s" } }
[steps.book]
http = "POST http://127.0.0.1:1/bookings"
callback = { within = "1h" }
retry = { attempts = 2, first = "1s" }
undo = { http = "DELETE http://127.0.0.1:1/bookings", retry = { attempts = 3, first = "1s" } }
[steps.ship]
use = "inventory.ship"
retry = { attempts = 2, first = "1s" }
undo = { use = "inventory.release" }
[steps.capture]
use = "payments.capture"
retry = { attempts = 2, first = "1s" }
undo = { use = "payments.refund", retry = { attempts = 3, first = "1s" } }
[steps.label]
use = "shipments.create"
retry = { attempts = 2, first = "1s" }
undo = { use = "shipments.cancel", retry = { attempts = 3, first = "1s" } }
"#;

/// The order types that this is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`TYPE`].
    Whole,
    /// The shipped storefront order, except that nobody has to say that the parcel has arrived.
    Storefront,
}

impl Kind {
    pub(crate) fn definition(self) -> Definition {
        let bundle = match self {
            Self::Whole => Bundle {
                path: "whole.toml".to_owned(),
                text: TYPE.to_owned(),
                schema: None,
            },
            Self::Storefront => {
                let mut all = shipped().into_iter();
                let bundle = all.find(|bundle| bundle.path.contains("storefront-order")).unwrap();
                let (before, after) = bundle.text.split_once("[statuses.processing]\n").unwrap();
                let after: Vec<&str> = after.lines().filter(|line| !line.starts_with("require = ")).collect();
                let text = format!(
                    "{before}[statuses.processing]\nnext = \"delivered\"\n{}\n",
                    after.join("\n")
                );
                Bundle { text, ..bundle }
            }
        };
        let read = read(&bundle, &Known::default());
        let told = comanda_order_type::render(&read.diagnostics, &bundle, false);
        read.definition.unwrap_or_else(|| panic!("{told}"))
    }

    /// Its steps, in their order.
    pub(crate) fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Whole => &[
                "customer",
                "reserve",
                "authorize",
                "pick",
                "book",
                "ship",
                "capture",
                "label",
            ],
            Self::Storefront => &["customer", "reserve", "authorize", "ship", "label", "capture"],
        }
    }

    /// How many effects stand at receivers that are not built in, when all is done.
    pub(crate) fn receivers(self) -> usize {
        match self {
            Self::Whole => 2,
            Self::Storefront => 0,
        }
    }

    /// The last step says no, so that all others are taken back.
    pub(crate) fn refused_last(self) -> Plan {
        Plan {
            step: self.steps()[self.steps().len() - 1],
            attempt: None,
            undo: false,
            fault: Fault::Refuses,
        }
    }
}
