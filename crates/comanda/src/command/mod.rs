//! The commands: one file each, or one for a few that belong together.

mod approval;
mod archived;
mod audit;
mod backup;
pub(crate) mod bench;
mod built_in;
mod cancel;
mod check;
mod dead_letters;
mod events;
mod export;
mod get;
mod import;
mod intake;
mod jobs;
mod keys;
pub(crate) mod link;
mod list;
mod migrate;
mod new;
mod queues;
mod rehearse;
mod serve;
mod submit;
mod subscriptions;

use std::future::Future;
use std::io::Read;
use std::path::Path;

use clap::CommandFactory;
use comanda_steps::RustSteps;
use serde_json::Value;

use crate::cli::{Cli, Command, DeadLetters, Global, Serve};
use crate::config::{self, Config, Sources};
use crate::failure::Failure;
use crate::output::Output;
use crate::remote::Remote;

/// Runs a command.
pub fn run(cli: Cli, steps: RustSteps) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let mut output = Output::new(global.output);
    let output = &mut output;
    let settings = |flags: Serve| -> Result<Config, Failure> {
        Ok(config::load(&Sources::of_process(global.config.clone(), flags))?.0)
    };
    let defaults = || settings(Serve::default());
    match command {
        Command::Serve(flags) => serve::run(&settings(flags)?, steps),
        Command::Check(args) => check::run(&defaults()?, args, output),
        Command::New(args) => new::run(&defaults()?, args, output),
        Command::Try(args) => {
            let flags = Serve {
                order_types: args.order_types.clone(),
                ..Serve::default()
            };
            rehearse::run(&settings(flags)?, args, output)
        }
        Command::Submit(args) => remotely(&global, async |remote| submit::run(&remote, args, output).await),
        Command::Import(args) => remotely(&global, async |remote| import::run(&remote, args, output).await),
        Command::Get(args) => remotely(&global, async |remote| get::run(&remote, args, output).await),
        Command::List(args) => remotely(&global, async |remote| list::run(&remote, args, output).await),
        Command::Events(args) => remotely(&global, async |remote| events::run(remote, args, output).await),
        Command::Link(args) => remotely(&global, async |remote| link::run(&remote, args, output).await),
        Command::Approve(args) => remotely(&global, async |remote| approval::approve(&remote, args, output).await),
        Command::Reject(args) => remotely(&global, async |remote| approval::reject(&remote, args, output).await),
        Command::Cancel(args) => remotely(&global, async |remote| cancel::run(&remote, args, output).await),
        Command::DeadLetters(DeadLetters::List(args)) if args.from.is_some() => {
            let from = args.from.clone().unwrap_or_default();
            on_runtime(archived::list(&defaults()?, &from, args, output))
        }
        Command::DeadLetters(DeadLetters::Show { id, from: Some(from) }) => {
            on_runtime(archived::show(&defaults()?, &from, &id, output))
        }
        Command::DeadLetters(command) => remotely(&global, async |remote| {
            dead_letters::run(&remote, command, output).await
        }),
        Command::Intake(command) => remotely(&global, async |remote| intake::run(&remote, command, output).await),
        Command::Queues(args) => remotely(&global, async |remote| queues::run(&remote, args, output).await),
        Command::Subscriptions(command) => remotely(&global, async |remote| {
            subscriptions::run(&remote, command, output).await
        }),
        Command::Inventory(command) => remotely(&global, async |remote| {
            built_in::inventory(&remote, command, output).await
        }),
        Command::Customers(command) => remotely(&global, async |remote| {
            built_in::customers(&remote, command, output).await
        }),
        Command::Payments(command) => remotely(&global, async |remote| {
            built_in::payments(&remote, command, output).await
        }),
        Command::Shipments(command) => remotely(&global, async |remote| {
            built_in::shipments(&remote, command, output).await
        }),
        Command::Demo(command) => remotely(&global, async |remote| built_in::demo(&remote, command, output).await),
        Command::Audit(args) => remotely(&global, async |remote| audit::run(&remote, args, output).await),
        Command::Erase(args) => remotely(&global, async |remote| jobs::erase(&remote, args, output).await),
        Command::Jobs(command) => remotely(&global, async |remote| jobs::run(&remote, command, output).await),
        Command::Export(args) => match args.data.clone() {
            Some(data) => on_runtime(export::from_data(&data, args, output)),
            None => remotely(&global, async |remote| export::from_server(&remote, args, output).await),
        },
        Command::Backup(args) => backup::backup(&defaults()?, args, output),
        Command::Restore(args) => backup::restore(&defaults()?, args, output),
        Command::Verify(args) => {
            let flags = Serve {
                store: args.store.clone(),
                ..Serve::default()
            };
            backup::verify(&settings(flags)?, args, output)
        }
        Command::Migrate(command) => migrate::run(&settings, command, output),
        Command::Bench(args) => remotely(&global, async |remote| bench::run(remote, &global, args, output).await),
        Command::Config(args) if args.default => Ok(output.text(config::DEFAULT)?),
        Command::Config(_) => show_config(&global, output),
        Command::Keys(command) => keys::run(&defaults, command, output),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "comanda", &mut script);
            Ok(output.text(&String::from_utf8_lossy(&script))?)
        }
    }
}

fn show_config(global: &Global, output: &mut Output) -> Result<(), Failure> {
    let (_, settings) = config::load(&Sources::of_process(global.config.clone(), Serve::default()))?;
    if output.is_json() {
        let settings = serde_json::to_value(&settings).map_err(|error| Failure::process("the settings", error))?;
        return Ok(output.json(&settings)?);
    }
    let rows = settings
        .into_iter()
        .map(|setting| vec![setting.key, setting.value, setting.origin])
        .collect();
    Ok(output.table(&["setting", "value", "from"], rows)?)
}

/// Runs a command that talks to a server.
fn remotely<F>(global: &Global, command: impl FnOnce(Remote) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let remote = Remote::new(global)?;
    on_runtime(command(remote))
}

/// Runs a future to its end. Ctrl-c ends the process as it does any other.
fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::process("the threads could not be started", error))?;
    runtime.block_on(work)
}

/// The text of a file, or of stdin for `-` and where no file is named.
fn read_text(path: Option<&Path>) -> Result<(String, String), Failure> {
    let failed = |path: &Path, source| Failure::File {
        path: path.to_owned(),
        act: "read",
        source,
    };
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
            Ok((path.display().to_string(), text))
        }
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| failed(Path::new("stdin"), error))?;
            Ok(("stdin".to_owned(), text))
        }
    }
}

/// Reads JSON from a file or stdin.
fn read_json(path: Option<&Path>) -> Result<Value, Failure> {
    let (path, text) = read_text(path)?;
    serde_json::from_str(&text).map_err(|source| Failure::Json { path, source })
}

/// What an order is doing, in a few words, for tables.
fn work_text(order: &Value) -> String {
    let work = &order["work"];
    let Some(state) = work["state"].as_str() else {
        return "-".to_owned();
    };
    let step = work["step"].as_str();
    let text = match (state, step) {
        ("retrying", Some(step)) => format!("{step} is tried again (attempt {})", work["attempt"]),
        ("running", Some(step)) => format!("{step} runs"),
        ("parked", Some(step)) => format!("dead letter: {step}"),
        ("queued", _) => format!("queued behind {}", work["behind"]),
        ("waiting", _) => {
            let mut text = format!("waits for {}", work["waitingFor"].as_str().unwrap_or("something"));
            if let (Some(since), Some(next)) = (work["heldBackSince"].as_str(), work["dueAt"].as_str()) {
                text.push_str(&format!(", since {since}; the next try is at {next}"));
            }
            text
        }
        (state, Some(step)) => format!("{state}: {step}"),
        (state, None) => state.to_owned(),
    };
    crate::output::clean(&text)
}
