//! The `comanda` binary: it reads the command line and the configuration, puts the parts together (a store, the steps,
//! the engine, the HTTP side), and is the only place that names a concrete store.

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

use crate::cli::Cli;

fn main() -> ExitCode {
    // clap prints help and its own errors, and ends with 2 where a command line was not understood.
    let cli = Cli::parse();
    let end = command::run(cli);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
