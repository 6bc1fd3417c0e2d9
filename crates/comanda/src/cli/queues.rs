//! The options of `comanda queues`.

use clap::{Args, Subcommand};

/// `queues`: without a subcommand, all of them.
#[derive(Clone, Debug, Args)]
pub struct Queues {
    /// What to do; without one, list the queues.
    #[command(subcommand)]
    pub command: Option<QueueCommand>,
}

/// What there is to do with queues.
#[derive(Clone, Debug, Subcommand)]
pub enum QueueCommand {
    /// List them: how much waits, is leased, and has waited for how long
    List,
    /// Show one
    Show {
        /// The queue's name
        name: String,
    },
    /// Claim work, as a worker would, to try one out by hand
    Claim(QueueClaim),
    /// Say that claimed work is done
    Complete {
        /// As the claim gave it
        token: String,
        /// What later steps can read: JSON
        #[arg(long, value_name = "JSON")]
        result: Option<String>,
    },
    /// Say that claimed work could not be done
    Fail(QueueFail),
    /// The dead letters of a status's queue
    #[command(subcommand)]
    DeadLetters(QueueDeadLetters),
}

/// `queues claim`.
#[derive(Clone, Debug, Args)]
pub struct QueueClaim {
    /// The queue's name
    pub name: String,
    /// At most so many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub max: u64,
    /// How long to wait until there is one
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=30))]
    pub wait: u64,
    /// For how long it is claimed
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease: u64,
}

/// `queues fail`.
#[derive(Clone, Debug, Args)]
pub struct QueueFail {
    /// As the claim gave it
    pub token: String,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The answer is no, for good: another try is of no use
    #[arg(long, conflicts_with = "delay")]
    pub refuse: bool,
    /// Try again no sooner than after this
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=604_800))]
    pub delay: Option<u64>,
}

/// `queues dead-letters`.
#[derive(Clone, Debug, Subcommand)]
pub enum QueueDeadLetters {
    /// List them, oldest first
    List {
        /// The queue's name
        name: String,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Hand them out again, at their old places
    Redrive(QueueChoice),
    /// Take them out for good; their orders stay as they are
    Discard(QueueChoice),
}

/// Which dead letters of a queue.
#[derive(Clone, Debug, Args)]
pub struct QueueChoice {
    /// The queue's name
    pub name: String,
    /// These, as the list names them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<u64>,
    /// All that there are now
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}
