//! Comanda as a library: a program of your own that is all of Comanda, with your steps in Rust compiled in.
//!
//! ```no_run
//! use comanda::Outcome;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     comanda::builder()
//!         .step("myteam.greet", |context| async move {
//!             println!("{}: an order of type {}", context.key(), context.order_type());
//!             Outcome::done()
//!         })
//!         .main()
//! }
//! ```
//!
//! The program has every command of `comanda`: `serve`, `check`, `submit` and so on, with the same flags, files and
//! environment. An order type runs the step with `use = "myteam.greet"`. A server does not start if an order type, or an
//! order that is not final yet, needs a step that the program was not compiled with.
//!
//! This crate reads the command line and the configuration, puts the parts together (a store, the steps, the engine, the
//! HTTP side), and is the only place that names a concrete store.

mod cli;
mod command;
mod config;
mod failure;
mod output;
mod remote;
mod telemetry;
mod types;

use std::process::ExitCode;

use clap::Parser;
use comanda_steps::RustSteps;

pub use comanda_steps::{Finding, Outcome, StepContext};

use crate::cli::Cli;

/// Begins a program: add steps, then call [`Builder::main`].
pub fn builder() -> Builder {
    Builder::default()
}

/// A program with steps of its own.
#[derive(Debug, Default)]
pub struct Builder {
    steps: RustSteps,
}

impl Builder {
    /// Adds a step under a dotted name, such as `myteam.greet`: words of lower-case letters, digits, `-` and `_`. The
    /// families of the built-in steps (`inventory`, `payments`, `customers`, `shipments`) are taken. What takes a step back is a step too:
    /// `undo = { use = "myteam.forget" }`, told by [`StepContext::undoes`] what it takes back.
    ///
    /// The code runs at least once per visit, on the server's own threads: it must not block one. A panic ends the attempt as
    /// [`Outcome::Unknown`].
    #[must_use]
    pub fn step<F, R>(mut self, name: &str, run: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.steps.insert(name, run);
        self
    }

    /// Adds the question of a step that was added before: asked, under the same key, before anything is tried again where
    /// nobody knows what became of an attempt. A step without a question is simply run again.
    #[must_use]
    pub fn question<F, R>(mut self, name: &str, question: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Finding> + Send + 'static,
    {
        self.steps.ask(name, question);
        self
    }

    /// Runs the command line to its end, and says how it ended.
    pub fn main(self) -> ExitCode {
        // clap prints help and its own errors, and ends with 2 where a command line was not understood.
        let cli = Cli::parse();
        match command::run(cli, self.steps) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        }
    }
}
