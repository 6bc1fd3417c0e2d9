//! The simulation: the real engine on a virtual clock, over a store and step targets that fail in every way that their
//! ports allow, with a judge who checks the promises after every event. One seed is one run, and always the same one.
//! `docs/simulation.md` says what is checked and what is not.

mod callbacks;
mod clients;
mod clock;
mod desk;
mod dice;
mod judge;
mod life;
mod nodes;
mod outside;
mod plan;
mod plant;
mod receivers;
mod run;
mod shop;
mod shrink;
mod store;
mod target;
mod types;
mod workers;
mod world;

pub use plan::{Action, Fault, Plan, What};
pub use plant::Plant;
pub use run::{Run, run};
pub use shrink::shrink;
