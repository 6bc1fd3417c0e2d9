//! The project's own checks: `cargo xtask test` runs all of them, after installing what they need.

mod direction;
mod install;
mod run;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test        everything: check, then all tests (installs what they need)
  check       formatting, lints, the direction of dependencies, licences
  direction   only: which crate may use which
  install     only: what the tests need and the machine lacks
  postgres    only: the tests on PostgreSQL, on the newest server that is installed for them
  simulate    runs the engine on a virtual clock against everything that can go wrong  [--minutes N, default 1]
  fuzz        makes up input for every parser of what comes from outside  [--minutes N, default 1]
  crash       kills the real server under load, again and again  [ROUNDS, default 100]
  operations  kills the server, backups, exports and restores under load  [ROUNDS, default 40]
  power-cut   cuts the power under the real server's disk, again and again  [CUTS, default 500] [SEED]
  upgrade     a rolling upgrade on PostgreSQL from an earlier commit and back  [COMMIT, default HEAD~1]
  cost        what one order costs (syncs, bytes, instructions, allocations), against the recorded figures  [record: writes them anew]
  stages      where one order's time goes from socket to disk and back  [write: into docs/performance.md]
  soak        the storefront while one call in ten to its services fails  [--minutes N, default 10]
  peers       Comanda beside its peers, into docs/performance.md  [SECONDS of load for each, default 20]
  bench       builds and measures, side by side (takes minutes)
  bench postgres  the same on PostgreSQL, beside a bare client, without and with 5 million orders stored  [--stored N …]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => run::test(),
        ["check"] => run::check(),
        ["direction"] => direction::check(),
        ["install"] => install::all(),
        ["postgres"] => run::newest_postgres(),
        ["simulate"] => run::simulate("1"),
        ["simulate", "--minutes", minutes] => run::simulate(minutes),
        ["fuzz"] => run::fuzz("1"),
        ["fuzz", "--minutes", minutes] => run::fuzz(minutes),
        ["crash"] => run::crash("100"),
        ["crash", rounds] => run::crash(rounds),
        ["operations"] => run::operations("40"),
        ["operations", rounds] => run::operations(rounds),
        ["power-cut"] => run::power_cut("500", None),
        ["power-cut", cuts] => run::power_cut(cuts, None),
        ["power-cut", cuts, seed] => run::power_cut(cuts, Some(seed)),
        ["upgrade"] => run::upgrade("HEAD~1"),
        ["upgrade", commit] => run::upgrade(commit),
        ["cost"] => run::cost(&[]),
        ["cost", "record"] => run::cost(&["record"]),
        ["stages"] => run::stages(&[]),
        ["stages", "write"] => run::stages(&["write"]),
        ["soak"] => run::soak("10"),
        ["soak", "--minutes", minutes] => run::soak(minutes),
        ["peers"] => run::peers("20"),
        ["peers", seconds] => run::peers(seconds),
        ["bench"] => run::bench(),
        ["bench", "postgres", ref arguments @ ..] => run::bench_postgres(arguments),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
