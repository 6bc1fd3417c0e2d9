//! The command line: every command, option and help text in one place. What a command does stands in
//! [`crate::command`].

mod intake;
mod migrate;
mod queues;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use intake::{IntakeChoice, IntakeCommand};
pub use migrate::{Migrate, MigrateFormat, MigratePlace};
pub use queues::{QueueChoice, QueueClaim, QueueCommand, QueueDeadLetters, QueueFail, Queues};

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
    /// Fill in what the shipped order types need to be tried out
    #[command(subcommand)]
    Demo(DemoCommand),
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

/// `serve`. What is not given here comes from the environment, the configuration file, or the defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where to keep the orders [default: ./comanda-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// What to keep them in: sqlite, memory (gone at the end), or postgres://… [default: sqlite]
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Where your order types are, on top of those shipped [default: ./order-types]
    #[arg(long, value_name = "DIR")]
    pub order_types: Option<String>,
    /// Take orders of a type at another path too, such as /orders=sale; may be repeated
    #[arg(long = "mount", value_name = "PATH=TYPE")]
    pub mounts: Vec<String>,
    /// Read order types again when their files change
    #[arg(long)]
    pub watch: bool,
    /// Make a step fail that many times for each order, to try out failure; may be repeated
    #[arg(long = "break", value_name = "STEP=N")]
    pub breaks: Vec<String>,
    /// Shorten the waits between retries, to try out failure
    #[arg(long)]
    pub fast_retries: bool,
    /// Listen on other addresses than loopback without API keys: everyone who reaches it may do everything
    #[arg(long)]
    pub insecure: bool,
    /// Answer submissions without storing anything: only to measure the HTTP side
    #[arg(long, hide = true)]
    pub bench_no_store: bool,
    /// How to write logs: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What to log, such as info or debug,hyper=warn [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Files or directories [default: the configured directory of order types]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `new`.
#[derive(Debug, Args)]
pub struct New {
    /// The type's name, in kebab-case
    #[arg(value_name = "TYPE")]
    pub name: String,
    /// Make the schema from a sample order
    #[arg(long, value_name = "SAMPLE.json")]
    pub from: Option<PathBuf>,
    /// Where to write [default: the configured directory of order types]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `try`.
#[derive(Debug, Args)]
pub struct Try {
    /// The order type: a name, or the path of its file
    #[arg(value_name = "TYPE")]
    pub order_type: String,
    /// The order as it would be sent; `-` for stdin; left out: the type's own sample
    #[arg(value_name = "SAMPLE.json")]
    pub sample: Option<PathBuf>,
    /// The directory of order types [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub order_types: Option<String>,
}

/// `submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// The order type
    #[arg(value_name = "TYPE")]
    pub order_type: String,
    /// The order's data as JSON; `-` or left out: stdin
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Your own id for the order
    #[arg(long)]
    pub key: Option<String>,
    /// The status to begin in, where the type leaves a choice
    #[arg(long)]
    pub status: Option<String>,
    /// When to begin: an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub due_at: Option<String>,
    /// Wait until the order is final, so many seconds (60 at most)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", require_equals = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: Option<u64>,
    /// Submitting again under the same key answers with the first order
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// NDJSON, one order a line: {"type", "key"?, "data", "status"?, "dueAt"?}; `-` for stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Orders sent at once
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub batch: u64,
}

/// `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The order's id
    pub id: String,
    /// Also show its events and attempts
    #[arg(long)]
    pub history: bool,
    /// Wait until it rests, so many seconds (60 at most)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", require_equals = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: Option<u64>,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// In this status
    #[arg(long)]
    pub status: Option<String>,
    /// For this customer
    #[arg(long)]
    pub customer: Option<String>,
    /// With this group key
    #[arg(long)]
    pub group: Option<String>,
    /// Accepted at or after this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub accepted_after: Option<String>,
    /// Accepted before this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub accepted_before: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Go on where an earlier list ended
    #[arg(long)]
    pub cursor: Option<String>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// The order; left out: all orders
    pub id: Option<String>,
    /// Stay, and show events as they happen
    #[arg(long, short)]
    pub follow: bool,
    /// Go on after this cursor
    #[arg(long)]
    pub cursor: Option<String>,
    /// Without `--follow`: at most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
}

/// `cancel`.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: Option<String>,
}

/// `approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: Option<String>,
}

/// `reject`.
#[derive(Debug, Args)]
pub struct Reject {
    /// The order's id
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: String,
}

/// `dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List dead letters
    List(DeadLetterList),
    /// Show one, with every attempt
    Show {
        /// The order's id
        id: String,
        /// Read it from an archive: its name in comanda.toml, a directory, or s3://bucket/prefix
        #[arg(long, value_name = "ARCHIVE")]
        from: Option<String>,
    },
    /// What they died of, most frequent first
    Causes,
    /// Put them back to work
    Redrive(Redrive),
    /// Give them up: what their steps did is taken back
    Discard(Discard),
}

/// `subscriptions`.
#[derive(Debug, Subcommand)]
pub enum Subscriptions {
    /// List them
    List,
    /// Have events sent to a URL; the secret is shown this once
    Create(NewSubscription),
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// Send nothing more until it is resumed
    Pause {
        /// Its id
        id: String,
    },
    /// Go on where it was paused
    Resume {
        /// Its id
        id: String,
    },
    /// Make a new secret; the old one signs beside it for a while
    RotateSecret {
        /// Its id
        id: String,
        /// How long the old one goes on signing [default: a day]
        #[arg(long, value_name = "SECONDS")]
        keep_seconds: Option<u64>,
    },
    /// What was sent, newest first
    Deliveries {
        /// Its id
        id: String,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// Send events again
    Resend(ResendEvents),
    /// Delete one, with its log
    Delete {
        /// Its id
        id: String,
    },
}

/// `subscriptions create`.
#[derive(Debug, Args)]
pub struct NewSubscription {
    /// Where events are sent
    #[arg(value_name = "URL")]
    pub target: String,
    /// For people
    #[arg(long)]
    pub name: Option<String>,
    /// Of orders of this type; this and the next three may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub order_types: Vec<String>,
    /// That lead into this status
    #[arg(long = "status", value_name = "STATUS")]
    pub statuses: Vec<String>,
    /// Of this kind, such as comanda.order.accepted
    #[arg(long = "event", value_name = "EVENT")]
    pub events: Vec<String>,
    /// Of orders for this customer
    #[arg(long = "customer", value_name = "CUSTOMER")]
    pub customers: Vec<String>,
    /// Send the order with each event
    #[arg(long)]
    pub include_order: bool,
    /// Begin with the oldest event that is kept
    #[arg(long)]
    pub from_oldest: bool,
    /// Sign with Ed25519: the receiver needs only a public key
    #[arg(long)]
    pub ed25519: bool,
    /// How many orders' events are sent at the same time [default: 8]
    #[arg(long)]
    pub concurrency: Option<u32>,
}

/// `subscriptions resend`.
#[derive(Debug, Args)]
pub struct ResendEvents {
    /// The subscription's id
    pub id: String,
    /// One event, by its id
    #[arg(long, conflicts_with_all = ["since", "until"], required_unless_present = "since")]
    pub event: Option<String>,
    /// What was recorded at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// And before this one
    #[arg(long, value_name = "TIME", requires = "since")]
    pub until: Option<String>,
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub struct DeadLetterChoice {
    /// These orders
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// Of this cause, as `dead-letters causes` names it
    #[arg(long)]
    pub cause: Option<String>,
    /// All that there are
    #[arg(long, conflicts_with_all = ["ids", "order_type", "cause"])]
    pub all: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `dead-letters list`.
#[derive(Debug, Args)]
pub struct DeadLetterList {
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// Of this cause
    #[arg(long)]
    pub cause: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Read them from an archive: its name in comanda.toml, a directory, or s3://bucket/prefix
    #[arg(long, value_name = "ARCHIVE")]
    pub from: Option<String>,
}

/// `dead-letters redrive`.
#[derive(Debug, Args)]
pub struct Redrive {
    /// Which.
    #[command(flatten)]
    pub choice: DeadLetterChoice,
    /// Begin again instead of at the step that failed; what was done is taken back first
    #[arg(long)]
    pub from_start: bool,
    /// Go on with the current version of the type instead of the one that the order was accepted under
    #[arg(long)]
    pub current: bool,
    /// Change the data first: a JSON merge patch (RFC 7396)
    #[arg(long, value_name = "JSON")]
    pub set: Option<String>,
    /// At most so many orders per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// `dead-letters discard`.
#[derive(Debug, Args)]
pub struct Discard {
    /// Which.
    #[command(flatten)]
    pub choice: DeadLetterChoice,
    /// Why; kept in the order's history
    #[arg(long)]
    pub reason: String,
}

/// `inventory`.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// List the stock, by SKU
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show the stock of a SKU
    Show {
        /// The SKU
        sku: String,
    },
    /// Stock comes in
    Receive {
        /// The SKU
        sku: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        quantity: u32,
        /// What one costs from now on: an exact decimal
        #[arg(long, requires = "currency")]
        price: Option<String>,
        /// The price's currency (ISO 4217)
        #[arg(long, requires = "price")]
        currency: Option<String>,
        /// Under the same key it comes in once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// So many were found by counting, those that orders hold included
    Count {
        /// The SKU
        sku: String,
        /// How many
        quantity: u32,
        /// Under the same key it is counted once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

/// `customers`.
#[derive(Debug, Subcommand)]
pub enum CustomersCommand {
    /// List customers, by id
    List {
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show a customer
    Show {
        /// The customer's id
        id: String,
    },
    /// Register a customer, or replace what is known of one
    Register {
        /// The customer's id, as orders name it
        id: String,
        /// The name
        #[arg(long, default_value = "")]
        name: String,
        /// Orders are paid for in advance
        #[arg(long)]
        prepaid: bool,
    },
    /// Refuse a customer's orders from now on
    Block {
        /// The customer's id
        id: String,
    },
    /// Take a customer's orders again
    Unblock {
        /// The customer's id
        id: String,
    },
}

/// `payments`.
#[derive(Debug, Subcommand)]
pub enum PaymentsCommand {
    /// The book of the payment sandbox
    Sandbox {
        /// Only those of this order
        #[arg(long, value_name = "ID")]
        order: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
}

/// `demo`.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Register customers and receive stock, so that the storefront's sample order goes through
    Seed,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Read this data directory instead of asking a server; no server may have it open
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file to write; it must not be there yet
    pub file: PathBuf,
    /// The data directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// The data directory to make; it must hold no store yet [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The store, such as postgres://… [default: the configured one]
    #[arg(long, value_name = "STORE", conflicts_with = "data")]
    pub store: Option<String>,
    /// The data directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `bench`.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Connections held open at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How long to submit
    #[arg(long, default_value = "10s", value_parser = crate::config::units::duration)]
    pub duration: std::time::Duration,
    /// The order type; the orders are the type's own sample
    #[arg(long = "type", value_name = "TYPE", default_value = "sale")]
    pub order_type: String,
    /// Submit so many orders per request, through the batch route
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub batch: Option<u32>,
    /// Submit at this rate, whatever the answers take; left out: each connection waits for its answer
    #[arg(long, value_name = "ORDERS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Submit this JSON instead of the type's sample
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// Put one of so many texts at this place of each order, as for its customer or its lane; at most 10000
    #[arg(long, value_name = "POINTER=COUNT", value_parser = crate::command::bench::vary)]
    pub vary: Option<(String, u32)>,
    /// Send an `Idempotency-Key` of its own with each request
    #[arg(long)]
    pub idempotency_keys: bool,
    /// Follow one order in so many to its end
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample_every: u32,
    /// How long to wait afterwards until every order is final
    #[arg(long, default_value = "60s", value_parser = crate::config::units::duration)]
    pub settle: std::time::Duration,
    /// Do not check afterwards that every accepted order is there and final
    #[arg(long)]
    pub no_check: bool,
}

/// `config`.
#[derive(Debug, Args)]
pub struct ShowConfig {
    /// Print the commented file that holds the defaults, ready to be edited
    #[arg(long)]
    pub default: bool,
}

/// `keys`.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key; its secret is shown this once
    Create {
        /// What it is for
        name: String,
        /// What it may do; may be repeated
        #[arg(long = "scope", value_enum, required = true)]
        scopes: Vec<Scope>,
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
    /// List keys, without their secrets
    List {
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
    /// Make a key invalid at once
    Revoke {
        /// The key's id
        id: String,
        /// Where the keys are.
        #[command(flatten)]
        place: KeyPlace,
    },
}

/// Where the keys are.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// The data directory that the keys stand in [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Submit, edit, transition and cancel orders
    Submit,
    /// Read everything
    Read,
    /// Work queues
    Work,
    /// Redrive and discard dead letters
    Operate,
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
