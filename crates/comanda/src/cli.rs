//! The command line: every command, option and help text, a file for each family of commands. What a command does
//! stands in [`crate::command`].

mod audit;
mod bench;
mod built_in;
mod dead_letters;
mod intake;
mod jobs;
mod keys;
mod migrate;
mod orders;
mod queues;
mod serve;
mod store;
mod subscriptions;
mod types;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use audit::Audit;
pub use bench::*;
pub use built_in::*;
pub use dead_letters::*;
pub use intake::{IntakeChoice, IntakeCommand};
pub use jobs::{Erase, Jobs};
pub use keys::*;
pub use migrate::{Migrate, MigrateFormat, MigratePlace};
pub use orders::*;
pub use queues::{QueueChoice, QueueClaim, QueueCommand, QueueDeadLetters, QueueFail, Queues};
pub use serve::*;
pub use store::*;
pub use subscriptions::*;
pub use types::*;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Begin with:
  comanda serve                          take orders at http://127.0.0.1:8080
  comanda new repair                     make an order type of your own
  comanda submit sale - < order.json     submit an order
  comanda events --follow                watch what happens

Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 not understood.";

/// Takes orders over HTTP, never loses one, and runs each through the workflow that its type declares.
#[derive(Debug, Parser)]
#[command(name = "comanda", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    /// What goes for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Where the server is
    #[arg(
        long,
        global = true,
        env = "COMANDA_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub url: String,
    /// The API key to talk to it with; better kept in the environment than in the shell's history
    #[arg(
        long,
        global = true,
        env = "COMANDA_API_KEY",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub api_key: Option<String>,
    /// How to print answers
    #[arg(long, global = true, env = "COMANDA_OUTPUT", value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
    /// The configuration file [default: ./comanda.toml if there is one]
    #[arg(long, global = true, env = "COMANDA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(Serve),
    /// Check order types: every mistake at once, with its place
    Check(Check),
    /// Make an order type, ready to edit
    New(New),
    /// Show the way that an order would take; stores and sends nothing
    Try(Try),
    /// Submit an order
    Submit(Submit),
    /// Submit many orders from a file; running it twice submits them once
    Import(Import),
    /// Show an order
    Get(Get),
    /// List orders, newest first
    List(List),
    /// Show what happened to one order, or to all
    Events(Events),
    /// Make a link that shows one order to its customer
    Link(crate::command::link::Link),
    /// Cancel an order
    Cancel(Cancel),
    /// Say yes to a step that waits for a person
    Approve(Approve),
    /// Say no to a step that waits for a person
    Reject(Reject),
    /// Look at orders whose step is exhausted, and put them back to work or give them up
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// See where orders come from besides the API, and what could not be taken
    #[command(subcommand)]
    Intake(IntakeCommand),
    /// Show the queues that programs outside claim work from
    #[command(subcommand_required = false, args_conflicts_with_subcommands = true)]
    Queues(Queues),
    /// Have events sent to webhooks, and see what was sent
    #[command(subcommand)]
    Subscriptions(Subscriptions),
    /// Look at the stock, receive and count it
    #[command(subcommand)]
    Inventory(InventoryCommand),
    /// The customers that Comanda keeps itself: register, look up, block
    #[command(subcommand)]
    Customers(CustomersCommand),
    /// Look at payments
    #[command(subcommand)]
    Payments(PaymentsCommand),
    /// Look at shipments
    #[command(subcommand)]
    Shipments(ShipmentsCommand),
    /// Fill in what the shipped order types need to be tried out
    #[command(subcommand)]
    Demo(DemoCommand),
    /// Who changed what, and how it stood before and after
    Audit(Audit),
    /// Erase what a final order, or all of a customer's, know of the customer
    Erase(Erase),
    /// Changes to many orders that go on in the background: erasures, redrives at a bounded rate
    #[command(subcommand)]
    Jobs(Jobs),
    /// Write all orders as NDJSON
    Export(Export),
    /// Copy the whole store to a file
    Backup(Backup),
    /// Make a data directory from a backup
    Restore(Restore),
    /// Check the whole store for damage
    Verify(Verify),
    /// Move an embedded store's orders to PostgreSQL; bring a database up to date, or see where it stands
    Migrate(Migrate),
    /// Measure a running server over real HTTP, and check every order that it accepted
    Bench(Bench),
    /// Show the configuration and where each value comes from
    Config(ShowConfig),
    /// Manage API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Print a completion script for a shell
    Completions(Completions),
}

/// `config`.
#[derive(Debug, Args)]
pub struct ShowConfig {
    /// Print the commented file that holds the defaults, ready to be edited
    #[arg(long)]
    pub default: bool,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
