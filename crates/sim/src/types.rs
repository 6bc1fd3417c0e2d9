//! The order types of the simulation. Between them they have all that orders can do: several steps, undo, lanes of both
//! scopes, dead letters that park or leave, deadlines, timers, branches, transitions by hand, work for programs outside,
//! questions, callbacks, approvals and the built-in steps. Each has two versions: `ATTEMPTS` stands for a number.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use comanda_model::{OrderType, TypeHash};
use comanda_order_type::{Bundle, Definition, Known, read};

/// The names of the types.
pub const NAMES: [&str; 7] = [
    "booking",
    "lane-park",
    "lane-leave",
    "lane-status",
    "picking",
    "loan",
    "shop",
];
/// The place of the type in [`NAMES`] whose work programs outside do.
pub const PICKING: usize = 4;
/// The place of the type in [`NAMES`] that is made of the built-in steps.
pub const SHOP: usize = 6;
/// The queues that workers from outside claim from.
pub const QUEUES: [&str; 4] = ["picks", "unpicks", "received", "finished"];

const TEXTS: [&str; NAMES.len()] = [
    include_str!("../types/booking.toml"),
    include_str!("../types/lane-park.toml"),
    include_str!("../types/lane-leave.toml"),
    include_str!("../types/lane-status.toml"),
    include_str!("../types/picking.toml"),
    include_str!("../types/loan.toml"),
    include_str!("../types/shop.toml"),
];

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
        for text in TEXTS {
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
