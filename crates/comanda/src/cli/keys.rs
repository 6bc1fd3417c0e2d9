//! `keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
