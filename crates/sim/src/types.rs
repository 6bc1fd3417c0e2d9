//! The order types of the simulation. Between them they have all that orders can do: several steps, undo, lanes of both
//! scopes, dead letters that park or leave, deadlines, timers, branches, transitions by hand. Each has two versions.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use comanda_model::{OrderType, TypeHash};
use comanda_order_type::{Bundle, Definition, Known, read};

/// The names of the types.
pub const NAMES: [&str; 4] = ["booking", "lane-park", "lane-leave", "lane-status"];

/// No lane, every step with an undo, a branch, deadlines. A cancel leads to where all is taken back.
const BOOKING: &str = r#"
name = "booking"
initial = "received"
key = "/ref"
cancel = "canceled"
[schema]
type = "object"
required = ["n"]
[statuses.received]
steps = ["reserve", "charge"]
next = [{ when = "steps.charge.review", to = "review" }, { to = "packing" }]
refused = "canceled"
to = ["canceled"]
deadline = { after = "50s", to = "expired" }
[statuses.review]
to = ["packing", "canceled"]
deadline = { after = "40s", to = "expired" }
[statuses.packing]
steps = ["pack", "send"]
next = "done"
refused = "canceled"
to = ["canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[statuses.expired]
final = true
undo = true
[steps.reserve]
http = "POST http://127.0.0.1:1/reserve"
timeout = "5s"
retry = { attempts = ATTEMPTS, first = "1s", factor = 2 }
undo = { http = "POST http://127.0.0.1:1/release", retry = { attempts = 3, first = "500ms" }, timeout = "5s" }
[steps.charge]
http = "POST http://127.0.0.1:1/charge"
timeout = "3s"
retry = { attempts = 1 }
undo = { http = "POST http://127.0.0.1:1/refund", retry = { attempts = 2, first = "500ms" }, timeout = "5s" }
[steps.pack]
use = "noop"
[steps.send]
http = "POST http://127.0.0.1:1/send"
timeout = "4s"
retry = { attempts = 2, first = "500ms" }
exhausted = "undo"
undo = { http = "POST http://127.0.0.1:1/recall", retry = { attempts = 4, first = "500ms" }, timeout = "5s" }
"#;

/// A lane for life, given up when shipped; a dead letter parks it.
const LANE_PARK: &str = r#"
name = "lane-park"
initial = "received"
key = "/ref"
cancel = "canceled"
fifo = { key = "/group", scope = "life", dead_letter = "park" }
[schema]
type = "object"
required = ["n"]
[statuses.received]
steps = ["work"]
next = "shipped"
refused = "canceled"
to = ["canceled", "shipped"]
deadline = { after = "2m", to = "canceled" }
[statuses.shipped]
releases_lane = true
steps = ["notify"]
next = "done"
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.work]
http = "POST http://127.0.0.1:1/work"
timeout = "5s"
retry = { attempts = ATTEMPTS, first = "500ms" }
undo = { http = "POST http://127.0.0.1:1/unwork", retry = { attempts = 3, first = "500ms" }, timeout = "5s" }
[steps.notify]
http = "POST http://127.0.0.1:1/notify"
timeout = "5s"
retry = { attempts = 2, first = "500ms" }
"#;

/// A lane for life that a dead letter leaves; between the steps a timer.
const LANE_LEAVE: &str = r#"
name = "lane-leave"
initial = "received"
key = "/ref"
refused = "refused"
fifo = { key = "/group", scope = "life", dead_letter = "leave" }
[schema]
type = "object"
required = ["n"]
[statuses.received]
steps = ["first", "rest", "second"]
next = "done"
to = ["refused"]
[statuses.done]
final = true
[statuses.refused]
final = true
[steps.first]
http = "POST http://127.0.0.1:1/first"
timeout = "4s"
retry = { attempts = ATTEMPTS, first = "500ms" }
undo = { http = "POST http://127.0.0.1:1/unfirst", retry = { attempts = 2, first = "500ms" }, timeout = "5s" }
[steps.rest]
use = "wait"
with = { for = "3s" }
[steps.second]
http = "POST http://127.0.0.1:1/second"
timeout = "4s"
retry = { attempts = 2, first = "500ms" }
"#;

/// A lane of its own for each status; the outside moves orders on.
const LANE_STATUS: &str = r#"
name = "lane-status"
initial = { from = "/at", default = "received" }
key = "/ref"
cancel = "canceled"
fifo = { key = "/group", scope = "status", dead_letter = "park" }
[schema]
type = "object"
required = ["n"]
[statuses.received]
steps = ["check"]
to = ["working", "canceled"]
refused = "canceled"
[statuses.working]
steps = ["build", "polish"]
next = "done"
refused = "canceled"
to = ["done", "canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.check]
http = "POST http://127.0.0.1:1/check"
timeout = "4s"
retry = { attempts = 2, first = "500ms" }
[steps.build]
http = "POST http://127.0.0.1:1/build"
timeout = "4s"
retry = { attempts = ATTEMPTS, first = "500ms" }
undo = { http = "POST http://127.0.0.1:1/unbuild", retry = { attempts = 2, first = "500ms" }, timeout = "5s" }
[steps.polish]
http = "POST http://127.0.0.1:1/polish"
timeout = "4s"
retry = { attempts = 1 }
"#;

/// The types in their two versions.
struct Types {
    versions: [Vec<Definition>; 2],
    by_hash: HashMap<TypeHash, Arc<OrderType>>,
    faults: Vec<String>,
}

/// Reading a type takes longer than running many orders, so each is read once.
static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut types = Types {
        versions: [Vec::new(), Vec::new()],
        by_hash: HashMap::new(),
        faults: Vec::new(),
    };
    for (version, attempts) in ["3", "2"].into_iter().enumerate() {
        for text in [BOOKING, LANE_PARK, LANE_LEAVE, LANE_STATUS] {
            let bundle = Bundle {
                path: "simulated.toml".to_owned(),
                text: text.replace("ATTEMPTS", attempts),
                schema: None,
            };
            let read = read(&bundle, &Known::default());
            match read.definition {
                Some(definition) => {
                    let order_type = definition.order_type.clone();
                    types.by_hash.insert(order_type.hash, order_type);
                    types.versions[version].push(definition);
                }
                None => types
                    .faults
                    .extend(read.diagnostics.into_iter().map(|diagnostic| diagnostic.message)),
            }
        }
    }
    types
});

/// The types in one of their versions, 0 or 1; or what is wrong with them.
pub fn definitions(version: usize) -> Result<Vec<Definition>, String> {
    if TYPES.faults.is_empty() {
        Ok(TYPES.versions[version % 2].clone())
    } else {
        Err(TYPES.faults.join("; "))
    }
}

/// A version of a type by its hash.
pub fn by_hash(hash: TypeHash) -> Option<Arc<OrderType>> {
    TYPES.by_hash.get(&hash).cloned()
}
