//! The `comanda` binary: Comanda with no steps but its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    comanda::builder().main()
}
