//! `dead-letters`.

use clap::{Args, Subcommand};

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
