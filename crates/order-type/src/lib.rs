//! Order-type files: what a team writes to describe an order type.
//!
//! [`read()`] takes a file with its schema and says everything that is wrong with it at once, each with its place; a
//! file without an error becomes a [`Definition`]: the type as the engine runs it, its JSON Schema, and its [`Wire`]
//! form. `docs/order-types.md` describes the file for those who write it.

mod bundle;
mod check;
mod definition;
mod diagnostic;
mod duration;
mod effects;
mod environment;
mod fault;
mod fields;
mod file;
mod language;
mod locate;
mod mermaid;
mod names;
mod pointer;
mod sample;
mod scaffold;
mod schema;
mod tree;
mod wire;

pub use bundle::{Bundle, ReadError, SourceError, read_directory, shipped};
pub use definition::{Definition, Known, Read, read};
pub use diagnostic::{Diagnostic, Severity, render};
pub use environment::environment_names;
pub use fault::Fault;
pub use scaffold::scaffold;
pub use schema::Schema;
pub use wire::{Incoming, Malformed, OrderFacts, Wire, WireError};
